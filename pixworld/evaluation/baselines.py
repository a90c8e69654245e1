"""What costs nothing to get, and what pixel-aligned Gaussians could reach at best.

A shower takes a sample and returns what shows it: cameras -> images [v 3 h w] in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.evaluation.protocols import Sample
from pixworld.gaussians import Gaussians
from pixworld.metrics import psnr
from pixworld.render import render
from pixworld.sh import rgb_to_sh
from pixworld.view_choice import nearest
from pixworld.views import Views

Show = Callable[[Cameras], Tensor]

# Scale in pixel footprints and opacity of exact_lift, by the number of given views: the best of SWEEP on 40 scenes
# (60 for 1 view) of a bank of another seed than what is measured: 22.0, 25.0 and 27.6 dB. For 2 and 4 views the nearest
# copy is at 17.9 and 19.0; the best lift with black holes, at a scale of 0.6 and 0.4, at 17.9 and 21.8.
LIFT = {1: (0.5, 0.99), 2: (0.35, 0.99), 4: (0.2, 0.99)}
SWEEP = {"scale": (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6), "opacity": (0.8, 0.9, 0.95, 0.99)}
SKY = 50.0  # distance of pixels without depth, in median depths


def nearest_view(sample: Sample) -> Show:
    """A copy of the given view whose camera is nearest."""
    return lambda cameras: sample.given.images[nearest(cameras, sample.given.cameras)]


def mean_colour(sample: Sample) -> Show:
    """One colour: the mean of the given views."""
    colour = sample.given.images.mean((0, 2, 3))
    return lambda cameras: colour[:, None, None].expand(len(cameras), 3, cameras.height, cameras.width)


def exact_lift(sample: Sample, eps2d: float) -> Show:
    """Every given pixel at its exact depth, as a round Gaussian; holes show the mean colour of the given views.

    This is the ceiling of pixel-aligned Gaussians that only copy: a network that beats it fills in what it did not see.
    """
    assert sample.exact is not None, sample.name
    gaussians = lift(sample.given, sample.exact, *LIFT[max(n for n in LIFT if n <= len(sample.given))])
    return lambda cameras: shown(gaussians, cameras, eps2d, sample.given.images.mean((0, 2, 3)))


def lift(views: Views, depth: Float[Tensor, "v h w"], scale: float, opacity: float) -> Gaussians:
    """A round Gaussian a pixel, of `scale` pixel footprints (depth / focal length). Where depth is 0 lies the sky."""
    cameras = views.cameras
    depth = torch.where(depth > 0, depth, SKY * depth[depth > 0].median())
    origins, directions = cameras.rays()
    means = (origins + depth[..., None] * directions).reshape(-1, 3)
    footprints = depth / cameras.K[:, 0, 0, None, None]
    n = len(means)
    return Gaussians(
        means,
        means.new_tensor([1.0, 0, 0, 0]).expand(n, 4),
        (scale * footprints).reshape(n, 1).expand(n, 3),
        means.new_full((n,), opacity),
        rgb_to_sh(views.images.movedim(1, -1).reshape(n, 3)),
    )


@torch.inference_mode()
def shown(
    gaussians: Gaussians, cameras: Cameras, eps2d: float, background: Float[Tensor, " 3"] | None = None
) -> Float[Tensor, "v 3 h w"]:
    """What cameras see of Gaussians, clamped."""
    return render(gaussians, cameras, eps2d=eps2d, background=background).rgb.clamp(0, 1)


def sweep(samples: Iterable[Sample], eps2d: float) -> dict[tuple[float, float], float]:
    """Mean PSNR of the lift at every (scale, opacity) of SWEEP: what the constants above come from.

    `python scripts/bench_quality.py sweep --bank banks/train` prints it.
    """
    samples = list(samples)
    scores = {}
    for scale in SWEEP["scale"]:
        for opacity in SWEEP["opacity"]:
            total = 0.0
            for s in samples:
                seen = shown(
                    lift(s.given, s.exact, scale, opacity), s.held.cameras, eps2d, s.given.images.mean((0, 2, 3))
                )
                total += psnr(seen, s.held.images).mean().item()
            scores[scale, opacity] = total / len(samples)
    return scores
