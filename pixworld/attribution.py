"""Which photos a Gaussian of a reconstruction is seen in: the one that shows it most, and how many do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.sh import C0
from pixworld.views import Views


class Shown(NamedTuple):
    """How a set of photos shows Gaussians."""

    most: Int[Tensor, " n"]  # index of the photo with the largest share of each, the first of equals; -1 without any
    photos: Float[Tensor, " n"]  # how many share in it, (sum s)^2 / sum s^2: what only one shows may be anywhere


def shown(gaussians: Gaussians, photos: Sequence[Views]) -> Shown:
    """Which photo shows each Gaussian most, and in how many it has a share; see `shares`."""
    best = torch.full((len(gaussians),), -1, device=gaussians.means.device)
    most, total, squares = (gaussians.means.new_zeros(len(gaussians)) for _ in range(3))
    for i, share in enumerate(shares(gaussians, photos)):
        best, most = torch.where(share > most, i, best), torch.maximum(share, most)
        total, squares = total + share, squares + share * share
    return Shown(best, total.square() / squares.clamp_min(torch.finfo(squares.dtype).tiny))


def shares(gaussians: Gaussians, photos: Sequence[Views]) -> Iterator[Float[Tensor, " n"]]:
    """For each photo (one view; what its mask hides does not count) the sum over its pixels of the weight T α that
    blending gives each Gaussian.

    Rendering is linear in colours, so this is the derivative of the image's sum by the Gaussian's colour. Every colour
    is grey here, as colours that are clamped at black have none.
    """
    grey = torch.zeros_like(gaussians.sh[:, :1])
    for photo in photos:
        photo = photo.to(grey.device)
        with torch.enable_grad():
            sh = grey.clone().requires_grad_()
            rgb = render(replace(gaussians.detach(), sh=sh), photo.cameras).rgb
            shown = rgb if photo.mask is None else rgb * photo.mask[:, None]
            (gradient,) = torch.autograd.grad(shown.sum(), sh)
        yield gradient[:, 0].mean(dim=-1) / C0
