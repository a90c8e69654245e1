"""Down, north and metres."""

from __future__ import annotations

import numpy as np
import pytest

from pixworld.world_frame import rotation_between, up_direction, world_frame

ROTATION = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))[0]
ROTATION = ROTATION * np.linalg.det(ROTATION)  # of the arbitrary world that structure from motion finds
SCALE, SHIFT = 0.07, np.array([3.0, -1.0, 2.0])
LATITUDE, LONGITUDE, ALTITUDE = 46.84, -91.99, 198.0
METRES_A_DEGREE = 111_160.0  # of latitude, here


def cameras(positions: np.ndarray, look: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """c2w [n 3 4] of level cameras in metres (x east, y down, z north), rolled by some noise, in an arbitrary world."""
    rng = np.random.default_rng(0)
    out = np.zeros((len(positions), 3, 4))
    for i, (position, forward) in enumerate(zip(positions, look / np.linalg.norm(look, axis=1, keepdims=True))):
        right = np.cross([0.0, 1, 0], forward)
        right /= np.linalg.norm(right)
        c, s = np.cos(angle := roll * rng.normal()), np.sin(angle)
        axes = np.stack([right, np.cross(forward, right), forward], axis=1) @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]
        out[i, :, :3], out[i, :, 3] = ROTATION @ axes, SCALE * ROTATION @ position + SHIFT
    return out


def ring(count: int = 12, radius: float = 20.0, height: float = -5.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions on a circle, and the ways to its middle on the ground."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    positions = np.stack([radius * np.cos(angle), np.full(count, height), radius * np.sin(angle)], axis=1)
    return positions, -positions


def gps_of(positions: np.ndarray, noise: float = 0.0, seed: int = 0) -> list[tuple[float, float, float]]:
    east, down, north = (positions + noise * np.random.default_rng(seed).normal(size=positions.shape)).T
    latitude = LATITUDE + north / METRES_A_DEGREE
    longitude = LONGITUDE + east / (111_412.0 * np.cos(np.radians(LATITUDE)))
    return list(zip(latitude.tolist(), longitude.tolist(), (ALTITUDE - down).tolist()))


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


DOWN = np.array([0.0, 1.0, 0.0])


@pytest.mark.parametrize("height", [-1.0, -15.0])
def test_up_is_found_from_level_cameras(height):
    up, found_by = up_direction(cameras(*ring(height=height), roll=0.02))
    assert found_by == "horizon" and degrees(up, -ROTATION @ DOWN) < 1.5


def test_up_of_cameras_that_look_straight_down():
    positions, look = ring()
    up, found_by = up_direction(cameras(positions, 0.05 * look + 30 * DOWN))
    assert found_by == "horizon" and degrees(up, -ROTATION @ DOWN) < 1


def test_up_of_cameras_that_look_one_way_is_their_mean_up():
    positions = np.stack([np.linspace(-3, 3, 7), np.zeros(7), np.zeros(7)], axis=1)
    up, found_by = up_direction(cameras(positions, np.tile([0.0, 0, 1], (7, 1)), roll=0.01))
    assert found_by == "cameras" and degrees(up, -ROTATION @ DOWN) < 1.5


def moved(frame, c2w: np.ndarray) -> np.ndarray:
    return frame.scale * c2w[:, :, 3] @ frame.rotation.T + frame.translation


def test_gps_gives_metres_north_and_up():
    positions, look = ring()
    c2w = cameras(positions, look)
    frame = world_frame(c2w, gps_of(positions, noise=0.3))
    assert frame.about["scale"] == "metres" and frame.about["up"] == "gps" and frame.about["gps"]["used"] == 12
    assert 0.1 < frame.about["gps"]["residual_m"] < 1 and frame.scale == pytest.approx(1 / SCALE, rel=0.02)
    assert np.abs(moved(frame, c2w) - (positions - positions.mean(axis=0))).max() < 1  # east, down, north
    assert degrees(frame.rotation @ ROTATION @ DOWN, DOWN) < 2


def test_gps_along_a_line_leaves_the_vertical_to_the_cameras():
    positions = np.stack([np.linspace(-30, 30, 8), np.zeros(8), np.linspace(-10, 10, 8)], axis=1)
    c2w = cameras(positions, np.stack([np.cos(np.arange(8.0)), np.zeros(8), np.sin(np.arange(8.0))], axis=1))
    frame = world_frame(c2w, gps_of(positions, noise=0.3))
    assert frame.about["up"] == "horizon" and frame.scale == pytest.approx(1 / SCALE, rel=0.05)
    assert np.abs(moved(frame, c2w) - positions).max() < 1.5


def test_an_outlier_and_missing_positions_are_passed_over():
    positions, look = ring()
    gps = gps_of(positions, noise=0.2)
    gps[3] = (gps[3][0] + 0.01, gps[3][1], gps[3][2])  # a kilometre off
    gps[5] = None
    c2w = cameras(positions, look)
    frame = world_frame(c2w, gps)
    assert (frame.about["gps"]["photos"], frame.about["gps"]["used"]) == (11, 10)
    assert frame.scale == pytest.approx(1 / SCALE, rel=0.02)


def test_three_positions_are_enough_for_the_scale():
    positions, look = ring()
    gps = [x if i in (0, 4, 8) else None for i, x in enumerate(gps_of(positions, noise=0.2))]
    frame = world_frame(cameras(positions, look), gps)
    assert frame.about["up"] == "horizon" and frame.scale == pytest.approx(1 / SCALE, rel=0.03)


@pytest.mark.parametrize("why", ["few", "near", "noise"])
def test_positions_that_tell_nothing(why):
    positions, look = ring(radius=2.0 if why == "near" else 20.0)
    gps = gps_of(positions, noise=40.0 if why == "noise" else 0.2)
    if why == "few":
        gps[2:] = [None] * 10
    frame = world_frame(cameras(positions, look), gps)
    assert frame.scale == 1 and frame.about["scale"] == "arbitrary" and not frame.translation.any()
    assert ("unused" in frame.about.get("gps", {})) == (why != "few")
    assert degrees(frame.rotation @ ROTATION @ DOWN, DOWN) < 1


def test_rotation_between_vectors():
    rng = np.random.default_rng(0)
    for a, b in [*rng.normal(size=(5, 2, 3)), ([0, 1.0, 0], [0, -1.0, 0]), ([1.0, 2, 3], [-1.0, -2, -3])]:
        a, b = np.array(a) / np.linalg.norm(a), np.array(b) / np.linalg.norm(b)
        rotation = rotation_between(a, b)
        np.testing.assert_allclose(rotation @ a, b, atol=1e-9)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) > 0
