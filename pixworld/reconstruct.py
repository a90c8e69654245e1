"""Photos in, a scene out: poses -> PixWorld -> refinement -> measurement. The CLI and the service both call this."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.checkpoint import load_checkpoint
from pixworld.depth_hints import known_depth
from pixworld.gaussians import Gaussians
from pixworld.lift import lift_points
from pixworld.methods.base import Method
from pixworld.metrics import psnr, ssim
from pixworld.poses import Poses, poses_from_cameras, poses_from_photos
from pixworld.refine import Progress, RefineOptions, check_early_stop, refine
from pixworld.render import render
from pixworld.stereo import match
from pixworld.view_choice import camera_distance, nearest
from pixworld.views import InputError, NamedCamera, Photo, PosedPhoto, Scene, Task, Views
from pixworld.visibility import in_the_way

# Called with (stage, step, steps) as the work goes on; it may raise Cancelled.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ReconstructOptions:
    """How to reconstruct; the fields are the CLI's flags."""

    holdout: int = 0  # keep every N-th photo out and measure on it; 0 keeps none
    views: int = 8  # photos that the model sees at once, at most
    size: int = 512  # short side at which photos are refined and measured, never enlarged
    init: Literal["pixworld", "sfm"] = "pixworld"  # the model's prediction, or lifted structure-from-motion points
    refinement: RefineOptions = field(default_factory=RefineOptions)
    checkpoint: Path | None = None  # None is the one that ships with the package
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Reconstruction:
    scene: Scene
    photos: tuple[PosedPhoto, ...]  # every posed photo, sorted by name, in the frame of the scene
    holdout: frozenset[str]  # names of those that were kept out
    report: dict[str, Any]  # what report.json holds


def reconstruct(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera] | None,
    options: ReconstructOptions,
    on_progress: OnProgress,
    *,
    on_refine: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Reconstruction:
    """Reconstruct a scene. Raises InputError when the photos or cameras cannot be used, Cancelled when told to.

    `on_refine` hears of every step of the refinement, which ends early when `stop` says so.

    Without `cameras`, structure from motion poses all photos together, held-out ones too, as is usual in this field;
    prediction and refinement never see those. With `cameras`, even the points are triangulated without them.
    """
    seconds: dict[str, float] = {}
    device = choose_device(options.device)
    photos = sorted(photos, key=lambda p: p.name)
    held = {p.name for p in photos[:: options.holdout]} if options.holdout else set()
    model, checkpoint = (None, None) if options.init == "sfm" else load_checkpoint(options.checkpoint, device)

    with _timed(seconds, "poses"):
        if cameras is None:
            posed, unposed, source = poses_from_photos(
                photos, options.size, seed=options.seed, device=device, on_progress=on_progress
            )
        else:
            posed, unposed, source = pose_apart(
                photos, cameras, held, options.size, seed=options.seed, device=device, on_progress=on_progress
            )
    train = [p for p in posed if p.name not in held]
    test = [p for p in posed if p.name in held]
    if not train:
        raise InputError("no photo is left to reconstruct from; use more photos, or hold out fewer")
    check_early_stop(options.refinement, len(train))

    if model is not None:  # the start from points is the plain one that the model is measured against
        with _timed(seconds, "stereo"):
            train = match(train, on_progress)
    with _timed(seconds, "predict"):
        if model is None:
            predicted = lift_points(train, seed=options.seed).to(device)
        else:
            predicted = predict(model, train, options.views, device, on_progress)
    with _timed(seconds, "refine"):

        def on_step(progress: Progress) -> None:
            on_progress("refine", round(1000 * progress.fraction), 1000)
            if on_refine is not None:
                on_refine(progress)

        views = [photo_view(p).to(device) for p in train]
        refinement = replace(options.refinement, seed=options.seed)
        result = refine(predicted, views, refinement, soft=True, on_step=on_step, stop=stop)
        refined = result.gaussians
        if options.refinement.poses:
            train = [replace(p, views=replace(p.views, cameras=c)) for p, c in zip(train, result.cameras)]
            posed = sorted(train + test, key=lambda p: p.name)
    with _timed(seconds, "measure"):
        measured = measure(predicted, refined, train, test, on_progress)

    report = {
        **measured,
        "gaussians": len(refined),
        "views": len(train),
        "size": min(min(p.views.images.shape[-2:]) for p in posed),
        "photos": len(posed),
        "poses": source,
        "unregistered": [{"name": name, "reason": reason} for name, reason in unposed],
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
        "checkpoint": checkpoint,
        "options": {"holdout": options.holdout, "views": options.views, "init": options.init, "seed": options.seed},
        "refinement": {**asdict(options.refinement), "steps": result.steps},
    }
    info = {"method": model.config.method if model else "sfm", "checkpoint": checkpoint, "seed": options.seed}
    scene = Scene(refined.to("cpu"), train[0].views, info)
    return Reconstruction(scene, tuple(posed), frozenset(p.name for p in test), report)


