"""VGGT (Wang et al. 2025, "Visual Geometry Grounded Transformer"): the aggregator, whose tokens are the features."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.nn.encoders.images import normalise, to_multiple
from pixworld.nn.encoders.vit import AxialRope, Block, VisionTransformer, grid_positions, vit_sizes
from pixworld.nn.encoders.weights import count, fit, read_weights

PREFIX = "aggregator."
# The rest of the checkpoint: heads, and a token that only pretraining of the backbone uses.
IGNORED = ("camera_head.", "point_head.", "depth_head.", "track_head.", "patch_embed.mask_token")


class Vggt(nn.Module):
    """Tokens of every view pass blocks within the view and across all views in turns; the first view is the
    reference."""

    def __init__(self, sizes: dict[str, int | bool], depth: int, registers: int):
        super().__init__()
        width = sizes["width"]
        self.patch_embed = VisionTransformer(**sizes)
        blocks = (nn.ModuleList(Block(width, 4 * width, qk_norm=True, eps=1e-5) for _ in range(depth)) for _ in "fg")
        self.frame_blocks, self.global_blocks = blocks
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.zeros(1, 2, registers, width))

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras | None = None) -> Float[Tensor, "b v l d"]:
        """Patch tokens of the last pair of blocks, side by side."""
        b, v = images.shape[:2]
        x = normalise(to_multiple(images, self.patch_embed.patch))
        rows, columns = (side // self.patch_embed.patch for side in x.shape[-2:])
        patches = self.patch_embed(x.flatten(0, 1)).unflatten(0, (b, v))
        specials = torch.cat([self.camera_token, self.register_token], dim=2)
        specials = specials[:, [0] + [1] * (v - 1)].expand(b, -1, -1, -1)
        x = torch.cat([specials, patches], dim=2)

        positions = grid_positions(rows, columns, specials.shape[2], x.device)
        within, across = AxialRope(positions), AxialRope(positions.repeat(v, 1))
        for frame_block, global_block in zip(self.frame_blocks, self.global_blocks, strict=True):
            frame = rearrange(frame_block(x.flatten(0, 1), within), "(b v) n d -> b v n d", b=b)
            x = rearrange(global_block(frame.flatten(1, 2), across), "b (v n) d -> b v n d", v=v)
        return torch.cat([frame, x], dim=-1)[:, :, specials.shape[2] :]


def load(path: Path) -> nn.Module:
    state = {name.removeprefix(PREFIX): x for name, x in read_weights(path).items()}
    with torch.device("meta"):
        model = Vggt(vit_sizes(state, "patch_embed."), count(state, "frame_blocks."), state["register_token"].shape[2])
    return fit(model, state, path, IGNORED)
