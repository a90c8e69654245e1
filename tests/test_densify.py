"""Dropping the dead and splitting the living."""

import math

import pytest
import torch

from pixworld.adam import Adam
from pixworld.densify import DEAD, MAX_COPIES, keep, prune_and_split, split
from pixworld.gaussians import Gaussians
from pixworld.metrics import psnr
from pixworld.render import render


def paper_scale_ratio(opacity: float, n: int) -> tuple[float, float]:
    """Equation 9 of Kheradmand et al. 2024 as it is printed: a double sum."""
    single = 1 - (1 - opacity) ** (1 / n)
    total = 0.0
    for i in range(1, n + 1):
        for k in range(i):
            total += math.comb(i - 1, k) * (-1) ** k * single ** (k + 1) / math.sqrt(k + 1)
    return single, opacity / total


@pytest.mark.parametrize("opacity", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("n", [1, 2, 3, 7, MAX_COPIES])
def test_split_is_equation_nine(opacity, n):
    scales = torch.tensor([[0.1, 0.2, 0.3]])
    single, new = split(torch.tensor([opacity]), scales, torch.tensor([n]))
    expected, ratio = paper_scale_ratio(opacity, n)
    assert single.item() == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(new, scales * ratio, rtol=1e-5)


@pytest.fixture
def trained(cloud):
    """Fields of 100 Gaussians, ten of them dead, and an Adam that has taken a step."""
    g = cloud(100, degree=0)
    fields = {
        "means": g.means,
        "quats": g.quats,
        "log_scales": g.scales.log(),
        "logit_opacities": torch.logit(g.opacities.clamp(0.1, 0.9)),
        "sh": g.sh,
    }
    fields["logit_opacities"][::10] = -9.0
    fields = {k: v.clone().requires_grad_() for k, v in fields.items()}
    optimiser = Adam(dict.fromkeys(fields, 0.1))
    sum(x.sum() for x in fields.values()).backward()
    optimiser.step(fields, 0.0)
    return fields, optimiser


def gaussians(fields) -> Gaussians:
    f = {k: v.detach() for k, v in fields.items()}
    return Gaussians(f["means"], f["quats"], f["log_scales"].exp(), f["logit_opacities"].sigmoid(), f["sh"])


def test_the_dead_go_and_the_rest_stays(trained):
    fields, optimiser = trained
    new = prune_and_split(fields, optimiser, 0, torch.Generator())
    alive = fields["logit_opacities"].sigmoid() > DEAD
    assert alive.sum() == 90 and all(torch.equal(new[k], fields[k][alive]) for k in fields)
    average, _ = optimiser.averages["means"]
    assert average.shape == (90, 3) and (average != 0).all()


def test_the_kept_go_on_as_they_were(trained):
    fields, optimiser = trained
    for pair in optimiser.averages.values():
        for x in pair:
            x.copy_(torch.rand_like(x))
    before, kept = dict(optimiser.averages), torch.arange(100) % 3 == 0
    new = keep(fields, optimiser, kept)
    assert all(torch.equal(new[k], fields[k][kept]) and new[k].requires_grad for k in fields)
    assert all(torch.equal(x, y[kept]) for k in fields for x, y in zip(optimiser.averages[k], before[k]))


def test_splitting_hardly_changes_the_image(trained, arc):
    fields, optimiser = trained
    new = prune_and_split(fields, optimiser, 120, torch.Generator().manual_seed(0))
    assert len(new["means"]) == 120
    cameras = arc(2, 48, 64)
    images = [render(gaussians(f), cameras).rgb for f in (fields, new)]
    assert psnr(*images).min() > 30
    fresh = (optimiser.averages["means"][0] == 0).all(-1)
    assert fresh[90:].all() and 0 < fresh[:90].sum() <= 30


def test_adam_goes_on(trained):
    fields, optimiser = trained
    new = prune_and_split(fields, optimiser, 120, torch.Generator().manual_seed(0))
    sum(x.square().sum() for x in new.values()).backward()
    before = new["means"].detach().clone()
    optimiser.step(new)
    assert not torch.equal(before, new["means"])
