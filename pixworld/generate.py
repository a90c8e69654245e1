"""A prompt, images or both in, a scene out: which cameras are clean, which are generated, and one call of the method.

Where the images are: at the cameras of a file that are named like them; a single image that none is named like, at the
file's first camera; without a file, a single image at the origin, several where structure from motion finds them.

Where is generated: at the file's other cameras; else along a trajectory around the first image, or, for several images,
along the way through them. Of a file's cameras every n-th is taken; along a path the views are spread, each as far as
can be from the images and from one another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pixworld.cameras import Cameras
from pixworld.checkpoint import load_checkpoint
from pixworld.detail import lift_photo
from pixworld.files import image_to_tensor
from pixworld.gaussians import Gaussians
from pixworld.photos import resize_mask, resize_photo
from pixworld.poses import poses_from_cameras, poses_from_photos
from pixworld.reconstruct import choose_device, model_shape, model_view, pixel_mask
from pixworld.render import render
from pixworld.stereo import match
from pixworld.trajectories import TRAJECTORIES, at, interpolate
from pixworld.view_choice import farthest_points
from pixworld.views import InputError, NamedCamera, Photo, PosedPhoto, Preview, Scene, Task, Views

# Called with (stage, step, steps) as the work goes on; it may raise Cancelled.
OnProgress = Callable[[str, int, int], None]
# Called after every step with what there is so far.
OnPreview = Callable[[Preview], None]

FRAMES = 96  # of the path that a video shows, at least
TEXT_SIZE = 1000, 1500  # height and width of which only the ratio counts, where there is neither image nor camera
DETAIL = 8  # times the model's size at which photos are in the result, at most
LIFTED = 400_000  # Gaussians that they have in all, at most, unless one a pixel of the model's are more
RANGES = {
    "views": (1, 64),
    "size": (16, 4096),
    "steps": (1, 1000),
    "guidance": (0, 100),
    "fov": (5, 150),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate; the fields are the CLI's flags."""

    prompt: str = ""
    trajectory: Literal["orbit", "arc", "dolly", "spiral"] | None = None
    views: int = 8  # that are generated, besides the images; all cameras of a file that has fewer
    size: int | None = None  # short side at which is generated, pixels; None is that of the model's training
    steps: int = 20  # of Euler
    guidance: float = 1.0
    fov: float = 60.0  # degrees across the long side, where neither EXIF nor a camera tells
    seed: int = 0
    checkpoint: Path | None = None  # None is the one that ships with the package
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Generation:
    scene: Scene  # on the CPU; its views are the images, then what was generated
    given: int  # how many are images
    path: Cameras  # for a video
    eps2d: float  # low-pass that the model renders with, px²
    report: dict[str, Any]  # what report.json holds


def generate(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera] | None,
    options: GenerateOptions,
    on_progress: OnProgress,
    on_preview: OnPreview | None = None,
) -> Generation:
    """Generate a scene from photos (the first one leads), a prompt or both; `cameras` are those of a file.

    Raises InputError when the input cannot be used, Cancelled when told to. The result depends on the input, the
    checkpoint and the seed alone.
    """
    began = time.monotonic()
    _check(photos, cameras, options)
    device = choose_device(options.device)
    model, checkpoint = load_checkpoint(options.checkpoint, device)
    size, patch = options.size or model.config.size, model.config.patch

    # twice what they are shown at, as they are cut to shape yet
    posed, others = place(photos, list(cameras or []), options, 2 * most_detail(len(photos), size) * size, on_progress)
    places = [p.views.cameras for p in posed] or others or [_pinhole(*TEXT_SIZE, _focal_px(TEXT_SIZE[1], options.fov))]
    shape = model_shape(places[0], size, patch)
    seen = [_framed(p, shape) for p in posed]
    others = [framed_camera(c, shape) for c in others]
    first = framed_camera(places[0], shape)
    path, targets = plan([v.cameras for v in seen], others, first, _distance(posed, others), options)

    clean = Views.cat(seen) if seen else None
    if clean is not None and not (clean.depth > 0).any():
        clean = replace(clean, depth=None)

    def usable(gaussians: Gaussians) -> Gaussians:
        """Without the transparent, and those at pixels of the images, which come first, that a mask leaves out."""
        keep = gaussians.opacities > 0
        if clean is not None:
            keep[: clean.mask.numel()] &= clean.mask.flatten().to(keep)
        return gaussians.select(keep)

    def on_step(step: int, steps: int, preview: Preview | None) -> None:
        on_progress("generate", step, steps)
        if on_preview is not None and preview is not None:
            on_preview(preview._replace(gaussians=usable(preview.gaussians)))

    task = Task(
        None if clean is None else clean.to(device),
        targets.to(device),
        options.prompt,
        options.seed,
        options.steps,
        options.guidance,
    )
    scene = model.infer(task, on_step)
    scene = replace(scene, gaussians=scene.gaussians.detach().to("cpu"), views=scene.views.to("cpu"))
    factor = detail(posed, shape) if posed else 1
    if posed:
        fine = [_framed(p, (factor * shape[0], factor * shape[1])) for p in posed]
        scene = in_detail(scene, fine, model.config.eps2d, on_progress)
    report = {
        "prompt": options.prompt,
        "images": [p.name for p in posed],
        "method": model.config.method,
        "checkpoint": checkpoint,
        "seed": options.seed,
        "steps": options.steps,
        "guidance": options.guidance,
        "size": list(shape),
        "detail": factor,
        "generated": len(targets),
        "path": options.trajectory or ("cameras" if others else "arc" if len(posed) < 2 else "images"),
        "gaussians": len(scene.gaussians),
        "seconds": round(time.monotonic() - began, 2),
    }
    path = path.resize(factor * shape[0], factor * shape[1])
    return Generation(scene, len(posed), path, model.config.eps2d, report)


