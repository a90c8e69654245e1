"""Which photo shows a Gaussian most: by hand, and against dense renders with one Gaussian white at a time."""

from dataclasses import replace

import pytest
import torch

from pixworld.attribution import shares, shown
from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.sh import C0
from pixworld.views import Views


def photos_of(cameras, masks=None):
    """A photo for each camera; what it shows does not matter."""
    for i in range(len(cameras)):
        one = cameras.select([i])
        image = torch.zeros(1, 3, one.height, one.width, dtype=one.c2w.dtype)
        yield Views(image, one, mask=None if masks is None else masks[i : i + 1])


@pytest.mark.parametrize("masked", [False, True])
def test_shares_are_the_weights_of_blending(arc, cloud, masked):
    cameras, gaussians = arc(3, 24, 30, dtype=torch.float64), cloud(60, degree=1, dtype=torch.float64)
    gaussians = replace(gaussians, sh=gaussians.sh - 1)  # many colours are clamped at black; they weigh all the same
    masks = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(0)) < 0.5 if masked else None
    known = torch.ones(3, 1, 24, 30) if masks is None else masks[:, None]
    weights = torch.empty(3, 60, dtype=torch.float64)
    for i in range(60):
        white = torch.where(torch.arange(60) == i, 0.5, -9.0).double()[:, None, None] / C0
        rgb = render(replace(gaussians, sh=white.expand(-1, 1, 3)), cameras, backend="reference").rgb
        weights[:, i] = (rgb * known)[:, 0].sum(dim=(-1, -2))
    photos = list(photos_of(cameras, masks))
    with torch.no_grad():
        found = torch.stack(list(shares(gaussians, photos)))
        labels, count = shown(gaussians, photos)
    torch.testing.assert_close(found, weights, rtol=1e-9, atol=1e-9)
    expected = torch.where(weights.amax(0) > 0, weights.argmax(0), -1)
    effective = weights.sum(0).square() / weights.square().sum(0).clamp_min(1e-300)
    torch.testing.assert_close(count, effective, rtol=1e-9, atol=1e-9)
    assert torch.equal(labels, expected) and set(labels.tolist()) >= {0, 1, 2}


def test_a_wall_hides_what_is_behind_it():
    """Two cameras on either side of a wall; a ball before each, one far off that neither looks at, and one so faint
    that nothing draws it."""
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[0, 2, 3], c2w[1, 2, 3] = -4, 4
    c2w[1, 0, 0] = c2w[1, 2, 2] = -1  # looks back along -z
    K = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]).repeat(2, 1, 1)
    y, x = torch.meshgrid(torch.linspace(-6, 6, 41), torch.linspace(-8, 8, 53), indexing="ij")
    wall = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    layers = [wall + torch.tensor([0.0, 0, z]) for z in (-0.1, 0.0, 0.1)]  # each stops 0.999 of the light at most
    others = torch.tensor([[0.3, 0, -1], [0.3, 0, 1.0], [100, 0, 0], [0, 0, -1.5]])
    means = torch.cat([others, *layers])
    n = len(means)
    opacities = torch.full((n,), 0.999)
    opacities[3] = 0.003
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4), torch.full((n, 3), 0.3)
    gaussians = Gaussians(means, quats, scales, opacities, torch.full((n, 1, 3), -9.0))
    labels, count = shown(gaussians, list(photos_of(Cameras(c2w, K, 24, 32))))
    assert labels[:4].tolist() == [0, 1, -1, -1]
    assert count[:4].tolist() == pytest.approx([1, 1, 0, 0], abs=1e-3)


def test_without_photos_or_gaussians(arc, cloud):
    assert shown(cloud(5), []).most.tolist() == [-1] * 5
    assert shown(cloud(5).select(torch.zeros(5, dtype=torch.bool)), list(photos_of(arc(2)))).most.tolist() == []