def pose_apart(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera],
    held: Set[str],
    size: int,
    *,
    seed: int,
    device: str = "cpu",
    on_progress: OnProgress,
) -> Poses:
    """poses_from_cameras of the held-out photos (by name), which have no points, and of all others.

    Sorted by name. A file may have cameras of the training photos alone.
    """
    known = {c.name for c in cameras}
    posed, unposed, about = [], [], {"source": "given cameras"}
    for apart in (False, True):
        part = [p for p in photos if (p.name in held) is apart]
        if posed and not any({p.name, Path(p.name).stem} & known for p in part):
            unposed += [(p.name, "no camera is named like it") for p in part]
            continue
        some, missing, about = poses_from_cameras(
            part, cameras, size, points=not apart, seed=seed, device=device, on_progress=on_progress
        )
        posed, unposed = posed + some, unposed + missing
    return Poses(sorted(posed, key=lambda p: p.name), unposed, about)


def choose_device(device: str) -> str:
    """The torch device behind auto, cpu or cuda. Raises InputError when CUDA is asked for and absent."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device that torch can use; run with --device cpu")
    return device


def predict(model: Method, photos: Sequence[PosedPhoto], views: int, device: str, on_progress: OnProgress) -> Gaussians:
    """The model's Gaussians for all photos: neighbours go in together, at most `views` at a time."""
    groups = group_photos(photos, views, model.config.size, model.config.patch)
    parts, masks, depths = [], [], []
    for i, (shape, group) in enumerate(groups):
        on_progress("predict", i, len(groups))
        clean = Views.cat([model_view(p, *shape) for p in group]).to(device)
        parts.append(model.infer(Task(clean), lambda *_: None).gaussians)  # one a pixel, view after view
        hidden = [~pixel_mask(p, *shape)[0].to(device) for p in group]
        masks += [~x.flatten() for x in hidden]
        own = own_depth(parts[-1], clean.cameras)
        depths += [(cameras, z.masked_fill(x, torch.nan)) for (cameras, z), x in zip(own, hidden)]
    on_progress("predict", len(groups), len(groups))
    gaussians = Gaussians.cat(parts)
    return gaussians.select(torch.cat(masks) & ~in_the_way(gaussians.means, depths))


def own_depth(gaussians: Gaussians, cameras: Cameras) -> list[tuple[Cameras, Float[Tensor, "h w"]]]:
    """Each camera with the z of the Gaussians that were predicted at its pixels, of one a pixel, view after view."""
    own = [cameras.select(slice(k, k + 1)) for k in range(len(cameras))]
    shape = cameras.height, cameras.width
    return [(c, c.project(means)[1].reshape(shape)) for c, means in zip(own, gaussians.means.chunk(len(own)))]


