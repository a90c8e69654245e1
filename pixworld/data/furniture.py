"""Things that stand indoors, from cups to beds; thin ones are in `thin`. See `builder` for what a thing is."""

from __future__ import annotations

import math

import numpy as np

from pixworld.data.builder import LEAVES, METALS, WALLS, Builder, random_rotation, turned
from pixworld.data.thin import THIN
from pixworld.data.world import (
    CELLS,
    CHECKER,
    CYLINDER,
    ELLIPSOID,
    IMAGE,
    NOISE,
    PLAIN,
    PLANKS,
    SPECKLE,
    STRIPES,
)


def simple(b: Builder, size: float) -> float:
    """One box, ball, egg, pillar, can or a stack of boxes."""
    rng, m = b.rng, b.material(size)
    noun = str(rng.choice(["box", "box", "ball", "egg", "pillar", "can", "stack"]))
    b.say(noun, b.words)
    w, d, h = size * rng.uniform(0.5, 1, 3)
    if noun == "box":
        tops = b.material(size) if rng.random() < 0.3 else m
        b.box((0, 0, h / 2), (w, d, h), [m, m, m, m, tops, tops])
    elif noun == "stack":
        z = 0.0
        for _ in range(rng.integers(2, 5)):
            t = size * rng.uniform(0.08, 0.3)
            b.box((0, 0, z + t / 2), (w, d, t), b.material(size), turned(rng.normal(0, 0.3)))
            z += t
    elif noun in ("ball", "egg"):
        h = w if noun == "ball" else 1.4 * w
        b.add(ELLIPSOID, (0, 0, h / 2), (w / 2, w / 2, h / 2), m)
    else:
        h = size * rng.uniform(1.5, 3) if noun == "pillar" else h
        b.add(CYLINDER, (0, 0, h / 2), (w / 3, w / 3, h / 2), m)
    return 0.6 * size


def _table(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 5, PLAIN: 1, IMAGE: 2, NOISE: 1, CHECKER: 0.5})
    b.say("table", b.words)
    w, d, h, leg = size, size * rng.uniform(0.5, 1), size * rng.uniform(0.45, 0.65), size * rng.uniform(0.02, 0.05)
    top = 0.05 * size
    if rng.random() < 0.25:
        b.add(CYLINDER, (0, 0, h), (w / 2, d / 2, top / 2), m)
        b.add(CYLINDER, (0, 0, h / 2), (2 * leg, 2 * leg, h / 2), b.material(h))
    else:
        b.box((0, 0, h), (w, d, top), m)
        other = m if rng.random() < 0.6 else b.material(h)
        for sx in (-1, 1):
            for sy in (-1, 1):
                b.box((sx * (w / 2 - leg), sy * (d / 2 - leg), h / 2), (2 * leg, 2 * leg, h), other)
    origin, frame = b.origin, b.frame
    for _ in range(rng.integers(0, 4)):  # things on it
        x, y = rng.uniform(-0.33, 0.33, 2) * (w, d)
        b.origin = origin + frame @ np.array([x, y, h + top / 2])
        ON_A_TABLE[rng.integers(len(ON_A_TABLE))](b, size * rng.uniform(0.1, 0.25))
    b.origin = origin
    return 0.6 * math.hypot(w, d)


def _chair(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 4, PLAIN: 2, IMAGE: 2, STRIPES: 1, NOISE: 1})
    b.say("chair", b.words)
    w, h, leg = 0.55 * size, 0.5 * size, 0.03 * size
    seat = b.material(size) if rng.random() < 0.5 else m
    b.box((0, 0, h), (w, w, 0.07 * size), seat)
    for sx in (-1, 1):
        for sy in (-1, 1):
            b.box((sx * (w / 2 - leg), sy * (w / 2 - leg), h / 2), (2 * leg, 2 * leg, h), m)
    b.box((0, -w / 2 + leg, 1.5 * h), (w, 2 * leg, h), seat if rng.random() < 0.5 else m)
    return 0.45 * size


