"""The patterns of `patterns` in torch, for a GPU. Tests hold the two together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.data.patterns import GAIN, LEVEL_START, LEVELS, LINEAR, OCTAVES
from pixworld.data.world import (
    BRICK,
    CELLS,
    CHECKER,
    IMAGE,
    NOISE,
    PLAIN,
    PLANKS,
    SPECKLE,
    STRIPES,
    TEXTURE_SIZE,
    World,
)


def _hash(x: Tensor, y: Tensor, seed) -> Tensor:
    h = (x * 1640531527 + y * 1013904243 + seed * 1181783497) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 747796405) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1597334677) & 0xFFFFFFFF
    return (h ^ (h >> 16)).double() / 4294967296.0


def _value_noise(x: Tensor, y: Tensor, seed) -> Tensor:
    i, j = x.floor(), y.floor()
    a, b = x - i, y - j
    a, b, i, j = a * a * (3 - 2 * a), b * b * (3 - 2 * b), i.long(), j.long()
    low = _hash(i, j, seed) * (1 - a) + _hash(i + 1, j, seed) * a
    high = _hash(i, j + 1, seed) * (1 - a) + _hash(i + 1, j + 1, seed) * a
    return (low * (1 - b) + high * b).to(x)


def fbm(x: Tensor, y: Tensor, seed, footprint) -> Tensor:
    total, amplitude, frequency = torch.full_like(x, 0.5), 0.5, 1.0
    footprint = torch.as_tensor(footprint, device=x.device)
    for octave in range(OCTAVES):
        fade = (2 - 2 * footprint * frequency).clamp(0, 1)
        total = total + amplitude * fade * (_value_noise(x * frequency, y * frequency, seed + octave) - 0.5)
        amplitude *= GAIN
        frequency *= 2.1
    return total.clamp(0, 1)


def _texel(texels: Tensor, image: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Float[Tensor, "n 3"]:
    level = ((footprint * TEXTURE_SIZE).clamp(min=1).log2() + 0.5).floor().long().clamp(max=LEVELS - 1)
    n = TEXTURE_SIZE >> level
    x, y = u * n - 0.5, v * n - 0.5
    i, j = x.floor(), y.floor()
    a, b, i, j = x - i, y - j, i.long(), j.long()
    start = torch.as_tensor(LEVEL_START, device=u.device)[level]
    linear = torch.as_tensor(LINEAR, device=u.device, dtype=u.dtype)
    total = 0
    for dj in (0, 1):
        row = (j + dj) % (2 * n)
        row = torch.where(row < n, row, 2 * n - 1 - row)
        for di in (0, 1):
            column = (i + di) % (2 * n)
            column = torch.where(column < n, column, 2 * n - 1 - column)
            weight = (b if dj else 1 - b) * (a if di else 1 - a)
            total = total + weight[:, None] * linear[texels[image, start + row * n + column].long()]
    return total


def _cells(x: Tensor, y: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    i, j = x.floor().long(), y.floor().long()
    names, distances = [], []
    for dj in (-1, 0, 1):
        for di in (-1, 0, 1):
            h = _hash(i + di, j + dj, seed)
            px, py = i + di + h, j + dj + _hash(i + di, j + dj, seed + 7)
            names.append(h.to(x))
            distances.append(torch.hypot(px - x, py - y).to(x))
    distance, order = torch.stack(distances).sort(0)
    return torch.stack(names).gather(0, order[:1])[0], distance[1] - distance[0]


def albedo(world: World, texels: Tensor, m: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Float[Tensor, "n 3"]:
    c, s, period, seed = world.turn[m].cos(), world.turn[m].sin(), world.period[m], world.seed[m]
    x = (c * u - s * v) / period + world.shift[m, 0]
    y = (s * u + c * v) / period + world.shift[m, 1]
    size = footprint / period
    pattern = world.pattern[m]
    sharp = (1.6 - 1.6 * size).clamp(0, 1)
    mix, line = torch.zeros_like(x), torch.zeros_like(x)

    on = pattern == CHECKER
    mix[on] = ((x[on].floor().long() + y[on].floor().long()) & 1).to(x)
    on = pattern == STRIPES
    mix[on] = (x[on] - x[on].floor() < 0.45).to(x)
    on = pattern == NOISE
    mix[on] = (1.8 * fbm(x[on], y[on], seed[on], size[on]) - 0.4).clamp(0, 1)
    sharp = torch.where(on, 1, sharp)
    on = (pattern == CELLS) | (pattern == SPECKLE)
    name, border = _cells(x[on], y[on], seed[on])
    cells = pattern[on] == CELLS
    mix[on] = torch.where(cells, name, (name < 0.3).to(x))
    line[on] = torch.where(cells, border < 0.07, name > 0.85).to(x)
    for kind, aspect, joint in ((BRICK, 2.2, 0.08), (PLANKS, 7.0, 0.03)):
        on = pattern == kind
        row = y[on].floor()
        first = 0.5 * row if kind == BRICK else _hash(row.long(), torch.tensor(3), seed[on]).to(x)
        along = x[on] / aspect + first
        column = along.floor()
        shade = 0.8 * _hash(column.long(), row.long(), seed[on]).to(x)
        line[on] = (((along - column) * aspect < joint) | (y[on] - row < joint)).to(x)
        if kind == PLANKS:
            grain = fbm(x[on] * 1.5, y[on] * 9 + 17 * shade, seed[on] + 5, size[on] * 9)
            shade = (shade + 0.6 * (grain - 0.5)).clamp(0, 1)
        mix[on] = shade

    mean = torch.where(pattern == PLAIN, 0.0, 0.5)
    mix = (mean + sharp * (mix - mean))[:, None]
    line = (line * sharp)[:, None]
    base, second, joints = world.colours[m].unbind(1)
    colour = (base * (1 - mix) + second * mix) * (1 - line) + joints * line
    on = pattern == IMAGE
    colour[on] = base[on] * _texel(texels, world.image[m][on], x[on], y[on], size[on])
    grain = world.grain[m] * (2 * fbm(x * 4 + 31, y * 4, seed + 11, size * 4) - 1)
    return colour * (1 + grain)[:, None]
