"""Camera paths: along given cameras (unbatched, in their order), or around one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras, look_at

# --- along given cameras


def at(cameras: Cameras, where: Float[Tensor, " n"]) -> Cameras:
    """The views at fractional indices 0 .. v - 1: positions and intrinsics linear, rotations on the sphere."""
    from scipy.spatial.transform import Rotation, Slerp

    v = len(cameras)
    where = where.to("cpu", torch.float64).clamp(0, v - 1)
    below = where.floor().long().clamp_max(max(v - 2, 0))
    above = (below + 1).clamp_max(v - 1)
    share = (where - below)[:, None, None].to(cameras.c2w)
    c2w = torch.lerp(cameras.c2w[below], cameras.c2w[above], share)
    if v > 1:
        rotations = Rotation.from_matrix(cameras.c2w[:, :3, :3].double().cpu().numpy())
        turned = Slerp(np.arange(v), rotations)(where.numpy()).as_matrix()
        c2w[:, :3, :3] = torch.from_numpy(turned).to(c2w)
    return replace(cameras, c2w=c2w, K=torch.lerp(cameras.K[below], cameras.K[above], share))


def resample(cameras: Cameras, frames: int) -> Cameras:
    """`frames` views from the first camera to the last in equal steps of path length (of angle where none moves)."""
    steps = cameras.positions.diff(dim=0).norm(dim=-1).double().cpu()
    if steps.sum() <= 1e-9:
        forward = cameras.c2w[:, :3, 2].double().cpu()
        steps = torch.acos((forward[1:] * forward[:-1]).sum(-1).clamp(-1, 1))
    way = torch.cat([steps.new_zeros(1), steps.cumsum(0)]).numpy()
    index = np.interp(np.linspace(0, way[-1], frames), way, np.arange(len(way)))
    return at(cameras, torch.from_numpy(index))


def smooth(cameras: Cameras, window: float, closed: bool = False) -> Cameras:
    """The path with shake taken out: a Gaussian of `window` views (standard deviation) over positions and rotations."""
    mode = "wrap" if closed else "nearest"
    return replace(cameras, c2w=_blurred(cameras.c2w, window, mode))


def interpolate(cameras: Cameras, frames: int, smooth: float = 0.15) -> Cameras:
    """A closed, smooth flight there and back through v unbatched cameras in their order: `frames` views.

    Positions and rotations are splined over arc length and then smoothed by a Gaussian of `smooth` of the way's length;
    intrinsics are the mean ones.
    """
    from scipy.interpolate import PchipInterpolator
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
    where = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frames) / frames)  # slow at both ends, back where it began
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    c2w[:, :3, :3] = torch.from_numpy(Slerp(way, rotations)(where).as_matrix())
    c2w[:, :3, 3] = torch.from_numpy(PchipInterpolator(way, positions)(where))
    c2w = _blurred(c2w, smooth * frames / 2, "wrap").to(cameras.c2w)
    return replace(cameras, c2w=c2w, K=cameras.K.mean(0).expand(frames, -1, -1))


def _blurred(c2w: Float[Tensor, "v 4 4"], sigma: float, mode: str) -> Float[Tensor, "v 4 4"]:
    """A Gaussian of `sigma` views over positions and rotation matrices, these taken back to the nearest rotations."""
    from scipy.ndimage import gaussian_filter1d

    rows = gaussian_filter1d(c2w.double().cpu().numpy(), sigma, axis=0, mode=mode)
    u, _, vt = np.linalg.svd(rows[:, :3, :3])
    rows[:, :3, :3] = u @ vt
    return torch.from_numpy(rows).to(c2w)


# --- around one camera: `camera` is a single view that looks at a point `distance` scene units ahead, and all of these
# are closed: after the last frame comes the first again


def orbit(camera: Cameras, distance: float, frames: int) -> Cameras:
    """Once around the point, about the camera's up axis."""
    return _around(camera, distance, _turn(frames))


def arc(camera: Cameras, distance: float, frames: int, angle: float = math.radians(20)) -> Cameras:
    """Swings `angle` radians to the right of the point and to the left, and back."""
    return _around(camera, distance, angle * torch.sin(_turn(frames)))


def dolly(camera: Cameras, distance: float, frames: int, reach: float = 0.4) -> Cameras:
    """Straight ahead, by `reach` of the distance, and back."""
    forward = 0.5 - 0.5 * torch.cos(_turn(frames))
    offset = torch.zeros(frames, 3, dtype=torch.float64)
    offset[:, 2] = reach * distance * forward
    return _moved(camera, offset)


def spiral(camera: Cameras, distance: float, frames: int, radius: float = 0.15, turns: int = 2) -> Cameras:
    """Circles that widen to `radius` of the distance and narrow again, at an even speed, looking at the point."""
    t = torch.linspace(0, 1, 64 * turns + 1, dtype=torch.float64)
    r, angle = radius * distance * torch.sin(math.pi * t), 2 * math.pi * turns * t
    offset = torch.stack([r * angle.sin(), r * angle.cos(), torch.zeros_like(t)], dim=-1)
    return resample(_looking(camera, offset, distance), frames + 1).select(slice(frames))


# A path by its name, as a user gives it: (camera, distance to what it looks at, frames) -> the path.
TRAJECTORIES: dict[str, Callable[[Cameras, float, int], Cameras]] = {
    "orbit": orbit,
    "arc": arc,
    "dolly": dolly,
    "spiral": spiral,
}


def _turn(frames: int) -> Float[Tensor, " frames"]:
    """Angles once around, without the last, which is the first again."""
    return 2 * math.pi * torch.arange(frames, dtype=torch.float64) / frames


def _around(camera: Cameras, distance: float, angles: Float[Tensor, " n"]) -> Cameras:
    """The camera turned about the axis through the point that is upright in its image, to the right first."""
    offset = torch.stack(
        [distance * angles.sin(), torch.zeros_like(angles), distance * (1 - angles.cos())], dim=-1
    )  # on the circle around the point, in the camera's axes
    return _looking(camera, offset, distance)


def _looking(camera: Cameras, offset: Float[Tensor, "n 3"], distance: float) -> Cameras:
    """Views from positions in the camera's axes that look at the point ahead of it."""
    target, up = offset.new_tensor([0.0, 0.0, distance]), offset.new_tensor([0.0, -1.0, 0.0])
    return _posed(camera, look_at(offset, target, up))


def _moved(camera: Cameras, offset: Float[Tensor, "n 3"]) -> Cameras:
    """Views from positions in the camera's axes that look the way it does."""
    local = torch.eye(4, dtype=torch.float64).repeat(len(offset), 1, 1)
    local[:, :3, 3] = offset
    return _posed(camera, local)


def _posed(camera: Cameras, local: Float[Tensor, "n 4 4"]) -> Cameras:
    """Views whose poses are relative to the camera's."""
    assert len(camera) == 1, f"a path goes around one camera, not {len(camera)}"
    c2w = camera.c2w.double() @ local.to(camera.c2w.device)
    return replace(camera, c2w=c2w.to(camera.c2w), K=camera.K.expand(len(local), -1, -1))