def _shelf(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 5, PLAIN: 2, NOISE: 1})
    b.say("shelf", b.words)
    w, d, h, t = size * rng.uniform(0.5, 0.9), 0.3 * size, size * rng.uniform(0.8, 1.2), 0.025 * size
    rows = rng.integers(3, 6)
    for sx in (-1, 1):
        b.box((sx * w / 2, 0, h / 2), (t, d, h), m)
    b.box((0, -d / 2, h / 2), (w, t / 2, h), m if rng.random() < 0.7 else b.material(size))
    for row in range(rows):
        z = (row + 0.3) * h / rows
        b.box((0, 0, z), (w, d, t), m)
        x = -0.45 * w
        while x < 0.4 * w and rng.random() < 0.85:  # books
            width, height = w * rng.uniform(0.05, 0.22), h / rows * rng.uniform(0.4, 0.8)
            at = (x + width / 2, 0.02 * size, z + height / 2 + t / 2)
            b.box(at, (width * 0.95, 0.7 * d, height), b.material(0.3 * size))
            x += width
    return 0.5 * math.hypot(w, d)


def _cabinet(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 4, PLAIN: 2, IMAGE: 2, NOISE: 1})
    b.say("cabinet", b.words)
    w, d, h = size * rng.uniform(0.6, 1.2), 0.45 * size, size * rng.uniform(0.5, 1.2)
    b.box((0, 0, h / 2), (w, d, h), m)
    front, doors = b.material(size), rng.integers(1, 4)
    for k in range(doors):
        x = (k + 0.5) / doors * w - w / 2
        b.box((x, d / 2, h / 2), (0.85 * w / doors, 0.03 * size, 0.85 * h), front)
    return 0.5 * math.hypot(w, d)


def _sofa(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={NOISE: 2, IMAGE: 3, STRIPES: 1, PLAIN: 2, CHECKER: 0.5})
    b.say("sofa", b.words)
    w, d, h = size * rng.uniform(0.9, 1.4), 0.6 * size, 0.28 * size
    b.box((0, 0, h / 2), (w, d, h), m)
    b.box((0, -d / 2 + 0.08 * size, h), (w, 0.16 * size, 2 * h), m)
    for sx in (-1, 1):
        b.box((sx * w / 2, 0, 0.7 * h), (0.14 * size, d, 1.4 * h), m)
    for _ in range(rng.integers(0, 3)):
        at, half = (rng.uniform(-0.35, 0.35) * w, 0, 1.3 * h), size * np.array([0.16, 0.08, 0.14])
        b.add(ELLIPSOID, at, half, b.material(0.3 * size))
    return 0.5 * math.hypot(w, d)


def _bed(b: Builder, size: float) -> float:
    m = b.material(size, patterns={NOISE: 2, IMAGE: 3, STRIPES: 1, CHECKER: 1})
    b.say("bed", b.words)
    w, d, h = 0.9 * size, 1.3 * size, 0.3 * size
    frame = b.material(size, patterns={PLANKS: 3, PLAIN: 1})
    b.box((0, 0, h / 3), (w, d, 2 * h / 3), frame)
    b.box((0, 0, 0.8 * h), (0.95 * w, 0.97 * d, 0.4 * h), m)
    b.box((0, -d / 2, h), (w, 0.05 * size, 2 * h), frame)
    pillow = b.material(0.3 * size, WALLS)
    for sx in (-1, 1):
        b.add(ELLIPSOID, (sx * 0.22 * w, -0.38 * d, 1.1 * h), (0.18 * w, 0.1 * d, 0.2 * h), pillow)
    return 0.5 * math.hypot(w, d)


