"""Level the floor and set the scale of a scene: similarities [4 4] of Blender's world (z up). Pure numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UP = np.array([0.0, 0.0, 1.0])
_CANDIDATES = 400
_SAMPLE = 8000  # points that a candidate is judged by


class Plane(NamedTuple):
    """The points p with normal · p = height; the normal is unit and points up."""

    normal: np.ndarray
    height: float


def floor_of(points: np.ndarray, max_tilt_deg: float = 30.0, seed: int = 0) -> Plane:
    """The floor under points [n 3] whose up is roughly z: the plane that many of them lie on and few lie below.

    RANSAC with a fixed seed, then least squares through what lies on it. Raises ValueError when there is none.
    """
    if len(points) < 50:
        raise ValueError("There are too few opaque splats to see a floor in; select three objects that lie on it.")
    rng = np.random.default_rng(seed)
    points = np.asarray(points, float)
    points = points[rng.choice(len(points), min(_SAMPLE, len(points)), replace=False)]
    tolerance = 0.01 * np.linalg.norm(np.subtract(*np.quantile(points, (0.95, 0.05), axis=0)))
    triples = points[rng.integers(0, len(points), (_CANDIDATES, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    upright = np.abs(normals @ UP) > np.cos(np.radians(max_tilt_deg)) * np.maximum(lengths, 1e-12)
    if not upright.any():
        raise ValueError("No floor was found in these splats; select three objects that lie on it instead.")
    normals = normals[upright] / lengths[upright, None] * np.sign(normals[upright] @ UP)[:, None]
    heights = np.einsum("ij,ij->i", normals, triples[upright, 0])
    above = points @ normals.T - heights  # [n candidates]
    on = np.count_nonzero(np.abs(above) < tolerance, axis=0)
    below = np.count_nonzero(above < -3 * tolerance, axis=0)  # a table or a ceiling has the room below it
    best = int(np.argmax(on - 2.0 * below))
    plane = Plane(normals[best], float(heights[best]))
    for _ in range(5):
        inliers = points[np.abs(points @ plane.normal - plane.height) < tolerance]
        if len(inliers) < max(20, 0.02 * len(points)):
            raise ValueError("No floor was found in these splats; select three objects that lie on it instead.")
        plane = _fit(inliers)
    return plane


def plane_through(points: np.ndarray) -> Plane:
    """The plane through three points [3 3]. Raises ValueError when they are in a line."""
    points = np.asarray(points, float)
    a, b = points[1] - points[0], points[2] - points[0]
    normal = np.cross(a, b)
    if np.linalg.norm(normal) < 1e-3 * max(np.linalg.norm(a), np.linalg.norm(b)) ** 2:
        raise ValueError("The three points lie in a line; move one of them aside.")
    return _facing_up(normal, points[0])


def level(plane: Plane) -> np.ndarray:
    """The smallest turn that makes a plane horizontal, and the lift that brings it to z = 0."""
    axis, cos = np.cross(plane.normal, UP), plane.normal @ UP
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    out = np.eye(4)
    out[:3, :3] += skew + skew @ skew / (1 + cos)
    out[2, 3] = -plane.height
    return out


def scale_about(point: np.ndarray, factor: float) -> np.ndarray:
    """Scaling by a factor that leaves a point [3] where it is."""
    out = np.diag([factor, factor, factor, 1.0])
    out[:3, 3] = (1 - factor) * np.asarray(point, float)
    return out


def scale_between(a: np.ndarray, b: np.ndarray, distance: float) -> np.ndarray:
    """The scaling about a that brings b to a distance from it. Raises ValueError when they are in one place."""
    length = float(np.linalg.norm(np.subtract(a, b)))
    if length < 1e-9:
        raise ValueError("The two points are in the same place; move one of them.")
    return scale_about(a, distance / length)


def _fit(points: np.ndarray) -> Plane:
    """Least squares."""
    middle = points.mean(axis=0)
    return _facing_up(np.linalg.svd(points - middle, full_matrices=False)[2][2], middle)


def _facing_up(normal: np.ndarray, point: np.ndarray) -> Plane:
    normal = normal / np.linalg.norm(normal) * (1 if normal @ UP >= 0 else -1)
    return Plane(normal, float(normal @ point))
