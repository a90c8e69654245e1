"""Alignment: the floor, planes through points, known distances."""

import blender
import numpy as np
import pytest

pytestmark = blender.needs_bpy


def test_floor_is_found():
    from blender_addon import alignment

    rng = np.random.default_rng(1)
    room = [
        np.c_[rng.uniform(-3, 3, (1500, 2)), rng.normal(0, 0.01, 1500)],  # the floor
        np.c_[rng.uniform(-3, 3, (2500, 2)), rng.normal(2.4, 0.01, 2500)],  # the ceiling has more points
        np.c_[rng.uniform(-0.8, 0.8, (1200, 2)), rng.normal(0.8, 0.005, 1200)],  # a table
        np.c_[np.full(2000, 3.0), rng.uniform(-3, 3, 2000), rng.uniform(0, 2.4, 2000)],  # a wall
        rng.uniform((-3, -3, -0.5), (3, 3, 2.4), (800, 3)),  # noise, some of it below
    ]
    points = np.concatenate(room)
    axis = np.array([1.0, 2.0, 0.0]) / np.sqrt(5)
    angle = np.radians(20)
    skew = np.array([[0, 0, axis[1]], [0, 0, -axis[0]], [-axis[1], axis[0], 0]])
    tilt = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    offset = np.array([0.3, -1, 5])
    plane = alignment.floor_of(points @ tilt.T + offset)
    assert np.degrees(np.arccos(plane.normal @ tilt[:, 2])) < 0.5
    assert alignment.floor_of(points @ tilt.T + offset).height == plane.height
    matrix = alignment.level(plane)
    levelled = (room[0] @ tilt.T + offset) @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.abs(levelled[:, 2]).mean() < 0.03
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3)) and np.linalg.det(matrix[:3, :3]) > 0

    with pytest.raises(ValueError, match="No floor was found"):
        alignment.floor_of(np.c_[np.zeros(500), rng.uniform(-3, 3, (500, 2))])
    with pytest.raises(ValueError, match="too few"):
        alignment.floor_of(points[:10])


def test_points_and_distances():
    from blender_addon import alignment

    points = np.array([[0, 0, 1], [2, 0, 1.5], [0, 3, 0.5]])
    for order in ([0, 1, 2], [2, 1, 0]):
        plane = alignment.plane_through(points[order])
        assert plane.normal[2] > 0 and np.allclose(points @ plane.normal, plane.height)
        moved = np.c_[points, np.ones(3)] @ alignment.level(plane).T
        assert np.allclose(moved[:, 2], 0)
    with pytest.raises(ValueError, match="in a line"):
        alignment.plane_through([[0, 0, 0], [1, 1, 1], [2, 2, 2]])

    a, b = np.array([1.0, 2, 3]), np.array([1.0, 2, 5])
    matrix = alignment.scale_between(a, b, 7)
    assert np.allclose(matrix @ [*a, 1], [*a, 1]) and np.allclose(matrix @ [*b, 1], [1, 2, 10, 1])
    with pytest.raises(ValueError, match="same place"):
        alignment.scale_between(a, a, 1)
