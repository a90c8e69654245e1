"""Choosing which Gaussians of a set to keep."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.gaussians import Gaussians


def importance(gaussians: Gaussians) -> Float[Tensor, "*b n"]:
    """Opacity times the mean projected area of the ellipsoid of one standard deviation, in scene units squared.

    The mean over all directions is a quarter of the surface (Cauchy), and Thomsen's formula (2004) gives the surface
    within 1.1 %.
    """
    p = 1.6075
    a, b, c = gaussians.scales.unbind(-1)
    area = math.pi * ((((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p))
    return gaussians.opacities * area


def prune(
    gaussians: Gaussians,
    max_gaussians: int | None = None,
    min_opacity: float | None = None,
    crop: tuple[float, float, float, float, float, float] | None = None,
) -> Gaussians:
    """Keep those with their centre in the box `crop` (min x y z, max x y z) and at least `min_opacity`, and of these
    the `max_gaussians` of greatest `importance`. Their order stays. For an unbatched set; what is None asks nothing.
    """
    keep = torch.ones_like(gaussians.opacities, dtype=torch.bool)
    if crop is not None:
        box = gaussians.means.new_tensor(crop)
        keep &= ((gaussians.means >= box[:3]) & (gaussians.means <= box[3:])).all(-1)
    if min_opacity is not None:
        keep &= gaussians.opacities >= min_opacity
    indices = keep.nonzero().squeeze(-1)
    if max_gaussians is not None and len(indices) > max_gaussians:
        best = importance(gaussians.select(indices)).topk(max_gaussians).indices
        indices = indices[best].sort().values
    return gaussians.select(indices)
