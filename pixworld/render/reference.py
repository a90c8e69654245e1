"""The rasterizer in a page of dense torch: all Gaussians times all pixels. Any dtype, gradients by autograd; for tests.

The radius rule of gsplat needs no twin here: its box ends where α < 1/255, and those pixels are skipped anyway.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.gaussians import quat_to_matrix


def rasterize(
    means: Float[Tensor, "s n 3"],
    quats: Float[Tensor, "s n 4"],
    scales: Float[Tensor, "s n 3"],
    opacities: Float[Tensor, "s n"],
    colours: Float[Tensor, "s c n 3"],
    w2c: Float[Tensor, "s v 4 4"],
    K: Float[Tensor, "s v 3 3"],
    *,
    width: int,
    height: int,
    eps2d: float,
    near: float,
    antialiased: bool,
) -> Float[Tensor, "s v 5 h w"]:
    """See pixworld.render for the semantics."""
    options = (width, height, eps2d, near, antialiased)
    images = []
    for s, v in itertools.product(range(len(means)), range(w2c.shape[1])):
        rgb = colours[s, v if colours.shape[1] > 1 else 0]
        seen = project(means[s], quats[s], scales[s], opacities[s], rgb, w2c[s, v], K[s, v], *options)
        images.append(blend(seen, 0, 0, height, width))
    return torch.stack(images).unflatten(0, w2c.shape[:2])


class Projected(NamedTuple):
    """The Gaussians before the near plane as one image sees them, sorted by z."""

    x: Float[Tensor, " m"]  # mean, px
    y: Float[Tensor, " m"]
    conic: Float[Tensor, "m 3"]  # a, b, c of σ = (a dx² + c dy²) / 2 + b dx dy
    opacities: Float[Tensor, " m"]
    blended: Float[Tensor, "m 5"]  # r, g, b, z, 1


def project(means, quats, scales, opacities, rgb, w2c, K, width, height, eps2d, near, antialiased) -> Projected:
    """The Gaussians of one scene [n ..] in one view, w2c [4 4] and K [3 3]."""
    # Which Gaussians, in which order. Indexing first keeps NaNs of the dropped ones out of the gradients.
    local = means @ w2c[:3, :3].T + w2c[:3, 3]
    order = local[:, 2].argsort(stable=True)
    order = order[local[order, 2] >= near]
    local, quats, scales, opacities, rgb = (x[order] for x in (local, quats, scales, opacities, rgb))

    # The Jacobian of the pinhole is taken no farther out than 15 % of the image beyond its borders.
    x, y, z = local.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    u = torch.minimum(torch.maximum(x / z, -(cx + 0.15 * width) / fx), (1.15 * width - cx) / fx)
    v = torch.minimum(torch.maximum(y / z, -(cy + 0.15 * height) / fy), (1.15 * height - cy) / fy)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1).unflatten(-1, (2, 3))
    root = J @ w2c[:3, :3] @ quat_to_matrix(quats) @ torch.diag_embed(scales)
    cov = root @ root.mT
    blurred = cov + eps2d * torch.eye(2, dtype=cov.dtype)
    det = torch.linalg.det(blurred)
    if antialiased:
        ratio = (torch.linalg.det(cov) / det).clamp_min(0)
        opacities = opacities * torch.where(ratio > 0, ratio.clamp_min(1e-300).sqrt(), 0)
    conic = torch.stack([blurred[:, 1, 1], -blurred[:, 0, 1], blurred[:, 0, 0]], dim=-1) / det[:, None]
    blended = torch.cat([rgb, z[:, None], torch.ones_like(z)[:, None]], dim=-1)
    return Projected(fx * x / z + cx, fy * y / z + cy, conic, opacities, blended)


def blend(p: Projected, top: int, left: int, height: int, width: int) -> Float[Tensor, "5 h w"]:
    """All of these Gaussians at all pixels of a window of the image."""
    dx = p.x[:, None, None] - (left + torch.arange(width, dtype=p.x.dtype) + 0.5)
    dy = p.y[:, None, None] - (top + torch.arange(height, dtype=p.y.dtype) + 0.5)[:, None]
    a, b, c = p.conic[..., None, None].unbind(1)
    sigma = (a * dx**2 + c * dy**2) / 2 + b * dx * dy
    alpha = (p.opacities[:, None, None] * torch.exp(-sigma)).clamp_max(0.999)
    alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, 0)

    # Front to back; transmittance only falls, so "stopped" is a condition on each Gaussian alone.
    after = torch.cumprod(1 - alpha, dim=0)
    alpha = torch.where(after > 1e-4, alpha, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    return torch.einsum("nhw,nc->chw", alpha * before, p.blended)
