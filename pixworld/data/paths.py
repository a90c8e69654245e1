"""Camera paths of procedural scenes. Paths are short against what they look at: depth over path length is mostly 1.5
to 8, as in photo sets whose photos share most of what they see."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from pixworld.data.builder import weighted


def look_at(
    eye: Float[np.ndarray, "v 3"], target: Float[np.ndarray, "v 3"], roll: Float[np.ndarray, " v"], up=(0, 0, 1.0)
) -> Float[np.ndarray, "v 4 4"]:
    """c2w [v 4 4] (OpenCV) of cameras at `eye` that look at `target`, turned by `roll` about the viewing axis."""
    forward = (target - eye) / np.linalg.norm(target - eye, axis=1, keepdims=True)
    right = np.cross(forward, np.asarray(up, float))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    c2w = np.tile(np.eye(4), (len(eye), 1, 1))
    c2w[:, :3] = np.stack([c * right + s * down, c * down - s * right, forward, eye], axis=-1)
    return c2w


def focal_length(rng: Generator) -> float:
    """In image widths: mostly those of phones and wide lenses, up to a short telephoto."""
    return math.exp(rng.uniform(math.log(0.8), math.log(1.6 if rng.random() < 0.75 else 3.0)))


def hand(rng: Generator, views: int) -> Float[np.ndarray, " v"]:
    """Roll of a hand-held camera: an offset that most photographers do not have, and a tremble."""
    return rng.normal(0, 0.06) * (rng.random() < 0.4) + rng.normal(0, 0.015, views)


def length(rng: Generator, distance: float) -> float:
    """Of a path that looks at something `distance` away."""
    low, high = (1.5, 8) if rng.random() < 0.85 else (0.7, 1.5)
    return distance / math.exp(rng.uniform(math.log(low), math.log(high)))


def walk(
    rng: Generator, views: int, eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"], bool]:
    """Eyes and targets of a hand-held dolly, strafe, arc, rise or scatter about `eye`; whether it is a scatter."""
    forward = target - eye
    distance = float(np.linalg.norm(forward))
    reach = length(rng, distance)
    side = np.array([-forward[1], forward[0], 0]) / math.hypot(forward[0], forward[1])
    s = np.linspace(0, 1, views)[:, None] if rng.random() < 0.7 else np.linspace(-0.5, 0.5, views)[:, None]
    s = s * rng.choice([-1, 1])
    path = weighted(rng, {"dolly": 0.16, "strafe": 0.2, "arc": 0.24, "rise": 0.05, "scatter": 0.35})
    lift = s * np.array([0, 0, rng.normal(0, 0.2) * reach])
    if path == "dolly":
        eyes = eye + s * reach * (forward / distance * rng.choice([1, 1, -1]) + rng.normal(0, 0.25) * side) + lift
        targets = np.broadcast_to(target, eyes.shape) + 0.3 * (eyes - eye)
    elif path == "strafe":
        eyes = eye + s * reach * side + lift
        targets = target + (eyes - eye) * rng.uniform(0, 1)  # between "keeps looking there" and "looks straight on"
    elif path == "arc":
        eyes = around(eye, target, (s * reach / distance * rng.uniform(0.8, 1.4))[:, 0]) + lift
        targets = np.broadcast_to(target, eyes.shape)
    elif path == "rise":
        eyes = eye + s * reach * np.array([0, 0, 0.8]) + s * reach * rng.normal(0, 0.3) * side
        targets = target + (eyes - eye) * rng.uniform(0, 0.6)
    else:  # each camera anywhere in a box, looking its own way; in order from one side to the other
        eyes = eye + rng.uniform(-0.5, 0.5, (views, 3)) * (reach, reach, 0.4 * reach) * 0.6
        eyes = eyes[np.argsort(eyes @ side)]
        targets = target + rng.normal(0, rng.uniform(0.03, 0.15), (views, 3)) * distance
    shake = 0.008 * reach
    return eyes + rng.normal(0, shake, eyes.shape), targets + rng.normal(0, shake, eyes.shape), path == "scatter"


def around(
    eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"], angle: Float[np.ndarray, " v"]
) -> Float[np.ndarray, "v 3"]:
    """`eye` turned about a vertical axis through `target`."""
    c, n, o = np.cos(angle), np.sin(angle), np.zeros(len(angle))
    turn = np.stack([np.stack([c, -n, o], -1), np.stack([n, c, o], -1), np.stack([o, o, o + 1], -1)], 1)
    return target + turn @ (eye - target)


def orbit(
    rng: Generator, views: int, centre: Float[np.ndarray, " 3"], distance: float, low: float, high: float
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"]]:
    """Eyes and targets around `centre`, elevations (radians) within low .. high. One orbit in five goes far around, as
    people do with a thing on a table; the others are as short as other paths, or scattered over a patch of the dome."""
    wide = rng.random() < 0.2
    sweep = rng.uniform(1.2, 3.7) if wide else length(rng, 1.0)
    if not wide and rng.random() < 0.3:
        azimuth = np.sort(rng.uniform(-0.35, 0.35, views)) * sweep
        elevation = rng.uniform(low, high) + rng.uniform(-0.25, 0.25, views) * sweep
    else:
        azimuth = np.linspace(0, sweep, views) * rng.choice([-1, 1]) + rng.normal(0, 0.05 * sweep / views, views)
        elevation = rng.uniform(low, high) + np.linspace(0, 1, views) * rng.normal(0, 0.2) * min(sweep, 1.0)
        elevation = elevation + rng.normal(0, 0.01 * min(sweep, 1.0), views)
    azimuth, elevation = azimuth + rng.uniform(0, 2 * math.pi), elevation.clip(low, high)
    out = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1)
    eyes = centre + out * (distance * (1 + rng.normal(0, 0.02 * min(sweep, 1.0), (views, 1))))
    drift = min(sweep, 1.0) * distance
    return eyes, centre + rng.normal(0, 0.008, (views, 3)) * drift + rng.normal(0, 0.04, 3) * distance
