"""The ray tracer of `trace` in torch, for a GPU: the same scene description, the same formulas, every ray against every
primitive. Tests hold the two together."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pixworld.data.procedural import Scene
from pixworld.data.things import (
    BOX,
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
    TEXTURE_SIZE,
    World,
)
from pixworld.data.trace import EPS, GLOSS, LEVEL_START, LEVELS, LINEAR, SUBSAMPLES, pixel_intrinsics

PAIRS = 1 << 20  # rays x primitives at once


def trace(
    scene: Scene, texels: UInt8[Tensor, "k t 3"], height: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[UInt8[Tensor, "v h w 3"], Float[Tensor, "v h w"]]:
    """Images (sRGB bytes) and z-depth (0: sky) of a scene's cameras, on the device that holds the texels."""
    device = texels.device

    def load(x: np.ndarray) -> Tensor:
        x = torch.as_tensor(x, device=device)
        return x.to(dtype) if x.is_floating_point() else x

    world = World(*(load(x) if isinstance(x, np.ndarray) else x for x in scene.world))
    c2w, K = load(scene.c2w), load(pixel_intrinsics(scene, height, width))
    side = (torch.arange(SUBSAMPLES, device=device, dtype=dtype) + 0.5) / SUBSAMPLES
    fine = torch.cartesian_prod(torch.arange(height, device=device, dtype=dtype), side).sum(-1)
    fine_x = torch.cartesian_prod(torch.arange(width, device=device, dtype=dtype), side).sum(-1)
    middle, middle_x = (torch.arange(n, device=device, dtype=dtype) + 0.5 for n in (height, width))
    colours, depths = [], []
    for pose, k in zip(c2w, K):
        t, hit = _nearest(world, pose[:3, 3], _directions(pose, k, middle, middle_x))
        depths.append(torch.where(hit >= 0, t, 0).view(height, width))
        d = _directions(pose, k, fine, fine_x)
        t, hit = _nearest(world, pose[:3, 3], d)
        colour = _background(world, d)
        pitch = 1 / (SUBSAMPLES * k[0, 0])
        on = hit >= 0
        colour[on] = _shade(world, texels, hit[on], t[on], pose[:3, 3], d[on], pitch)
        colours.append(colour.view(height, SUBSAMPLES, width, SUBSAMPLES, 3).mean((1, 3)))
    return _develop(scene, torch.stack(colours)), torch.stack(depths)


def _directions(pose: Tensor, K: Tensor, y: Tensor, x: Tensor) -> Float[Tensor, "n 3"]:
    y, x = torch.meshgrid((y - K[1, 2]) / K[1, 1], (x - K[0, 2]) / K[0, 0], indexing="ij")
    return (torch.stack([x, y, torch.ones_like(x)], -1) @ pose[:3, :3].T).reshape(-1, 3)


def _intervals(world: World, o: Tensor, d: Tensor) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]:
    """Parameters at which n rays enter and leave p primitives; near > far where they miss."""
    start = torch.einsum("pij,npj->npi", world.inverse, o[:, None] - world.centre)
    step = torch.einsum("pij,nj->npi", world.inverse, d)
    t0, t1 = (-1 - start) / step, (1 - start) / step
    enter, leave = torch.minimum(t0, t1), torch.maximum(t0, t1)

    def quadric(axes: int) -> tuple[Tensor, Tensor]:
        x, s = start[..., :axes], step[..., :axes]
        a, b, c = (s * s).sum(-1), (s * x).sum(-1), (x * x).sum(-1) - 1
        root = b * b - a * c
        miss, root = root < 0, root.clamp(min=0).sqrt()
        return torch.where(miss, torch.inf, (-b - root) / a), torch.where(miss, -torch.inf, (-b + root) / a)

    ball, tube = quadric(3), quadric(2)
    near = torch.where(world.kind == BOX, enter.amax(-1), torch.maximum(tube[0], enter[..., 2]))
    far = torch.where(world.kind == BOX, leave.amin(-1), torch.minimum(tube[1], leave[..., 2]))
    is_ball = world.kind == ELLIPSOID
    return torch.where(is_ball, ball[0], near), torch.where(is_ball, ball[1], far)


