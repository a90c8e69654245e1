"""The ray tracer of `trace` in torch, for a GPU: the same scene description, the same formulas, all rays of a scene at
once against every primitive. Tests hold the two together."""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pixworld.data.patterns_torch import albedo, fbm
from pixworld.data.trace import EPS, SUBSAMPLES
from pixworld.data.world import BOX, CYLINDER, ELLIPSOID, Scene, World, pixel_intrinsics

PAIRS = {"cpu": 1 << 20, "cuda": 1 << 24}  # rays x primitives at once; about 100 bytes each


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
    t, hit = _nearest(world, *_rays(c2w, K, height, width, 1))
    depth = torch.where(hit >= 0, t, 0).view(-1, height, width)

    o, d = _rays(c2w, K, height, width, SUBSAMPLES)
    pixel = repeat(1 / (SUBSAMPLES * K[:, 0, 0]), "v -> (v n)", n=len(d) // len(K))
    colour = _radiance(world, texels, o, d, pixel)
    sizes = {"h": height, "w": width, "s": SUBSAMPLES, "r": SUBSAMPLES}
    colour = rearrange(colour, "(v h s w r) c -> v h w (s r) c", **sizes).mean(3)
    return _develop(scene, colour), depth


def _rays(c2w: Tensor, K: Tensor, height: int, width: int, samples: int) -> tuple[Tensor, Tensor]:
    """Origins and directions [n 3] through samples x samples points a pixel, rows first; directions have z = 1 in the
    camera, so that ray parameters are z-depths."""
    x, y = ((torch.arange(n * samples, device=K.device).to(K) + 0.5) / samples for n in (width, height))
    x, y = (x - K[:, :1, 2]) / K[:, :1, 0], (y - K[:, 1:2, 2]) / K[:, 1:2, 1]
    rows, columns = y[:, :, None].expand(-1, -1, x.shape[1]), x[:, None].expand(-1, y.shape[1], -1)
    local = torch.stack([columns, rows, torch.ones_like(rows)], -1).flatten(1, 2)
    d = local @ c2w[:, :3, :3].mT
    return c2w[:, None, :3, 3].expand_as(d).flatten(0, 1), d.flatten(0, 1)


def _radiance(world: World, texels: Tensor, o: Tensor, d: Tensor, pixel: Tensor) -> Float[Tensor, "n 3"]:
    """Linear colour that arrives along rays; pixel is the sample pitch at parameter 1. Mirrors are followed once."""
    colour = _background(world, d)
    t, hit = _nearest(world, o, d)
    on = (hit >= 0).nonzero()[:, 0]
    own, mirror, normal, start = _shade(world, texels, hit[on], t[on], o[on], d[on], pixel[on] * t[on], True)
    colour[on] = own
    shiny = (mirror > 0).nonzero()[:, 0]
    on, mirror, normal, start = on[shiny], mirror[shiny], normal[shiny], start[shiny]
    away = d[on] - 2 * (d[on] * normal).sum(-1, keepdim=True) * normal
    again, hit = _nearest(world, start, away)
    seen = _background(world, away)
    met = (hit >= 0).nonzero()[:, 0]
    pitch = pixel[on] * (t[on] + again)
    seen[met] = _shade(world, texels, hit[met], again[met], start[met], away[met], pitch[met], False)[0]
    colour[on] += mirror[:, None] * seen
    return colour


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


def _nearest(world: World, o: Tensor, d: Tensor) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Parameter and primitive (-1: none) of the first hit of each ray."""
    times, hits = [], []
    size = _rays_at_once(world)
    for origin, part in zip(o.split(size), d.split(size)):
        near, far = _intervals(world, origin, part)
        t = torch.where(near > EPS, near, far)
        t, hit = torch.where((near <= far) & (t > EPS), t, torch.inf).min(-1)
        times.append(t)
        hits.append(torch.where(t.isfinite(), hit, -1))
    return torch.cat(times), torch.cat(hits)


def _shadowed(world: World, o: Tensor, d: Tensor, limit: float) -> Tensor:
    """Whether anything but the enclosure is met before `limit`."""
    found = []
    size = _rays_at_once(world)
    for origin, part in zip(o.split(size), d.split(size)):
        near, far = _intervals(world, origin, part)
        met = (near <= far) & (far > EPS) & (near < limit)
        found.append(met[:, 1:].any(-1))
    return torch.cat(found)


def _rays_at_once(world: World) -> int:
    return max(1, PAIRS[world.kind.device.type] // len(world.kind))


def _background(world: World, d: Tensor) -> Float[Tensor, "n 3"]:
    d = torch.nn.functional.normalize(d, dim=-1)
    up = d[:, 2].clamp(min=0)
    noise = fbm(3 * d[:, 0] / (up + 0.2), 3 * d[:, 1] / (up + 0.2), 5, 0.1)
    cloud = (world.clouds * ((noise - 0.5) * 5).clamp(0, 1) * (up * 6).clamp(max=1))[:, None]
    k = up.sqrt()[:, None]
    return (world.sky[0] * (1 - k) + world.sky[1] * k) * (1 - cloud) + world.sky[2] * cloud


def _shade(
    world: World, texels: Tensor, p: Tensor, t: Tensor, o: Tensor, d: Tensor, pixel: Tensor, follow: bool
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Of hits, where samples are `pixel` apart: their linear colour, the share that a mirror adds to it (0 unless
    `follow`), normals, and points just off the surface."""
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

    s = local * half + world.anchor[p]
    around = torch.atan2(local[:, 1], local[:, 0]) * 0.5 * (half[:, 0] + half[:, 1])
    u = torch.where(is_tube, around, torch.where(axis == 0, s[:, 1], s[:, 0]))
    v = torch.where(is_tube, s[:, 2], torch.where(axis == 2, s[:, 1], -s[:, 2]))
    m = world.surface[p, face]
    own = albedo(world, texels, m, u, v, pixel / facing.clamp(min=0.06).sqrt())

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
        lobe = (normal * middle).sum(-1).clamp(min=0) ** world.polish[m]
        gloss = gloss + (world.shine[m] * strength * lobe)[:, None] * lamp[4:7]
    mirror = torch.zeros_like(t)
    if follow:
        mirror = world.mirror[m]
        mirror = torch.where(mirror > 0, mirror + (1 - mirror) * (1 - facing) ** 5, 0)
    colour = (1 - mirror)[:, None] * own * (light + world.glow[m][:, None]) + gloss
    clear = (-world.haze * t * length).exp()[:, None]
    return colour * clear + world.sky[0] * (1 - clear), mirror * clear[:, 0], normal, start


def _develop(scene: Scene, linear: Float[Tensor, "v h w 3"]) -> UInt8[Tensor, "v h w 3"]:
    grey = linear.mean(-1, keepdim=True)
    x = (grey + scene.saturation * (linear - grey)) * (scene.exposure / grey.quantile(0.5))
    x = x * (1 + x / 9) / (1 + x)
    x = torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp(1e-9, 1) ** (1 / 2.4) - 0.055)
    x = 0.45 + scene.contrast * (x - 0.45)
    return (255 * x.clamp(0, 1)).round().to(torch.uint8)
