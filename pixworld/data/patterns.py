"""The patterns of materials, compiled for the CPU tracer: noise, cells, masonry, planks and texture images.

`patterns_torch` says the same in torch; keep the two alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numba import njit

from pixworld.data.world import BRICK, CELLS, CHECKER, IMAGE, NOISE, PLANKS, SPECKLE, STRIPES, TEXTURE_SIZE
from pixworld.kernel_cache import stamped

LEVELS = TEXTURE_SIZE.bit_length()  # mipmap levels: 256, 128, ..., 1
LEVEL_START = np.cumsum([0] + [(TEXTURE_SIZE >> k) ** 2 for k in range(LEVELS)])[:-1]
_byte = np.arange(256) / 255
LINEAR = np.where(_byte <= 0.04045, _byte / 12.92, ((_byte + 0.055) / 1.055) ** 2.4)  # sRGB byte to linear light
OCTAVES, GAIN = 5, 0.75  # of fractal noise: the amplitude of an octave relative to the next coarser one

# The kernels allocate nothing. Without `_nrt=False` numba counts references to every array of World at every call, with
# atomic operations that cost as much as the tracing does. Infinities are kept exact: a missed ray is one.
_options = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "_nrt": False,
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}


def jit(function: Callable) -> Callable:
    return njit(**_options)(stamped(function))


def inlined(function: Callable) -> Callable:
    """World is passed by value: fewer calls, fewer copies."""
    return njit(**_options, inline="always")(stamped(function))


@jit
def _hash(x, y, seed):
    """Two integers and a seed to a uniform number in [0, 1)."""
    h = (x * 1640531527 + y * 1013904243 + seed * 1181783497) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 747796405) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1597334677) & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@jit
def _value_noise(x, y, seed):
    i, j = math.floor(x), math.floor(y)
    a, b = x - i, y - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = _hash(i, j, seed) * (1 - a) + _hash(i + 1, j, seed) * a
    high = _hash(i, j + 1, seed) * (1 - a) + _hash(i + 1, j + 1, seed) * a
    return low * (1 - b) + high * b


@jit
def fbm(x, y, seed, footprint):
    """Fractal noise in 0..1; octaves finer than the footprint fade out."""
    total, amplitude, frequency = 0.5, 0.5, 1.0
    for octave in range(OCTAVES):
        fade = 2 - 2 * footprint * frequency
        if fade <= 0:
            break
        total += amplitude * min(fade, 1.0) * (_value_noise(x * frequency, y * frequency, seed + octave) - 0.5)
        amplitude *= GAIN
        frequency *= 2.1
    return min(max(total, 0.0), 1.0)


@jit
def _texel(texels, image, u, v, footprint):
    """Bilinear lookup in the mip level that fits the footprint (in image widths); images repeat mirrored."""
    level = math.floor(math.log2(max(footprint * TEXTURE_SIZE, 1.0)) + 0.5)
    level = min(level, LEVELS - 1)
    n = TEXTURE_SIZE >> level
    x, y = u * n - 0.5, v * n - 0.5
    i, j = math.floor(x), math.floor(y)
    a, b = x - i, y - j
    r, g, bl = 0.0, 0.0, 0.0
    for dj in range(2):
        row = (j + dj) % (2 * n)
        row = row if row < n else 2 * n - 1 - row
        wy = b if dj else 1 - b
        for di in range(2):
            column = (i + di) % (2 * n)
            column = column if column < n else 2 * n - 1 - column
            w = wy * (a if di else 1 - a)
            at = LEVEL_START[level] + row * n + column
            r += w * LINEAR[texels[image, at, 0]]
            g += w * LINEAR[texels[image, at, 1]]
            bl += w * LINEAR[texels[image, at, 2]]
    return r, g, bl


@jit
def _cells(x, y, seed):
    """Voronoi: the id of the nearest of one random point a cell, and by how much the second is farther."""
    i, j = math.floor(x), math.floor(y)
    first, second, name = 9.0, 9.0, 0.0
    for dj in range(-1, 2):
        for di in range(-1, 2):
            h = _hash(i + di, j + dj, seed)
            px, py = i + di + h, j + dj + _hash(i + di, j + dj, seed + 7)
            d = math.sqrt((px - x) ** 2 + (py - y) ** 2)
            if d < first:
                first, second, name = d, first, h
            elif d < second:
                second = d
    return name, second - first


@inlined
def albedo(world, texels, m, u, v, footprint):
    """Linear colour of material m at surface coordinates u, v (scene units)."""
    c, s = math.cos(world.turn[m]), math.sin(world.turn[m])
    period = world.period[m]
    seed = world.seed[m]
    x = (c * u - s * v) / period + world.shift[m, 0]
    y = (s * u + c * v) / period + world.shift[m, 1]
    size = footprint / period
    pattern = world.pattern[m]
    ca, cb, cc = world.colours[m, 0], world.colours[m, 1], world.colours[m, 2]
    mix, line, sharp = 0.0, 0.0, min(max(1.6 - 1.6 * size, 0.0), 1.0)
    if pattern == IMAGE:
        r, g, b = _texel(texels, world.image[m], x, y, size)
        r, g, b = r * ca[0], g * ca[1], b * ca[2]
    else:
        if pattern == CHECKER:
            mix = float((math.floor(x) + math.floor(y)) & 1)
        elif pattern == STRIPES:
            mix = 1.0 if x - math.floor(x) < 0.45 else 0.0
        elif pattern == NOISE:
            mix = fbm(x, y, seed, size)
            mix = min(max(1.8 * mix - 0.4, 0.0), 1.0)
            sharp = 1.0
        elif pattern == CELLS:
            name, border = _cells(x, y, seed)
            mix = name
            line = 1.0 if border < 0.07 else 0.0
        elif pattern == SPECKLE:
            name, border = _cells(x, y, seed)
            mix = 1.0 if name < 0.3 else 0.0
            line = 1.0 if name > 0.85 else 0.0
        elif pattern in (BRICK, PLANKS):
            aspect = 2.2 if pattern == BRICK else 7.0
            joint = 0.08 if pattern == BRICK else 0.03
            row = math.floor(y)
            along = x / aspect + (0.5 * row if pattern == BRICK else _hash(row, 3, seed))
            column = math.floor(along)
            mix = 0.8 * _hash(column, row, seed)
            if (along - column) * aspect < joint or y - row < joint:
                line = 1.0
            if pattern == PLANKS:  # the grain of the wood runs along the plank
                mix += 0.6 * (fbm(x * 1.5, y * 9 + 17 * mix, seed + 5, size * 9) - 0.5)
                mix = min(max(mix, 0.0), 1.0)
        mean = 0.5 if pattern else 0.0
        mix = mean + sharp * (mix - mean)
        line *= sharp
        r = (ca[0] * (1 - mix) + cb[0] * mix) * (1 - line) + cc[0] * line
        g = (ca[1] * (1 - mix) + cb[1] * mix) * (1 - line) + cc[1] * line
        b = (ca[2] * (1 - mix) + cb[2] * mix) * (1 - line) + cc[2] * line
    if world.grain[m] > 0:  # dirt and fine relief, which every real surface has
        k = 1 + world.grain[m] * (2 * fbm(x * 4 + 31, y * 4, seed + 11, size * 4) - 1)
        r, g, b = r * k, g * k, b * k
    return r, g, b