def _lamp(b: Builder, size: float) -> float:
    m = b.material(size, patterns={PLAIN: 1})
    b.add(CYLINDER, (0, 0, 0.45 * size), (0.02 * size, 0.02 * size, 0.45 * size), m)
    b.add(CYLINDER, (0, 0, 0.02 * size), (0.15 * size, 0.15 * size, 0.02 * size), m)
    shade = b.material(0.3 * size, ("cream", "white", "yellow", "orange"), {PLAIN: 2, STRIPES: 1}, glow=0.9)
    b.say("lamp", b.words)
    b.add(CYLINDER, (0, 0, 0.95 * size), (0.17 * size, 0.17 * size, 0.13 * size), shade)
    return 0.2 * size


def _vase(b: Builder, size: float) -> float:
    m = b.material(size)
    b.say(str(b.rng.choice(["vase", "cup"])), b.words)
    r = 0.5 * size * b.rng.uniform(0.5, 0.9)
    b.add(ELLIPSOID, (0, 0, 0.4 * size), (r, r, 0.42 * size), m)
    b.add(CYLINDER, (0, 0, 0.8 * size), (0.45 * r, 0.45 * r, 0.2 * size), m)
    return 0.4 * size


def _plant(b: Builder, size: float) -> float:
    rng, pot = b.rng, b.material(0.3 * size)
    b.add(CYLINDER, (0, 0, 0.15 * size), (0.16 * size, 0.16 * size, 0.15 * size), pot)
    leaf = b.material(0.5 * size, LEAVES, {NOISE: 3, CELLS: 2, IMAGE: 1, SPECKLE: 2})
    b.say("plant", b.words)
    for _ in range(rng.integers(3, 9)):
        at = rng.normal(0, 0.14, 3) * size + (0, 0, 0.62 * size)
        b.add(ELLIPSOID, at, size * rng.uniform((0.05, 0.05, 0.1), (0.2, 0.1, 0.26)), leaf, random_rotation(rng))
    return 0.3 * size


def sculpture(b: Builder, size: float) -> float:
    """Up to nine primitives of any shape and turn through each other."""
    rng, spread = b.rng, 0.22 * size
    materials = [b.material(size) for _ in range(rng.integers(1, 5))]
    b.say(str(rng.choice(["sculpture", "toy"])), b.words)
    for _ in range(rng.integers(2, 10)):
        half = size * rng.uniform(0.06, 0.28, 3)
        at = rng.normal(0, 1, 3).clip(-1.5, 1.5) * spread + (0, 0, 0.5 * size)
        at[2] = max(at[2], half.max())
        turn = random_rotation(rng) if rng.random() < 0.7 else None
        b.add(int(rng.integers(3)), at, half, materials[rng.integers(len(materials))], turn)
    return 0.5 * size


def _figure(b: Builder, size: float) -> float:
    """A doll: legs, body, arms, head with eyes, hat or hair."""
    rng, body = b.rng, b.material(0.6 * size)
    b.say("figure", b.words)
    skin = b.material(0.3 * size, ("beige", "tan", "brown", "pink", "cream"), {PLAIN: 1, NOISE: 1})
    limb, w = b.material(0.4 * size), 0.16 * size
    b.add(int(rng.integers(3)), (0, 0, 0.45 * size), (w, 0.8 * w, 0.2 * size), body)
    b.add(ELLIPSOID, (0, 0, 0.78 * size), (0.9 * w, 0.9 * w, 0.16 * size), skin)
    b.add(ELLIPSOID, (0, -0.3 * w, 0.84 * size), (w, 0.9 * w, 0.15 * size), b.material(0.3 * size))
    dark = b.material(0.1, ("black", "navy"), {PLAIN: 1})
    for s in (-1, 1):
        b.add(CYLINDER, (s * 0.5 * w, 0, 0.14 * size), (0.35 * w, 0.35 * w, 0.14 * size), limb)
        sleeve = body if rng.random() < 0.5 else skin
        outward = _pitch(s * rng.uniform(0.2, 1.2))
        b.add(CYLINDER, (s * 1.25 * w, 0, 0.48 * size), (0.25 * w, 0.25 * w, 0.15 * size), sleeve, outward)
        b.add(ELLIPSOID, (s * 0.35 * w, 0.8 * w, 0.78 * size), (0.12 * w, 0.12 * w, 0.18 * w), dark)
    b.box((0, 0.15 * w, 0.02 * size), (2.2 * w, 1.8 * w, 0.04 * size), limb)
    return 0.35 * size


