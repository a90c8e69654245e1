"""Densification and pruning as Markov chain Monte Carlo moves (Kheradmand et al. 2024): Gaussians that have died are
dropped, and living ones are split so that the image hardly changes. Fields are those of refine.py; they are replaced by
larger or smaller ones, and so are Adam's averages."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pixworld.adam import Adam

DEAD = 0.005  # opacity at and below which a Gaussian is dropped
MAX_COPIES = 20  # of one Gaussian at once


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
def keep(fields: dict[str, Tensor], optimiser: Adam, kept: Bool[Tensor, " n"]) -> dict[str, Tensor]:
    """Only these rows go on; returns the new fields."""
    rows = kept.nonzero().squeeze(-1)
    for name in fields:
        optimiser.take(name, rows, torch.zeros_like(rows, dtype=torch.bool))
    return {name: x[rows].requires_grad_() for name, x in fields.items()}


@torch.no_grad()
def prune_and_split(
    fields: dict[str, Tensor], optimiser: Adam, rows: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Drop the dead, and split living Gaussians, drawn by opacity, until there are `rows`; returns the new fields.

    Adam's averages of what was split start anew.
    """
    opacities = fields["logit_opacities"].sigmoid()
    alive = (opacities > DEAD).nonzero().squeeze(-1)
    if not len(alive):
        return fields
    drawn = _draw(opacities[alive], max(0, rows - len(alive)), generator)
    if not len(drawn) and len(alive) == len(opacities):
        return fields
    source = torch.cat([alive, alive[drawn]])  # the old row of every new one
    copies = 1 + torch.bincount(drawn, minlength=len(alive))
    new = {name: x[source].requires_grad_() for name, x in fields.items()}
    row = torch.cat([torch.arange(len(alive), device=drawn.device), drawn])  # among the living, of every new one
    parts = copies[row] > 1
    whole = source[parts]
    opacity, scales = split(opacities[whole], fields["log_scales"][whole].exp(), copies[row][parts])
    new["logit_opacities"][parts] = torch.logit(opacity, eps=1e-4)
    new["log_scales"][parts] = scales.log()
    for name in fields:
        optimiser.take(name, source, parts)
    return new


def _draw(weights: Float[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Indices with probability proportional to weights, with replacement; the same on every device."""
    edges = weights.double().cpu().cumsum(0)
    points = torch.rand(count, dtype=torch.float64, generator=generator) * edges[-1]
    return torch.searchsorted(edges, points).clamp_max(len(weights) - 1).to(weights.device)