def group_photos(
    photos: Sequence[PosedPhoto], views: int, size: int, patch: int
) -> list[tuple[tuple[int, int], list[PosedPhoto]]]:
    """Groups of at most `views` photos of one shape (height, width) at the model's resolution: a chain from photo to
    nearest photo, cut into even pieces."""
    by_shape: dict[tuple[int, int], list[PosedPhoto]] = defaultdict(list)
    for photo in photos:
        by_shape[model_shape(photo.views.cameras, size, patch)].append(photo)
    groups = []
    for shape, members in by_shape.items():
        cameras = _cameras(members)
        distance = camera_distance(cameras, cameras)
        chain, left = [0], set(range(1, len(members)))
        while left:
            nearest = min(left, key=lambda i: distance[chain[-1], i].item())
            chain.append(nearest)
            left.remove(nearest)
        count = -(-len(chain) // views)
        bounds = [round(i * len(chain) / count) for i in range(count + 1)]
        groups += [(shape, [members[i] for i in chain[a:b]]) for a, b in itertools.pairwise(bounds)]
    return groups


def model_shape(cameras: Cameras, size: int, patch: int) -> tuple[int, int]:
    """Height and width, multiples of the patch, that come nearest to the photo's shape with a short side of `size`."""
    scale = size / min(cameras.height, cameras.width)
    height, width = (max(patch, round(side * scale / patch) * patch) for side in (cameras.height, cameras.width))
    return height, width


def model_view(photo: PosedPhoto, height: int, width: int) -> Views:
    """A photo at the model's resolution with what is known of its depth: see `known_depth`."""
    images = F.interpolate(photo.views.images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    cameras = photo.views.cameras.resize(height, width)
    return Views(images.clamp(0, 1), cameras, known_depth(photo, cameras))


def pixel_mask(photo: PosedPhoto, height: int, width: int) -> Bool[Tensor, "1 h w"]:
    """True where a pixel of another size shows only what may be used."""
    mask = photo.views.mask
    if mask is None:
        return torch.ones(1, height, width, dtype=torch.bool)
    return F.interpolate(mask[:, None].float(), (height, width), mode="area")[:, 0] > 0.99


def photo_view(photo: PosedPhoto) -> Views:
    """A photo at its own size with what is known of its depth: see `known_depth`."""
    return replace(photo.views, depth=known_depth(photo, photo.views.cameras))


@torch.inference_mode()
def measure(
    predicted: Gaussians,
    refined: Gaussians,
    train: Sequence[PosedPhoto],
    test: Sequence[PosedPhoto],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Scores on the held-out photos at their own size; None for every mean when nothing was held out."""
    per_image = {}
    for i, photo in enumerate(test):
        on_progress("measure", i, len(test))
        truth, cameras = photo.views.images[0], photo.views.cameras
        mask = None if photo.views.mask is None else photo.views.mask[0]
        known = 1.0 if mask is None else mask.float()
        near = nearest_photo(photo, train).views.images
        near = F.interpolate(near, truth.shape[-2:], mode="bilinear", antialias=True, align_corners=False)[0]
        shots = [render(g, cameras.to(g.means.device)).rgb[0].cpu().clamp(0, 1) for g in (refined, predicted)]
        per_image[photo.name] = {
            "psnr": psnr(shots[0], truth, mask).item(),
            "ssim": ssim(shots[0] * known, truth * known).item(),
            "feedforward_psnr": psnr(shots[1], truth, mask).item(),
            "baseline_nearest_view_psnr": psnr(near, truth, mask).item(),
        }
    on_progress("measure", len(test), len(test))
    keys = ("psnr", "ssim", "feedforward_psnr", "baseline_nearest_view_psnr")
    means = {k: sum(x[k] for x in per_image.values()) / len(test) if test else None for k in keys}
    return {**means, "per_image": per_image}


@torch.inference_mode()
def mean_psnr(gaussians: Gaussians, photos: Sequence[Views]) -> float:
    """Over photos of one view each, at their own size, where their masks let them be seen."""
    shots = [render(gaussians, p.cameras).rgb.clamp(0, 1) for p in photos]
    return sum(psnr(shot, p.images, p.mask).item() for shot, p in zip(shots, photos)) / len(photos)


def nearest_photo(photo: PosedPhoto, others: Sequence[PosedPhoto]) -> PosedPhoto:
    """The one whose camera is nearest in position and viewing direction."""
    return others[int(nearest(_cameras([photo]), _cameras(others)))]


def _cameras(photos: Sequence[PosedPhoto]) -> Cameras:
    """Where photos of any sizes were taken."""
    return Cameras.cat([p.views.cameras.resize(1, 1) for p in photos])


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start
