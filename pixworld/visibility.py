"""What other views say about a predicted point: that it lies where they see a surface, or in the way of one.

Views are predicted with errors of their own, so Gaussians of one float in front of what another sees. Those in the way
are dropped: a surface that is real is predicted by other views too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.cameras import Cameras

TOLERANCE = 0.08  # of log depth


def in_the_way(
    means: Float[Tensor, "n 3"], views: Sequence[tuple[Cameras, Float[Tensor, "_ _"]]]
) -> Bool[Tensor, " n"]:
    """True where a point hides what some view sees: it stands in front of the view's own depth by more than TOLERANCE.

    views: one camera each with its z-depth at every pixel. A pixel's depth is the nearest of its 3 x 3 neighbours, so
    that an edge which lies a pixel off does no harm.
    """
    out = torch.zeros(len(means), dtype=torch.bool, device=means.device)
    for cameras, depth in views:
        pixels, z = (x[0] for x in cameras.project(means))
        column, row = pixels.floor().long().unbind(-1)
        seen = (z > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
        nearest = -F.max_pool2d(-depth[None], 3, 1, 1)[0]
        surface = nearest[row.clamp(0, cameras.height - 1), column.clamp(0, cameras.width - 1)]
        out |= seen & (torch.log(z.clamp_min(1e-9)) < torch.log(surface) - TOLERANCE)
    return out
