"""What image encoders do to images first."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resize(images: Float[Tensor, "*b 3 h w"], height: int, width: int) -> Float[Tensor, "*b 3 height width"]:
    """Bilinear, antialiased, differentiable; the same tensor when the size is already right."""
    if images.shape[-2:] == (height, width):
        return images
    flat = F.interpolate(images.flatten(0, -4), (height, width), mode="bilinear", antialias=True)
    return flat.unflatten(0, images.shape[:-3])


def to_multiple(images: Float[Tensor, "*b 3 h w"], patch: int, shrink: float = 1.0) -> Float[Tensor, "*b 3 y x"]:
    """Resized by `shrink`, then to the nearest multiples of the patch (at least one)."""
    sides = (max(1, round(side * shrink / patch)) * patch for side in images.shape[-2:])
    return resize(images, *sides)


def normalise(images: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """0..1 to ImageNet's mean 0 and deviation 1."""
    mean, std = (images.new_tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std
