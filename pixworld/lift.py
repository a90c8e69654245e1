"""Gaussians without a model: structure-from-motion points, and pixels lifted to the depth of the points around them.

This is how scenes are usually started, and what the gain of PixWorld's prediction is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixworld.gaussians import Gaussians
from pixworld.sh import rgb_to_sh
from pixworld.views import InputError, PosedPhoto

NEIGHBOURS = 4  # points that a lifted pixel takes the median depth of
OPACITY = 0.5
COVER = 0.5  # of the distance between a photo's lifted pixels: their standard deviation


def lift_points(photos: Sequence[PosedPhoto], count: int = 30_000, *, seed: int = 0) -> Gaussians:
    """About `count` round Gaussians of SH degree 0: pixels of all photos drawn at random, lifted to the median z of the
    nearest points in the image, and half of the points themselves. Nothing is lifted outside a photo's mask.

    Raises InputError when no photo sees enough points.
    """
    generator = torch.Generator().manual_seed(seed)
    seeing = [p for p in photos if len(p.points) >= NEIGHBOURS]
    if not seeing:
        raise InputError("Structure from motion found no points to start from; use --init pixworld.")
    each = max(1, (count - sum(len(p.points) for p in seeing) // 2) // len(seeing))
    means, scales, colours = [], [], []
    for photo in seeing:
        cameras, (height, width) = photo.views.cameras, photo.views.images.shape[-2:]
        pixels, z = (x[0] for x in cameras.project(photo.points))
        drawn = torch.rand(each, 2, generator=generator) * torch.tensor([width, height])
        near = torch.cdist(drawn, pixels).topk(NEIGHBOURS, largest=False).indices
        depth = z[near].median(dim=1).values
        column, row = drawn.long().unbind(-1)
        mask = photo.views.mask
        if mask is not None:
            ok = mask[0, row, column]
            row, column, depth = row[ok], column[ok], depth[ok]
        origins, directions = cameras.rays()
        means.append((origins + depth_image(depth, row, column, height, width)[..., None] * directions)[0, row, column])
        spacing = (width * height / each) ** 0.5 / cameras.K[0, 0, 0]
        scales.append(COVER * spacing * depth)
        colours.append(photo.views.images[0][:, row, column].T)
        # the points themselves, as small as a pixel of theirs is
        column, row = pixels.long().unbind(-1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        inside &= torch.rand(len(inside), generator=generator) < 0.5  # most are seen twice or more
        means.append(photo.points[inside])
        scales.append(COVER * spacing * z[inside])
        colours.append(photo.views.images[0][:, row[inside], column[inside]].T)
    means, scales = torch.cat(means), torch.cat(scales)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(len(means), 4)
    opacities = torch.full((len(means),), OPACITY)
    return Gaussians(means, quats, scales[:, None].expand(-1, 3), opacities, rgb_to_sh(torch.cat(colours)))


def depth_image(
    depth: Float[Tensor, " n"], row: Int[Tensor, " n"], column: Int[Tensor, " n"], height: int, width: int
) -> Float[Tensor, "1 h w"]:
    """Depths at pixels, 0 elsewhere; of several in a pixel the nearest."""
    flat = torch.full((height * width,), torch.inf, device=depth.device)
    flat.scatter_reduce_(0, row * width + column, depth.float(), "amin")
    return torch.where(flat.isinf(), 0.0, flat).reshape(1, height, width)