def place(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera],
    options: GenerateOptions,
    size: int,
    on_progress: OnProgress,
) -> tuple[list[PosedPhoto], list[Cameras]]:
    """The photos at their cameras, short side at most `size`, in their order; and the other cameras. Raises InputError
    when a photo has no place."""
    device = choose_device(options.device)
    own = {p.name: _camera_of(p, cameras) for p in photos}
    if cameras and len(photos) == 1 and own[photos[0].name] is None:
        opening = _opening_camera(photos[0], cameras[0].cameras, options.fov)
        return [_posed(photos[0], opening, size)], [c.cameras for c in cameras[1:]]
    lost = [name for name, camera in own.items() if camera is None]
    if cameras and lost:
        raise InputError(f"no camera is named like the image {lost[0]}; name one so, or give one image.")
    names = {camera.name for camera in own.values() if camera is not None}
    others = [c.cameras for c in cameras if c.name not in names]
    if len(photos) < 2:
        places = [own[p.name].cameras if cameras else _photo_camera(p, options.fov) for p in photos]
        return [_posed(p, camera, size) for p, camera in zip(photos, places)], others
    if cameras:
        found = poses_from_cameras(
            photos, cameras, size, seed=options.seed, device=device, on_progress=on_progress
        ).photos
    else:
        found, unposed, _ = poses_from_photos(photos, size, seed=options.seed, device=device, on_progress=on_progress)
        if unposed:
            name, reason = unposed[0]
            raise InputError(f"no camera was found for {name} ({reason}); leave it out, or give the cameras.")
    by_name = {p.name: p for p in match(found, on_progress)}
    return [by_name[p.name] for p in photos], others


def plan(
    seen: Sequence[Cameras], others: Sequence[Cameras], first: Cameras, distance: float, options: GenerateOptions
) -> tuple[Cameras, Cameras]:
    """The path of the video, and the cameras that are generated."""
    if others and options.trajectory is None:
        given = Cameras.cat(list(others))
        last = len(given) - 1
        chosen = torch.linspace(0, last, min(options.views, len(given))).round().long()
        return at(given, torch.linspace(0, last, max(FRAMES, len(given)))), given.select(chosen)
    if options.trajectory is None and len(seen) > 1:
        path = interpolate(Cameras.cat(list(seen)), FRAMES)
    else:
        path = TRAJECTORIES[options.trajectory or "arc"](first, distance, FRAMES)
    taken = Cameras.cat(list(seen)) if seen else None
    return path, path.select(farthest_points(path, options.views, taken))


def _check(photos: Sequence[Photo], cameras: Sequence[NamedCamera] | None, options: GenerateOptions) -> None:
    check_ranges(options)
    if not photos and not options.prompt:
        raise InputError("there is nothing to generate from; give a prompt, images or both.")
    if cameras is not None and not cameras:
        raise InputError("there is no camera among those given; give at least one, or a trajectory.")


def check_ranges(options: object) -> None:
    """Raises InputError when a number of the options is outside its range of RANGES."""
    for name, (low, high) in RANGES.items():
        value = getattr(options, name, None)
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}; choose a number from {low} to {high}.")


def _camera_of(photo: Photo, cameras: Sequence[NamedCamera]) -> NamedCamera | None:
    return next((c for c in cameras if c.name in (photo.name, Path(photo.name).stem)), None)


def _photo_camera(photo: Photo, fov: float) -> Cameras:
    """A camera at the origin of a photo, its focal length that of the EXIF where it tells."""
    height, width = photo.image.shape[:2]
    return _pinhole(height, width, photo.focal_px or _focal_px(max(height, width), fov))


