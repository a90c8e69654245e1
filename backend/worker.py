"""The work itself, as the command line calls it in-process and as the worker process does it for the service.

The service starts one process of `main` and sends it jobs over a pipe. A task is a function of `OPS`:
(fields, arrays, device, on_progress) -> (fields, arrays), all of them plain data of protocol.py. No path ever crosses
the wire. Heavy imports are inside functions, so that the server may import this module.

Task "reconstruct"
  fields   names: file names of the photos
           options: any of OPTIONS (see make_options)
           camera_names: names of the photos that the cameras belong to; leave it out to find the cameras
  arrays   photo/0, photo/1, ..  u1 [bytes]     the photo files themselves (JPEG or PNG), in the order of names
           c2w                   f8 [v 4 4]     camera to world, OpenCV axes
           K                     f8 [v 3 3]     pixels, the centre of the top-left pixel is (0.5, 0.5)
           sizes                 i4 [v 2]       height and width in pixels
  result   photos: [{name, split}] of the photos that have a camera; split is "train" or "holdout"
           report: what report.json holds
  arrays   means f4 [n 3], quats f4 [n 4] (wxyz), scales f4 [n 3] (linear), opacities f4 [n] (0..1), sh f4 [n k 3]
           c2w f8 [v 4 4], K f8 [v 3 3], sizes i4 [v 2]      cameras of `photos`, in the frame of the Gaussians
           photo/0, photo/1, ..  u1 [bytes]     JPEG files of `photos`, undistorted, at the size of their cameras
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import multiprocessing.connection
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pixworld  # noqa: F401  before torch: it settles how OpenMP's threads wait
from backend.protocol import Arrays, Header, ProtocolError, decode, encode, failure

if TYPE_CHECKING:
    from torch import Tensor

    from pixworld.reconstruct import Reconstruction, ReconstructOptions
    from pixworld.views import NamedCamera, Photo

OnProgress = Callable[[str, int, int], None]  # (stage, step, steps); may raise pixworld.views.Cancelled

# Smallest and largest value of the numbers that a user may choose.
OPTIONS = {
    "holdout": (0, 10_000),
    "views": (1, 64),
    "size": (16, 8192),
    "refine": (0, 100_000),
    "steps": (1, 10_000_000),
    "sh_degree": (0, 3),
    "budget_seconds": (1, 86_400),
    "max_gaussians": (1, 20_000_000),
    "seed": (0, 2**31 - 1),
}
PREVIEW_ROWS = 3
VIDEO_FPS = 24.0
PROGRESS_S = 0.1  # between two messages of one stage


# --- what the command line does


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

    _spare_originals(photos, cameras, out)
    with output_folder(out) as folder:
        on_progress("read photos", 0, 1)
        loaded, skipped = load_photos(photos)
        named = None if cameras is None else load_cameras(cameras, loaded[0].image.shape[:2])
        result = _with_skipped(reconstruct(loaded, named, options, on_progress, **refinement), skipped)
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


def make_options(
    *,
    refine: int = 300,
    budget_seconds: float | None = None,
    max_gaussians: int | None = None,
    exposure: bool = False,
    refine_poses: bool = False,
    early_stop: bool = False,
    **values: Any,
) -> ReconstructOptions:
    """Checked options. With a budget of seconds, `refine` only says whether to. Raises InputError."""
    from pixworld.reconstruct import ReconstructOptions
    from pixworld.refine import RefineOptions

    check_options(**values, refine=refine, budget_seconds=budget_seconds, max_gaussians=max_gaussians)
    steps = None if refine and budget_seconds is not None else refine
    refinement = RefineOptions(steps, budget_seconds, max_gaussians, None, exposure, refine_poses, early_stop)
    return ReconstructOptions(**values, refinement=refinement)


def check_options(**values: Any) -> None:
    """Raises InputError when a number is outside its range of OPTIONS; None is never."""
    from pixworld.views import InputError

    for name, value in values.items():
        low, high = OPTIONS.get(name, (None, None))
        if value is not None and low is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}; choose a number from {low} to {high}.")


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


def _with_skipped(result: Reconstruction, skipped: list[tuple[str, str]]) -> Reconstruction:
    """Add the photos that could not be read to the report."""
    result.report["skipped"] = [{"name": name, "reason": reason} for name, reason in skipped]
    return result


# --- what the service does


def reconstruct_task(fields: Header, arrays: Arrays, device: str, on_progress: OnProgress) -> tuple[Header, Arrays]:
    """The task "reconstruct" of the module's docstring. Raises ProtocolError, InputError, Cancelled."""
    from pixworld.files import tensor_to_image
    from pixworld.reconstruct import reconstruct

    _only(fields, {"names", "options", "camera_names"}, "field")
    options = fields.get("options", {})
    if not isinstance(options, dict) or any(type(value) is not int for value in options.values()):
        raise ProtocolError("BAD_FIELD", "field 'options' must map names to whole numbers")
    _only(options, OPTIONS.keys() - {"steps", "sh_degree"}, "option")
    named = _read_cameras(fields, arrays)
    photos, skipped = _read_photos(fields, arrays)
    options = make_options(**options, device=device)
    result = _with_skipped(reconstruct(photos, named, options, on_progress), skipped)

    out = {
        name: getattr(result.scene.gaussians, name).detach().float().cpu().numpy()
        for name in ("means", "quats", "scales", "opacities", "sh")
    }
    cameras = posed_cameras(result)
    out["c2w"] = np.stack([c.cameras.c2w[0].double().cpu().numpy() for c in cameras])
    out["K"] = np.stack([c.cameras.K[0].double().cpu().numpy() for c in cameras])
    out["sizes"] = np.array([(c.cameras.height, c.cameras.width) for c in cameras], dtype=np.int32)
    for i, photo in enumerate(result.photos):
        out[f"photo/{i}"] = _jpeg(tensor_to_image(photo.views.images[0]))
    return {"photos": [{"name": c.name, "split": c.split} for c in cameras], "report": result.report}, out


