"""The command line's work on folders: files in, and a folder of results that is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pixworld  # noqa: F401  before torch: it settles how OpenMP's threads wait

if TYPE_CHECKING:
    from torch import Tensor

    from pixworld.reconstruct import Reconstruction, ReconstructOptions
    from pixworld.views import NamedCamera

OnProgress = Callable[[str, int, int], None]  # (stage, step, steps); may raise pixworld.views.Cancelled

PREVIEW_ROWS = 3
VIDEO_FPS = 24.0


def reconstruct_folder(
    photos: Sequence[Path],
    out: Path,
    cameras: Path | None,
    options: ReconstructOptions,
    on_progress: OnProgress,
    **refinement: Any,
) -> dict[str, Any]:
    """Reconstruct photo files into OUT: scene.ply, transforms.json with the undistorted photos in photos/, report.json
    and preview.png, all or none of them. `refinement` is passed on to reconstruct(): on_refine, stop.

    Returns the report. Raises InputError, Cancelled.
    """
    from pixworld.camera_files import load_cameras, save_cameras
    from pixworld.files import save_image, write_json
    from pixworld.photos import load_photos
    from pixworld.reconstruct import reconstruct
    from pixworld.splats import save_ply
    from pixworld.views import InputError

    _spare_originals(photos, cameras, out)
    with output_folder(out) as folder:
        on_progress("read photos", 0, 1)
        loaded, skipped = load_photos(photos)
        if len(loaded) == 1 and skipped:
            name, reason = skipped[0]
            raise InputError(f"only {loaded[0].name} can be used: of {name}, {reason}; give more photos.")
        named = None if cameras is None else load_cameras(cameras, loaded[0].image.shape[:2])
        result = with_skipped(reconstruct(loaded, named, options, on_progress, **refinement), skipped)
        on_progress("write", 0, 1)
        save_ply(folder / "scene.ply", result.scene.gaussians, comments=("made by pixworld",))
        save_cameras(folder / "transforms.json", posed_cameras(result), images="photos")
        for photo in result.photos:
            save_image(folder / "photos" / photo.name, photo.views.images[0])
        save_image(folder / "preview.png", preview(result))
        write_json(folder / "report.json", result.report)
        on_progress("write", 1, 1)
    return result.report


def render_folder(scene: Path, cameras: Path, out: Path, on_progress: OnProgress) -> list[str]:
    """Render a splat PLY from every camera of a file into OUT: one PNG a camera, named like the camera's image, and
    video.mp4 when the cameras share a size. Returns the file names. Raises InputError, Cancelled."""
    import torch

    from pixworld.camera_files import load_cameras
    from pixworld.files import save_image, save_video
    from pixworld.reconstruct import choose_device
    from pixworld.render import render
    from pixworld.splats import load_splats
    from pixworld.views import InputError

    with output_folder(out) as folder, torch.no_grad():
        named = load_cameras(cameras)
        gaussians = load_splats(scene).to(choose_device("auto"))
        names = [f"{Path(camera.name).stem}.png" for camera in named]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"Two cameras of {cameras} would be rendered to {twice[0]}; rename one of their images.")

        def frames() -> Iterator[Tensor]:
            for i, (name, camera) in enumerate(zip(names, named)):
                on_progress("render", i, len(named))
                rgb = render(gaussians, camera.cameras.to(gaussians.means.device)).rgb[0]
                save_image(folder / name, rgb)
                yield rgb
            on_progress("render", len(named), len(named))

        if len(named) > 1 and len({(c.cameras.height, c.cameras.width) for c in named}) == 1:
            save_video(folder / "video.mp4", frames(), VIDEO_FPS)
            return [*names, "video.mp4"]
        deque(frames(), maxlen=0)
        return names


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `out` when the block ends well; otherwise nothing is left.

    It is in `out` or the nearest folder above that exists, so that one that cannot be written to is found at once.
    """
    from pixworld.views import InputError

    out = Path(os.path.abspath(out))
    above = next(folder for folder in (out, *out.parents) if folder.exists())
    try:
        temp = Path(tempfile.mkdtemp(prefix=".partial-", dir=above))
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); choose another folder.") from None
    try:
        yield temp
        out.mkdir(parents=True, exist_ok=True)
        # a folder comes before what is in it, and the report, which says that a run is complete, last
        for made in sorted(temp.rglob("*"), key=lambda path: (path.name == "report.json", path)):
            target = out / made.relative_to(temp)
            if made.is_dir():
                target.mkdir(exist_ok=True)
            else:
                os.replace(made, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"the disk of {out} is full; make room or choose another --out.") from None
        raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _spare_originals(photos: Sequence[Path], cameras: Path | None, out: Path) -> None:
    """Refuse to write results over the user's photos or cameras. Raises InputError."""
    from pixworld.views import InputError

    copies = Path(out, "photos").resolve()
    ours = not copies.exists() or Path(out, "report.json").exists()
    if not ours or any(copies in (path.resolve(), *path.resolve().parents) for path in photos):
        raise InputError(f"{copies} holds photos that results would be written over; choose another --out.")
    if cameras is not None and cameras.resolve() == Path(out, "transforms.json").resolve():
        raise InputError(f"{cameras} would be overwritten by the result's cameras; choose another --out.")


def posed_cameras(result: Reconstruction) -> list[NamedCamera]:
    from pixworld.views import NamedCamera

    return [
        NamedCamera(photo.name, photo.views.cameras, "holdout" if photo.name in result.holdout else "train")
        for photo in result.photos
    ]


def preview(result: Reconstruction) -> Tensor:
    """An image [3 h w]: a photo, its render and the depth side by side, a row for each of a few held-out photos (or
    training photos when none was held out)."""
    import torch
    from torch.nn.functional import interpolate

    from pixworld.files import colour_depth
    from pixworld.render import render

    photos = [photo for photo in result.photos if photo.name in result.holdout] or list(result.photos)
    photos = photos[:: max(1, len(photos) // PREVIEW_ROWS)][:PREVIEW_ROWS]
    rows: list[Tensor] = []
    for photo in photos:
        gaussians = result.scene.gaussians
        with torch.no_grad():
            rendering = render(gaussians, photo.views.cameras.to(gaussians.means.device))
        depth = torch.where(rendering.alpha > 0.5, rendering.depth, 0.0)[0].cpu()
        known = depth[depth > 0]
        known = known[:: max(1, len(known) // 1_000_000)]  # quantile() takes no more than 16 million
        lo, hi = (known.quantile(q).item() for q in (0.02, 0.98)) if known.numel() else (1.0, 2.0)
        panels = [photo.views.images[0].cpu(), rendering.rgb[0].cpu(), colour_depth(depth, lo, max(hi, 1.01 * lo))]
        row = torch.cat(panels, dim=-1).clamp(0, 1)
        if rows:
            height = round(row.shape[1] * rows[0].shape[2] / row.shape[2])
            row = interpolate(row[None], (height, rows[0].shape[2]), mode="bilinear", antialias=True)[0]
        rows.append(row)
    return torch.cat(rows, dim=-2)


def with_skipped(result: Reconstruction, skipped: list[tuple[str, str]]) -> Reconstruction:
    """Add the photos that could not be read to the report."""
    result.report["skipped"] = [{"name": name, "reason": reason} for name, reason in skipped]
    return result
