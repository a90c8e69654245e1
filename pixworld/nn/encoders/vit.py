"""The vision transformer that DINOv2 (Oquab et al. 2023) and its descendants VGGT, pi3 and Depth Anything 3 share.

Attributes are named as in the public checkpoints. Heads are 64 wide in all of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.nn.encoders.weights import count

HEAD = 64


class Turn:
    """Positions inside attention: what is done to queries, keys, values and outputs. Here, nothing."""

    def queries(self, q: Float[Tensor, "n h l c"]) -> Float[Tensor, "n h l c"]:
        return q

    def keys(self, k: Float[Tensor, "n h l c"]) -> Float[Tensor, "n h l c"]:
        return k

    def values(self, v: Float[Tensor, "n h l c"]) -> Float[Tensor, "n h l c"]:
        return v

    def outputs(self, o: Float[Tensor, "n h l c"]) -> Float[Tensor, "n h l c"]:
        return o


NO_TURN = Turn()


class AxialRope(Turn):
    """Rotary embedding (Su et al. 2021) of rows in the first half of a head's channels and columns in the second,
    base 100; within a half, channel i pairs with i + width / 4."""

    def __init__(self, positions: Float[Tensor, "l 2"], width: int = HEAD):
        self.cos, self.sin = axial_angles(positions, width)

    def queries(self, q: Float[Tensor, "n h l c"]) -> Float[Tensor, "n h l c"]:
        return rotate_halves(q, self.cos, self.sin)

    keys = queries


def axial_angles(positions: Float[Tensor, "l 2"], width: int) -> tuple[Float[Tensor, "l w"], Float[Tensor, "l w"]]:
    """Cosines and sines, laid out as (axis, half of the pair, frequency)."""
    quarter = width // 4
    frequencies = 100.0 ** -(torch.arange(quarter, device=positions.device) / quarter)
    angles = (positions[:, :, None, None] * frequencies).expand(-1, -1, 2, -1).flatten(1)
    return angles.cos(), angles.sin()


def rotate_halves(
    x: Float[Tensor, "n h l c"], cos: Float[Tensor, "l c"], sin: Float[Tensor, "l c"]
) -> Float[Tensor, "n h l c"]:
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    return x * cos.to(x.dtype) + torch.stack([-second, first], dim=-2).flatten(-3) * sin.to(x.dtype)


def grid_positions(rows: int, columns: int, specials: int, device: torch.device) -> Float[Tensor, "l 2"]:
    """Row and column of every token: special ones at (0, 0), patches from (1, 1) on."""
    y, x = (torch.arange(1, n + 1, device=device, dtype=torch.float32) for n in (rows, columns))
    return torch.cat([torch.zeros(specials, 2, device=device), torch.cartesian_prod(y, x)])


class Attention(nn.Module):
    def __init__(self, width: int, qk_norm: bool = False):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (nn.LayerNorm(HEAD) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Float[Tensor, "n l d"], turn: Turn = NO_TURN) -> Float[Tensor, "n l d"]:
        q, k, v = rearrange(self.qkv(x), "n l (three h c) -> three n h l c", three=3, c=HEAD)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        o = turn.outputs(F.scaled_dot_product_attention(turn.queries(q), turn.keys(k), turn.values(v)))
        return self.proj(rearrange(o, "n h l c -> n l (h c)"))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedMlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm block with layer scale."""

    def __init__(self, width: int, hidden: int, *, gated: bool = False, qk_norm: bool = False, eps: float = 1e-6):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, qk_norm)
        self.mlp = (GatedMlp if gated else Mlp)(width, hidden)
        self.ls1, self.ls2 = LayerScale(width), LayerScale(width)

    def forward(self, x: Float[Tensor, "n l d"], turn: Turn = NO_TURN) -> Float[Tensor, "n l d"]:
        x = x + self.ls1(self.attn(self.norm1(x), turn))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int, channels: int = 3):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n l d"]:
        return self.proj(x).flatten(2).mT


class VisionTransformer(nn.Module):
    """DINOv2. Sides of images are multiples of the patch; pixels have ImageNet's mean 0 and deviation 1."""

    def __init__(
        self,
        width: int,
        depth: int,
        hidden: int,
        *,
        patch: int,
        grid: int,
        registers: int = 0,
        gated: bool = False,
        qk_norm_from: int | None = None,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.patch, self.grid, self.registers = patch, grid, registers
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        start = depth if qk_norm_from is None else qk_norm_from
        self.blocks = nn.ModuleList(Block(width, hidden, gated=gated, qk_norm=i >= start) for i in range(depth))
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n l d"]:
        """Tokens before the first block: class, registers, patches in rows."""
        rows, columns = (side // self.patch for side in images.shape[-2:])
        positions = self.positions(rows, columns)
        patches = self.patch_embed(images) + positions[:, 1:]
        first = (self.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        if self.registers:
            first = torch.cat([first, self.register_tokens.expand(len(images), -1, -1)], dim=1)
        return torch.cat([first, patches], dim=1)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 l d"]:
        """The position table, resampled to the patches of an image. Checkpoints without registers were trained with a
        scale that is 0.1 patches too large, those with registers with antialiasing."""
        if rows == columns == self.grid:
            return self.pos_embed
        table = rearrange(self.pos_embed[:, 1:].float(), "n (y x) d -> n d y x", y=self.grid)
        if self.registers:
            table = F.interpolate(table, (rows, columns), mode="bicubic", antialias=True)
        else:
            scale = tuple((side + 0.1) / self.grid for side in (rows, columns))
            table = F.interpolate(table, scale_factor=scale, mode="bicubic")
        table = rearrange(table, "n d y x -> n (y x) d").to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n l d"]:
        """Normalised patch tokens, in rows."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + self.registers :]


def vit_sizes(state: dict[str, Tensor], prefix: str = "") -> dict[str, int | bool]:
    """Arguments of VisionTransformer, read from a checkpoint's shapes. Raises KeyError."""
    patch_weight = state[prefix + "patch_embed.proj.weight"]
    gated = prefix + "blocks.0.mlp.w12.weight" in state
    registers = state.get(prefix + "register_tokens")
    return {
        "width": patch_weight.shape[0],
        "depth": count(state, prefix + "blocks."),
        "hidden": state[prefix + ("blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight")].shape[1],
        "patch": patch_weight.shape[-1],
        "grid": math.isqrt(state[prefix + "pos_embed"].shape[1] - 1),
        "registers": 0 if registers is None else registers.shape[1],
        "gated": gated,
    }