OPS = {"reconstruct": reconstruct_task}


def describe(device: str) -> Header:
    """The device and the checkpoint that jobs will use. Raises InputError."""
    import torch

    from pixworld.checkpoint import BUNDLED
    from pixworld.reconstruct import choose_device

    device = choose_device(device)
    name = f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device
    return {"device": name, "checkpoint": BUNDLED.name}


def _read_photos(fields: Header, arrays: Arrays) -> tuple[list[Photo], list[tuple[str, str]]]:
    from pixworld.photos import load_photos

    names = _file_names(fields, "names")
    if not names:
        raise ProtocolError("NO_INPUT", "no photos were sent; choose some")
    with tempfile.TemporaryDirectory(prefix="pixworld-") as folder:
        paths = [Path(folder, name) for name in names]
        for i, path in enumerate(paths):
            path.write_bytes(_array(arrays, f"photo/{i}", "|u1", (None,)).data)
        return load_photos(paths)


def _read_cameras(fields: Header, arrays: Arrays) -> list[NamedCamera] | None:
    import torch

    from pixworld.cameras import Cameras
    from pixworld.views import NamedCamera

    if "camera_names" not in fields:
        return None
    names = _file_names(fields, "camera_names")
    n = len(names)
    c2w, K = _array(arrays, "c2w", "<f8", (n, 4, 4)), _array(arrays, "K", "<f8", (n, 3, 3))
    sizes = _array(arrays, "sizes", "<i4", (n, 2))
    for i in range(n):
        rotation = c2w[i, :3, :3]
        rigid = (
            np.isfinite(c2w[i]).all()
            and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3
            and np.linalg.det(rotation) > 0
            and np.array_equal(c2w[i, 3], [0, 0, 0, 1])
        )
        (fx, skew, _cx), (zero, fy, _cy), last = K[i]
        pinhole = np.isfinite(K[i]).all() and min(fx, fy) > 0 and skew == zero == 0 and np.array_equal(last, [0, 0, 1])
        if not (rigid and pinhole and sizes[i].min() > 0):
            raise ProtocolError("BAD_CAMERA", f"camera {i} ({names[i]}) is not a rigid pose of a pinhole camera")
    return [
        NamedCamera(
            name, Cameras(torch.tensor(c2w[i : i + 1]).float(), torch.tensor(K[i : i + 1]).float(), *sizes[i].tolist())
        )
        for i, name in enumerate(names)
    ]


def _only(given: Header, known: Any, what: str) -> None:
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ProtocolError("BAD_FIELD", f"there is no {what} {unknown[0]!r}")


