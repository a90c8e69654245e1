"""Render Gaussians: one call in front of a CPU, a CUDA and a reference rasterizer with the same semantics.

The three back ends share one signature: `rasterize(means [s n 3], quats [s n 4], scales [s n 3], opacities [s n],
colours [s c n 3], w2c [s v 4 4], K [s v 3 3], width, height, eps2d, near, antialiased) -> [s v 5 h w]`, where c is v,
or 1 for colours that all views share, and the five channels are Σ w rgb, Σ w z and Σ w of the blending weights w.

Semantics, those of gsplat 1.5.3: pixel centres at +0.5; the projected covariance is dilated by eps2d; α = min(0.999,
o exp(-σ)), without gradient where it is clamped; α < 1/255 is skipped; a pixel stops before the Gaussian that would
take its transmittance to 1e-4 or below; Gaussians are sorted by z per image.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.sh import sh_to_rgb


class Rendering(NamedTuple):
    """What the cameras see."""

    rgb: Float[Tensor, "*b v 3 h w"]  # composited over the background
    alpha: Float[Tensor, "*b v h w"]  # accumulated opacity, 0..1
    depth: Float[Tensor, "*b v h w"]  # expected z, Σ w z / Σ w, scene units; 0 where nothing was hit


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Float[Tensor, "*#b 3"] | None = None,
    eps2d: float = 0.3,
    near: float = 0.01,
    antialiased: bool = False,
    backend: Literal["auto", "cpu", "cuda", "reference"] = "auto",
) -> Rendering:
    """Render every Gaussian set of a batch from every camera of its scene, differentiably in all Gaussian fields.

    `background` is a colour a scene (black when None); `eps2d` is the low-pass variance added to the projected
    Gaussians, px²; `near` is the smallest z that is drawn, > 0; `antialiased` lowers the opacity of Gaussians by what
    eps2d adds to their area. Float64 Gaussians are rendered in float64 (not on CUDA), all others in float32, also
    under autocast. The CPU back end is deterministic. Cameras get no gradient.
    """
    batch = gaussians.means.shape[:-2]
    assert cameras.c2w.shape[:-3] == batch, f"Gaussians {tuple(batch)} and cameras {tuple(cameras.c2w.shape)} differ"
    assert near > 0, near
    device = gaussians.means.device
    if backend == "auto":
        backend = "cuda" if device.type == "cuda" else "cpu"
    dtype = torch.float64 if gaussians.means.dtype == torch.float64 and backend != "cuda" else torch.float32

    scenes, height, width = math.prod(batch), cameras.height, cameras.width
    with torch.autocast(device.type, enabled=False):
        g = gaussians.to(dtype)
        c2w, w2c, K = (x.detach().to(device, dtype) for x in (cameras.c2w, cameras.w2c, cameras.K))
        if g.sh_degree == 0:
            colours = sh_to_rgb(g.sh, g.means)[..., None, :, :]
        else:
            directions = g.means[..., None, :, :] - c2w[..., :, None, :3, 3]
            colours = sh_to_rgb(g.sh[..., None, :, :, :], directions)
        planes = _rasterizer(backend)(
            *(x.reshape(scenes, *x.shape[len(batch) :]) for x in (g.means, g.quats, g.scales, g.opacities)),
            *(x.reshape(scenes, *x.shape[len(batch) :]) for x in (colours, w2c, K)),
            width=width,
            height=height,
            eps2d=eps2d,
            near=near,
            antialiased=antialiased,
        ).reshape(*batch, len(cameras), 5, height, width)
        rgb, depth, alpha = planes[..., :3, :, :], planes[..., 3, :, :], planes[..., 4, :, :]
        if background is not None:
            rgb = rgb + (1 - alpha)[..., None, :, :] * background.to(device, dtype)[..., None, :, None, None]
        return Rendering(rgb, alpha, depth / alpha.clamp_min(1e-10))


def _rasterizer(backend: str):
    """The chosen back end, imported on first use: numba and gsplat are slow to load, and gsplat needs a GPU."""
    if backend == "cpu":
        from pixworld.render.cpu import rasterize
    elif backend == "cuda":
        from pixworld.render.cuda import rasterize
    else:
        from pixworld.render.reference import rasterize
    return rasterize
