"""Whether the cameras of a proposed scene see something that is worth training on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from pixworld.data.trace import inside, probe
from pixworld.data.world import Scene, pixel_intrinsics

NEAREST, FARTHEST = 0.3, 10.0  # median depth over the length of the path


def sensible(scene: Scene, height: int, width: int) -> bool:
    """Whether the cameras of a scene can be used, judged by a small depth image of each."""
    eyes = scene.c2w[:, :3, 3]
    if inside(scene.world, eyes, 0.15).any():
        return False
    depth, primitive = probe(scene, height, width)
    known = depth > 0
    if known.mean((1, 2)).min() < 0.35:  # mostly sky
        return False
    middle = np.median(depth[known])
    if (known & (depth < 0.2 * middle)).mean((1, 2)).max() > 0.12 or depth[known].min() < 0.04 * middle:  # blocked
        return False
    first, end = scene.subject
    if not end and min(len(np.unique(view)) for view in primitive) < 4:  # a bare wall
        return False
    if end and ((primitive >= first) & (primitive < end)).mean((1, 2)).min() < 0.05:
        return False
    path = np.linalg.norm(np.diff(eyes, axis=0), axis=1).sum()
    if not NEAREST < middle / path < FARTHEST:
        return False
    return bool(overlap(scene, depth).min() > scene.overlap)


def overlap(scene: Scene, depth: Float[np.ndarray, "v h w"]) -> Float[np.ndarray, " v-1"]:
    """The share of each view's known pixels that the next view sees, unoccluded (z within 5 %)."""
    views, height, width = depth.shape
    K = pixel_intrinsics(scene, height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    local = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K[0]).T
    shares = []
    for a, b in zip(range(views - 1), range(1, views)):
        known = depth[a] > 0
        points = (local * depth[a][..., None])[known] @ scene.c2w[a, :3, :3].T + scene.c2w[a, :3, 3]
        seen = (points - scene.c2w[b, :3, 3]) @ scene.c2w[b, :3, :3] @ K[b].T
        z = seen[:, 2]
        u, v = seen[:, :2].T / np.maximum(z, 1e-9)
        into = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        there = depth[b][v[into].astype(int), u[into].astype(int)]
        shares.append((abs(there - z[into]) < 0.05 * z[into]).sum() / max(known.sum(), 1))
    return np.array(shares)


def worth_seeing(frames: UInt8[np.ndarray, "v h w 3"]) -> bool:
    """Whether every view has contrast and is neither black nor burnt out."""
    mean, spread = frames.mean((1, 2, 3)), frames.mean(-1).std((1, 2))
    return bool(spread.min() > 12 and mean.min() > 25 and mean.max() < 230)