def _file_names(fields: Header, key: str) -> list[str]:
    """Plain, distinct file names: the worker writes files of these names into a folder of its own."""
    names = fields.get(key)
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise ProtocolError("BAD_FIELD", f"field {key!r} must be a list of distinct file names")
    for name in names:
        if (
            not isinstance(name, str)
            or not 0 < len(name.encode()) <= 200
            or name[0] == "."
            or set(name) & set("/\\:\0")
        ):
            raise ProtocolError("BAD_FIELD", f"field {key!r} holds {name!r}, which is not a plain file name")
    return names


def _array(arrays: Arrays, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    array = arrays.get(name)
    fits = array is not None and array.dtype.str == dtype and len(array.shape) == len(shape)
    if not fits or any(want not in (None, have) for want, have in zip(shape, array.shape)):
        raise ProtocolError("BAD_ARRAY", f"array {name!r} must be {dtype} of shape {list(shape)}")
    return array


def _jpeg(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return np.frombuffer(buffer.getvalue(), np.uint8)


# --- the worker process


def main(connection: multiprocessing.connection.Connection, cancel: Any, device: str, module: str) -> None:
    """Say "ready" (or an error), then do one job after the other until the server is gone.

    `cancel` is a shared flag that the server sets; `module` has the tasks (`OPS`) and `describe`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which stops this process
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            tasks = importlib.import_module(module)
            about = tasks.describe(device)
        except Exception as error:
            send(connection, encode(_explain("", error)))
            return
        send(connection, encode({"kind": "ready", **about}))
        while True:
            header, arrays = decode(receive(connection))
            send(connection, _perform(tasks.OPS, header, arrays, device, _reporter(connection, cancel, header["job"])))


def send(connection: multiprocessing.connection.Connection, frames: Sequence[Any]) -> None:
    """Write a message to a pipe."""
    connection.send_bytes(len(frames).to_bytes(4, "little"))
    for frame in frames:
        connection.send_bytes(frame)


def receive(connection: multiprocessing.connection.Connection) -> list[bytes]:
    """Read a message from a pipe. Raises EOFError when the other side is gone."""
    return [connection.recv_bytes() for _ in range(int.from_bytes(connection.recv_bytes(), "little"))]


def _perform(
    ops: dict[str, Callable], header: Header, arrays: Arrays, device: str, on_progress: OnProgress
) -> list[Any]:
    """Do a job; whatever becomes of it is a message."""
    job, task, fields = header["job"], header.get("task"), header.get("fields")
    try:
        if task not in ops:
            raise ProtocolError("UNSUPPORTED", f"there is no task {task!r}; there is {', '.join(ops)}")
        if not isinstance(fields, dict):
            raise ProtocolError("BAD_FIELD", "field 'fields' must be a map")
        fields, arrays = ops[task](fields, arrays, device, on_progress)
        return encode({**fields, "kind": "result", "job": job}, arrays)
    except Exception as error:
        return encode(_explain(job, error))


def _explain(job: str, error: Exception) -> Header:
    """The last message of a job that has no result."""
    if isinstance(error, ProtocolError):
        return failure(job, error.code, str(error))
    import torch

    from pixworld.views import Cancelled, InputError

    if isinstance(error, Cancelled):
        return {"kind": "cancelled", "job": job}
    if isinstance(error, InputError):
        return failure(job, "BAD_INPUT", str(error))
    traceback.print_exception(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return failure(job, "OUT_OF_MEMORY", "memory ran out; use fewer photos or a smaller size")
    return failure(job, "FAILED", f"the backend failed, and its log says where: {type(error).__name__}: {error}")


def _reporter(connection: multiprocessing.connection.Connection, cancel: Any, job: str) -> OnProgress:
    said, said_at = "", 0.0

    def on_progress(stage: str, step: int, steps: int) -> None:
        nonlocal said, said_at
        if cancel.value:
            from pixworld.views import Cancelled

            raise Cancelled
        now = time.monotonic()
        if stage != said or step == steps or now - said_at >= PROGRESS_S:
            said, said_at = stage, now
            send(connection, encode({"kind": "progress", "job": job, "stage": stage, "step": step, "steps": steps}))

    return on_progress


def _die_with_parent() -> None:
    """A server that was killed could not stop this process."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
