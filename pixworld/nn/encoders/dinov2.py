"""DINOv2 ViT-S, B, L and g, with and without registers: features of each view by itself."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.nn.encoders.images import normalise, to_multiple
from pixworld.nn.encoders.vit import VisionTransformer, vit_sizes
from pixworld.nn.encoders.weights import fit, read_weights


class Dinov2(VisionTransformer):
    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras | None = None) -> Float[Tensor, "b v l d"]:
        x = normalise(to_multiple(images, self.patch))
        return super().forward(x.flatten(0, 1)).unflatten(0, images.shape[:2])


def load(path: Path) -> nn.Module:
    state = read_weights(path)
    with torch.device("meta"):
        model = Dinov2(**vit_sizes(state))
    return fit(model, state, path, ignored=("mask_token",))
