"""Walls of rooms: with openings through which the outside is seen, and the things that hang on them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pixworld.data.builder import METALS, WALLS, WOODS, Builder, weighted
from pixworld.data.outside import OUTSIDE
from pixworld.data.world import (
    BRICK,
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

WALL = {PLAIN: 3, NOISE: 2, BRICK: 1.5, STRIPES: 1, IMAGE: 4, CHECKER: 0.3, PLANKS: 1, CELLS: 0.5}
FLOOR = {PLANKS: 5, CHECKER: 1.5, CELLS: 1.5, NOISE: 1, IMAGE: 3, SPECKLE: 1, BRICK: 1}
CEILING = {PLAIN: 4, PLANKS: 1, NOISE: 1, CHECKER: 0.5}


class _Item(NamedTuple):
    """What hangs on a wall, or a hole in it; x along the wall from its middle, z above the floor."""

    noun: str
    x: float
    z: float
    width: float
    height: float


def room_shell(b: Builder, w: float, d: float, h: float, windows: bool) -> tuple[str, str]:
    """Room from (0, 0, 0) to (w, d, h), things on its walls; the words for floor and walls.

    With `windows` its walls are slabs with holes, and primitive 0 is the ground outside; else primitive 0 is the room.
    """
    rng = b.rng
    b.place(0, 0)
    first = b.material(min(w, h) * 0.8, WALLS, WALL)
    wall_words = b.words
    sides = [first if rng.random() < 0.6 else b.material(min(w, h) * 0.8, WALLS, WALL) for _ in range(4)]
    ceiling = b.material(2.0, ("white", "cream", "grey", "beige"), CEILING)
    floor = b.material(min(w, d) * 0.9, patterns=FLOOR, photos=0.3)
    floor_words = b.words
    t = rng.uniform(0.08, 0.35)
    items = [_items(b, w if side % 2 == 0 else d, h, windows) for side in range(4)]
    if windows:
        _outside(b, w, d, [side for side in range(4) if any(item.noun == "window" for item in items[side])])
        b.place(0, 0)
        b.box((w / 2, d / 2, -t / 2), (w + 2 * t, d + 2 * t, t), floor)
        b.box((w / 2, d / 2, h + t / 2), (w + 2 * t, d + 2 * t, t), ceiling)
    else:
        b.box((w / 2, d / 2, h / 2), (w, d, h), [sides[3], sides[1], sides[0], sides[2], floor, ceiling])
    for side in range(4):
        length = w if side % 2 == 0 else d
        x, y = [(w / 2, 0), (w, d / 2), (w / 2, d), (0, d / 2)][side]
        b.place(x, y, 0, side * math.pi / 2)  # x along the wall, y into the room
        if windows:
            holes = [item for item in items[side] if item.noun == "window"]
            _pierced(b, length + 2 * t * (side % 2 == 0), h, t, sides[side], holes)
        for item in items[side]:
            if windows and item.noun == "window":
                _window(b, item, t)
            else:
                _hung(b, item)
    return floor_words, wall_words


def _items(b: Builder, length: float, h: float, windows: bool) -> list[_Item]:
    rng, items = b.rng, []
    at = -length / 2 + rng.uniform(0.2, 0.8)
    chances = {"picture": 0.45, "window": 0.4 if windows else 0.12, "door": 0.12, "panel": 0.15, "shelf": 0.15,
               "mirror": 0.04}  # fmt: skip
    while at < length / 2 - 0.8 and rng.random() < 0.85:
        noun = weighted(rng, chances)
        width = min(rng.uniform(0.4, 1.6), length / 2 - at - 0.1)
        z, height = rng.uniform(1.2, 1.8), rng.uniform(0.4, 1.2)
        if noun == "door":
            width, height, z = 0.9, 2.1, 1.05
        elif noun == "window" and windows:
            width = min(rng.uniform(0.6, 3.0), length / 2 - at - 0.1)
            low, high = rng.uniform(0.05, 1.0), h - rng.uniform(0.2, 0.7)
            z, height = (low + high) / 2, high - low
        if width > 0.3:
            items.append(_Item(noun, at + width / 2, z, width, height))
        at += width + rng.uniform(0.1, 1.2)
    return items


def _pierced(b: Builder, length: float, h: float, thick: float, material: int, holes: list[_Item]) -> None:
    """A wall along x behind y = 0, in pieces around its holes; all pieces carry one texture."""

    def piece(x0: float, x1: float, z0: float, z1: float) -> None:
        centre = ((x0 + x1) / 2, -thick / 2, (z0 + z1) / 2)
        b.box(centre, (x1 - x0, thick, z1 - z0), material, anchor=centre)

    at = -length / 2
    for hole in holes:
        left, right = hole.x - hole.width / 2, hole.x + hole.width / 2
        piece(at, left, 0, h)
        piece(left, right, 0, hole.z - hole.height / 2)
        piece(left, right, hole.z + hole.height / 2, h)
        at = right
    piece(at, length / 2, 0, h)


def _window(b: Builder, hole: _Item, thick: float) -> None:
    """Frame, bars, sill and curtains of a hole."""
    rng = b.rng
    b.say("window")
    m = b.material(0.5, ("white", "white", "brown", "dark", "grey"), {PLAIN: 2, PLANKS: 1})
    bar, y = rng.uniform(0.03, 0.08), -thick * rng.uniform(0.3, 0.9)
    w, h = hole.width, hole.height
    for s in (-1, 1):
        b.box((hole.x + s * (w - bar) / 2, y, hole.z), (bar, 0.06, h), m)
        b.box((hole.x, y, hole.z + s * (h - bar) / 2), (w, 0.06, bar), m)
    style = weighted(rng, {"panes": 0.5, "bars": 0.15, "blind": 0.15, "open": 0.2})
    if style == "panes":
        columns, rows = max(1, round(w / rng.uniform(0.4, 1.0))), int(rng.integers(1, 4))
        for k in range(1, columns):
            b.box((hole.x + (k / columns - 0.5) * w, y, hole.z), (0.6 * bar, 0.05, h), m)
        for k in range(1, rows):
            b.box((hole.x, y, hole.z + (k / rows - 0.5) * h), (w, 0.05, 0.6 * bar), m)
    elif style == "bars":
        metal = b.material(0.3, METALS, {PLAIN: 1})
        for k in range(count := max(2, round(w / 0.15))):
            x = hole.x + ((k + 0.5) / count - 0.5) * w
            b.stick((x, y, hole.z - h / 2), (x, y, hole.z + h / 2), 0.012, metal)
    elif style == "blind":
        slat = b.material(0.3, WALLS, {PLAIN: 1})
        tilt = rng.uniform(-0.6, 0.6)
        c, s = math.cos(tilt), math.sin(tilt)
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        for k in range(int(rng.uniform(0.2, 0.9) * h / 0.1)):
            b.box((hole.x, y + 0.08, hole.z + h / 2 - 0.1 * k), (w, 0.07, 0.008), slat, turn)
    b.box((hole.x, 0.05 - thick / 2, hole.z - h / 2 - 0.02), (w + 0.1, thick + 0.1, 0.04), m)
    if rng.random() < 0.35:
        cloth = b.material(0.6, patterns={NOISE: 1, IMAGE: 3, STRIPES: 2, PLAIN: 2})
        b.say("curtain", b.words)
        long = min(hole.z + h / 2 + 0.1, h * rng.uniform(1.1, 1.4))
        for s in (-1, 1):
            for k in range(int(rng.integers(3, 7))):  # folds
                x = hole.x + s * (w / 2 - 0.05 + 0.07 * k - 0.15)
                b.add(CYLINDER, (x, 0.1, hole.z + h / 2 + 0.1 - long / 2), (0.05, 0.05, long / 2), cloth)
        rod = hole.z + h / 2 + 0.1
        b.stick((hole.x - w / 2 - 0.4, 0.1, rod), (hole.x + w / 2 + 0.4, 0.1, rod), 0.015, m)


def _hung(b: Builder, item: _Item) -> None:
    """A picture, door, panel, mirror, shelf or lit window on the wall."""
    rng, (noun, x, z, width, height) = b.rng, item
    if noun == "shelf":
        board = b.material(0.5, WOODS, {PLANKS: 3, PLAIN: 1})
        b.say("shelf", b.words)
        deep = rng.uniform(0.15, 0.35)
        b.box((x, deep / 2, z), (width, deep, 0.03), board)
        for _ in range(rng.integers(1, 6)):
            half = rng.uniform(0.02, 0.12, 3)
            at = (x + rng.uniform(-0.4, 0.4) * width, deep / 2, z + 0.015 + half[2])
            kind = int(rng.integers(3))
            b.add(kind, at, half if kind != ELLIPSOID else half.clip(0.04), b.material(0.2))
        return
    frame = b.material(0.5, ("white", "brown", "dark", "golden", "grey"), {PLAIN: 2, PLANKS: 1})
    glow = rng.uniform(0.5, 2.0) if noun == "window" else 0.0
    pattern = {"picture": {IMAGE: 6, STRIPES: 0.5, NOISE: 0.5, CELLS: 0.5}, "window": {IMAGE: 3, PLAIN: 1},
               "door": {PLANKS: 2, PLAIN: 1}, "panel": None, "mirror": {PLAIN: 1}}[noun]  # fmt: skip
    colours = {"colours": ("dark", "grey")} if noun == "mirror" else {}
    mirror = rng.uniform(0.6, 0.85) if noun == "mirror" else None
    inner = b.material(min(width, height), patterns=pattern, glow=glow, mirror=mirror, **colours)
    if noun != "panel":
        b.say(noun)
    b.box((x, 0.02, z), (width, 0.06, height), frame)
    b.box((x, 0.04, z), (width - 0.1, 0.06, height - 0.1), inner)
    if noun == "window" and rng.random() < 0.6:
        b.box((x, 0.06, z), (0.05, 0.05, height), frame)


def _outside(b: Builder, w: float, d: float, sides: list[int]) -> None:
    """What windows show: the ground (primitive 0), then on each side that has any, things on it or a lit picture."""
    rng = b.rng
    below = 0.15 if rng.random() < 0.5 else rng.uniform(0.5, 6)
    b.place(0, 0, -below)
    b.box(
        (0, 0, -1), (1200, 1200, 2), b.material(6.0, ("green", "olive", "grey", "tan"), {NOISE: 3, IMAGE: 3, CELLS: 1})
    )
    said = dict(b.things)
    for side in sides:
        x, y, half = [(w / 2, 0, w / 2), (w, d / 2, d / 2), (w / 2, d, w / 2), (0, d / 2, d / 2)][side]
        c, s = [(0, -1), (1, 0), (0, 1), (-1, 0)][side]  # out of the room
        if rng.random() < 0.4:
            far = rng.uniform(2, 8)
            size = 2 * half + 2.5 * far
            b.place(x + c * far, y + s * far, 0, side * math.pi / 2)
            picture = b.material(size * 0.5, ("white",), {IMAGE: 1}, glow=rng.uniform(0.6, 2.0), photos=1.0, mirror=0.0)
            b.box((0, 0, rng.uniform(0.2, 0.5) * size), (size, 0.1, size), picture)
            continue
        for _ in range(rng.integers(1, 3)):
            far, along = rng.uniform(4, 14), rng.uniform(-1, 1) * (half + 4)
            b.place(x + c * far - s * along, y + s * far + c * along, -below, rng.uniform(0, 2 * math.pi))
            OUTSIDE[rng.integers(len(OUTSIDE))](b, rng.uniform(2, 5))
    b.things = said
