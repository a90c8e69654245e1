"""What turns numbers into tokens: time, words, rays, and positions inside attention."""

from __future__ import annotations

import math
import re
import zlib

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixworld.cameras import Cameras


class TimeEmbedding(nn.Module):
    """t [b] in 0..1 -> [b d]: sinusoids, then a two-layer MLP (Peebles & Xie 2023)."""

    def __init__(self, d: int, frequencies: int = 128):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), frequencies)), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        angles = t[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class WordEmbedding(nn.Module):
    """Prompts -> word tokens by a hashed table: every word has a row, rows of words never trained on stay zero.

    Enough for the grammar of procedural captions and free of any download; token 0 is always a learned "no more
    words" vector, so that the empty prompt is a token as well.
    """

    def __init__(self, d: int, rows: int = 4096, longest: int = 40):
        super().__init__()
        self.rows, self.longest = rows, longest
        self.table = nn.Embedding(rows, d)
        self.empty = nn.Parameter(torch.zeros(d))
        self.position = nn.Parameter(torch.zeros(longest, d))
        nn.init.zeros_(self.table.weight)
        nn.init.normal_(self.empty, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, prompts: list[str]) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        """Tokens and a mask of the real ones."""
        words = [re.findall(r"[a-z0-9]+", p.lower())[: self.longest] for p in prompts]
        length = max(len(w) for w in words)
        index = torch.zeros(len(words), length, dtype=torch.long)
        mask = torch.zeros(len(words), length + 1, dtype=torch.bool)
        mask[:, 0] = True
        for i, row in enumerate(words):
            index[i, : len(row)] = torch.tensor([zlib.crc32(w.encode()) % self.rows for w in row], dtype=torch.long)
            mask[i, 1 : len(row) + 1] = True
        device = self.empty.device
        tokens = self.table(index.to(device)) + self.position[:length]
        tokens = torch.cat([self.empty.expand(len(words), 1, -1), tokens], dim=1)
        return tokens, mask.to(device)


def ray_map(cameras: Cameras) -> Float[Tensor, "b v 6 h w"]:
    """Reference-point Plücker map: unit direction d and the point of the ray that is closest to the origin,
    o - (o·d) d (the form that the released PixWorld uses)."""
    origins, directions = cameras.rays()
    d = torch.nn.functional.normalize(directions, dim=-1)
    closest = origins - (origins * d).sum(-1, keepdim=True) * d
    return rearrange(torch.cat([d, closest], dim=-1), "b v h w c -> b v c h w")


class ViewRope:
    """Positions inside attention: PRoPE for cameras, 2-D RoPE for patches (Li et al. 2025, "Cameras as Relative
    Positional Encoding").

    Half of every head's channels are turned by the view's 4 x 4 projection P = [K 0; 0 1] w2c in groups of four
    (q by Pᵀ, k and v by P⁻¹, the output by P, so that attention sees P_i P_j⁻¹ only); the other half carries the RoPE
    of the patch row and column. Channel i pairs with i + d/2, so both kinds take the first half of either part.
    Without `project`, the cameras' half stays as it is, and attention knows positions inside the image only.
    """

    def __init__(self, cameras: Cameras, patch: int, head_width: int, dtype: torch.dtype, *, project: bool = True):
        self.project = project
        rows, columns = cameras.height // patch, cameras.width // patch
        device = cameras.c2w.device
        projection = torch.zeros_like(cameras.c2w)
        size = torch.tensor([cameras.width, cameras.height], dtype=cameras.K.dtype, device=device)
        # Intrinsics in units of the half image, principal point relative to the centre: values near 1.
        projection[..., 0, 0] = 2 * cameras.K[..., 0, 0] / size[0]
        projection[..., 1, 1] = 2 * cameras.K[..., 1, 1] / size[1]
        projection[..., :2, 2] = 2 * cameras.K[..., :2, 2] / size - 1
        projection[..., 2, 2] = projection[..., 3, 3] = 1
        P = projection @ cameras.w2c
        self.P, self.P_inv_t, self.P_t = (
            _block_diagonal(m, head_width).to(dtype) for m in (P, torch.linalg.inv(P).mT, P.mT)
        )

        quarter = head_width // 8  # RoPE frequencies an axis
        frequencies = 10.0 ** -(torch.arange(quarter, device=device) / quarter * 2)
        y, x = torch.meshgrid(
            torch.arange(rows, device=device) - (rows - 1) / 2,
            torch.arange(columns, device=device) - (columns - 1) / 2,
            indexing="ij",
        )
        angles = torch.cat(
            [torch.zeros(rows * columns, head_width // 4, device=device)]
            + [axis.reshape(-1, 1) * frequencies for axis in (x, y)],
            dim=-1,
        )
        angles = torch.cat([angles, angles], dim=-1)[:, None]  # [l 1 head_width]
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def _turn(self, x: Tensor, matrix: Tensor) -> Tensor:
        if not self.project:
            return x
        return torch.einsum("bvlhd,bvde->bvlhe", x, matrix)

    def _rope(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin

    def queries(self, q: Float[Tensor, "b v l h d"]) -> Float[Tensor, "b v l h d"]:
        return self._turn(self._rope(q), self.P)

    def keys(self, k: Float[Tensor, "b v l h d"]) -> Float[Tensor, "b v l h d"]:
        return self._turn(self._rope(k), self.P_inv_t)

    def values(self, v: Float[Tensor, "b v l h d"]) -> Float[Tensor, "b v l h d"]:
        return self._turn(v, self.P_inv_t)

    def outputs(self, o: Float[Tensor, "b v l h d"]) -> Float[Tensor, "b v l h d"]:
        return self._turn(o, self.P_t)


def _block_diagonal(m: Float[Tensor, "b v 4 4"], d: int) -> Float[Tensor, "b v d d"]:
    """m on the camera channels (the first quarter of each half of d, in groups of four), identity on the others."""
    out = torch.eye(d, dtype=m.dtype, device=m.device).repeat(*m.shape[:2], 1, 1)
    for half in (0, d // 2):
        for start in range(half, half + d // 4, 4):
            out[..., start : start + 4, start : start + 4] = m
    return out
