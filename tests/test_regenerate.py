"""Regeneration in a box: which pixels see it, which cameras are clean and which generated, and what is kept."""

import pytest
import torch

from pixworld.cameras import Cameras, look_at
from pixworld.checkpoint import save_checkpoint
from pixworld.gaussians import Gaussians
from pixworld.methods.pixworld import PixWorldConfig
from pixworld.regenerate import RegenerateOptions, box_in_view, choose, clean_views, inside, look_around, regenerate
from pixworld.render import render
from pixworld.views import Cancelled, InputError


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of a tiny untrained model."""
    torch.manual_seed(0)
    config = PixWorldConfig(width=32, depth=1, heads=2, text="words", text_width=16, size=16)
    save_checkpoint(tmp_path / "weights", config, config.build().state_dict())
    return tmp_path / "weights"


def box_at(centre, half, turn=0.0) -> torch.Tensor:
    box = torch.eye(4, dtype=torch.float64)
    c, s = torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn))
    box[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]) * torch.tensor(half)
    box[:3, 3] = torch.tensor(centre)
    return box


def wall() -> Gaussians:
    """A grey wall at z = 4, 8 units wide and 6 high."""
    y, x = torch.meshgrid(torch.linspace(-3, 3, 31), torch.linspace(-4, 4, 41), indexing="ij")
    means = torch.stack([x, y, torch.full_like(x, 4.0)], dim=-1).reshape(-1, 3)
    n = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone()
    scales = torch.tensor([0.15, 0.15, 0.01]).expand(n, 3).clone()
    return Gaussians(means, quats, scales, torch.full((n,), 0.95), torch.zeros(n, 1, 3))


def cameras_on_a_line(n=8) -> list[Cameras]:
    """Side by side, all looking along z."""
    eye = torch.stack([torch.linspace(-3, 3, n), torch.zeros(n), torch.zeros(n)], dim=-1)
    c2w = look_at(eye, eye + torch.tensor([0.0, 0, 1]), torch.tensor([0.0, -1, 0]))
    K = torch.tensor([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]])
    return [Cameras(c2w[i : i + 1], K[None], 32, 48) for i in range(n)]


def test_inside_a_turned_box():
    box = box_at([1.0, 2.0, 3.0], [0.5, 1.0, 2.0], turn=0.7)
    corner = torch.tensor([[0.99, -0.99, 0.99, 1], [1.01, 0, 0, 1], [0, 0, -1.01, 1], [0, 0, 0, 1]]).double()
    assert inside((corner @ box.T)[:, :3].float(), box).tolist() == [True, False, False, True]


def test_a_box_fills_the_pixels_that_it_projects_to():
    (camera,) = cameras_on_a_line(1)
    camera = Cameras(torch.eye(4)[None], camera.K, 32, 48)
    box = box_at([0.0, 0.0, 3.0], [0.5, 0.25, 1.0])  # its near face, at z = 2, is 20 by 10 px
    clear = torch.full((1, 32, 48), torch.inf)
    seen = box_in_view(camera, clear, box)[0]
    assert seen[11:21, 14:34].all() and seen.sum() == 200
    assert not box_in_view(camera, torch.full((1, 32, 48), 1.9), box).any()  # hidden
    assert not box_in_view(camera, clear, box_at([0.0, 0.0, -3.0], [0.5, 0.5, 0.5])).any()  # behind the camera
    assert box_in_view(camera, clear, box_at([0.0, 0.0, 0.0], [9.0, 9.0, 9.0])).all()  # around the camera


def test_who_sees_most_is_generated_and_who_sees_least_is_clean():
    views = Cameras.cat(cameras_on_a_line())
    chosen = choose(views, *look_around(wall(), views, box_at([3.0, 0.0, 3.0], [0.5, 0.5, 0.5]), lambda *_: None))
    assert chosen.generated == [5, 6, 7] and len(chosen.clean) == 4  # the fourth best does not see it
    assert set(chosen.clean) <= {0, 1, 2, 3, 4} and 0 in chosen.clean
    few = views.select([0, 7])
    assert choose(few, torch.tensor([0.1, 0.2]), torch.ones(2)) == ([0], [1])
    one = views.select([7])
    assert choose(one, torch.tensor([0.2]), torch.ones(1)) == ([0], [0])  # what is around the box in the same view
    with pytest.raises(InputError, match="no camera sees the box"):
        choose(few, torch.zeros(2), torch.ones(2))
    with pytest.raises(InputError, match="make the box smaller"):
        choose(few, torch.ones(2), torch.zeros(2))


def test_clean_views_are_renders_with_their_depth():
    views = Cameras.cat(cameras_on_a_line(3))
    clean = clean_views(wall(), views, 0.1)
    shot = render(wall(), views, eps2d=0.1)
    solid = shot.alpha > 0.9
    assert clean.depth[solid].sub(4).abs().max() < 0.1 and (clean.depth[shot.alpha < 0.1] == 0).all()
    assert (clean.images - 0.5).abs().max() < 0.05  # holes are grey as well, not black


def test_the_result_is_in_the_box_and_the_same_again(weights):
    options = RegenerateOptions("a chair", steps=2, checkpoint=weights, device="cpu")
    box = box_at([1.0, 0.0, 4.0], [2.0, 2.0, 2.0], turn=0.3)
    said, previews = [], []
    made = [
        regenerate(wall(), cameras_on_a_line(), box, options, lambda *x: said.append(x), previews.append)
        for _ in range(2)
    ]
    assert len(made[0].gaussians) and inside(made[0].gaussians.means, box).all()
    assert torch.equal(made[0].gaussians.means, made[1].gaussians.means)
    assert len(previews) == 4 and all(inside(p.means, box).all() for p in previews)
    report = made[0].report
    assert report["replaced"] == inside(wall().means, box).sum() and report["clean"] == report["generated"] == 4
    assert said[0][0] == "look around" and said[-1] == ("generate", 2, 2)


def test_what_cannot_be_used_is_said(weights):
    def run(cameras, box, **options):
        regenerate(wall(), cameras, box, RegenerateOptions(checkpoint=weights, **options), lambda *_: None)

    box = box_at([1.0, 0.0, 4.0], [2.0, 2.0, 2.0])
    with pytest.raises(InputError, match="no camera"):
        run([], box)
    with pytest.raises(InputError, match="no volume"):
        run(cameras_on_a_line(), box_at([1.0, 0.0, 4.0], [2.0, 0.0, 2.0]))
    with pytest.raises(InputError, match="steps is 0"):
        run(cameras_on_a_line(), box, steps=0)

    def cancel(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        regenerate(wall(), cameras_on_a_line(), box, RegenerateOptions(checkpoint=weights), cancel)
