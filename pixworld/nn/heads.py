"""From tokens to pixel-aligned Gaussians: a linear head a stream, and the activations that lift its output."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians, multiply_quats, quat_from_matrix
from pixworld.nn.blocks import AdaLayerNorm, modulate
from pixworld.sh import degree_of, rgb_to_sh, sh_rotation


class PixelMaps(NamedTuple):
    """Raw head outputs, one value a pixel."""

    log_depth: Float[Tensor, "b v h w"]  # residual on the base, depth in units of the scene
    colour: Float[Tensor, "b v 3 h w"]  # residual on the base image, range -1..1
    opacity: Float[Tensor, "b v h w"]
    scale: Float[Tensor, "b v 3 h w"]
    quat: Float[Tensor, "b v 4 h w"]
    sh: Float[Tensor, "b v c h w"]  # bands above 0 in the camera's axes, c = 3 (k - 1)


class GaussianHead(nn.Module):
    """Depth and Gaussians of each pixel: a final adaLN and a linear layer each, zero at the start (Table 6 of the
    paper)."""

    def __init__(self, d: int, patch: int, sh_degree: int):
        super().__init__()
        self.patch, self.higher = patch, 3 * ((sh_degree + 1) ** 2 - 1)
        self.depth_modulation, self.gaussian_modulation = AdaLayerNorm(d, 2), AdaLayerNorm(d, 2)
        self.depth = nn.Linear(d, patch**2)
        self.gaussian = nn.Linear(d, patch**2 * (3 + 1 + 3 + 4 + self.higher))
        for layer in (self.depth, self.gaussian):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Float[Tensor, "b v l d"], time: Float[Tensor, "b d"], rows: int) -> PixelMaps:
        depth = self.depth(modulate(tokens, *self.depth_modulation(time)))
        gaussian = self.gaussian(modulate(tokens, *self.gaussian_modulation(time)))
        maps = torch.cat([depth, gaussian], dim=-1).float()
        maps = rearrange(maps, "b v (y x) (c p q) -> b v c (y p) (x q)", y=rows, p=self.patch, q=self.patch)
        depth, colour, opacity, scale, quat, sh = maps.split([1, 3, 1, 3, 4, self.higher], dim=2)
        return PixelMaps(depth[:, :, 0], colour, opacity[:, :, 0], scale, quat, sh)


def lift(
    maps: PixelMaps,
    base: Float[Tensor, "b v 3 h w"],
    base_log_depth: Float[Tensor, "b v h w"],
    cameras: Cameras,
    unit: Float[Tensor, " b"],
    *,
    scale_range: tuple[float, float],
    scale_start: float,
    opacity_start: float,
) -> tuple[Gaussians, Float[Tensor, "b v h w"], Float[Tensor, "b v 3 h w"]]:
    """One Gaussian a pixel: activated, in world space.

    depth = unit · exp(base + raw); a Gaussian's scale is a multiple of its pixel's footprint depth / f, kept
    inside `scale_range` (its lower end is fine enough for depth that is sure: with 0.4 pixels, 0.7 dB are lost);
    colour = base + raw. Returns the Gaussians [b (v h w) ..], z-depth in scene units and the colour map in -1..1.
    """
    depth = unit[:, None, None, None] * torch.exp((base_log_depth + maps.log_depth).clamp(-7, 7))
    origins, directions = cameras.rays()
    means = origins + depth[..., None] * directions

    focal = torch.sqrt(cameras.K[..., 0, 0] * cameras.K[..., 1, 1])[..., None, None]
    low, high = (math.log(x) for x in scale_range)
    start = (math.log(scale_start) - low) / (high - low)
    multiple = torch.exp(low + (high - low) * torch.sigmoid(maps.scale + math.log(start / (1 - start))))
    scales = rearrange(multiple, "b v c h w -> b v h w c") * (depth / focal)[..., None]

    identity = torch.tensor([1.0, 0, 0, 0], device=depth.device)
    local = rearrange(maps.quat, "b v c h w -> b v h w c") + identity
    local = local * torch.rsqrt(local.square().sum(-1, keepdim=True) + 1e-12)  # torch's normalize is slow on 4-vectors
    turn = quat_from_matrix(cameras.c2w[..., :3, :3])[:, :, None, None].expand_as(local)
    quats = multiply_quats(turn, local)

    opacities = torch.sigmoid(maps.opacity + math.log(opacity_start / (1 - opacity_start)))
    colour = base + maps.colour
    sh = rgb_to_sh(rearrange((colour + 1) / 2, "b v c h w -> b v h w c"))
    if maps.sh.shape[2]:
        sh = torch.cat([sh, rearrange(maps.sh, "b v (k c) h w -> b v h w k c", c=3)], dim=-2)
        turn = sh_rotation(degree_of(sh.shape[-2]), cameras.c2w[..., :3, :3])
        sh = torch.einsum("bvij,bvhwjc->bvhwic", turn, sh)
    flat = [x.flatten(1, 3) for x in (means, quats, scales, opacities, sh)]
    return Gaussians(*flat), depth, colour
