"""Refinement: optimise predicted Gaussians against the photos that they were predicted from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.views import OnStep, Views

# Found on the snowmiku set (300 steps, 256 px, held-out PSNR): a tenth of these step sizes gave 17.2 dB, half of them
# 18.9, these 19.7; without the opacity weight 18.5; half of them without SSIM 18.7.
# Adam's step sizes for each field in unconstrained space; that of the means is in median photo depths.
RATES = {"means": 4e-3, "quats": 2e-2, "log_scales": 5e-2, "logit_opacities": 2e-1, "sh": 2.5e-2}
FINAL_RATE = 0.1  # of the first, reached exponentially
COARSE = 0.35  # share of the steps that see photos at half size
SSIM_WEIGHT, WINDOW = 0.2, 8
OPACITY_WEIGHT = 0.005  # of the mean opacity: what no photo needs fades
DEAD = 0.005  # opacity below which a Gaussian is dropped at the end


def refine(
    gaussians: Gaussians,
    photos: Sequence[Views],
    *,
    steps: int = 300,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Gaussians:
    """Adam over all fields of unbatched Gaussians, one photo a step.

    photos: one unbatched view each; sizes may differ, masks are respected. Deterministic in `seed`. Stops when on_step
    raises. Steps whose gradient is not finite are skipped, so the result always is.
    """
    if steps <= 0:
        return gaussians
    with torch.inference_mode(False):
        return _optimise(gaussians, photos, steps, seed, on_step)


def _optimise(
    gaussians: Gaussians, photos: Sequence[Views], steps: int, seed: int, on_step: OnStep | None
) -> Gaussians:
    fields = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "log_scales": gaussians.scales.log(),
        "logit_opacities": torch.logit(gaussians.opacities, eps=1e-4),
        "sh": gaussians.sh,
    }
    fields = {k: v.detach().clone().requires_grad_() for k, v in fields.items()}
    rates = RATES | {"means": RATES["means"] * _median_depth(gaussians, photos)}
    optimiser = torch.optim.Adam([{"params": [fields[k]], "lr": rates[k], "peak": rates[k]} for k in fields], eps=1e-15)

    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    halves = [_half(p) for p in photos]
    for step in range(steps):
        queue = queue or torch.randperm(len(photos), generator=generator).tolist()
        chosen = queue.pop()
        photo = halves[chosen] if step < COARSE * steps else photos[chosen]
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * FINAL_RATE ** (step / steps)
        current = _activate(fields)
        loss = image_loss(render(current, photo.cameras).rgb, photo) + OPACITY_WEIGHT * current.opacities.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if all(torch.isfinite(x.grad).all() for x in fields.values()):
            optimiser.step()
        if on_step is not None:
            on_step(step + 1, steps, None)
    with torch.no_grad():
        refined = _activate(fields).detach()
        return refined.select(refined.opacities > DEAD)


def image_loss(rgb: Tensor, photo: Views) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM) of one view [1 3 h w] (Kerbl et al. 2023), outside a mask neither counts.

    SSIM is taken on square windows of 8 pixels every 4. The usual Gaussian windows at every pixel cost the CPU four
    times as much as rendering does, forward and backward, and the result was worse (snowmiku: 19.7 against 20.9 dB).
    """
    truth = photo.images
    if photo.mask is not None:
        known = photo.mask[:, None].to(rgb)
        rgb, truth = rgb * known, truth * known
    maps = torch.cat([rgb, truth, rgb * rgb, truth * truth, rgb * truth], dim=1)
    a, b, aa, bb, ab = F.avg_pool2d(maps, WINDOW, WINDOW // 2).chunk(5, dim=1)
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * a * b + c1) * (2 * (ab - a * b) + c2)
    score = score / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2))
    return (1 - SSIM_WEIGHT) * (rgb - truth).abs().mean() + SSIM_WEIGHT * (1 - score.mean())


def _activate(fields: dict[str, Tensor]) -> Gaussians:
    return Gaussians(
        fields["means"],
        F.normalize(fields["quats"], dim=-1),
        fields["log_scales"].clamp(-20, 10).exp(),
        torch.sigmoid(fields["logit_opacities"]),
        fields["sh"],
    )


def _half(photo: Views) -> Views:
    height, width = (max(16, side // 2) for side in photo.images.shape[-2:])
    images = F.interpolate(photo.images, (height, width), mode="area")  # like the mask, so that nothing bleeds over it
    mask = photo.mask
    if mask is not None:
        mask = F.interpolate(mask[:, None].float(), (height, width), mode="area")[:, 0] > 0.99
    return Views(images, photo.cameras.resize(height, width), mask=mask)


def _median_depth(gaussians: Gaussians, photos: Sequence[Views]) -> float:
    """Median z of the Gaussians in front of the cameras: the scene's length scale."""
    means = gaussians.means[:: max(1, len(gaussians) // 5000)]
    depth = torch.cat([p.cameras.project(means)[1].flatten() for p in photos])
    depth = depth[depth > 0]
    return depth.median().item() if len(depth) else 1.0
