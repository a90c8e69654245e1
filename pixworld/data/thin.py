"""Things of sticks and slats, indoors and out. See `builder` for what a thing is."""

from __future__ import annotations

import math

from pixworld.data.builder import METALS, STONES, WOODS, Builder
from pixworld.data.world import BOX, BRICK, CELLS, CYLINDER, ELLIPSOID, IMAGE, NOISE, PLAIN, PLANKS, STRIPES

STICKS = {PLAIN: 3, PLANKS: 1, NOISE: 1, STRIPES: 0.3}


def _bars(b: Builder, size: float) -> int:
    """Material of metal or wood sticks."""
    return b.material(size, METALS if b.rng.random() < 0.5 else WOODS, STICKS)


def barrier(b: Builder, length: float, height: float) -> None:
    """A wall of masonry, pickets, rails or a lattice along the x axis of the frame."""
    rng = b.rng
    style = rng.choice(["wall", "pickets", "rails", "lattice", "bars"])
    if style == "wall":
        m = b.material(height, STONES, {BRICK: 3, CELLS: 1, IMAGE: 2, NOISE: 1})
        b.say("wall", b.words)
        b.box((0, 0, 0.5 * height), (length, 0.3 * height, height), m)
        return
    m = b.material(height, patterns={PLANKS: 2, PLAIN: 2, NOISE: 1})
    b.say("fence", b.words)
    thick = height * rng.uniform(0.03, 0.08)
    if style == "lattice":
        count = max(3, round(length / height * 3))
        for k in range(-count, count):
            for s in (-1, 1):
                x = (k + 0.5) / count * length / 2
                end = min(max(x + s * height, -length / 2), length / 2)
                if abs(end - x) > 0.2 * height:
                    b.stick((x, 0.3 * s * thick, 0), (end, 0.3 * s * thick, abs(end - x)), 0.4 * thick, m)
        b.box((0, 0, height), (length, 2 * thick, thick), m)
        return
    if style != "rails":
        count = max(3, round(length / height * rng.uniform(3, 6)))
        for k in range(count):
            x = (k + 0.5) / count * length - length / 2
            if style == "bars":
                b.stick((x, 0, 0), (x, 0, height), 0.4 * thick, m)
            else:
                b.box((x, 0, height / 2), (0.6 * length / count, thick, height), m)
    rows = int(rng.integers(2, 5))
    for row in range(rows):
        b.box((0, -0.7 * thick, (row + 0.7) / rows * height), (length, thick, 1.5 * thick), m)
    for k in range(int(length / (2 * height)) + 2):
        x = min(2 * k * height, length) - length / 2
        b.box((x, 0, 0.55 * height), (2 * thick, 2 * thick, 1.1 * height), m)


def fence(b: Builder, size: float) -> float:
    barrier(b, 1.5 * size, size * b.rng.uniform(0.2, 0.4))
    return 0.3 * size


def _stool(b: Builder, size: float) -> float:
    rng, m = b.rng, _bars(b, size)
    h, r = size * rng.uniform(0.45, 0.75), 0.2 * size
    for k in range(legs := int(rng.integers(3, 5))):
        c, s = math.cos(a := 2 * math.pi * k / legs + 0.4), math.sin(a)
        b.stick((1.3 * r * c, 1.3 * r * s, 0), (0.7 * r * c, 0.7 * r * s, h), 0.025 * size, m)
    seat = b.material(size)
    b.say("stool", b.words)
    b.add(int(rng.choice([BOX, CYLINDER])), (0, 0, h), (r, r, 0.03 * size), seat)
    return 0.3 * size


def bench(b: Builder, size: float) -> float:
    """Slats on legs, some with a back."""
    rng, m = b.rng, _bars(b, size)
    w, h, slats = size * rng.uniform(0.9, 1.5), 0.4 * size, int(rng.integers(3, 6))
    wood = b.material(0.5 * size, patterns={PLANKS: 3, PLAIN: 1})
    b.say("bench", b.words)
    for k in range(slats):
        b.box((0, (k - slats / 2) * 0.09 * size, h), (w, 0.06 * size, 0.025 * size), wood)
    for sx in (-0.42, 0.42):
        for y in (-0.2, 0.15):
            b.stick((sx * w, y * size, 0), (sx * w, y * size, h), 0.02 * size, m)
    if rng.random() < 0.6:
        for k in range(3):
            b.box((0, -0.27 * size, h + (0.12 + 0.12 * k) * size), (w, 0.02 * size, 0.07 * size), wood)
        for sx in (-0.42, 0.42):
            b.stick((sx * w, -0.25 * size, h), (sx * w, -0.25 * size, h + 0.42 * size), 0.02 * size, m)
    return 0.5 * w


def _ladder(b: Builder, size: float) -> float:
    rng, m = b.rng, _bars(b, size)
    b.say("ladder", b.words)
    h, w, lean = size * rng.uniform(1.1, 1.7), 0.18 * size, size * rng.uniform(0.1, 0.4)
    for s in (-1, 1):
        b.stick((s * w, lean, 0), (s * w, 0, h), 0.02 * size, m)
        if lean > 0.25 * size:  # a step ladder
            b.stick((s * w, -lean, 0), (s * w, 0, h), 0.015 * size, m)
    for k in range(rungs := int(rng.integers(5, 9))):
        f = (k + 0.7) / rungs
        b.stick((-w, lean * (1 - f), f * h), (w, lean * (1 - f), f * h), 0.014 * size, m)
    return 0.35 * size


