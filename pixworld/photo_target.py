"""A photo as the target of a refinement: how far renderings of it are off."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pixworld.metrics import psnr
from pixworld.views import Views

SSIM_WEIGHT, WINDOW = 0.2, 8
DEPTH_DELTA = 0.05  # of the Huber loss


class PhotoTarget:
    """One view [1 3 h w]; what of the losses depends on the photo alone is kept."""

    def __init__(self, photo: Views):
        self.cameras, self.images, self.mask = photo.cameras, photo.images, photo.mask
        self.within = None if photo.mask is None else photo.mask[:, None].to(photo.images)
        self.truth = photo.images if self.within is None else photo.images * self.within
        self.means = _window_means(self.truth)
        self.variances = _window_means(self.truth**2) - self.means**2
        self.depth = photo.depth
        if photo.depth is not None:
            self.log_depth = torch.where(photo.depth > 0, photo.depth, 1).log()

    def image_loss(self, rgb: Float[Tensor, "1 3 h w"]) -> Tensor:
        """(1 - w) L1 + w (1 - SSIM) (Kerbl et al. 2023); outside a mask neither counts.

        SSIM is taken on square windows of 8 pixels every 4. The usual Gaussian windows at every pixel cost the CPU four
        times as much as rendering does, forward and backward, and the result was worse (snowmiku: 19.7 against
        20.9 dB).
        """
        if self.within is not None:
            rgb = rgb * self.within
        a, aa, ab = (_window_means(x) for x in (rgb, rgb * rgb, rgb * self.truth))
        b, c1, c2 = self.means, 0.01**2, 0.03**2
        product = a * b
        score = (2 * product + c1) * (2 * (ab - product) + c2)
        square = a * a
        score = score / ((square + b * b + c1) * (aa - square + self.variances + c2))
        return (1 - SSIM_WEIGHT) * (rgb - self.truth).abs().mean() + SSIM_WEIGHT * (1 - score.mean())

    def depth_loss(self, rendered: Float[Tensor, "1 h w"]) -> Tensor:
        """Huber loss of log depth, over its delta, of the pixels whose depth is known and where anything was rendered.

        Over all pixels with a weight: picking out those that count takes longer.
        """
        if self.depth is None:
            return rendered.new_zeros(())
        counts = ((self.depth > 0) & (rendered > 0)).to(rendered)
        log = torch.where(rendered > 0, rendered, 1).log()
        off = F.huber_loss(log, self.log_depth, delta=DEPTH_DELTA, reduction="none")
        return (off * counts).sum() / (counts.sum().clamp_min(1) * DEPTH_DELTA)

    def psnr(self, rgb: Float[Tensor, "1 3 h w"]) -> float:
        """dB, inside the mask."""
        return psnr(rgb, self.images, self.mask).item()


def _window_means(maps: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h2 w2"]:
    """Of windows of WINDOW pixels, half of that apart; through the means of their quarters, which costs a third."""
    return F.avg_pool2d(F.avg_pool2d(maps, WINDOW // 2), 2, 1)