def _screen(b: Builder, size: float) -> float:
    """A television or monitor: a glossy picture that glows, or is off and mirrors."""
    rng, case = b.rng, b.material(0.4 * size, ("black", "dark", "silver", "white"), {PLAIN: 1})
    b.say("screen", b.words)
    on = rng.random() < 0.6
    w, h = size * rng.uniform(0.6, 1.0), size * rng.uniform(0.4, 0.6)
    picture = b.material(h, ("black", "navy", "dark"), {IMAGE: 1} if on else {PLAIN: 1}, 1.5 * on, mirror=0.06)
    foot = size * rng.uniform(0.1, 0.5)
    b.box((0, 0, foot + h / 2), (w, 0.05 * size, h), case)
    b.box((0, 0.025 * size, foot + h / 2), (0.94 * w, 0.02 * size, 0.9 * h), picture)
    b.stick((0, 0, 0), (0, 0, foot), 0.03 * size, case)
    b.box((0, 0, 0.015 * size), (0.45 * w, 0.2 * size, 0.03 * size), case)
    return 0.5 * w


def _mirror(b: Builder, size: float) -> float:
    """A standing mirror."""
    rng, m = b.rng, b.material(0.4 * size, patterns={PLANKS: 1, PLAIN: 2, NOISE: 1})
    b.say("mirror", b.words)
    w, h = size * rng.uniform(0.3, 0.6), size * rng.uniform(0.9, 1.4)
    glass = b.material(h, ("dark", "grey", "silver"), {PLAIN: 1}, mirror=rng.uniform(0.6, 0.85))
    c, s = math.cos(a := rng.uniform(0, 0.2)), math.sin(a)
    lean = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    b.box((0, 0, h / 2), (w, 0.05 * size, h), m, lean)
    b.box((0, 0.02 * size, h / 2), (w - 0.1 * size, 0.04 * size, h - 0.1 * size), glass, lean)
    return 0.4 * size


