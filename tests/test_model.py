"""The network: shapes, symmetries, partitions, and what a checkpoint keeps."""

from dataclasses import replace

import pytest
import torch

from pixworld.checkpoint import load_checkpoint, save_checkpoint
from pixworld.methods.base import Draws
from pixworld.methods.pixworld import PixWorldConfig, PixWorldRecipe
from pixworld.methods.pixworld.model import Noisy, PixWorld, fill, scene_unit
from pixworld.views import InputError, Task, Views

# 16 px is too small for a perceptual distance
TINY = PixWorldConfig(
    width=32, depth=2, heads=1, size=16, text="words", text_width=16, recipe=PixWorldRecipe(perceptual_weight=0.0)
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = PixWorld(TINY)
    for p in model.parameters():  # zero-initialised heads would hide everything
        p.data += 0.05 * torch.randn_like(p)
    return model.eval()


@pytest.fixture
def views(arc):
    cameras = arc(3, 16, 24)
    g = torch.Generator().manual_seed(0)
    return Views(torch.rand(3, 3, 16, 24, generator=g), cameras, depth=3 + torch.rand(3, 16, 24, generator=g))


def batched(v: Views) -> Views:
    c = replace(v.cameras, c2w=v.cameras.c2w[None], K=v.cameras.K[None])
    return Views(v.images[None], c, None if v.depth is None else v.depth[None])


def test_one_gaussian_a_pixel_on_its_ray(model, views):
    g, depth, _ = model.predict(batched(views), None, [""])
    assert g.means.shape == (1, 3 * 16 * 24, 3)
    pixels, z = views.cameras.project(g.means[0])
    own = z[1].reshape(3, 16, 24)[1]
    assert torch.allclose(own, depth[0, 1], rtol=1e-4)
    assert torch.allclose(pixels[1].reshape(3, 16, 24, 2)[1, 4, 7], torch.tensor([7.5, 4.5]), atol=1e-3)


def test_moving_and_scaling_the_world_moves_and_scales_the_prediction(model, views):
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
    turn = turn * torch.linalg.det(turn)
    shift = torch.tensor([5.0, -2, 1])
    moved = Views(views.images, views.cameras.transform(7.0, turn, shift), views.depth * 7)
    a = model.predict(batched(views), None, ["a room"]).gaussians[0].transform(7.0, turn, shift)
    b = model.predict(batched(moved), None, ["a room"]).gaussians[0]
    # bf16 bounds the agreement; the scene is some 25 units deep
    assert (a.means - b.means).norm(dim=-1).quantile(0.99) < 0.25
    assert (a.scales / b.scales).log().abs().quantile(0.99) < 0.05


def test_every_partition_runs_and_text_matters_only_through_words(model, views):
    v = batched(views)
    noisy = Noisy(torch.randn(1, 3, 3, 16, 24), torch.tensor([0.3]), v.cameras)
    assert model.predict(None, noisy, ["a red room"]).depth.shape == (1, 3, 16, 24)
    one = Noisy(noisy.x_t[:, 1:], noisy.t, v.cameras.select([1, 2]))
    assert model.predict(v.select([0]), one, [""]).colour.shape == (1, 3, 3, 16, 24)


def test_unit_is_the_median_hint_or_the_baseline(views):
    v = batched(views)
    assert torch.allclose(scene_unit(v, v.cameras), v.depth.flatten(1).median(1).values)
    blind = replace(v, depth=torch.zeros_like(v.depth))
    baseline = (v.cameras.positions - v.cameras.positions[:, :1]).norm(dim=-1).amax()
    assert torch.allclose(scene_unit(blind, v.cameras), baseline)


def test_a_part_of_the_correction_is_applied_where_depth_is_known(model, views):
    """To clean views of scenes with any known depth; the others, and noisy views, have all of it."""
    v = batched(views)
    v.depth[0, 1:] = 0
    blind = replace(v, depth=torch.zeros_like(v.depth))
    cameras = replace(v.cameras, c2w=v.cameras.c2w.repeat(2, 1, 1, 1), K=v.cameras.K.repeat(2, 1, 1, 1))
    both = Views(torch.cat([v.images] * 2), cameras, torch.cat([v.depth, blind.depth]))
    noisy = Noisy(torch.randn(2, 3, 3, 16, 24), torch.tensor([0.3, 0.3]), both.cameras)
    logs = {}
    for share in (0.0, 0.5, 1.0):
        logs[share] = model.predict(both, noisy, ["", ""], share).depth.log()
    none, half, whole = logs.values()
    assert (whole - none)[0, :3].abs().max() > 0.01
    torch.testing.assert_close(half[0, :3], (none + whole)[0, :3] / 2, atol=1e-4, rtol=0)
    torch.testing.assert_close(none[1], whole[1])
    torch.testing.assert_close(none[:, 3:], whole[:, 3:])


@pytest.mark.parametrize("clean", [0, 1, 3, 4])
def test_losses_reach_every_part_that_is_used(arc, clean):
    torch.manual_seed(0)
    recipe = replace(TINY.recipe, generative=1.0 if clean < 4 else 0.0, clean={min(clean, 3): 1.0}, contexts={4: 1.0})
    model = PixWorld(replace(TINY, recipe=recipe))
    cameras = arc(6, 16, 16)
    cameras = replace(cameras, c2w=cameras.c2w[None].repeat(2, 1, 1, 1), K=cameras.K[None].repeat(2, 1, 1, 1))
    views = Views(torch.rand(2, 6, 3, 16, 16), cameras, torch.full((2, 6, 16, 16), 4.0), text=("a room", "a tree"))
    terms = model.losses(views, "model", Draws.seeded(1))
    sum(terms.values()).backward()
    assert all(torch.isfinite(x) for x in terms.values())
    assert ("flow" in terms) == (clean < 4)
    for name, used in (("clean", clean > 0), ("noisy", clean < 4)):
        gradient = model.heads[name].gaussian.weight.grad
        assert (gradient is not None and gradient.abs().sum() > 0) == used


def test_the_background_of_the_recipe_counts(arc):
    """With nothing learned, a darker background makes the holes of a white scene cost more."""
    cameras = arc(6, 16, 16)
    cameras = replace(cameras, c2w=cameras.c2w[None], K=cameras.K[None])
    views = Views(torch.full((1, 6, 3, 16, 16), 0.9), cameras, torch.full((1, 6, 16, 16), 4.0), text=("white",))

    def novel(**fields):
        recipe = replace(TINY.recipe, generative=0.0, contexts={2: 1.0}, hints=0.0, **fields)
        torch.manual_seed(0)
        return PixWorld(replace(TINY, recipe=recipe)).losses(views, "model", Draws.seeded(1))

    black, mean, random = (novel(background=b)["novel"] for b in ("black", "mean", "random"))
    assert black > random > mean  # holes of a white scene


def test_generation_is_deterministic_and_pins_the_clean_view(model, views):
    task = Task(replace(views.select([0]), depth=None), views.cameras.select([1, 2]), prompt="a room", seed=3, steps=2)
    seen = []
    scenes = [model.infer(task, lambda i, n, _: seen.append((i, n))) for _ in range(2)]
    assert torch.equal(scenes[0].gaussians.means, scenes[1].gaussians.means)
    assert torch.equal(scenes[0].views.images[0], views.images[0])
    assert seen == [(1, 2), (2, 2)] * 2


def test_nothing_to_work_from_is_a_clear_error(model):
    with pytest.raises(InputError, match="nothing to work from"):
        model.infer(Task(), lambda *_: None)


@pytest.mark.parametrize("bits", [32, 8])
def test_checkpoint_round_trip(model, views, tmp_path, bits):
    save_checkpoint(tmp_path / "c", TINY, model.state_dict(), bits=bits)
    again, info = load_checkpoint(tmp_path / "c")
    assert again.config == TINY and info["name"] == "c" and len(info["hash"]) == 12
    a, b = (m.predict(batched(views), None, [""]) for m in (model, again))
    assert torch.allclose(a.depth, b.depth, rtol=1e-6 if bits == 32 else 0.05)


def test_what_is_not_a_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"method": "other"}')
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_fill_keeps_what_is_known_and_interpolates_the_rest():
    plane = torch.linspace(0, 1, 24)[None, None, None].expand(1, 1, 16, 24).contiguous()
    known = torch.rand(plane.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    filled = fill(plane, known)
    assert torch.equal(filled[known], plane[known])
    assert (filled - plane).abs().mean() < 0.08
    assert fill(plane, torch.zeros_like(known)).abs().max() == 0
