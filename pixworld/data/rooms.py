"""Rooms and halls with furniture, windows, lamps and pipes."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from pixworld.data.builder import METALS, WOODS, Builder, scatter
from pixworld.data.furniture import FURNITURE
from pixworld.data.lights import bulbs, hanging_lamp, sky, sun, tint, tube
from pixworld.data.paths import focal_length, hand, look_at, walk
from pixworld.data.walls import room_shell
from pixworld.data.world import CELLS, IMAGE, NOISE, PLAIN, PLANKS, STRIPES, Scene


def room(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """A furnished room; two in three have windows through which sun comes in, one in seven is a hall."""
    b = Builder(rng, images)
    hall = rng.random() < 0.15
    w, d = rng.uniform(8, 15, 2) if hall else rng.uniform(2.8, 8, 2)
    h = rng.uniform(3.5, 6) if hall else rng.uniform(2.3, 3.6)
    windows = rng.random() < 0.65
    floor, walls = room_shell(b, float(w), float(d), float(h), windows)
    if rng.random() < 0.4:
        b.place(w * rng.uniform(0.35, 0.65), d * rng.uniform(0.35, 0.65))
        m = b.material(1.5, patterns={IMAGE: 4, STRIPES: 1, CELLS: 1, NOISE: 1})
        b.say("rug", b.words)
        b.box((0, 0, 0.01), (rng.uniform(1, 0.5 * w + 1), rng.uniform(1, 0.5 * d + 1), 0.02), m)
    taken: list = []
    count = int(rng.integers(8, 16) if hall else rng.integers(4, 11))
    scatter(b, FURNITURE, count, (0, 0), (w, d), (0.5, 2.4 if hall else 1.6), taken)

    colour, word = tint(rng)
    ambient, sky_colours, clouds = np.zeros(3), np.full((3, 3), 0.5), 0.0
    if windows:
        ambient, light = sun(b)
        sky_colours, clouds, _ = sky(rng, light)
        ambient = ambient * rng.uniform(0.15, 0.6)
    _overhead(b, w, d, h, colour)
    bulbs(b, int(rng.integers(1, 3)), (0.15 * w, 0.15 * d, 0.7 * h), (0.85 * w, 0.85 * d, 0.95 * h), (1.5, 4), colour)
    up = ambient + rng.uniform(0.1, 0.4) * (0.5 + 0.5 * colour)
    world = b.world([up, up * rng.uniform(0.6, 1.0)], sky_colours, clouds)

    eye = np.array([*(rng.uniform(0.08, 0.92, 2) * (w, d)), rng.uniform(0.8, min(2.0, h - 0.3))])
    x, y, _ = taken[rng.integers(len(taken))] if taken and rng.random() < 0.6 else (*rng.uniform(0, 1, 2) * (w, d), 0)
    target = np.array([x, y, rng.uniform(0.2, 1.6)])
    eyes, targets, scattered = walk(rng, views, eye, target)
    c2w = look_at(eyes, targets, hand(rng, views))
    size = "large " if w * d > 38 else ("small " if w * d < 14 else "")
    things = b.sentence(4)
    caption = f"a {size}room" + (f" with {things}" if things else "") + f", {floor} floor, {walls} walls, {word} light"
    return b.scene(world, c2w, focal_length(rng), caption, overlap=0.3 if scattered else 0.4)


def _overhead(b: Builder, w: float, d: float, h: float, colour: np.ndarray) -> None:
    """Beams, pipes, hanging lamps and glowing tubes."""
    rng = b.rng
    for _ in range(rng.integers(0, 5)):
        kind = rng.choice(["beam", "lamp", "lamp", "pipe", "tube", "tube"])
        x, y = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * d
        if kind == "lamp":
            hanging_lamp(b, x, y, h, colour)
            continue
        across = rng.random() < 0.5
        b.place(x if across else w / 2, d / 2 if across else y, 0, math.pi / 2 * across)
        half = (d if across else w) / 2
        if kind == "beam":
            b.box(
                (0, 0, h - 0.1), (2 * half, rng.uniform(0.1, 0.3), 0.2), b.material(1.0, WOODS, {PLANKS: 2, PLAIN: 1})
            )
        elif kind == "pipe":
            z = h - rng.uniform(0.1, 0.5)
            b.stick((-half, 0, z), (half, 0, z), rng.uniform(0.02, 0.08), b.material(0.5, METALS, {PLAIN: 2, NOISE: 1}))
        else:
            z, long = h - rng.uniform(0.06, 0.8), rng.uniform(0.3, 0.9) * half
            tube(b, (-long, 0, z), (long, 0, z), colour)
