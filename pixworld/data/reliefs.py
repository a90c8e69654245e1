"""Walls seen from the front: carvings, facades, and walls full of things."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from pixworld.data.builder import LEAVES, STONES, Builder, weighted
from pixworld.data.furniture import SUBJECTS
from pixworld.data.lights import bulbs, sky, sun, tint
from pixworld.data.outdoors import ground
from pixworld.data.paths import focal_length, hand, look_at, walk
from pixworld.data.world import BOX, BRICK, CELLS, CYLINDER, ELLIPSOID, IMAGE, NOISE, PLAIN, PLANKS, SPECKLE, Scene

STONE = {NOISE: 3, IMAGE: 7, CELLS: 0.5, SPECKLE: 1, BRICK: 1, PLAIN: 0.5}


def relief(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """A wall along x, its front at y = 0, seen from y < 0 by a camera that mostly moves along it."""
    b = Builder(rng, images)
    ground(b, rng.uniform(0.5, 3))
    w, h = rng.uniform(3, 7), rng.uniform(2, 4)
    m = b.material(rng.uniform(0.5, 1.5) * h, STONES, STONE, photos=0.7)
    words = b.words
    b.box((0, 0.15, h / 2), (w, 0.3, h), m)
    back = b.material(3.0, ("dark", "grey", "red", "navy", "white", "brown"), {PLAIN: 2, NOISE: 1, PLANKS: 1, IMAGE: 1})
    b.box((0, 0.8 + rng.uniform(0, 2), 3), (60, 0.3, 6 + rng.uniform(0, 6)), back)
    style = weighted(rng, {"carving": 0.5, "facade": 0.25, "shelves": 0.25})
    {"carving": _carving, "facade": _facade, "shelves": _shelves}[style](b, w, h, m)
    if rng.random() < 0.5:  # an edge around it
        edge, t = b.material(0.4, STONES, {NOISE: 1, PLANKS: 1, IMAGE: 2}), rng.uniform(0.04, 0.15)
        b.place(0, 0)
        for s in (-1, 1):
            b.box((s * w / 2, -t / 2, h / 2), (t, 0.3 + t, h), edge)
            b.box((0, -t / 2, h / 2 + s * (h - t) / 2), (w, 0.3 + t, t), edge)
    colours, clouds = np.full((3, 3), 0.4), 0.0
    if rng.random() < 0.4:
        ambient, light = sun(b)
        colours, clouds, _ = sky(rng, light)
    else:
        colour, word = tint(rng)
        ambient, light = colour * rng.uniform(0.2, 0.5), f"{word} light"
        bulbs(b, int(rng.integers(1, 4)), (-w, -3, 0.5), (w, -0.6, h + 1), (1.5, 4), colour)
    world = b.world([ambient, ambient * rng.uniform(0.5, 0.9)], colours, clouds)

    focal = focal_length(rng)
    distance = max(rng.uniform(0.3, 1.0) * w * focal, 0.9)
    target = np.array([rng.uniform(-0.3, 0.3) * w, 0, h * rng.uniform(0.35, 0.65)])
    bearing = rng.normal(0, 0.3)
    eye = target + distance * np.array([math.sin(bearing), -math.cos(bearing), rng.normal(0, 0.12)])
    eye[2] = max(eye[2], 0.3)
    eyes, targets, scattered = walk(rng, views, eye, target)
    caption = f"a relief on a {words} wall, {light}"
    c2w = look_at(eyes, targets, hand(rng, views))
    return b.scene(world, c2w, focal, caption, overlap=0.35 if scattered else 0.4)


def _carving(b: Builder, w: float, h: float, material: int) -> None:
    """Many shallow forms, turned in the plane of the wall, of the same stone."""
    rng = b.rng
    depth = rng.uniform(0.02, 0.12)
    own = rng.random() < 0.7
    for _ in range(rng.integers(30, 110)):
        c, s = math.cos(a := rng.uniform(0, math.pi)), math.sin(a)
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        half = h * rng.uniform((0.02, 0, 0.01), (0.16, 0, 0.05)) + (0, depth * rng.uniform(0.3, 1), 0)
        at = (rng.uniform(-0.48, 0.48) * w, 0, rng.uniform(0.04, 0.96) * h)
        m = material if own or rng.random() < 0.6 else b.material(0.3 * h, STONES, STONE)
        kind = (ELLIPSOID, ELLIPSOID, ELLIPSOID, BOX, CYLINDER)[rng.integers(5)]
        b.add(kind, at, half.clip(0.01), m, turn)


def _facade(b: Builder, w: float, h: float, material: int) -> None:
    """Rows of windows, ledges and pillars."""
    rng = b.rng
    columns, rows = int(rng.integers(3, 8)), int(rng.integers(2, 5))
    trim = b.material(0.3, STONES, {PLAIN: 2, NOISE: 1, IMAGE: 1})
    glass = [b.material(0.3, ("navy", "dark", "silver", "blue"), {PLAIN: 2, IMAGE: 2}, mirror=0.1) for _ in range(3)]
    iw, ih = 0.6 * w / columns, 0.6 * h / rows
    for row in range(rows):
        z = (row + 0.5) * h / rows
        for column in range(columns):
            x = ((column + 0.5) / columns - 0.5) * w
            b.box((x, -0.02, z), (iw, 0.06, ih), trim)
            b.box((x, -0.04, z), (0.85 * iw, 0.04, 0.9 * ih), glass[rng.integers(3)])
            b.box((x, -0.06, z), (0.03 * w / columns, 0.05, 0.9 * ih), trim)
            b.box((x, -0.08, z - ih / 2), (1.15 * iw, 0.2, 0.04), trim)
            if rng.random() < 0.2:
                b.add(ELLIPSOID, (x, -0.12, z - 0.4 * ih), (0.35 * iw, 0.1, 0.15 * ih), b.material(0.2, LEAVES))
        b.box((0, -0.04, (row + 1) * h / rows), (w, 0.12, 0.06), trim)
    for k in range(columns + 1):
        b.box(((k / columns - 0.5) * w, -0.02, h / 2), (0.1, rng.uniform(0.08, 0.2), h), material)


def _shelves(b: Builder, w: float, h: float, material: int) -> None:
    """Boards with things on them, and pictures between."""
    rng = b.rng
    board = b.material(0.5, patterns={PLANKS: 3, PLAIN: 1})
    rows = int(rng.integers(2, 5))
    for row in range(rows):
        z, deep = (row + 0.15) * h / rows, rng.uniform(0.15, 0.4)
        b.place(0, 0)
        b.box((0, -deep / 2, z), (w, deep, 0.04), board)
        x = -w / 2 + 0.2
        while x < w / 2 - 0.2:
            size = 0.7 * h / rows * rng.uniform(0.4, 1.0)
            if rng.random() < 0.25:
                b.place(0, 0)
                b.box((x, -0.02, z + 0.5 * h / rows), (0.8 * size, 0.05, size), b.material(size, patterns={IMAGE: 1}))
            else:
                b.place(x, -deep / 2, z + 0.02, math.pi * (1 + rng.normal(0, 0.1)))
                SUBJECTS[rng.integers(len(SUBJECTS))](b, min(size, 2 * deep))
            x += size * rng.uniform(0.7, 1.4)
    b.place(0, 0)
