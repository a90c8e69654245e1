"""Things that stand outdoors. See `builder` for what a thing is."""

from __future__ import annotations

import math

import numpy as np

from pixworld.data.builder import LEAVES, METALS, STONES, WALLS, Builder, random_rotation, turned
from pixworld.data.furniture import sculpture, simple
from pixworld.data.thin import bench, fence, frame, post
from pixworld.data.world import BRICK, CELLS, CYLINDER, ELLIPSOID, IMAGE, NOISE, PLAIN, PLANKS, SPECKLE, STRIPES


def _house(b: Builder, size: float) -> float:
    rng = b.rng
    m = b.material(size, WALLS, {BRICK: 3, PLAIN: 2, NOISE: 1, PLANKS: 1, IMAGE: 3})
    b.say("tower" if (tall := rng.random() < 0.25) else "house", b.words)
    w, d = size * rng.uniform(0.6, 1.2), size * rng.uniform(0.6, 1.2)
    h = size * (rng.uniform(1.2, 2.5) if tall else rng.uniform(0.4, 0.9))
    roof = b.material(size, ("red", "brown", "grey", "dark"), {BRICK: 2, STRIPES: 1, NOISE: 1, PLANKS: 1})
    b.box((0, 0, h / 2), (w, d, h), [m, m, m, m, roof, roof])
    if not tall and rng.random() < 0.8:  # a gable: a square bar turned by 45 degrees, sunk in the walls
        q = math.sqrt(0.5)
        flat = np.array([[q, 0, -q], [0, 1, 0], [q, 0, q]])
        b.box((0, 0, h - 0.02 * w), (w * q * 1.06, d * 1.06, w * q * 1.06), [roof, roof, m, m, roof, roof], flat)
    pane = b.material(0.2 * size, ("navy", "dark", "silver", "blue"), {PLAIN: 2, IMAGE: 2})
    frame = b.material(0.2 * size, ("white", "brown", "dark"), {PLAIN: 1})
    rows, columns, t = max(1, round(h / (0.38 * size))), int(rng.integers(2, 5)), 0.02 * size
    for side in range(4):
        along, out = (w, d / 2) if side % 2 == 0 else (d, w / 2)
        turn = turned(side * math.pi / 2)
        for row in range(rows):
            for column in range(columns):
                at = ((column + 0.5) / columns - 0.5) * along, -out, (row + 0.55) / rows * h
                size_w, size_h = 0.45 * along / columns, 0.45 * h / rows
                door = row == 0 and column == columns // 2 and side == 0
                b.box(turn @ at, (size_w * 1.2, t, size_h * 1.2), frame, turn)
                b.box(turn @ (at[0], -out - t / 2, at[2]), (size_w, t, size_h), frame if door else pane, turn)
    return 0.55 * math.hypot(w, d)


def _tree(b: Builder, size: float) -> float:
    """A trunk, boughs, and leaves as a few large bodies or as many small clusters."""
    rng, leaf = b.rng, b.material(0.4 * size, LEAVES, {NOISE: 3, CELLS: 1, SPECKLE: 2, IMAGE: 3})
    b.say("tree", b.words)
    bark = b.material(0.2 * size, ("brown", "dark", "grey"), {NOISE: 1, PLANKS: 1, IMAGE: 1})
    bare, h = rng.random() < 0.2, size * rng.uniform(0.4, 0.55)
    b.add(CYLINDER, (0, 0, h / 2), (0.035 * size, 0.035 * size, h / 2), bark)
    tips = [np.array([0, 0, 0.68 * size])]
    for _ in range(int(rng.integers(2, 6)) + 5 * bare):
        start = np.array([0, 0, h * rng.uniform(0.6, 1)])
        tips.append(start + size * rng.uniform((-0.3, -0.3, 0.1), (0.3, 0.3, 0.45)))
        b.stick(start, tips[-1], size * rng.uniform(0.006, 0.016), bark)
        if bare:
            b.stick(start, tips[-1] + size * rng.normal(0, 0.1, 3), 0.006 * size, bark)
    fine = rng.random() < 0.5
    for _ in range(0 if bare else int(rng.integers(8, 22) if fine else rng.integers(1, 7))):
        at = tips[rng.integers(len(tips))] + rng.normal(0, 0.07, 3) * size
        half = size * (rng.uniform(0.05, 0.14, 3) if fine else rng.uniform(0.12, 0.3, 3))
        b.add(ELLIPSOID, at, half, leaf, random_rotation(rng))
    return 0.3 * size


def _bush(b: Builder, size: float) -> float:
    rng, rock = b.rng, b.rng.random() < 0.4
    m = b.material(size, STONES if rock else LEAVES, {NOISE: 3, CELLS: 1, SPECKLE: 1, IMAGE: 2})
    b.say("rock" if rock else "bush", b.words)
    for _ in range(rng.integers(1, 4)):
        half = size * rng.uniform(0.15, 0.45, 3)
        b.add(ELLIPSOID, (*rng.normal(0, 0.2, 2) * size, 0.5 * half[2]), half, m)
    return 0.5 * size


def _car(b: Builder, size: float) -> float:
    m = b.material(size, patterns={PLAIN: 4, IMAGE: 1, STRIPES: 0.5})
    b.say("car", b.words)
    tyre = b.material(0.2 * size, ("black", "dark"), {PLAIN: 1})
    glass = b.material(0.3 * size, ("navy", "silver"), {PLAIN: 1, IMAGE: 1})
    b.box((0, 0, 0.17 * size), (size, 0.42 * size, 0.18 * size), m)
    b.box((-0.04 * size, 0, 0.32 * size), (0.52 * size, 0.38 * size, 0.14 * size), [glass, glass, glass, glass, m, m])
    lying = np.array([[1, 0, 0], [0, 0, 1.0], [0, -1, 0]])
    for sx in (-0.3, 0.3):
        for sy in (-0.2, 0.2):
            b.add(CYLINDER, (sx * size, sy * size, 0.09 * size), (0.09 * size, 0.09 * size, 0.03 * size), tyre, lying)
    return 0.5 * size


def _pergola(b: Builder, size: float) -> float:
    """Posts under beams."""
    rng, m = b.rng, b.material(0.4 * size, METALS, {PLAIN: 1, PLANKS: 2, NOISE: 1})
    b.say("frame", b.words)
    w, d, h, t = 0.9 * size, size * rng.uniform(0.5, 1), size * rng.uniform(0.5, 0.7), 0.03 * size
    for sx in (-1, 1):
        for sy in (-1, 1):
            b.box((sx * w / 2, sy * d / 2, h / 2), (t, t, h), m)
        b.box((sx * w / 2, 0, h), (t, 1.2 * d, 1.5 * t), m)
    for k in range(beams := int(rng.integers(4, 9))):
        b.box((0, ((k + 0.5) / beams - 0.5) * 1.2 * d, h + t), (1.15 * w, 0.6 * t, t), m)
    return 0.6 * size


# what stands where; a thing named twice is twice as likely
OUTSIDE = (_house, _house, _tree, _tree, _tree, _bush, _bush, _car, fence, post, bench, frame, _pergola, simple,
           sculpture)  # fmt: skip
BESIDE_A_ROAD = (_house, _house, _house, _tree)
ON_A_ROAD = (_tree, _bush, _car, _car, simple, fence, post, post, bench)
TOWN, NATURE = (_house, _house, _car, _tree, post), (_tree, _tree, _bush, _bush, fence)
SUBJECTS_OUTSIDE = (_car, _house, _tree, _pergola)
