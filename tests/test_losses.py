"""Every loss by hand on a case small enough for it, and a gradient from each to depth and Gaussians."""

import math
from dataclasses import replace

import pytest
import torch

from pixworld.diffusion import add_noise
from pixworld.gaussians import Gaussians
from pixworld.losses import flow_matching, geometry_perception, log_depth_huber, perceptual, photometric
from pixworld.methods.base import Draws
from pixworld.methods.pixworld import PixWorldConfig, PixWorldRecipe
from pixworld.methods.pixworld.model import PixWorld, draw_split
from pixworld.views import Views


def test_photometric_is_the_mean_square():
    assert photometric(torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx((0.25 + 4) / 2)


def test_flow_matching_is_the_square_over_one_minus_t_with_its_clamp():
    x, x_hat = torch.zeros(2, 3), torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])
    t = torch.tensor([0.5, 0.99])
    x_t = add_noise(x, torch.randn(2, 3), t)
    # 0.1² / 0.5² = 0.04; 1 - t = 0.01 is clamped to 0.05, so 0.2² / 0.05² = 16
    assert flow_matching(x_hat, x, x_t, t, 0.05).item() == pytest.approx((0.04 + 16) / 2, rel=1e-4)
    # from t = 0.9 only the second counts
    assert flow_matching(x_hat, x, x_t, t, 0.05, start=0.9).item() == pytest.approx(16 / 2, rel=1e-4)


def test_depth_is_a_huber_of_log_ratios_where_depth_is_known():
    depth = torch.tensor([math.exp(0.1), math.exp(1.0), 5.0])
    target = torch.tensor([1.0, 1.0, 0.0])
    # delta 0.2: inside 0.1² / 2, outside 0.2 (1 - 0.1); both over delta; the third is unknown
    assert log_depth_huber(depth, target).item() == pytest.approx((0.005 + 0.18) / 2 / 0.2, rel=1e-5)
    assert log_depth_huber(depth, torch.zeros(3)).item() == 0


def test_perceptual_counts_above_the_gate_and_sees_images_from_0_to_1():
    rendered = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1, 1).expand(2, 2, 3, 4, 4)

    def distance(a, b):
        return (a - b).abs().mean((-3, -2, -1))

    # against grey, both are 0.5 away; the first scene's t is below the gate
    loss = perceptual(rendered, torch.zeros(2, 2, 3, 4, 4), torch.tensor([0.2, 0.8]), 0.3, distance)
    assert loss.item() == pytest.approx(0.5 / 2)


def test_geometry_is_one_minus_the_cosine_and_leaves_the_reference_alone():
    rendered = torch.full((1, 1, 3, 2, 2), -1.0, requires_grad=True)
    target = torch.full((1, 1, 3, 2, 2), 1.0, requires_grad=True)

    def features(images):  # (1, brightness): of black (1, 0), of white (1, 1)
        brightness = images.mean((-3, -2, -1))[..., None, None]
        return torch.cat([torch.ones_like(brightness), brightness], -1)

    loss = geometry_perception(rendered, target, torch.tensor([1.0]), 0.3, features)
    assert loss.item() == pytest.approx(1 - 1 / math.sqrt(2), rel=1e-5)
    loss.backward()
    assert rendered.grad.abs().sum() > 0 and target.grad is None
    assert geometry_perception(rendered, target, torch.tensor([0.3]), 0.3, features).item() == 0


WEIGHTS = {
    "recon": "recon_weight",
    "novel": "novel_weight",
    "flow": "flow_weight",
    "depth": "depth_weight",
    "perceptual": "perceptual_weight",
    "geometry": "geometry_weight",
}


class Columns(torch.nn.Module):
    """A critic: one feature vector a view, means of four neighbouring columns."""

    def forward(self, images, cameras):
        return images.unflatten(-1, (-1, 4)).mean(-1).flatten(2)[:, :, None]


@pytest.mark.parametrize("term", WEIGHTS)
def test_a_gradient_reaches_depth_and_gaussians_from_each(arc, term):
    """The term alone, of a whole model on 32 px images: what its heads are told by it."""
    weights = {name: 1.0 if key == term else 0.0 for key, name in WEIGHTS.items()}
    recipe = PixWorldRecipe(
        **weights, generative=1.0, clean={1: 1.0}, generated_views={3: 1.0}, colour_weight=0.0, gate=-1.0, hints=0.0
    )
    torch.manual_seed(0)
    model = PixWorld(PixWorldConfig(width=32, depth=1, heads=1, text="words", text_width=16, recipe=recipe))
    if term == "geometry":
        model.frozen["geometry"] = Columns()
    cameras = arc(5, 32, 32)
    cameras = replace(cameras, c2w=cameras.c2w[None], K=cameras.K[None])
    images = torch.rand(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    terms = model.losses(Views(images, cameras, torch.full((1, 5, 32, 32), 4.0)), "model", Draws.seeded(2))
    assert terms[term].item() > 0
    terms[term].backward()
    head = model.heads["noisy" if term == "flow" else "clean"]
    assert head.depth.weight.grad.abs().sum() > 0
    if term != "depth":
        assert head.gaussian.weight.grad.abs().sum() > 0


def test_the_split_is_disjoint_and_fits_scenes_of_few_views():
    recipe = PixWorldRecipe()
    for views in (1, 3, 8):
        for seed in range(30):
            split = draw_split(views, recipe, torch.Generator().manual_seed(seed))
            used = torch.cat(split).tolist()
            assert len(set(used)) == len(used) and set(used) <= set(range(views))
            assert len(split.clean) + len(split.noisy) > 0


def test_spherical_harmonics_turn_with_the_camera(arc):
    """Colours that depend on the direction look the same in a world that is turned as a whole."""
    torch.manual_seed(0)
    config = PixWorldConfig(width=32, depth=1, heads=1, text="words", text_width=16, sh_degree=2, cameras="rays")
    model = PixWorld(config).eval()
    for head in model.heads.values():
        head.gaussian.weight.data += 0.1 * torch.randn_like(head.gaussian.weight)
    cameras = arc(2, 16, 16)
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    turn = turn * torch.linalg.det(turn)
    images = torch.rand(1, 2, 3, 16, 16)

    def gaussians(c) -> Gaussians:
        batch = replace(c, c2w=c.c2w[None], K=c.K[None])
        return model.predict(Views(images, batch), None, [""]).gaussians[0]

    a = gaussians(cameras).transform(1.0, turn, torch.zeros(3))
    b = gaussians(cameras.transform(1.0, turn, torch.zeros(3)))
    assert a.sh.shape[-2] == 9 and (a.sh[:, 1:].abs().amax() > 0.1)
    assert torch.allclose(a.sh, b.sh, atol=0.05)
