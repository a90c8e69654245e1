"""Which views: the nearest to another, and few that are spread over many. Cameras are far apart when their positions
are, or when they look another way."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixworld.cameras import Cameras


def camera_distance(a: Cameras, b: Cameras) -> Float[Tensor, "*b v w"]:
    """Distance of every view of `a` to every view of `b`: that of the positions, over the largest of them, plus one
    less the cosine between the viewing directions."""
    offset = torch.cdist(a.positions, b.positions)
    turn = 1 - a.c2w[..., :3, 2] @ b.c2w[..., :3, 2].mT
    return offset / offset.amax((-2, -1), keepdim=True).clamp_min(1e-9) + turn


def nearest(targets: Cameras, given: Cameras) -> Int[Tensor, "*b v"]:
    """For every target the index of the given view that is nearest."""
    return camera_distance(targets, given).argmin(-1)


def farthest_points(cameras: Cameras, count: int, taken: Cameras | None = None) -> list[int]:
    """Indices, ascending, of `count` views that are spread over unbatched cameras: each next one is the farthest from
    all before (Gonzalez 1985). It begins with the pair that is farthest apart, or with what is farthest from `taken`.
    """
    n = len(cameras)
    assert 0 < count <= n, (count, n)
    everything = cameras if taken is None else Cameras.cat([cameras, taken])
    distance = camera_distance(everything, everything)[:n]
    chosen = [int(distance.amax(-1).argmax())] if taken is None else []
    while len(chosen) < count:
        room = distance[:, [*chosen, *range(n, len(everything))]].amin(-1)
        room[chosen] = -1
        chosen.append(int(room.argmax()))
    return sorted(chosen)
