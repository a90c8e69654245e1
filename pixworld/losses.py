"""The losses of PixWorld. Images are in the signal range -1..1; each function returns a scalar.

    L = L_recon + L_novel + L_FM + 0.1 L_LPIPS + 1.0 L_depth + 0.1 L_geo        (the paper's weights)

What is rendered is written Ī = render(G, T): gradients reach Gaussians and depth through it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pixworld.diffusion import to_images, velocity


def photometric(rendered: Float[Tensor, "*n"], target: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """mean ‖Ī - I‖²: L_recon on the clean views, L_novel on views that the network has not seen."""
    return F.mse_loss(rendered, target)


def flow_matching(
    x_hat: Float[Tensor, "b *n"],
    x: Float[Tensor, "b *n"],
    x_t: Float[Tensor, "b *n"],
    t: Float[Tensor, " b"],
    floor: float,
    start: float = 0.0,
) -> Float[Tensor, ""]:
    """L_FM = mean 1[t >= start] ‖v̂ - v‖², both velocities from x_t; equals ‖x̂ - x‖² / max(1 - t, floor)².

    PixWorld puts the *render* of the predicted Gaussians in the place of x̂.
    """
    error = (velocity(x_hat, x_t, t, floor) - velocity(x, x_t, t, floor)).square()
    return (error.flatten(1).mean(1) * (t >= start)).mean()


def perceptual(
    rendered: Float[Tensor, "b v 3 h w"],
    target: Float[Tensor, "b v 3 h w"],
    t: Float[Tensor, " b"],
    gate: float,
    distance: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, ""]:
    """L_LPIPS = mean 1[t > gate] d(Ī, I) over all rendered views; d takes images in 0..1 to a distance an image
    (Zhang et al. 2018). At low t the render is a blur of all that could be, and its texture should not be judged."""
    return (distance(to_images(rendered), to_images(target)).mean(1) * (t > gate)).mean()


def geometry_perception(
    rendered: Float[Tensor, "b v 3 h w"],
    target: Float[Tensor, "b v 3 h w"],
    t: Float[Tensor, " b"],
    gate: float,
    features: Callable[[Tensor], Tensor],
) -> Float[Tensor, ""]:
    """L_geo = mean 1[t > gate] (1 - cos(Ψ(Ī), sg Ψ(I))) over views and patches; Ψ are the patch features [b v l d] of a
    frozen 3D foundation model that sees all rendered views jointly, sg stops the gradient."""
    with torch.no_grad():
        reference = features(to_images(target))
    similarity = F.cosine_similarity(features(to_images(rendered)), reference, dim=-1)
    return ((1 - similarity).flatten(1).mean(1) * (t > gate)).mean()


def log_depth_huber(depth: Float[Tensor, "*n"], target: Float[Tensor, "*n"], delta: float = 0.2) -> Float[Tensor, ""]:
    """L_depth = Huber(log D̂ - log D*) over the pixels whose target depth is known (> 0), divided by delta."""
    known = target > 0
    if not known.any():
        return depth.sum() * 0
    error = torch.log(depth[known]) - torch.log(target[known])
    return F.huber_loss(error, torch.zeros_like(error), delta=delta) / delta
