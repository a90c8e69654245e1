"""Camera paths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pixworld.cameras import Cameras


def interpolate(cameras: Cameras, frames: int, smooth: float = 0.15) -> Cameras:
    """A closed, smooth flight there and back through v unbatched cameras in their order: `frames` views.

    Positions and rotations are splined over arc length and then smoothed by a Gaussian of `smooth` of the way's length;
    intrinsics are the mean ones.
    """
    from scipy.interpolate import PchipInterpolator
    from scipy.ndimage import gaussian_filter1d
    from scipy.spatial.transform import Rotation, Slerp

    positions = cameras.positions.double().cpu().numpy()
    rotations = Rotation.from_matrix(cameras.c2w[:, :3, :3].double().cpu().numpy())
    if len(positions) == 1:
        c2w = cameras.c2w.expand(frames, -1, -1)
        return replace(cameras, c2w=c2w, K=cameras.K.expand(frames, -1, -1))
    turn = (rotations[1:] * rotations[:-1].inv()).magnitude()
    step = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    lengths = step / max(step.mean(), 1e-9) + turn / max(turn.mean(), 1e-9) + 1e-6
    way = np.concatenate([[0], lengths.cumsum()]) / lengths.sum()
    at = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frames) / frames)  # slow at both ends, back where it began
    path = PchipInterpolator(way, positions)(at)
    turned = Slerp(way, rotations)(at).as_matrix()
    sigma = smooth * frames / 2
    path = gaussian_filter1d(path, sigma, axis=0, mode="wrap")
    u, _, vt = np.linalg.svd(gaussian_filter1d(turned, sigma, axis=0, mode="wrap"))  # back to the nearest rotation
    c2w = torch.eye(4).repeat(frames, 1, 1)
    c2w[:, :3, :3], c2w[:, :3, 3] = torch.from_numpy(u @ vt).float(), torch.from_numpy(path).float()
    return Cameras(c2w.to(cameras.c2w), cameras.K.mean(0).expand(frames, -1, -1), cameras.height, cameras.width)
