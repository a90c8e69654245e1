"""Image metrics on [*b 3 h w] images in 0..1, and metrics of camera poses."""

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


def pose_errors(
    estimated: Float[Tensor, "v 4 4"], truth: Float[Tensor, "v 4 4"], found: Bool[Tensor, " v"] | None = None
) -> Float[Tensor, " pairs"]:
    """Error in degrees of the relative pose of every pair of views: the larger of the angle between the rotations and
    that between the lines that the translations lie on (both scales and worlds are arbitrary; the sign of a translation
    is left free, as in the evaluations of PoseDiffusion and VGGT). Poses are camera to world.

    A pair counts 180 where a view was not `found`, or where the estimate has no translation and the truth has one. The
    rotation alone counts where the truth has none.
    """
    first, second = torch.triu_indices(len(truth), len(truth), 1)
    (turn, way), (true_turn, true_way) = (_relative(c2w.double(), first, second) for c2w in (estimated, truth))
    # |R - R'| = 2 √2 sin(angle / 2), which is exact at small angles where the arc cosine of the trace is not
    turned = 2 * torch.asin(((turn - true_turn).flatten(1).norm(dim=1) / 8**0.5).clamp(max=1))
    shifted = torch.atan2(torch.linalg.cross(way, true_way).norm(dim=1), (way * true_way).sum(1).abs())
    tiny = 1e-6 * true_way.norm(dim=1).max()
    still = true_way.norm(dim=1) <= tiny
    errors = torch.rad2deg(torch.where(still, turned, torch.maximum(turned, shifted)))
    lost = ~still & (way.norm(dim=1) <= 1e-9)
    if found is not None:
        lost |= ~(found[first] & found[second])
    return torch.where(lost, 180.0, errors).float()


def _relative(
    c2w: Float[Tensor, "v 4 4"], first: Tensor, second: Tensor
) -> tuple[Float[Tensor, "pairs 3 3"], Float[Tensor, "pairs 3"]]:
    """Rotation and translation from the camera of the first view to the second's."""
    back = c2w[first, :3, :3].mT
    offset = c2w[second, :3, 3] - c2w[first, :3, 3]
    return back @ c2w[second, :3, :3], (back @ offset[..., None]).squeeze(-1)


def pose_auc(errors: Float[Tensor, " pairs"], threshold: int) -> float:
    """AUC@threshold: the mean, over k = 1 .. threshold degrees, of the share of pairs whose error is below k.

    This is the area under the accuracy curve by 1-degree bins, as PoseDiffusion and VGGT count it.
    """
    edges = torch.arange(1, threshold + 1, dtype=errors.dtype, device=errors.device)
    return (errors[:, None] < edges).float().mean().item()
