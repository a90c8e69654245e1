"""Depth Anything 3 (Lin et al. 2025): the backbone, a DINOv2 whose later blocks see all views in turns."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.nn.encoders.images import normalise, to_multiple
from pixworld.nn.encoders.vit import NO_TURN, AxialRope, VisionTransformer, grid_positions, vit_sizes
from pixworld.nn.encoders.weights import fit, read_weights, without_prefix

PREFIX = "model.backbone.pretrained."
HEADS = ("model.head.", "model.cam_enc.", "model.cam_dec.", "model.gs_head.", "model.gs_adapter.")


class DepthAnything3(VisionTransformer):
    """From block `start` on, odd blocks attend across all views, with QK norm and rotary positions; the class token is
    replaced by a camera token there. The first view is the reference (the published code chooses one among three or
    more views), and cameras are not read."""

    def __init__(self, start: int, **sizes: int | bool):
        super().__init__(**sizes, qk_norm_from=start, norm_eps=1e-5)
        self.start = start
        self.camera_token = nn.Parameter(torch.zeros(1, 2, sizes["width"]))

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras | None = None) -> Float[Tensor, "b v l d"]:
        """Patch tokens of the last block within views and, normalised, of the last block, side by side."""
        b, v = images.shape[:2]
        x = normalise(to_multiple(images, self.patch))
        rows, columns = (side // self.patch for side in x.shape[-2:])
        positions = grid_positions(rows, columns, 1, x.device)
        within = AxialRope(positions)
        across = AxialRope(positions.clamp_max(1).repeat(v, 1))  # tells patches from camera tokens only
        x = local = self.embed(x.flatten(0, 1)).unflatten(0, (b, v))
        for i, block in enumerate(self.blocks):
            if i == self.start:
                camera = self.camera_token[:, [0] + [1] * (v - 1), None].expand(b, -1, -1, -1)
                x = torch.cat([camera, x[:, :, 1:]], dim=2)
            if i >= self.start and i % 2 == 1:
                x = rearrange(block(x.flatten(1, 2), across), "b (v n) d -> b v n d", v=v)
            else:
                turn = within if i >= self.start else NO_TURN
                x = local = rearrange(block(x.flatten(0, 1), turn), "(b v) n d -> b v n d", b=b)
        return torch.cat([local, self.norm(x)], dim=-1)[:, :, 1:]


def load(path: Path) -> nn.Module:
    whole = read_weights(path)
    state = without_prefix(whole, PREFIX)
    sizes = vit_sizes(state)
    normed = [i for i in range(sizes["depth"]) if f"blocks.{i}.attn.q_norm.weight" in state]
    if not normed:
        raise KeyError("blocks with attn.q_norm, which only the any-view models have")
    with torch.device("meta"):
        model = DepthAnything3(normed[0], **sizes)
    others = {name: x for name, x in whole.items() if not name.startswith(PREFIX)}
    return fit(model, state | others, path, ("mask_token", *HEADS))
