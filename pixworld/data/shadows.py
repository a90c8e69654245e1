"""Which primitives can cast a shadow where: for every light a grid, so that a shadow ray meets few of them."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from pixworld.data.patterns import jit
from pixworld.data.world import World

GRID = 32  # cells a side of a light's grid; even, so that the folds of the octahedral map run between cells


@jit
def cell_of(light, frame, x, y, z):
    """The cell of a light's grid in which a point is; -1 outside."""
    if light[3] > 0:
        x, y, z = x - light[0], y - light[1], z - light[2]
        size = abs(x) + abs(y) + abs(z)
        u, v = x / size, y / size
        if z < 0:
            u, v = math.copysign(1 - abs(v), u), math.copysign(1 - abs(u), v)
        i, j = math.floor((0.5 + 0.5 * u) * GRID), math.floor((0.5 + 0.5 * v) * GRID)
        return min(max(i, 0), GRID - 1) * GRID + min(max(j, 0), GRID - 1)
    i = math.floor(frame[0] * x + frame[1] * y + frame[2] * z + frame[3])
    j = math.floor(frame[4] * x + frame[5] * y + frame[6] * z + frame[7])
    return i * GRID + j if 0 <= i < GRID and 0 <= j < GRID else -1


def casters(
    world: World,
) -> tuple[Float[np.ndarray, "l 8"], Int[np.ndarray, "l cells+1"], Int[np.ndarray, " n"]]:
    """For every light a grid whose cells list the primitives (but the enclosure) that can cast a shadow in them: a
    frame (of a sun's grid: two times a direction and an offset), where each cell's list starts, and the lists.

    The grid of a bulb covers directions by the octahedral map (Engelhardt and Dachsbacher 2008), that of a sun the
    plane across its rays.
    """
    frames, starts, lists, total = np.zeros((len(world.lights), 8)), [], [], 0
    centre, radius = world.centre[1:], world.radius[1:] + 1e-6
    for light, frame in zip(world.lights, frames):
        if light[7] == 0 or len(centre) == 0:
            meets = np.zeros((GRID * GRID, len(centre)), bool)
        elif light[3] > 0:
            offset = centre - light[:3]
            distance = np.linalg.norm(offset, axis=1)
            sine = np.minimum(radius / np.maximum(distance, 1e-9), 1)
            # the angle between a cell and a centre is at most that of the cell and that of the sphere together
            least = np.outer(CELL_COSINE, np.sqrt(1 - sine**2)) - np.outer(np.sqrt(1 - CELL_COSINE**2), sine)
            meets = (least * distance <= CELL @ offset.T) | (distance <= radius)
        else:
            axis = light[:3] / np.linalg.norm(light[:3])
            across = np.linalg.svd(axis[None])[2][1:]
            at = centre @ across.T
            low, high = (at - radius[:, None]).min(0), (at + radius[:, None]).max(0)
            scale = GRID / (high - low)
            frame.reshape(2, 4)[:, :3], frame.reshape(2, 4)[:, 3] = across * scale[:, None], -low * scale
            at, reach = (at - low) * scale, radius[:, None] * scale
            i = np.arange(GRID)[:, None, None]
            near = (i + 1 >= at - reach) & (i <= at + reach)  # cell, primitive, axis
            meets = (near[:, None, :, 0] & near[None, :, :, 1]).reshape(GRID * GRID, -1)
        starts.append(total + np.concatenate([[0], np.cumsum(meets.sum(1))]))
        lists.append(meets.nonzero()[1] + 1)
        total += len(lists[-1])
    none = np.zeros((0, GRID * GRID + 1), np.int64)
    return frames, np.stack(starts) if starts else none, np.concatenate([*lists, np.zeros(0, np.int64)])


def _octahedral_cells() -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Unit directions in the middle of the cells of the octahedral map, and the cosine of each cell's reach."""
    side = np.arange(GRID + 1) / GRID * 2 - 1

    def directions(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        z = 1 - abs(u) - abs(v)
        x, y = np.where(z < 0, (1 - abs(v)) * np.sign(u), u), np.where(z < 0, (1 - abs(u)) * np.sign(v), v)
        d = np.stack([x, y, z], -1)
        return d / np.linalg.norm(d, axis=-1, keepdims=True)

    middle = (side[1:] + side[:-1]) / 2
    cell = directions(*np.meshgrid(middle, middle, indexing="ij"))
    cosine = np.ones((GRID, GRID))
    for a in (1e-9, 2 / GRID - 1e-9):  # corners, from inside the cell: the map folds at its border
        for b in (1e-9, 2 / GRID - 1e-9):
            corner = directions(*np.meshgrid(side[:-1] + a, side[:-1] + b, indexing="ij"))
            cosine = np.minimum(cosine, (cell * corner).sum(-1))
    return cell.reshape(-1, 3), cosine.reshape(-1) - 1e-6


CELL, CELL_COSINE = _octahedral_cells()
