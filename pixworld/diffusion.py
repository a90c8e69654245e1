"""Flow matching in pixel space, in the paper's letters.

t runs from 0 (noise) to 1 (clean); images x are in -1..1:

    x_t = t x + (1 - t) ε            the path, ε ~ N(0, I)
    v   = x - ε                      its velocity
    v̂   = (x̂ - x_t) / (1 - t)        the velocity that an x-prediction implies

The network predicts x̂ (Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise"); in PixWorld x̂ is the
*render* of the predicted Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def to_signal(images: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Images 0..1 to the range -1..1 that noise is added in."""
    return images * 2 - 1


def to_images(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The inverse of `to_signal`."""
    return (x + 1) / 2


def sample_t(count: int, generator: torch.Generator, mean: float = -0.8, std: float = 0.8) -> Float[Tensor, " count"]:
    """Training times, logit-normal (Li & He 2025)."""
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator))


def _like(t: Float[Tensor, " b"], x: Float[Tensor, "b *n"]) -> Tensor:
    return t.reshape(-1, *[1] * (x.ndim - 1))


def add_noise(x: Float[Tensor, "b *n"], noise: Float[Tensor, "b *n"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *n"]:
    """x_t = t x + (1 - t) ε."""
    t = _like(t, x)
    return t * x + (1 - t) * noise


def velocity(
    x_hat: Float[Tensor, "b *n"], x_t: Float[Tensor, "b *n"], t: Float[Tensor, " b"], floor: float = 0.05
) -> Float[Tensor, "b *n"]:
    """v̂ = (x̂ - x_t) / max(1 - t, floor); the floor bounds the loss weight near t = 1."""
    return (x_hat - x_t) / (1 - _like(t, x_t)).clamp_min(floor)


def linear_estimate(
    x_t: Float[Tensor, "b *n"], t: Float[Tensor, " b"], sigma_data: float = 0.5
) -> Float[Tensor, "b *n"]:
    """The best linear estimate of x from x_t, E[x x_t] / E[x_t²] · x_t, for data of mean 0 and deviation sigma_data.

    The network's colour is a residual on it (the skip of Karras et al. 2022 for this path): it is 0 at t = 0 and x_t at
    t = 1.
    """
    t = _like(t, x_t)
    return x_t * (t * sigma_data**2) / (t**2 * sigma_data**2 + (1 - t) ** 2)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + scale (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


def euler(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "b *n"],
    steps: int,
    on_step: Callable[[int, int, Tensor], None] | None = None,
) -> Float[Tensor, "b *n"]:
    """Integrate dx/dt = v̂ from t = 0 to 1 in `steps` equal Euler steps; returns the last x̂.

    predict: (x_t [b *n], t [b]) -> x̂ [b *n]. The last step lands on x̂ itself, since v̂ (1 - t) = x̂ - x_t.
    """
    x_t, x_hat = noise, noise
    times = torch.linspace(0, 1, steps + 1, dtype=noise.dtype, device=noise.device)
    for i in range(steps):
        t = times[i].expand(len(noise))
        x_hat = predict(x_t, t)
        if on_step is not None:
            on_step(i + 1, steps, x_hat)
        x_t = x_t + (times[i + 1] - times[i]) * velocity(x_hat, x_t, t, floor=1e-6)
    return x_hat
