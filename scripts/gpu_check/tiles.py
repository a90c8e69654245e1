"""The rasterizer as torch code over tiles: what there is to compute, counted, and how fast torch alone computes it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from pixworld.gaussians import quat_to_matrix

TILE = 16  # pixels, gsplat's


def project(means, quats, scales, opacities, w2c, K, width: int, height: int, eps2d: float, near: float) -> tuple:
    """Of one image: z, mean [n 2], inverse covariance (a, b, c) and the half sizes [n 2] of the box where α >= 1/255,
    of the Gaussians that have one; and their indices."""
    local = means @ w2c[:3, :3].T + w2c[:3, 3]
    kept = ((local[:, 2] >= near) & (opacities > 1 / 255)).nonzero()[:, 0]
    x, y, z = local[kept].unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    u = torch.minimum(torch.maximum(x / z, -(cx + 0.15 * width) / fx), (1.15 * width - cx) / fx)
    v = torch.minimum(torch.maximum(y / z, -(cy + 0.15 * height) / fy), (1.15 * height - cy) / fy)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1).unflatten(-1, (2, 3))
    root = J @ w2c[:3, :3] @ (quat_to_matrix(quats[kept]) * scales[kept, None, :])
    a, b, c = (root[:, 0] ** 2).sum(-1) + eps2d, (root[:, 0] * root[:, 1]).sum(-1), (root[:, 1] ** 2).sum(-1) + eps2d
    det = a * c - b * b
    reach = torch.sqrt(2 * torch.log(255 * opacities[kept].detach()))[:, None]
    half = reach * torch.stack([a, c], -1).detach().sqrt()
    return z, torch.stack([fx * x / z + cx, fy * y / z + cy], -1), (c / det, -b / det, a / det), half, kept


def count(
    arguments: list[Tensor], width: int, height: int, eps2d: float = 0.3, near: float = 0.01
) -> tuple[int, int, int]:
    """Over all images of rasterize()'s arguments: visible Gaussians, pixels in their boxes, tiles under their boxes."""
    means, quats, scales, opacities, _, w2c, K = arguments
    size = torch.tensor([width, height], device=means.device)
    visible = pixels = tiles = 0
    for s, v in itertools.product(range(w2c.shape[0]), range(w2c.shape[1])):
        image = (means[s], quats[s], scales[s], opacities[s], w2c[s, v], K[s, v])
        _, mean, _, half, _ = project(*image, width, height, eps2d, near)
        low, high = (mean - half - 0.5).ceil().clamp_min(0), (mean + half - 0.5).floor().add(1).minimum(size)
        inside = (high - low).clamp_min(0).prod(-1)
        first, last = ((mean - half.ceil()) / TILE).floor(), ((mean + half.ceil()) / TILE).ceil()
        under = (last.minimum((size / TILE).ceil()) - first.clamp_min(0)).clamp_min(0).prod(-1)
        visible += int((under > 0).sum())
        pixels += int(inside.sum(dtype=torch.float64))
        tiles += int(under.sum(dtype=torch.float64))
    return visible, pixels, tiles


def tile_loop(means, quats, scales, opacities, colours, w2c, K, *, width, height, eps2d, near, antialiased):
    """The rasterizer as a loop over tiles in torch with autograd: what one writes without kernels; classic mode."""
    assert not antialiased, "only the classic mode is here"
    images = []
    for s, v in itertools.product(range(w2c.shape[0]), range(w2c.shape[1])):
        image = (means[s], quats[s], scales[s], opacities[s], w2c[s, v], K[s, v])
        z, mean, (a, b, c), half, kept = project(*image, width, height, eps2d, near)
        o, rgb = opacities[s, kept], colours[s, v if colours.shape[1] > 1 else 0, kept]
        low, high, order = (mean - half).detach(), (mean + half).detach(), z.argsort()
        low, high = low[order], high[order]
        rows = []
        for top in range(0, height, TILE):
            row = []
            for left in range(0, width, TILE):
                bottom, right = min(top + TILE, height), min(left + TILE, width)
                hit = (low[:, 0] < right) & (high[:, 0] > left) & (low[:, 1] < bottom) & (high[:, 1] > top)
                i = order[hit]
                dx = mean[i, 0, None, None] - torch.arange(left, right, device=z.device) - 0.5
                dy = mean[i, 1, None, None] - torch.arange(top, bottom, device=z.device)[:, None] - 0.5
                A, B, C = (x[i, None, None] for x in (a, b, c))
                sigma = (A * dx**2 + C * dy**2) / 2 + B * dx * dy
                alpha = (o[i, None, None] * torch.exp(-sigma)).clamp_max(0.999)
                alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, 0)
                after = torch.cumprod(1 - alpha, dim=0)
                alpha = torch.where(after > 1e-4, alpha, 0)
                weights = alpha * torch.cat([torch.ones_like(after[:1]), after[:-1]])
                planes = torch.cat([rgb[i], z[i, None], torch.ones_like(z[i, None])], dim=-1)
                row.append(torch.einsum("nhw,nc->chw", weights, planes))
            rows.append(torch.cat(row, dim=-1))
        images.append(torch.cat(rows, dim=-2))
    return torch.stack(images).unflatten(0, w2c.shape[:2])
