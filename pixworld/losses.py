"""Training losses. Each takes images in the signal range -1..1 and returns a scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pixworld.diffusion import velocity


def photometric(rendered: Float[Tensor, "*n"], target: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Mean squared error of rendered views (L_recon, and the novel views)."""
    return F.mse_loss(rendered, target)


def flow_matching(
    x_hat: Float[Tensor, "b *n"],
    x: Float[Tensor, "b *n"],
    x_t: Float[Tensor, "b *n"],
    t: Float[Tensor, " b"],
    floor: float,
) -> Float[Tensor, ""]:
    """L_FM = mean ‖v̂ - v‖², both velocities from x_t; equals ‖x̂ - x‖² / max(1 - t, floor)².

    PixWorld puts the *render* of the predicted Gaussians in the place of x̂.
    """
    return (velocity(x_hat, x_t, t, floor) - velocity(x, x_t, t, floor)).square().mean()


def log_depth_huber(depth: Float[Tensor, "*n"], target: Float[Tensor, "*n"], delta: float = 0.2) -> Float[Tensor, ""]:
    """L_depth = Huber(log D̂ - log D*) over the pixels whose target depth is known (> 0), divided by delta."""
    known = target > 0
    if not known.any():
        return depth.sum() * 0
    error = torch.log(depth[known]) - torch.log(target[known])
    return F.huber_loss(error, torch.zeros_like(error), delta=delta) / delta