def _nearest(world: World, o: Tensor, d: Tensor) -> tuple[Float[Tensor, " n"], Tensor]:
    """Parameter and primitive (-1: none) of the first hit of rays from one origin."""
    times, hits = [], []
    for part in d.split(max(1, PAIRS // len(world.kind))):
        near, far = _intervals(world, o.expand_as(part), part)
        t = torch.where(near > EPS, near, far)
        t, hit = torch.where((near <= far) & (t > EPS), t, torch.inf).min(-1)
        times.append(t)
        hits.append(torch.where(t.isfinite(), hit, -1))
    return torch.cat(times), torch.cat(hits)


def _shadowed(world: World, o: Tensor, d: Tensor, limit: float) -> Tensor:
    """Whether anything but the enclosure is met before `limit`."""
    found = []
    size = max(1, PAIRS // len(world.kind))
    for origin, part in zip(o.split(size), d.split(size)):
        near, far = _intervals(world, origin, part)
        met = (near <= far) & (far > EPS) & (near < limit)
        found.append(met[:, 1:].any(-1))
    return torch.cat(found)


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


def _fbm(x: Tensor, y: Tensor, seed, footprint) -> Tensor:
    total, amplitude, frequency = torch.full_like(x, 0.5), 0.5, 1.0
    footprint = torch.as_tensor(footprint, device=x.device)
    for octave in range(5):
        fade = (2 - 2 * footprint * frequency).clamp(0, 1)
        total = total + amplitude * fade * (_value_noise(x * frequency, y * frequency, seed + octave) - 0.5)
        amplitude *= 0.65
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


def _albedo(world: World, texels: Tensor, m: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Float[Tensor, "n 3"]:
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
    mix[on] = (1.8 * _fbm(x[on], y[on], seed[on], size[on]) - 0.4).clamp(0, 1)
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
            grain = _fbm(x[on] * 1.5, y[on] * 9 + 17 * shade, seed[on] + 5, size[on] * 9)
            shade = (shade + 0.6 * (grain - 0.5)).clamp(0, 1)
        mix[on] = shade

    mean = torch.where(pattern == PLAIN, 0.0, 0.5)
    mix = (mean + sharp * (mix - mean))[:, None]
    line = (line * sharp)[:, None]
    base, second, joints = world.colours[m].unbind(1)
    colour = (base * (1 - mix) + second * mix) * (1 - line) + joints * line
    on = pattern == IMAGE
    colour[on] = base[on] * _texel(texels, world.image[m][on], x[on], y[on], size[on])
    grain = world.grain[m] * (2 * _fbm(x * 4 + 31, y * 4, seed + 11, size * 4) - 1)
    return colour * (1 + grain)[:, None]


def _background(world: World, d: Tensor) -> Float[Tensor, "n 3"]:
    d = torch.nn.functional.normalize(d, dim=-1)
    up = d[:, 2].clamp(min=0)
    noise = _fbm(3 * d[:, 0] / (up + 0.2), 3 * d[:, 1] / (up + 0.2), 5, 0.1)
    cloud = (world.clouds * ((noise - 0.5) * 5).clamp(0, 1) * (up * 6).clamp(max=1))[:, None]
    k = up.sqrt()[:, None]
    return (world.sky[0] * (1 - k) + world.sky[1] * k) * (1 - cloud) + world.sky[2] * cloud


def _shade(world: World, texels: Tensor, p: Tensor, t: Tensor, o: Tensor, d: Tensor, pitch: Tensor) -> Tensor:
    points = o + t[:, None] * d
    inverse, half, kind = world.inverse[p], world.half[p], world.kind[p]
    local = torch.einsum("nij,nj->ni", inverse, points - world.centre[p])
    size = local.abs()
    axis = torch.where(size[:, 0] >= size[:, 1:].amax(-1), 0, torch.where(size[:, 1] >= size[:, 2], 1, 2))
    is_ball = kind == ELLIPSOID
    is_tube = (kind == CYLINDER) & (size[:, 2] <= torch.hypot(local[:, 0], local[:, 1]))
    axis = torch.where((kind == CYLINDER) & ~is_tube, 2, axis)
    value = local.gather(1, axis[:, None])[:, 0]
    sign = torch.where(value > 0, 1.0, -1.0)
    face = torch.where(is_ball | is_tube, 0, 2 * axis + (value > 0))
    normal = torch.nn.functional.one_hot(axis, 3).to(local) * sign[:, None]
    flat = local * torch.tensor([1.0, 1.0, 0.0]).to(local)
    normal = torch.where(is_ball[:, None], local, torch.where(is_tube[:, None], flat, normal))
    normal = torch.nn.functional.normalize(torch.einsum("nij,ni->nj", inverse, normal), dim=-1)
    length = d.norm(dim=-1)
    view = d / length[:, None]
    facing = (normal * view).sum(-1)
    normal = torch.where((facing > 0)[:, None], -normal, normal)
    facing = facing.abs()

    s = local * half
    around = torch.atan2(local[:, 1], local[:, 0]) * 0.5 * (half[:, 0] + half[:, 1])
    u = torch.where(is_tube, around, torch.where(axis == 0, s[:, 1], s[:, 0]))
    v = torch.where(is_tube, s[:, 2], torch.where(axis == 2, s[:, 1], -s[:, 2]))
    m = world.surface[p, face]
    albedo = _albedo(world, texels, m, u, v, pitch * t / facing.clamp(min=0.06).sqrt())

    upward = 0.5 + 0.5 * normal[:, 2:]
    light = world.ambient[1] * (1 - upward) + world.ambient[0] * upward
    gloss = torch.zeros_like(light)
    start = points + (1e-4 * (1 + t * length))[:, None] * normal
    for lamp in world.lights:
        if lamp[3] > 0:
            to, limit = lamp[:3] - start, 1.0
            strength = 1 / (0.3 + (to * to).sum(-1) / lamp[3] ** 2)
        else:
            to, limit = lamp[:3].expand_as(start), math.inf
            strength = torch.ones_like(t)
        toward = torch.nn.functional.normalize(to, dim=-1)
        cosine = (normal * toward).sum(-1)
        strength = torch.where(cosine > 0, strength, 0)
        if lamp[7] > 0:
            strength = torch.where(_shadowed(world, start, to, limit), 0, strength)
        light = light + (strength * cosine)[:, None] * lamp[4:7]
        middle = torch.nn.functional.normalize(toward - view, dim=-1)
        lobe = (normal * middle).sum(-1).clamp(min=0) ** GLOSS
        gloss = gloss + (world.shine[m] * strength * lobe)[:, None] * lamp[4:7]
    colour = albedo * (light + world.glow[m][:, None]) + gloss
    clear = (-world.haze * t * length).exp()[:, None]
    return colour * clear + world.sky[0] * (1 - clear)


def _develop(scene: Scene, linear: Float[Tensor, "v h w 3"]) -> UInt8[Tensor, "v h w 3"]:
    grey = linear.mean(-1, keepdim=True)
    x = (grey + scene.saturation * (linear - grey)) * (scene.exposure / grey.quantile(0.5))
    x = x * (1 + x / 9) / (1 + x)
    x = torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp(1e-9, 1) ** (1 / 2.4) - 0.055)
    x = 0.45 + scene.contrast * (x - 0.45)
    return (255 * x.clamp(0, 1)).round().to(torch.uint8)
