"""Densification as Markov chain Monte Carlo moves (Kheradmand et al. 2024): Gaussians that have died are moved onto
living ones, which are split so that the image hardly changes. The number of rows never changes: a budget is filled up
with dead rows at the start, which cost next to nothing, as nothing is drawn for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DEAD = 0.005  # opacity at and below which a Gaussian is dead
MAX_COPIES = 20  # of one Gaussian at once


def pad(fields: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Append dead Gaussians up to `rows`; fields as in refine.py, in unconstrained space."""
    count = len(fields["means"])
    filler = torch.arange(max(0, rows - count), device=fields["means"].device) % max(count, 1)
    out = {name: torch.cat([x, x[filler]]) for name, x in fields.items()}
    out["logit_opacities"][count:] = -10.0
    return out


def split(
    opacities: Float[Tensor, " n"], scales: Float[Tensor, "n 3"], copies: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Opacity and scales of each of `copies` Gaussians that together look like the one they replace.

    Equation 9 of the paper. Its double sum over binomial coefficients is a single one by the hockey-stick identity:
    Σ_i Σ_k C(i-1, k) (-1)^k o^(k+1) / √(k+1) = Σ_j C(N, j) (-1)^(j-1) o^j / √j.
    """
    n = copies.clamp(1, MAX_COPIES).double()[:, None]
    single = 1 - (1 - opacities.double()[:, None]) ** (1 / n)
    j = torch.arange(1, MAX_COPIES + 1, dtype=torch.float64, device=n.device)
    log_binomial = torch.lgamma(n + 1) - torch.lgamma(j + 1) - torch.lgamma((n - j).clamp_min(0) + 1)
    terms = torch.where(j <= n, log_binomial.exp() * (-1) ** (j - 1) * single**j / j.sqrt(), 0.0)
    ratio = opacities.double()[:, None] / terms.sum(-1, keepdim=True)
    return single.squeeze(-1).to(opacities), (scales * ratio).to(scales)


@torch.no_grad()
def relocate(fields: Mapping[str, Tensor], optimiser: torch.optim.Adam, count: int, generator: torch.Generator) -> int:
    """Move at most `count` dead Gaussians onto living ones, drawn by opacity, in place; returns how many. The momenta of
    all that changed are forgotten."""
    opacities = fields["logit_opacities"].sigmoid()
    dead = (opacities <= DEAD).nonzero().squeeze(-1)
    alive = (opacities > DEAD).nonzero().squeeze(-1)
    dead = dead[: max(0, count)]
    if not len(dead) or not len(alive):
        return 0
    # in float64 on the CPU, which takes any number of rows and draws the same on every device
    target = alive[_draw(opacities[alive], len(dead), generator)]
    copies = torch.bincount(target, minlength=len(opacities)) + 1
    changed = copies > 1
    opacity, scales = split(opacities[changed], fields["log_scales"][changed].exp(), copies[changed])
    fields["logit_opacities"][changed] = torch.logit(opacity, eps=DEAD)
    fields["log_scales"][changed] = scales.log()
    for x in fields.values():
        x[dead] = x[target]
    forget(optimiser, fields, changed.index_fill(0, dead, True))
    return len(dead)


def _draw(weights: Float[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Indices with probability proportional to weights, with replacement."""
    edges = weights.double().cpu().cumsum(0)
    points = torch.rand(count, dtype=torch.float64, generator=generator) * edges[-1]
    return torch.searchsorted(edges, points).clamp_max(len(weights) - 1).to(weights.device)


def forget(optimiser: torch.optim.Adam, fields: Mapping[str, Tensor], rows: Bool[Tensor, " n"]) -> None:
    """Zero Adam's moments of these rows."""
    for x in fields.values():
        state = optimiser.state.get(x, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name][rows] = 0