def _rack(b: Builder, size: float) -> float:
    """A rail with clothes, or a stand with hooks."""
    rng, m = b.rng, _bars(b, size)
    b.say("rack", b.words)
    h, w = size * rng.uniform(0.9, 1.3), 0.45 * size
    for s in (-1, 1):
        b.stick((s * w, 0, 0), (s * w, 0, h), 0.015 * size, m)
        b.stick((s * w, -0.2 * size, 0.02 * size), (s * w, 0.2 * size, 0.02 * size), 0.02 * size, m)
    b.stick((-w, 0, h), (w, 0, h), 0.015 * size, m)
    clothes = int(rng.integers(0, 9))
    for k in range(clothes):
        long, x = size * rng.uniform(0.3, 0.7), ((k + 0.5) / clothes * 2 - 1) * 0.9 * w
        b.box((x, 0, h - long / 2 - 0.03 * size), (0.04 * size, 0.3 * size, long), b.material(0.4 * size))
    return 0.5 * size


def frame(b: Builder, size: float) -> float:
    """The twelve edges of a box, perhaps with a lattice or something hung inside."""
    rng, m = b.rng, _bars(b, size)
    b.say("frame", b.words)
    w, d, h = size * rng.uniform(0.5, 1.1, 3)
    r = size * rng.uniform(0.012, 0.035)
    for s in (-1, 1):
        for t in (-1, 1):
            b.stick((s * w / 2, t * d / 2, 0), (s * w / 2, t * d / 2, h), r, m)
            b.stick((-w / 2, s * d / 2, h * (t > 0) + r), (w / 2, s * d / 2, h * (t > 0) + r), r, m)
            b.stick((s * w / 2, -d / 2, h * (t > 0) + r), (s * w / 2, d / 2, h * (t > 0) + r), r, m)
    style = rng.random()
    if style < 0.35:
        for k in range(bars := int(rng.integers(3, 8))):
            x = ((k + 0.5) / bars - 0.5) * w
            b.stick((x, d / 2, 0), (x, d / 2, h), 0.6 * r, m)
    elif style < 0.7:
        half = size * rng.uniform(0.1, 0.25, 3)
        b.add(int(rng.choice([BOX, ELLIPSOID])), (0, 0, max(half[2], 0.4 * h)), half, b.material(0.4 * size))
    return 0.5 * math.hypot(w, d)


def post(b: Builder, size: float) -> float:
    """A street lamp, a sign or a mast."""
    rng, m = b.rng, _bars(b, size)
    b.say("post", b.words)
    h, r = size * rng.uniform(0.9, 1.5), 0.015 * size
    b.stick((0, 0, 0), (0, 0, h), r, m)
    style = rng.random()
    if style < 0.4:
        glass = b.material(0.2 * size, ("white", "cream", "yellow"), {PLAIN: 1}, glow=rng.uniform(0.3, 1.5))
        b.stick((0, 0, h), (0.25 * size, 0, h), r, m)
        b.add(ELLIPSOID, (0.25 * size, 0, h - 0.03 * size), (0.08 * size, 0.05 * size, 0.03 * size), glass)
    elif style < 0.8:
        b.box((0, 2 * r, 0.9 * h), (0.35 * size, r, 0.25 * size), b.material(0.4 * size))
    else:
        for k in range(3):
            b.stick((-0.2 * size, 0, (0.75 + 0.1 * k) * h), (0.2 * size, 0, (0.75 + 0.1 * k) * h), 0.7 * r, m)
    return 0.12 * size


def _sticks(b: Builder, size: float) -> float:
    """Sticks that lean against each other or stand in a pot."""
    rng, m = b.rng, _bars(b, size)
    b.say("stack", b.words)
    b.add(CYLINDER, (0, 0, 0.12 * size), (0.13 * size, 0.13 * size, 0.12 * size), b.material(0.3 * size))
    for _ in range(rng.integers(4, 12)):
        foot = rng.normal(0, 0.04, 2) * size
        top = foot + rng.normal(0, 0.2, 2) * size
        b.stick((*foot, 0.02 * size), (*top, size * rng.uniform(0.5, 1.1)), size * rng.uniform(0.006, 0.016), m)
    return 0.25 * size


def _arch(b: Builder, size: float) -> float:
    """Two pillars and what they carry."""
    rng, m = b.rng, b.material(0.6 * size)
    b.say("arch", b.words)
    w, h, t = 0.4 * size, size * rng.uniform(0.7, 1.3), size * rng.uniform(0.04, 0.12)
    for s in (-1, 1):
        if rng.random() < 0.5:
            b.box((s * w, 0, h / 2), (2 * t, 2 * t, h), m)
        else:
            b.add(CYLINDER, (s * w, 0, h / 2), (t, t, h / 2), m)
    b.box((0, 0, h + t / 2), (2.3 * w + 2 * t, 2.4 * t, t), m if rng.random() < 0.6 else b.material(size))
    return 0.5 * size


THIN = (_stool, bench, _ladder, _rack, frame, _sticks)
