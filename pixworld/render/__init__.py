"""Render Gaussians: one call in front of a CPU, a CUDA and a reference rasterizer with the same semantics.

The three back ends share one signature: `rasterize(means [s n 3], quats [s n 4], scales [s n 3], opacities [s n],
colours [s c n 3], w2c [s v 4 4], K [s v 3 3], width, height, eps2d, near, antialiased) -> [s v 5 h w]`, where c is v,
or 1 for colours that all views share, and the five channels are Σ w rgb, Σ w z and Σ w of the blending weights w.

Semantics, those of gsplat 1.5.3: pixel centres at +0.5; the projected covariance is dilated by eps2d; α = min(0.999,
o exp(-σ)), without gradient where it is clamped; α < 1/255 is skipped; a pixel stops before the Gaussian that would
take its transmittance to 1e-4 or below; Gaussians are sorted by z per image.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.frozen_heap import frozen_heap
from pixworld.gaussians import Gaussians, quat_to_matrix
from pixworld.sh import sh_to_rgb


class Rendering(NamedTuple):
    """What the cameras see."""

    rgb: Float[Tensor, "*b v 3 h w"]  # composited over the background
    alpha: Float[Tensor, "*b v h w"]  # accumulated opacity, 0..1
    depth: Float[Tensor, "*b v h w"]  # expected z, Σ w z / Σ w, scene units; 0 where nothing was hit
    normal: Float[Tensor, "*b v 3 h w"] | None = None  # world space, unit, towards the camera; 0 where nothing was hit


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Float[Tensor, "*#b 3"] | None = None,
    eps2d: float = 0.3,
    near: float = 0.01,
    antialiased: bool = False,
    normals: bool = False,
    backend: Literal["auto", "cpu", "cuda", "reference"] = "auto",
) -> Rendering:
    """Render every Gaussian set of a batch from every camera of its scene, differentiably in all Gaussian fields and,
    when c2w requires a gradient, in the poses of the cameras (not in their K).

    `background` is a colour a scene (black when None); `eps2d` is the low-pass variance added to the projected
    Gaussians, px²; `near` is the smallest z that is drawn, > 0; `antialiased` lowers the opacity of Gaussians by what
    eps2d adds to their area; `normals` asks for Rendering.normal, at the price of a second pass. Float64 Gaussians are
    rendered in float64 (not on CUDA), all others in float32, also under autocast. The CPU back end is deterministic.
    """
    batch = gaussians.means.shape[:-2]
    assert cameras.c2w.shape[:-3] == batch, f"Gaussians {tuple(batch)} and cameras {tuple(cameras.c2w.shape)} differ"
    assert near > 0, near
    device = gaussians.means.device
    if backend == "auto":
        backend = "cuda" if device.type == "cuda" else "cpu"
    rasterizer = _rasterizer(backend)
    dtype = torch.float64 if gaussians.means.dtype == torch.float64 and backend != "cuda" else torch.float32

    scenes, height, width = math.prod(batch), cameras.height, cameras.width
    with torch.autocast(device.type, enabled=False):
        g = gaussians.to(dtype).map(lambda x: x.reshape(scenes, *x.shape[len(batch) :]))
        c2w, w2c, K = (
            x.to(device, dtype).reshape(scenes, *x.shape[len(batch) :]) for x in (cameras.c2w, cameras.w2c, cameras.K)
        )
        eyes = c2w[:, :, :3, 3]

        def rasterize(colours: Float[Tensor, "s c n 3"]) -> Float[Tensor, "*b v 5 h w"]:
            options = {"width": width, "height": height, "eps2d": eps2d, "near": near, "antialiased": antialiased}
            fields = (g.means, g.quats, g.scales, g.opacities, colours, w2c, K.detach())
            return rasterizer(*fields, **options).reshape(*batch, len(cameras), 5, height, width)

        planes = rasterize(_colours(g, eyes, backend))
        rgb, depth, alpha = planes[..., :3, :, :], planes[..., 3, :, :], planes[..., 4, :, :]
        if background is not None:
            rgb = rgb + (1 - alpha)[..., None, :, :] * background.to(device, dtype)[..., None, :, None, None]
        normal = None
        if normals:
            normal = torch.nn.functional.normalize(rasterize(_normals(g, eyes))[..., :3, :, :], dim=-3)
        return Rendering(rgb, alpha, depth / alpha.clamp_min(1e-10), normal)


def _colours(g: Gaussians, eyes: Float[Tensor, "s v 3"], backend: str) -> Float[Tensor, "s c n 3"]:
    if g.sh_degree == 0:
        return sh_to_rgb(g.sh, g.means)[:, None]
    if backend == "cpu":
        from pixworld.render.cpu.shading import colours_in_views

        return colours_in_views(g.sh, g.means, eyes)
    return sh_to_rgb(g.sh[:, None], g.means[:, None] - eyes[:, :, None])


def _normals(g: Gaussians, eyes: Float[Tensor, "s v 3"]) -> Float[Tensor, "s v n 3"]:
    """The shortest axis of every Gaussian, turned towards the eye of every view."""
    shortest = g.scales.argmin(dim=-1)[..., None, None].expand(*g.scales.shape[:-1], 3, 1)
    axes = quat_to_matrix(g.quats).gather(-1, shortest).squeeze(-1)[:, None]
    towards = ((eyes[:, :, None] - g.means[:, None]) * axes).sum(dim=-1, keepdim=True)
    return torch.where(towards < 0, -axes, axes)


@functools.cache
def _rasterizer(backend: str):
    """The chosen back end, imported on first use: numba and gsplat are slow to load, and gsplat needs a GPU."""
    with frozen_heap():
        if backend == "cpu":
            from pixworld.render.cpu import rasterize
        elif backend == "cuda":
            from pixworld.render.cuda import rasterize
        else:
            from pixworld.render.reference import rasterize
    return rasterize
