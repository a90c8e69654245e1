"""A photo lifted to the depth that was predicted for it at a smaller size, in its own detail.

A network of 64 pixels sees a photo of 64 pixels. Depth it must guess, pixel by pixel, and the guesses scatter; but the
photo tells where surfaces are smooth, and at full size it tells their colours. Without the filter what is lifted falls
apart as soon as the camera moves; with the network's own scales and opacities it has holes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pixworld.gaussians import Gaussians
from pixworld.sh import rgb_to_sh
from pixworld.views import Views

RADIUS = 4  # pixels of the depth that the filter looks at, to each side
EDGE = 1e-3  # variance of grey values, 0..1, above which an edge of the photo may be one of depth
# More of both closes gaps when the camera turns and blurs the photo: 0.35 and 2 render a room at 33.5 dB from its own
# camera and cover 0.90 of it 12 degrees aside, 0.6 and 4 at 24.2 dB and 0.99, these at 29 dB and 0.96.
COVER = 0.45  # of the distance between neighbours: the standard deviation of a Gaussian
STRETCH = 3.0  # pixel footprints between neighbours that are still taken for one surface
OPACITY = 0.95


def lift_photo(photo: Views, depth: Float[Tensor, "1 h w"]) -> Gaussians:
    """One Gaussian of SH degree 0 for each pixel of a photo of one view, row after row.

    depth: its z at any smaller size of the same shape. Gaussians are round and as large as it takes to reach their
    neighbours, unless those are on another surface.
    """
    size = photo.images.shape[-2:]
    coarse = F.interpolate(photo.images, depth.shape[-2:], mode="area").mean(1)
    smooth = guided_filter(depth.clamp_min(1e-6).log(), coarse)
    log_z = _finer(smooth, size)
    origins, directions = photo.cameras.rays()
    means = origins + log_z.exp()[..., None] * directions

    footprint = log_z.exp() / torch.sqrt(photo.cameras.K[..., 0, 0] * photo.cameras.K[..., 1, 1])[..., None, None]
    reach = torch.ones_like(log_z)
    for dim in (1, 2):
        gap = means.diff(dim=dim).norm(dim=-1) / footprint.narrow(dim, 0, size[dim - 1] - 1)
        gap = torch.where(gap < STRETCH, gap, 1.0)
        reach = torch.maximum(reach, torch.cat([gap, gap.narrow(dim, -1, 1)], dim))
    scales = (COVER * reach * footprint).flatten()
    quats = torch.tensor([1.0, 0, 0, 0]).to(scales).expand(len(scales), 4)
    colours = rearrange(photo.images, "1 c h w -> (h w) c")
    return Gaussians(
        means.flatten(0, 2), quats, scales[:, None].expand(-1, 3), torch.full_like(scales, OPACITY), rgb_to_sh(colours)
    )


def guided_filter(values: Float[Tensor, "1 h w"], guide: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Values, in each window a linear function of the guide (He et al. 2010, "Guided Image Filtering", eq. 5, 6 and 8):
    smooth where it is smooth, with edges only where it has some."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[None], 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)[0]

    variance = mean(guide * guide) - mean(guide) ** 2
    slope = (mean(guide * values) - mean(guide) * mean(values)) / (variance + EDGE)
    return mean(slope) * guide + mean(mean(values) - slope * mean(guide))


def _finer(values: Float[Tensor, "1 h w"], size: torch.Size) -> Float[Tensor, "1 h2 w2"]:
    """At a larger size, on the plane through a value and its neighbours; across an edge on that of the smoother side,
    so that nothing is strung between what is near and what is far."""
    height, width = values.shape[-2:]
    out = F.interpolate(values[None], size, mode="nearest")[0]
    for dim, (small, large) in ((1, (height, size[0])), (2, (width, size[1]))):
        change = values.diff(dim=dim)
        before = torch.cat([change.narrow(dim, 0, 1), change], dim)
        after = torch.cat([change, change.narrow(dim, -1, 1)], dim)
        slope = torch.where(before.abs() < after.abs(), before, after)
        slope = torch.where(before * after > 0, slope, 0.0)
        place = (torch.arange(large, device=values.device) + 0.5) * small / large
        place = (place % 1 - 0.5)[:, None] if dim == 1 else place % 1 - 0.5
        out = out + F.interpolate(slope[None], size, mode="nearest")[0] * place
    return out
