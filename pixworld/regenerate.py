"""What is in a box of a scene, generated anew: the splats outside the box, rendered from cameras that see little of it,
are the clean views; cameras that see most of it are generated; of the result, what is in the box is kept.

The other splats are not touched: they are not part of the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.checkpoint import load_checkpoint
from pixworld.gaussians import Gaussians
from pixworld.generate import check_ranges, framed_camera
from pixworld.reconstruct import choose_device, model_shape
from pixworld.render import render
from pixworld.view_choice import farthest_points
from pixworld.views import InputError, Preview, Task, Views

# Called with (stage, step, steps) as the work goes on; it may raise Cancelled.
OnProgress = Callable[[str, int, int], None]
OnPreview = Callable[[Gaussians], None]

CLEAN, GENERATED = 4, 4  # views, at most
CAMERAS, LOOK = 64, 64  # that are looked through, at most, and the short side in pixels of such a look
MIN_SEEN = 0.005  # of an image that the box must fill for its camera to be generated
MIN_COVERED = 0.1  # of an image that splats must fill for its camera to be a clean view
SOLID = 0.5  # alpha above which a pixel shows a surface
Box = Float[Tensor, "4 4"]  # takes the cube [-1, 1]³ to the frame of the scene


@dataclass(frozen=True)
class RegenerateOptions:
    prompt: str = ""
    size: int | None = None  # short side in pixels; None is that of the model's training
    steps: int = 20  # of Euler
    guidance: float = 1.0
    seed: int = 0
    checkpoint: Path | None = None  # None is the one that ships with the package
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Regeneration(NamedTuple):
    gaussians: Gaussians  # in the box, on the CPU
    report: dict[str, Any]


class Choice(NamedTuple):
    """Indices of cameras."""

    clean: list[int]
    generated: list[int]


@torch.no_grad()
def regenerate(
    gaussians: Gaussians,
    cameras: Sequence[Cameras],
    box: Box,
    options: RegenerateOptions,
    on_progress: OnProgress,
    on_preview: OnPreview | None = None,
) -> Regeneration:
    """New Gaussians for a box, which agree with what is outside it as far as the model makes them; single cameras.

    Raises InputError when the box or the cameras cannot be used, Cancelled when told to. Deterministic in the seed.
    """
    began = time.monotonic()
    _check(cameras, box, options)
    device = choose_device(options.device)
    model, checkpoint = load_checkpoint(options.checkpoint, device)
    cameras = list(cameras)[:: -(-len(cameras) // CAMERAS)]
    shape = model_shape(cameras[0], options.size or model.config.size, model.config.patch)
    views = Cameras.cat([framed_camera(c, shape) for c in cameras]).to(device)
    kept = gaussians.select(~inside(gaussians.means, box)).to(device)
    chosen = choose(views, *look_around(kept, views, box, on_progress))
    clean = clean_views(kept, views.select(chosen.clean), model.config.eps2d)

    def news(gaussians: Gaussians) -> Gaussians:
        """Those in the box, one a pixel of the generated views: what the clean ones, which come first, would have there
        are their holes."""
        keep = inside(gaussians.means, box)
        keep[: clean.images[:, 0].numel()] = False
        return gaussians.select(keep)

    def on_step(step: int, steps: int, preview: Preview | None) -> None:
        on_progress("generate", step, steps)
        if on_preview is not None and preview is not None:
            on_preview(news(preview.gaussians))

    targets = views.select(chosen.generated)
    task = Task(clean, targets, options.prompt, options.seed, options.steps, options.guidance, keep_clean=False)
    made = news(model.infer(task, on_step).gaussians.detach()).to("cpu")
    if not len(made):
        raise InputError("nothing was generated inside the box; make it larger, or try another seed.")
    report = {
        "prompt": options.prompt,
        "method": model.config.method,
        "checkpoint": checkpoint,
        "seed": options.seed,
        "steps": options.steps,
        "guidance": options.guidance,
        "size": list(shape),
        "clean": len(chosen.clean),
        "generated": len(chosen.generated),
        "replaced": len(gaussians) - len(kept),
        "gaussians": len(made),
        "seconds": round(time.monotonic() - began, 2),
    }
    return Regeneration(made, report)


def inside(points: Float[Tensor, "*n 3"], box: Box) -> Bool[Tensor, "*n"]:
    """Whether points of the scene are in the box."""
    to_cube = torch.linalg.inv(box.double()).to(points)
    return ((points @ to_cube[:3, :3].T + to_cube[:3, 3]).abs() <= 1).all(-1)


def box_in_view(cameras: Cameras, depth: Float[Tensor, "v h w"], box: Box) -> Bool[Tensor, "v h w"]:
    """The pixels whose rays meet the box in front of the surface at `depth` (z; infinite where there is none)."""
    origins, directions = cameras.rays()
    to_cube = torch.linalg.inv(box.double()).to(origins)
    start = origins @ to_cube[:3, :3].T + to_cube[:3, 3]
    way = directions @ to_cube[:3, :3].T
    way = torch.where(way.abs() < 1e-9, 1e-9, way)
    a, b = (-1 - start) / way, (1 - start) / way  # z where the ray meets the planes of each pair
    enters, leaves = torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)
    return (enters < leaves) & (enters < depth)


def look_around(
    kept: Gaussians, views: Cameras, box: Box, on_progress: OnProgress
) -> tuple[Float[Tensor, " v"], Float[Tensor, " v"]]:
    """Of every view the share of the image where the box is seen, and the share that shows Gaussians."""
    scale = min(1.0, LOOK / min(views.height, views.width))
    views = views.resize(round(scale * views.height), round(scale * views.width))
    seen, covered = [], []
    for i in range(len(views)):
        on_progress("look around", i, len(views))
        view = views.select([i])
        shot = render(kept, view)
        solid = shot.alpha > SOLID
        seen.append(box_in_view(view, torch.where(solid, shot.depth, torch.inf), box).float().mean())
        covered.append(solid.float().mean())
    on_progress("look around", len(views), len(views))
    return torch.stack(seen), torch.stack(covered)


def choose(views: Cameras, seen: Float[Tensor, " v"], covered: Float[Tensor, " v"]) -> Choice:
    """Up to GENERATED views that see most of the box; of the others, up to CLEAN that are spread over the half that
    sees least of it and shows anything else. Raises InputError when none sees the box, or anything but the box."""
    order = seen.argsort(descending=True, stable=True).tolist()
    # of few cameras, some must be left to tell what the place looks like
    generated = [i for i in order if seen[i] >= MIN_SEEN][: min(GENERATED, max(1, len(order) // 2))]
    if not generated:
        raise InputError("no camera sees the box; move it into their view, or point one at it.")
    shows = [i for i in order if covered[i] >= MIN_COVERED]
    if not shows:
        raise InputError("no camera sees enough outside the box to go by; make the box smaller.")
    rest = [i for i in shows if i not in generated] or shows
    half = rest[-min(len(rest), max(CLEAN, len(rest) // 2))]
    least = [i for i in rest if seen[i] <= seen[half]]
    spread = farthest_points(views.select(least), min(CLEAN, len(least)))
    return Choice(sorted(least[i] for i in spread), sorted(generated))


def clean_views(kept: Gaussians, cameras: Cameras, eps2d: float) -> Views:
    """Renders as clean views, with their depth, which tells the scale. Holes have the mean colour of what is there."""
    rgb, alpha, depth, _ = render(kept, cameras, eps2d=eps2d)
    mean = rgb.sum((0, 2, 3)) / alpha.sum().clamp_min(1e-6)
    images = (rgb + (1 - alpha)[:, None] * mean[:, None, None]).clamp(0, 1)
    return Views(images, cameras, torch.where(alpha > SOLID, depth, 0.0))


def _check(cameras: Sequence[Cameras], box: Box, options: RegenerateOptions) -> None:
    check_ranges(options)
    if not cameras:
        raise InputError("there is no camera to generate from; add one that sees the box.")
    affine = torch.isfinite(box).all() and torch.equal(box[3].double(), torch.tensor([0, 0, 0, 1.0]).double())
    if not affine or torch.linalg.det(box[:3, :3].double()).abs() < 1e-12:
        raise InputError("the box has no volume; scale it up on every axis.")