def _opening_camera(photo: Photo, camera: Cameras, fov: float) -> Cameras:
    """Where a path begins, with the lens of the photo: that of its EXIF, else of the path if of the photo's aspect."""
    height, width = photo.image.shape[:2]
    if photo.focal_px is None and abs(camera.height * width / (camera.width * height) - 1) < 0.02:
        return camera.resize(height, width)
    return replace(_photo_camera(photo, fov), c2w=camera.c2w)


def _focal_px(side: int, fov: float) -> float:
    """Of a field of view in degrees across a side in pixels."""
    return side / 2 / math.tan(math.radians(fov) / 2)


def _pinhole(height: int, width: int, focal_px: float) -> Cameras:
    K = torch.tensor([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]])[None]
    return Cameras(torch.eye(4)[None], K, height, width)


def _posed(photo: Photo, camera: Cameras, size: int) -> PosedPhoto:
    image, camera = resize_photo(photo.image, camera.resize(*photo.image.shape[:2]), size)
    mask = None if photo.mask is None else torch.from_numpy(resize_mask(photo.mask, *image.shape[:2]))[None]
    return PosedPhoto(photo.name, Views(image_to_tensor(image)[None], camera, mask=mask), torch.zeros(0, 3))


def _window(height: int, width: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest central window of about the aspect of `shape`. All of the image when
    its own aspect is as near as rounding to patches takes it."""
    aspect = shape[1] / shape[0]
    if abs(math.log(width / height / aspect)) < 0.1:
        return 0, 0, height, width
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def framed_camera(camera: Cameras, shape: tuple[int, int]) -> Cameras:
    return camera.crop(*_window(camera.height, camera.width, shape)).resize(*shape)


def _framed(photo: PosedPhoto, shape: tuple[int, int]) -> Views:
    """A photo at the size that is generated, with what is known of its depth, and its mask."""
    views = photo.views
    top, left, h, w = _window(views.cameras.height, views.cameras.width, shape)
    window = ..., slice(top, top + h), slice(left, left + w)
    mask = None if views.mask is None else views.mask[window]
    stereo = photo.stereo
    if stereo is not None:
        y, x = (a / b for a, b in zip(stereo.shape[-2:], views.images.shape[-2:]))
        stereo = stereo[:, round(top * y) : round((top + h) * y), round(left * x) : round((left + w) * x)]
    cut = PosedPhoto(
        photo.name, Views(views.images[window], views.cameras.crop(top, left, h, w), mask=mask), photo.points, stereo
    )
    return replace(model_view(cut, *shape), mask=pixel_mask(cut, *shape))


def most_detail(images: int, size: int) -> int:
    """How many times the model's size so many images can be shown at, for what they cost."""
    return max(1, min(DETAIL, math.isqrt(LIFTED // (max(1, images) * size * size))))


def detail(posed: Sequence[PosedPhoto], shape: tuple[int, int]) -> int:
    """The same, as far as what is shown of each of them has detail."""
    short = min(min(_window(*p.views.images.shape[-2:], shape)[2:]) for p in posed)
    return max(1, min(most_detail(len(posed), min(shape)), short // min(shape)))


def in_detail(scene: Scene, photos: Sequence[Views], eps2d: float, on_progress: OnProgress) -> Scene:
    """A generated scene, one Gaussian a pixel of its views, the photos first, with finer photos in their place: lifted
    to the depth that was predicted for them, less what their masks hide. Its views are rendered anew, as fine."""
    shape, size = scene.views.images.shape[-2:], photos[0].images.shape[-2:]
    parts = []
    for photo, means in zip(photos, scene.gaussians.means.split(math.prod(shape))):
        depth = photo.cameras.project(means)[1].reshape(1, *shape)
        parts.append(lift_photo(photo, depth).select(photo.mask.flatten()))
    made = scene.gaussians.select(slice(len(photos) * math.prod(shape), None))
    gaussians = Gaussians.cat([*parts, made.select(made.opacities > 0)])
    views = list(photos)
    for i in range(len(photos), len(scene.views)):
        on_progress("render", i - len(photos), len(scene.views) - len(photos))
        cameras = scene.views.cameras.select([i]).resize(*size)
        views.append(Views(render(gaussians, cameras, eps2d=eps2d).rgb.clamp(0, 1), cameras))
    return replace(scene, gaussians=gaussians, views=Views.cat(views))


def _distance(posed: Sequence[PosedPhoto], others: Sequence[Cameras]) -> float:
    """To what the first view looks at: the median depth of its points; else the extent of the cameras; else 1."""
    if posed and len(posed[0].points):
        return posed[0].views.cameras.project(posed[0].points)[1].median().item()
    places = torch.cat([*(p.views.cameras.positions for p in posed), *(c.positions for c in others), torch.zeros(0, 3)])
    extent = (places - places[:1]).norm(dim=-1).max().item() if len(places) else 0.0
    return extent if extent > 1e-6 else 1.0
