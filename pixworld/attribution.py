"""Which photo a Gaussian of a reconstruction belongs to: the one that shows it most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.sh import C0
from pixworld.views import Views


def shown_most(gaussians: Gaussians, photos: Sequence[Views]) -> Int[Tensor, " n"]:
    """The index of the photo with the largest share of each Gaussian; -1 where no photo shows it. A tie goes to the
    first."""
    best = torch.full((len(gaussians),), -1, device=gaussians.means.device)
    most = gaussians.means.new_zeros(len(gaussians))
    for i, share in enumerate(shares(gaussians, photos)):
        best, most = torch.where(share > most, i, best), torch.maximum(share, most)
    return best


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
