"""What is known of the depth of photos before a network sees them: points, and what stereo finds between them."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.lift import depth_image
from pixworld.stereo import match
from pixworld.views import PosedPhoto, Views


def known_depth(photo: PosedPhoto, cameras: Cameras) -> Float[Tensor, "1 h w"]:
    """z of a photo's pixels at the size of `cameras`, 0 where unknown: of its stereo, and of its points elsewhere."""
    points = point_depth(photo.points, cameras)
    if photo.stereo is None:
        return points
    dense = resize_depth(photo.stereo, cameras.height, cameras.width)
    return torch.where(dense > 0, dense, points)


def resize_depth(depth: Float[Tensor, "1 h w"], height: int, width: int) -> Float[Tensor, "1 h2 w2"]:
    """Depth at another size, 0 where unknown. Smaller: the median of what is known in a pixel, if that is a third of
    it. Larger: each value moves to the centre of the pixels that it covers, the others stay unknown."""
    h, w = depth.shape[-2:]
    if height * width > h * w:
        out = depth.new_zeros(1, height, width)
        row, column = ((torch.arange(n) + 0.5) * (m / n) for n, m in ((h, height), (w, width)))
        out[:, row.long()[:, None], column.long()] = depth
        return out
    a, b = -(-h // height), -(-w // width)
    cells = F.interpolate(depth[None], (height * a, width * b), mode="nearest")[0]
    cells = rearrange(cells, "1 (h a) (w b) -> 1 h w (a b)", a=a, b=b)
    known = cells > 0
    median = torch.where(known, cells, torch.nan).nanmedian(dim=-1).values
    return torch.where(known.float().mean(-1) > 1 / 3, median, 0.0)


def point_depth(points: Float[Tensor, "m 3"], cameras: Cameras) -> Float[Tensor, "1 h w"]:
    """z of the nearest point in each pixel of one camera, 0 where there is none."""
    _, row, column, z = cameras.in_frame(points)
    return depth_image(z, row, column, cameras.height, cameras.width)


def with_stereo(views: Views) -> Views:
    """Views with sparse depth as `backend reconstruct` would give them to a model: stereo finds more of it."""
    origins, directions = views.cameras.rays()
    points = origins + views.depth[..., None] * directions
    photos = []
    for i in range(len(views)):
        one = replace(views.select([i]), depth=None)
        photos.append(PosedPhoto(str(i), one, points[i][views.depth[i] > 0]))
    return replace(views, depth=torch.cat([known_depth(p, p.views.cameras) for p in match(photos)]))
