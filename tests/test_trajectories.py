"""Camera paths."""

from __future__ import annotations

import math

import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.gaussians import quat_to_matrix
from pixworld.trajectories import TRAJECTORIES, arc, at, dolly, interpolate, orbit, resample, smooth, spiral


@pytest.fixture
def camera() -> Cameras:
    """One view with a pose of no particular kind, in float64."""
    c2w = torch.eye(4, dtype=torch.float64)[None]
    c2w[0, :3, :3] = quat_to_matrix(torch.tensor([0.7, 0.2, -0.5, 0.3], dtype=torch.float64))
    c2w[0, :3, 3] = torch.tensor([1.0, -2.0, 3.0])
    K = torch.tensor([[[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]], dtype=torch.float64)
    return Cameras(c2w, K, 30, 40)


def steps(cameras: Cameras, closed: bool = False) -> torch.Tensor:
    positions = torch.cat([cameras.positions, cameras.positions[:1]]) if closed else cameras.positions
    return positions.diff(dim=0).norm(dim=-1)


def assert_rigid(cameras: Cameras) -> None:
    rotation = cameras.c2w[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).to(rotation).expand_as(rotation))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(rotation)).to(rotation))


def centre_ahead(camera: Cameras, distance: float) -> torch.Tensor:
    return camera.positions[0] + distance * camera.c2w[0, :3, 2]


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_named_paths_are_closed_and_keep_the_target_centred(camera, name):
    path = TRAJECTORIES[name](camera, 4.0, 48)
    assert len(path) == 48 and (path.height, path.width) == (30, 40) and path.c2w.dtype == torch.float64
    assert_rigid(path)
    around = steps(path, closed=True)
    assert around[-1] <= 1.1 * around.max() and around.max() < 0.8  # it goes on from the last frame to the first
    pixels, depth = path.project(centre_ahead(camera, 4.0)[None])
    torch.testing.assert_close(pixels[:, 0], torch.tensor([[20.0, 15.0]]).double().expand(48, 2), atol=1e-3, rtol=0)
    assert depth.min() > 0


def test_orbit_is_a_circle_in_equal_steps(camera):
    path = orbit(camera, 4.0, 36)
    radius = (path.positions - centre_ahead(camera, 4.0)).norm(dim=-1)
    torch.testing.assert_close(radius, torch.full_like(radius, 4.0))
    torch.testing.assert_close(steps(path, closed=True), torch.full((36,), 8 * math.sin(math.pi / 36)).double())
    torch.testing.assert_close(path.c2w[0], camera.c2w[0])
    right = (path.positions[1] - path.positions[0]) @ camera.c2w[0, :3, 0]
    assert right > 0
    # the up axis is the axis of rotation
    torch.testing.assert_close(path.c2w[:, :3, 1], camera.c2w[:, :3, 1].expand(36, 3))


def test_arc_and_dolly_reach_as_far_as_asked(camera):
    path = arc(camera, 2.0, 40, angle=0.3)
    turned = torch.acos((path.c2w[:, :3, 2] @ camera.c2w[0, :3, 2]).clamp(-1, 1))
    assert turned.max().item() == pytest.approx(0.3, abs=1e-5)
    path = dolly(camera, 2.0, 40, reach=0.5)
    ahead = (path.positions - camera.positions) @ camera.c2w[0, :3, 2]
    assert ahead.min().item() == pytest.approx(0, abs=1e-6) and ahead.max().item() == pytest.approx(1, abs=1e-6)


def test_spiral_moves_evenly_and_as_wide_as_asked(camera):
    path = spiral(camera, 2.0, 200, radius=0.1, turns=3)
    step = steps(path, closed=True)
    assert (step.max() / step.median()).item() < 1.01
    wide = (path.positions - camera.positions).norm(dim=-1)
    assert wide.max().item() == pytest.approx(0.2, rel=0.02) and wide[0].item() == pytest.approx(0, abs=1e-6)


def test_at_is_exact_at_the_cameras_and_half_way_between(arc):
    cameras = arc(5)
    there = at(cameras, torch.arange(5.0))
    torch.testing.assert_close(there.c2w, cameras.c2w, atol=1e-6, rtol=0)
    half = at(cameras, torch.tensor([1.5]))
    torch.testing.assert_close(half.positions[0], cameras.positions[1:3].mean(dim=0))
    angles = [torch.acos((half.c2w[0, :3, 2] * cameras.c2w[i, :3, 2]).sum()).item() for i in (1, 2)]
    assert angles[0] == pytest.approx(angles[1], abs=1e-4)
    assert len(at(arc(1), torch.tensor([0.0, 3.0]))) == 2


def test_resample_makes_equal_steps(arc):
    dense = arc(400)
    uneven = dense.select((torch.linspace(0, 1, 150).square() * 399).long())
    path = resample(uneven, 25)
    step = steps(path)
    assert len(path) == 25 and (step.max() / step.min()).item() < 1.01
    torch.testing.assert_close(path.c2w[[0, -1]], dense.c2w[[0, -1]], atol=1e-5, rtol=0)
    assert_rigid(path)
    # cameras that only turn: equal angles
    turning = dense.c2w[::7].clone()
    turning[:, :3, 3] = 0
    path = resample(Cameras(turning, dense.K[::7], dense.height, dense.width), 9)
    forward = path.c2w[:, :3, 2]
    angle = torch.acos((forward[1:] * forward[:-1]).sum(-1))
    assert (angle.max() / angle.min()).item() < 1.01
    assert len(resample(dense.select([0, 0]), 5)) == 5  # no way at all


def test_smooth_takes_out_shake_and_keeps_the_path(arc):
    still = arc(60)
    shaken = Cameras(still.c2w.clone(), still.K, still.height, still.width)
    noise = 0.02 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    shaken.c2w[:, :3, 3] += noise
    before = shaken.c2w.clone()
    path = smooth(shaken, 2.0)
    assert_rigid(path)
    assert torch.equal(shaken.c2w, before)
    inner = slice(8, -8)  # at the ends a Gaussian drags the path inwards
    assert (path.positions - still.positions)[inner].norm(dim=-1).mean() < 0.5 * noise[inner].norm(dim=-1).mean()
    assert (path.positions - still.positions).norm(dim=-1).max() < 0.15


def test_smooth_leaves_a_closed_circle_closed(camera):
    path = smooth(orbit(camera, 4.0, 36), 1.5, closed=True)
    step = steps(path, closed=True)
    torch.testing.assert_close(step, step[:1].expand_as(step))


def test_interpolate_is_a_closed_flight(arc):
    cameras = arc(6)
    path = interpolate(cameras, 50)
    assert len(path) == 50
    assert_rigid(path)
    around = steps(path, closed=True)
    assert around[-1] <= 1.05 * around.max()
    torch.testing.assert_close(path.K, cameras.K[:1].expand(50, 3, 3))
    assert torch.equal(interpolate(arc(1), 4).c2w, arc(1).c2w.expand(4, 4, 4))
