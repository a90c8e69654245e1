"""Relocation of dead Gaussians."""

import math

import pytest
import torch

from pixworld.densify import DEAD, MAX_COPIES, pad, relocate, split


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


def test_copies_together_look_like_the_one():
    """Along a ray through the middle, N copies hide what is behind exactly as the one did."""
    single, _ = split(torch.tensor([0.8]), torch.ones(1, 3), torch.tensor([4]))
    assert 1 - (1 - single.item()) ** 4 == pytest.approx(0.8, rel=1e-5)


def test_dead_rows_move_onto_the_living(cloud):
    g = cloud(100, degree=0)
    fields = {
        "means": g.means,
        "quats": g.quats,
        "log_scales": g.scales.log(),
        "logit_opacities": torch.logit(g.opacities.clamp(0.1, 0.9)),
        "sh": g.sh,
    }
    fields = {k: v.clone().requires_grad_() for k, v in pad(fields, 120).items()}
    optimiser = torch.optim.Adam(list(fields.values()), lr=0.0)
    sum(x.sum() for x in fields.values()).backward()
    optimiser.step()
    before = {k: v.detach().clone() for k, v in fields.items()}
    assert relocate(fields, optimiser, 5, torch.Generator().manual_seed(0)) == 5
    opacities = fields["logit_opacities"].sigmoid()
    assert (opacities > DEAD).sum() == 105
    moved = fields["means"][100:105].detach()
    assert all((before["means"][:100] == m).all(-1).any() for m in moved)
    changed = (before["logit_opacities"] != fields["logit_opacities"]).nonzero().squeeze(-1)
    assert set(range(100, 105)) <= set(changed.tolist())
    moments = optimiser.state[fields["means"]]["exp_avg"]
    assert (moments[changed] == 0).all() and (moments[:100] != 0).any()
