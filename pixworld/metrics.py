"""Image metrics on [*b 3 h w] images in 0..1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def psnr(
    a: Float[Tensor, "*b 3 h w"], b: Float[Tensor, "*b 3 h w"], mask: Bool[Tensor, "*#b h w"] | None = None
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio in dB of each image, peak 1; of the pixels where the mask is True."""
    error = (a - b).square().mean(-3)
    weight = torch.ones_like(error) if mask is None else mask.expand_as(error)
    error = (error * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1)
    return -10 * torch.log10(error.clamp_min(1e-10))


def ssim(a: Float[Tensor, "*b 3 h w"], b: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b"]:
    """Structural similarity (Wang et al. 2004) of each image: Gaussian window of 11 pixels, sigma 1.5, no padding.

    Images smaller than the window use the largest odd window that fits. Differentiable.
    """
    size = min(11, a.shape[-1], a.shape[-2])
    size -= 1 - size % 2
    x = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    window = torch.exp(-x.square() / (2 * 1.5**2))
    window = window / window.sum()

    def blur(image: Tensor) -> Tensor:
        image = F.conv2d(image, window[None, None, :, None])
        return F.conv2d(image, window[None, None, None, :])

    batch = a.shape[:-3]
    a, b = a.reshape(-1, 1, *a.shape[-2:]), b.reshape(-1, 1, *b.shape[-2:])
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    score = score / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return score.mean((-3, -2, -1)).reshape(*batch, 3).mean(-1)
