"""`backend generate`: a scene from a prompt, from images, or from both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from backend.progress import Stages

if TYPE_CHECKING:
    from torch import Tensor

    from pixworld.generate import Generation

FPS = 24


def generate(
    out: Path,
    prompt: str = "",
    image: tuple[Path, ...] = (),
    cameras: Path | None = None,
    trajectory: Literal["orbit", "arc", "dolly", "spiral"] | None = None,
    views: int = 8,
    size: int | None = None,
    steps: int = 20,
    guidance: float = 1.0,
    fov: float = 60.0,
    seed: int = 0,
    checkpoint: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Generate a scene: scene.ply, transforms.json, views/, video.mp4, preview.png and report.json. The same seed gives
    the same files again.

    Args:
        out: folder for the results
        prompt: what the scene shows
        image: images that the scene continues; several must show one place
        cameras: camera file of the path to generate along, and of the images, where one is named like them
        trajectory: path around the first image instead; without --cameras arc, or the way through several images
        views: how many views are generated, spread over the path
        size: short side at which is generated, in pixels; without it the model's own. Images stay up to 8 times as fine
        steps: Euler steps
        guidance: strength of the prompt; 1 is none beyond the model's own
        fov: field of view across the long side in degrees, where no camera and no EXIF tells
        seed: of the noise
        checkpoint: folder of a trained model; without it the one that comes with the package
        device: where to compute
    """
    from backend.folders import output_folder
    from pixworld.camera_files import load_cameras, save_cameras
    from pixworld.files import save_image, save_video, write_json
    from pixworld.generate import GenerateOptions
    from pixworld.generate import generate as run
    from pixworld.photos import load_photos
    from pixworld.render import render
    from pixworld.splats import save_ply
    from pixworld.views import InputError, NamedCamera

    if cameras is not None and cameras.resolve() == Path(out, "transforms.json").resolve():
        raise InputError(f"{cameras} would be overwritten by the result's cameras; choose another --out.")
    if any(Path(out, "views").resolve() in path.resolve().parents for path in image):
        raise InputError(f"{out}/views holds images that results would be written over; choose another --out.")
    options = GenerateOptions(prompt, trajectory, views, size, steps, guidance, fov, seed, checkpoint, device)
    with output_folder(out) as folder, Stages() as stages:
        stages("read", 0, 1)
        photos, skipped = load_photos(image) if image else ([], [])
        if skipped:
            raise InputError(f"{skipped[0][0]} cannot be used: {skipped[0][1]}.")
        order = {path.name: i for i, path in enumerate(image)}
        # by name, but for files in the order given; a photo without a suffix was named with one
        photos.sort(key=lambda p: order.get(p.name, order.get(Path(p.name).stem, len(order))))
        size_of_images = photos[0].image.shape[:2] if photos else None
        named = None if cameras is None else load_cameras(cameras, size_of_images)
        made = run(photos, named, options, stages)

        stages("write", 0, len(made.path))
        save_ply(folder / "scene.ply", made.scene.gaussians, comments=("made by pixworld",))
        names = [f"given_{i:02d}.png" for i in range(made.given)]
        names += [f"generated_{i:02d}.png" for i in range(len(made.scene.views) - made.given)]
        shown = made.scene.views
        save_cameras(
            folder / "transforms.json",
            [NamedCamera(name, shown.cameras.select([i])) for i, name in enumerate(names)],
            images="views",
        )
        for name, picture in zip(names, shown.images, strict=True):
            save_image(folder / "views" / name, picture)

        def frames():
            for i in range(len(made.path)):
                stages("write", i, len(made.path))
                yield render(made.scene.gaussians, made.path.select([i]), eps2d=made.eps2d).rgb[0]

        save_video(folder / "video.mp4", frames(), FPS)
        save_image(folder / "preview.png", preview(made))
        write_json(folder / "report.json", made.report)
    print(f"{out}/scene.ply: {len(made.scene.gaussians)} Gaussians, {made.given} given and "
          f"{len(names) - made.given} generated views of {shown.cameras.width} x {shown.cameras.height}")  # fmt: skip


def preview(made: Generation) -> Tensor:
    """Up to eight views, images first, over their depth: [3 h w]."""
    import torch
    from einops import rearrange

    from pixworld.files import colour_depth
    from pixworld.render import render

    views = made.scene.views
    views = views.select(torch.linspace(0, len(views) - 1, min(8, len(views))).round().long())
    seen = render(made.scene.gaussians, views.cameras, eps2d=made.eps2d)
    depth = torch.where(seen.alpha > 0.5, seen.depth, 0.0)
    known = depth[depth > 0]
    lo, hi = (known.quantile(q).item() for q in (0.02, 0.98)) if known.numel() else (1.0, 2.0)
    coloured = torch.stack([colour_depth(x, lo, max(hi, 1.01 * lo)) for x in depth])
    return rearrange([views.images, coloured], "row v c h w -> c (row h) (v w)").clamp(0, 1)
