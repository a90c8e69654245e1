"""Streets, gardens and fields, and ground seen from a drone."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from pixworld.data.builder import EARTHS, LEAVES, STONES, Builder, scatter
from pixworld.data.lights import sky, sun
from pixworld.data.outside import BESIDE_A_ROAD, NATURE, ON_A_ROAD, OUTSIDE, TOWN
from pixworld.data.paths import focal_length, hand, length, look_at, orbit, walk
from pixworld.data.thin import barrier
from pixworld.data.world import BRICK, CELLS, CHECKER, ELLIPSOID, IMAGE, NOISE, SPECKLE, STRIPES, Scene


def ground(b: Builder, period: float, photos: float = 0.3) -> str:
    """The ground as primitive 0, its top at z = 0; the words for it."""
    kinds = {NOISE: 3, IMAGE: 5, CELLS: 1.5, SPECKLE: 1, BRICK: 0.7, CHECKER: 0.3}
    m = b.material(period, EARTHS, kinds, photos=photos, mirror=None if b.rng.random() < 0.1 else 0.0)
    b.place(0, 0)
    b.box((0, 0, -1), (1200, 1200, 2), m)
    return b.words


def outdoor(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """A street between houses, or things in the open."""
    b = Builder(rng, images)
    floor = ground(b, rng.uniform(2, 10))
    reach = rng.uniform(8, 22)
    taken: list = []
    if street := rng.random() < 0.45:  # houses along both sides of a road
        b.place(0, 0)
        road = (8 * reach, rng.uniform(3, 6), 0.04)
        b.box((0, 0, 0.01), road, b.material(5, STONES, {NOISE: 2, BRICK: 2, IMAGE: 3, CELLS: 1}))
        for side in (-1, 1):
            x = -1.5 * reach
            while x < 1.8 * reach:
                size = rng.uniform(4, 7)
                b.place(x, side * rng.uniform(6.5, 8), 0, 0 if side > 0 else math.pi)
                BESIDE_A_ROAD[rng.integers(len(BESIDE_A_ROAD))](b, size)
                x += size * rng.uniform(1.0, 1.5)
        scatter(b, ON_A_ROAD, int(rng.integers(5, 10)), (-reach, -4), (reach, 4), (1.2, 3.5), taken)
    else:
        scatter(b, OUTSIDE, int(rng.integers(8, 18)), (-reach, -reach), (reach, reach), (1.2, 6), taken)
        for _ in range(rng.integers(0, 3)):
            b.place(*rng.uniform(-reach, reach, 2), 0, rng.uniform(0, math.pi))
            barrier(b, rng.uniform(4, 12), rng.uniform(0.7, 1.6))
    for _ in range(rng.integers(0, 7)):  # far hills and towers
        a, far = rng.uniform(0, 2 * math.pi), rng.uniform(4, 12) * reach
        b.place(far * math.cos(a), far * math.sin(a), 0, a)
        if rng.random() < 0.6:
            m = b.material(0.5 * far, (*EARTHS, *LEAVES), {NOISE: 3, IMAGE: 1, SPECKLE: 1})
            b.say("hill", b.words)
            b.add(ELLIPSOID, (0, 0, 0), far * rng.uniform((0.1, 0.3, 0.05), (0.3, 0.8, 0.2)), m)
        else:
            m = b.material(0.2 * far, STONES, {BRICK: 1, STRIPES: 1, IMAGE: 2})
            b.box((0, 0, 0.1 * far), far * rng.uniform(0.06, 0.25, 3) * (1, 1, 2), m)
    ambient, light = sun(b)
    colours, clouds, cover = sky(rng, light)
    haze = rng.uniform(0.2, 1) / (12 * reach) if rng.random() < 0.5 else 0.0
    world = b.world([ambient, ambient * (0.5, 0.45, 0.4)], colours, clouds, haze)

    eye = np.array([*rng.uniform(-0.8, 0.8, 2) * reach, 0])
    eye[2] = rng.uniform(1.2, 2.2) if rng.random() < 0.7 else rng.uniform(2, 9)
    x, y, _ = taken[rng.integers(len(taken))] if taken else (0, 0, 0)
    if street:
        eye[1] = rng.uniform(-2.5, 2.5)
        x, y = eye[0] + rng.choice([-1, 1]) * rng.uniform(6, 14), rng.uniform(-6, 6)
    target = np.array([x, y, rng.uniform(0.5, 2.5)])
    eyes, targets, scattered = walk(rng, views, eye, target)
    c2w = look_at(eyes, targets, hand(rng, views))
    place = "street" if street else str(rng.choice(["garden", "field"]))
    caption = f"a {place} with {b.sentence(4) or 'a tree'}, {floor} ground, {cover} sky, {light}"
    return b.scene(world, c2w, focal_length(rng), caption, overlap=0.3 if scattered else 0.4)


def nadir(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """Ground seen from a drone: in rows straight down, or slanting along a short path or around a point."""
    b = Builder(rng, images)
    height = rng.uniform(10, 40)
    focal = focal_length(rng)
    width = height / focal  # metres that a view shows
    floor = ground(b, width * rng.uniform(0.3, 1.5), photos=0.5)
    slant = rng.random() < 0.4
    if slant:
        eyes, targets = orbit(rng, views, np.zeros(3), height, 0.7, 1.45)
        c2w = look_at(eyes, targets, hand(rng, views))
        half = 1.2 * width
    else:
        c2w, half = _rows(rng, views, aspect, height, width)

    style = rng.choice(["town", "nature", "mixed"])
    soils = [b.material(0.3 * width, EARTHS, {NOISE: 4, IMAGE: 4, CELLS: 1, SPECKLE: 1}) for _ in range(4)]
    for _ in range(rng.integers(15, 45)):  # low bumps make the relief
        r = width * rng.uniform(0.05, 0.35)
        b.place(*rng.uniform(-half, half, 2), 0, rng.uniform(0, 6))
        bump = (r, r * rng.uniform(0.4, 1), height * rng.uniform(0.01, 0.12))
        b.add(ELLIPSOID, (0, 0, 0), bump, soils[rng.integers(4)])
    for _ in range(rng.integers(0, 5) if style != "town" else 0):  # groves of many crowns
        leaf = b.material(0.15 * width, LEAVES, {NOISE: 2, IMAGE: 4, SPECKLE: 1})
        middle, spread = rng.uniform(-half, half, 2), width * rng.uniform(0.08, 0.25)
        b.say("tree", b.words)
        for _ in range(rng.integers(15, 45)):
            r = width * rng.uniform(0.02, 0.06)
            b.place(*middle + rng.normal(0, spread, 2), 0)
            b.add(ELLIPSOID, (0, 0, r), (r, r, r * rng.uniform(0.8, 1.8)), leaf)
    things = {"town": TOWN, "nature": NATURE, "mixed": OUTSIDE}[str(style)]
    scatter(b, things, int(rng.integers(6, 22)), (-half, -half), (half, half), (0.08 * width, 0.3 * width), [])
    for k in range(rng.integers(0, 4)):  # roads, paths, fields; their tops are not in one plane
        b.place(*rng.uniform(-0.4, 0.4, 2) * width, 0, rng.uniform(0, 6))
        long = 8 * half if rng.random() < 0.6 else rng.uniform(0.3, 1) * width
        b.box(
            (0, 0, 0),
            (long, rng.uniform(0.04, 0.3) * width, 0.1 + 0.03 * k),
            b.material(0.3 * width, (*STONES, *LEAVES)),
        )
    ambient, light = sun(b, 0.4)
    world = b.world([ambient, ambient * 0.5], sky(rng, light)[0])
    caption = f"aerial view of a field with {b.sentence(4)}, {floor} ground, {light}"
    return b.scene(world, c2w, focal, caption, overlap=0.4)


def _rows(rng: Generator, views: int, aspect: float, height: float, width: float) -> tuple[np.ndarray, float]:
    """c2w of a survey in one or two rows, and half the extent of what it sees."""
    rows = 2 if views % 2 == 0 and rng.random() < 0.5 else 1
    advance = length(rng, height) / (width * max(1, views - 1))  # share of a view from photo to photo
    advance = min(max(advance, 0.05), 0.3)
    k = np.arange(views)
    column, row = k % (views // rows), k // (views // rows)
    column = np.where(row % 2 == 1, views // rows - 1 - column, column)  # there and back
    step = np.stack([column - (views // rows - 1) / 2, row - (rows - 1) / 2], -1) * advance
    at = step * (aspect * width, width) if rng.random() < 0.5 else step * (width, aspect * width)
    yaw = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    eyes = np.concatenate([at @ turn.T, np.full((views, 1), height)], -1) + rng.normal(0, 0.01 * height, (views, 3))
    tilt = rng.normal(0, 0.03, (views, 2)) + rng.normal(0, 0.12 if rng.random() < 0.4 else 0.02, 2)
    targets = eyes + np.concatenate([tilt, -np.ones((views, 1))], -1) * height
    c2w = look_at(eyes, targets, rng.normal(0, 0.03, views), up=(*turn[:, 1], 0.0))
    return c2w, 0.5 * float(np.hypot(*(np.abs(step).max(0) * 2 + 1))) * width + 0.3 * width
