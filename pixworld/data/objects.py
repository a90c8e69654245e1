"""Things to walk around: a single one before a backdrop, and a group on a table or floor."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from pixworld.data.builder import Builder, article, palette_colour, weighted
from pixworld.data.furniture import FURNITURE, SUBJECTS, TRINKETS
from pixworld.data.lights import bulbs, sky, sun, tint
from pixworld.data.outdoors import ground
from pixworld.data.outside import SUBJECTS_OUTSIDE
from pixworld.data.paths import focal_length, hand, look_at, orbit
from pixworld.data.walls import room_shell
from pixworld.data.world import (
    BOX,
    CELLS,
    CHECKER,
    CYLINDER,
    IMAGE,
    NOISE,
    PLAIN,
    PLANKS,
    SPECKLE,
    STRIPES,
    Scene,
    linear,
)

TABLE_TOPS = {PLANKS: 4, IMAGE: 5, CHECKER: 1, NOISE: 1, CELLS: 0.5, STRIPES: 1}
CARPETS = {IMAGE: 7, NOISE: 1, PLANKS: 2, CELLS: 0.5, SPECKLE: 1}


def single(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """A thing about 1 unit high."""
    b = Builder(rng, images)
    focal = math.exp(rng.uniform(math.log(0.8), math.log(3.0)))
    distance = max(0.6 * focal / (rng.uniform(0.5, 1.05) * aspect / 2), 1.1)
    eyes, targets = orbit(rng, views, np.array([0, 0, 0.42]), distance, 0.06, 1.2)
    surface, light = _setting(b, distance, float(eyes[:, 2].max()), {"room": 3, "table": 3, "plain": 2.5, "outside": 2})
    first = len(b.primitives)
    b.place(0, 0, 0, rng.uniform(0, 2 * math.pi))
    subjects = (*SUBJECTS, *SUBJECTS_OUTSIDE)
    subjects[rng.integers(len(subjects))](b, 1.0)
    subject = (first, len(b.primitives))
    noun = b.sentence(2)
    for _ in range(rng.integers(0, 6)):  # smaller things around it, which stay below the cameras
        a, r = rng.uniform(0, 2 * math.pi), rng.uniform(0.6, max(0.7, min(0.6 * distance, 1.0)))
        b.place(r * math.cos(a), r * math.sin(a), 0, rng.uniform(0, 6))
        TRINKETS[rng.integers(len(TRINKETS))](b, rng.uniform(0.12, 0.35))
    caption = f"{noun} on {article(surface)} {surface}, {light[1]}"
    return _lit(b, light, distance, look_at(eyes, targets, hand(rng, views)), focal, caption, subject)


def tabletop(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """A group of small things within about 1 unit, on a ground of rich texture that fills much of the view."""
    b = Builder(rng, images)
    focal = focal_length(rng)
    distance = max(rng.uniform(0.35, 0.9) * focal / (aspect / 2), 0.8)
    eyes, targets = orbit(rng, views, np.array([0, 0, 0.12]), distance, 0.3, 1.4)
    surface, light = _setting(b, distance, float(eyes[:, 2].max()), {"room": 3, "table": 3, "ground": 5, "outside": 1})
    if rng.random() < 0.35:  # a cloth, mat or sheet under them
        b.place(0, 0, 0, rng.uniform(0, 6))
        mat = b.material(0.8, patterns={IMAGE: 5, STRIPES: 1, CHECKER: 1, NOISE: 1, PLAIN: 1})
        b.box((*rng.normal(0, 0.15, 2), 0.004), (*rng.uniform(0.7, 2, 2), 0.008), mat)
    first = len(b.primitives)
    count, spread = int(rng.integers(1, 9)), rng.uniform(0.15, 0.5)
    for k in range(count):
        x, y = rng.normal(0, spread, 2).clip(-0.8, 0.8) * (k > 0)
        b.place(x, y, 0, rng.uniform(0, 2 * math.pi))
        size = rng.uniform(0.3, 0.75) * (1 if k == 0 else rng.uniform(0.3, 1))
        TRINKETS[rng.integers(len(TRINKETS))](b, size)
    subject = (first, len(b.primitives))
    noun = b.sentence(3)
    behind = distance + 0.8
    for _ in range(rng.integers(0, 5)):  # large things in the background
        a, r = rng.uniform(0, 2 * math.pi), behind * rng.uniform(1.0, 1.6)
        b.place(r * math.cos(a), r * math.sin(a), 0, rng.uniform(0, 6))
        FURNITURE[rng.integers(len(FURNITURE))](b, rng.uniform(0.8, 2.0))
    caption = f"{noun or 'a cloth'} on {article(surface)} {surface}, {light[1]}"
    return _lit(b, light, distance, look_at(eyes, targets, hand(rng, views)), focal, caption, subject)


def _setting(b: Builder, distance: float, high: float, backdrops: dict[str, float]) -> tuple[str, tuple]:
    """Floor and surroundings of the origin, for cameras up to `high`; what it stands on, and (tint, words) of the light
    with the sky's colours and clouds. Forgets the names of what was built."""
    rng = b.rng
    backdrop = weighted(rng, backdrops)
    colours, clouds = np.stack([linear(palette_colour(rng)) * rng.uniform(0.5, 1.2) for _ in range(3)]), 0.0
    colour, word = tint(rng)
    light = f"{word} light"
    ambient = colour * rng.uniform(0.3, 0.6)
    if backdrop == "room":
        w, d = 2 * distance * rng.uniform(1.1, 1.8, 2)
        h = max(high + 0.3, distance * rng.uniform(1.0, 1.6))
        windows = rng.random() < 0.4
        floor, _ = room_shell(b, float(w), float(d), float(h), windows)
        if windows:
            colours, clouds, _ = sky(rng, sun(b)[1])
        b.primitives = [(k, c - (w / 2, d / 2, 0), *rest) for k, c, *rest in b.primitives]
        surface = f"{floor} floor"
    elif backdrop == "plain":
        tone = b.material(2.0, ("white", "white", "grey", "cream", "blue", "black", "green"), {PLAIN: 1})
        b.place(0, 0)
        b.box((0, 0, 10 * distance), (24 * distance, 24 * distance, 20 * distance), tone)
        surface = f"{b.words} backdrop"
    else:
        if backdrop == "ground":  # a carpet, a cloth or a floor seen from near
            m = b.material(distance * rng.uniform(0.6, 2.5), patterns=CARPETS, photos=0.35)
            b.place(0, 0)
            b.box((0, 0, -1), (1200, 1200, 2), m)
            surface = f"{b.words} floor"
        else:
            surface = f"{ground(b, rng.uniform(0.6, 4))} ground"
        if backdrop == "outside":
            ambient, light = sun(b, 0.5)
            colours, clouds, _ = sky(rng, light)
    if backdrop == "table":
        m = b.material(rng.uniform(0.7, 3), patterns=TABLE_TOPS)
        b.place(0, 0, -1, rng.uniform(0, 6))
        b.add(int(rng.choice([BOX, CYLINDER])), (0, 0, 0.97), (rng.uniform(0.8, 1.6), rng.uniform(0.8, 1.6), 0.03), m)
        b.primitives[0] = (b.primitives[0][0], b.primitives[0][1] - (0, 0, 1), *b.primitives[0][2:])
        surface = f"{b.words} table"
    b.things = {}
    return surface, (colour if backdrop != "outside" else None, light, ambient, colours, clouds)


def _lit(b: Builder, light: tuple, distance: float, c2w, focal: float, caption: str, subject) -> Scene:
    """Lamps around the origin unless the sun shines, and the finished scene."""
    rng = b.rng
    colour, _, ambient, colours, clouds = light
    if colour is not None:
        r = distance * rng.uniform(0.5, 1.0)
        bulbs(b, int(rng.integers(1, 4)), (-r, -r, 1.0), (r, r, 2.5), (1.5, 3), colour)
    world = b.world([ambient, ambient * rng.uniform(0.6, 0.9)], colours, clouds)
    return b.scene(world, c2w, focal, caption, subject, overlap=0.3)