def _staircase(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(0.6 * size)
    b.say("staircase", b.words)
    w, rise, run = size * rng.uniform(0.4, 0.9), 0.14 * size, 0.2 * size
    steps = int(rng.integers(3, 7))
    for k in range(steps):
        deep = (steps - k) * run
        b.box((0, deep / 2 - steps * run / 2, (k + 0.5) * rise), (w, deep, rise), m)
    if rng.random() < 0.6:
        rail = b.material(0.3 * size, METALS, {PLAIN: 1})
        for k in range(steps):
            y, z = (steps / 2 - k - 0.5) * run, (k + 1) * rise
            b.stick((w / 2, y, z), (w / 2, y, z + 0.5 * size), 0.012 * size, rail)
        first, last = (steps / 2 - 0.5) * run, (0.5 - steps / 2) * run
        b.stick((w / 2, first, rise + 0.5 * size), (w / 2, last, steps * rise + 0.5 * size), 0.02 * size, rail)
    return 0.5 * math.hypot(w, steps * run)


def _fruit(b: Builder, size: float) -> float:
    """A bunch of bent fruits, or a heap of round ones."""
    rng = b.rng
    peels = {PLAIN: 1, NOISE: 2, SPECKLE: 1, IMAGE: 0.5}
    peel = b.material(size, ("yellow", "red", "orange", "green", "golden"), peels)
    b.say("fruit", b.words)
    if rng.random() < 0.4:
        for _ in range(rng.integers(3, 8)):
            r = size * rng.uniform(0.12, 0.2)
            b.add(ELLIPSOID, (*rng.normal(0, 0.18, 2) * size, r * rng.uniform(0.8, 2.2)), (r, r, r), peel)
        return 0.4 * size
    tip = b.material(0.2 * size, ("dark", "brown", "olive"), {PLAIN: 1})
    for k in range(int(rng.integers(2, 6))):  # each a chain of balls along an arc
        bend, radius = rng.uniform(0.7, 1.1), size * rng.uniform(0.4, 0.5)
        y, lift = (k - 2) * 0.13 * size, rng.uniform(0.1, 0.5)
        for j in range(7):
            a, r = (j / 6 - 0.5) * 2 * bend, size * (0.075 - 0.004 * (j - 3) ** 2)
            at = (radius * math.sin(a), y * (1 - 0.1 * j), r + radius * (1 - math.cos(a)) * (0.3 + lift))
            b.add(ELLIPSOID, at, (1.25 * r + 0.03 * size, r, r), tip if j in (0, 6) else peel, _pitch(a * lift))
    return 0.5 * size


def _pitch(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def _book(b: Builder, size: float) -> float:
    """Books or magazines, lying on each other."""
    rng, z = b.rng, 0.0
    for _ in range(int(rng.integers(1, 5))):
        t = size * rng.uniform(0.03, 0.15)
        cover = b.material(0.7 * size, patterns={IMAGE: 4, PLAIN: 1, STRIPES: 1})
        pages = b.material(0.1 * size, ("white", "cream"), {STRIPES: 1, PLAIN: 1})
        w, d = size * rng.uniform((0.5, 0.4), (0.8, 0.6))
        b.box((0, 0, z + t / 2), (w, d, t), [cover, pages, pages, pages, cover, cover], turned(rng.normal(0, 0.25)))
        z += t
    b.say("book", b.words)
    return 0.45 * size


def _bottle(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(0.5 * size, mirror=float(b.rng.uniform(0.03, 0.1)))
    b.say("bottle", b.words)
    r, h = size * rng.uniform(0.12, 0.2), 0.6 * size
    label = b.material(0.3 * size, patterns={IMAGE: 3, STRIPES: 1, PLAIN: 1})
    b.add(CYLINDER, (0, 0, h / 2), (r, r, h / 2), m)
    b.add(CYLINDER, (0, 0, 0.5 * h), (1.02 * r, 1.02 * r, 0.2 * h), label)
    b.add(ELLIPSOID, (0, 0, h), (r, r, 0.12 * size), m)
    b.add(CYLINDER, (0, 0, h + 0.17 * size), (0.35 * r, 0.35 * r, 0.15 * size), m)
    return 0.25 * size


def _cloth(b: Builder, size: float) -> float:
    """A crumpled blanket or a heap of cushions: many flat round bumps of one cloth."""
    rng, m = b.rng, b.material(0.7 * size, patterns={NOISE: 2, IMAGE: 4, STRIPES: 1, PLAIN: 1})
    for _ in range(int(rng.integers(6, 16))):
        x, y = rng.normal(0, 0.25, 2).clip(-0.45, 0.45) * size
        half = size * rng.uniform((0.1, 0.05, 0.03), (0.3, 0.15, 0.1))
        b.add(ELLIPSOID, (x, y, 0.3 * half[2]), half, m, turned(rng.uniform(0, math.pi)))
    return 0.5 * size


# what stands where; a thing named twice is twice as likely
FURNITURE = (_table, _table, _chair, _chair, _shelf, _cabinet, _sofa, _bed, _lamp, _plant, simple, simple, sculpture,
             _vase, _screen, _mirror, _staircase, *THIN)  # fmt: skip
TRINKETS = (simple, _vase, sculpture, _plant, _fruit, _book, _bottle, _cloth, _figure)
ON_A_TABLE = (simple, _vase, _bottle, _book, _fruit, sculpture)
SUBJECTS = (sculpture, sculpture, sculpture, _figure, _figure, _figure, _chair, _plant, _vase, simple, _shelf, _table,
            _lamp, _fruit, _cloth, _screen, _bottle, _staircase, *THIN)  # fmt: skip
