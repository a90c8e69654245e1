"""A photo lifted to a depth that was guessed at a smaller size, and what may stand before it."""

from dataclasses import replace

import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.detail import guided_filter, lift_photo
from pixworld.gaussians import Gaussians
from pixworld.metrics import psnr
from pixworld.render import render
from pixworld.views import Views
from pixworld.visibility import out_of_sight

HEIGHT, WIDTH, FACTOR = 64, 96, 4


def scene(noise: float = 0.0) -> tuple[Views, torch.Tensor]:
    """A dark box at z = 2 before a bright wall at z = 4, and their depth at a quarter of the size."""
    K = torch.tensor([[80.0, 0, WIDTH / 2], [0, 80, HEIGHT / 2], [0, 0, 1]])
    cameras = Cameras(torch.eye(4)[None], K[None], HEIGHT, WIDTH)
    y, x = torch.meshgrid(torch.arange(HEIGHT) / 64, torch.arange(WIDTH) / 64, indexing="ij")
    wall = 0.75 + 0.1 * torch.stack([torch.sin(30 * x), torch.cos(25 * y), torch.sin(20 * (x + y))])
    box = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    box[16:48, 32:64] = True
    image = torch.where(box, 0.3 * wall, wall)
    depth = torch.where(box[::FACTOR, ::FACTOR], 2.0, 4.0)[None]
    scatter = torch.randn(depth.shape, generator=torch.Generator().manual_seed(0))
    return Views(image[None], cameras), depth * torch.exp(noise * scatter)


@pytest.mark.parametrize(("noise", "least"), [(0.0, 28), (0.1, 24)])
def test_from_its_own_camera_the_lifted_photo_is_the_photo(noise, least):
    photo, depth = scene(noise)
    shown = render(lift_photo(photo, depth), photo.cameras, eps2d=0.1)
    assert psnr(shown.rgb[0], photo.images[0]) > least and shown.alpha.min() > 0.9


def test_scattered_depth_is_made_smooth_and_its_edges_are_kept():
    photo, depth = scene()
    _, guessed = scene(noise=0.1)
    lifted = photo.cameras.project(lift_photo(photo, guessed).means)[1].reshape(HEIGHT, WIDTH)
    for rows, columns in ((slice(20, 44), slice(36, 60)), (slice(0, 64), slice(0, 24))):
        surface = lifted[rows, columns].log()
        assert (surface - depth[0, rows.start // FACTOR, columns.start // FACTOR].log()).abs().mean() < 0.04
        assert surface.diff(dim=0).abs().mean() < 0.005  # of pixels a quarter as large, whose guesses differ by 0.11
    assert lifted[32, 30] > 3.6 and lifted[32, 34] < 2.3  # left and right of the edge


def test_a_guide_without_texture_leaves_a_mean():
    values = torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0))
    smooth = guided_filter(values, torch.full_like(values, 0.5))
    assert torch.allclose(smooth[0, 10, 15], values[0, 2:19, 7:24].mean(), atol=0.05)
    assert torch.allclose(guided_filter(torch.full_like(values, 3.0), values), torch.tensor(3.0), atol=1e-5)


def test_what_would_change_a_view_is_found():
    photo, depth = scene()
    cameras = photo.cameras.resize(16, 24)
    depth[0, 0, 0] = 0  # says nothing, but its neighbours do
    origins, directions = cameras.rays()

    def at(row, column, z):
        return origins[0, row, column] + z * directions[0, row, column]

    means = [at(8, 4, z) for z in (1.0, 4.0, 4.2, 4.6)] + [at(8, 12, z) for z in (1.9, 2.4)] + [at(0, 0, 1.0)]
    means += [torch.tensor([0.0, 0, -1]), torch.tensor([9.0, 0, 1])]
    gaussians = cloud(torch.stack(means), 0.1)
    changing, largest = out_of_sight(gaussians, [(cameras, depth[0])])
    assert changing.tolist() == [True, True, True, False, True, False, True, False, False]
    assert largest[~changing].min() > 0.1  # none reaches into the view


def test_what_reaches_into_a_view_from_beside_it_is_made_small_enough():
    photo, depth = scene()
    lifted = lift_photo(photo, depth)
    alone = render(lifted, photo.cameras, eps2d=0.1).rgb
    x = torch.linspace(-3, 3, 7)
    beside = cloud(torch.stack([x, torch.full_like(x, 1.4), torch.full_like(x, 3.0)], dim=-1), 0.4)  # below the frame
    changing, largest = out_of_sight(beside, [(photo.cameras.resize(16, 24), depth[0])])
    assert not changing.any()
    small = replace(beside, scales=beside.scales.minimum(largest[:, None]))
    worst = [
        (render(Gaussians.cat([lifted, g]), photo.cameras, eps2d=0.1).rgb - alone).abs().max() for g in (beside, small)
    ]
    assert worst[0] > 0.25 and worst[1] < 0.06


def cloud(means: torch.Tensor, scale: float) -> Gaussians:
    n = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(n, 4)
    return Gaussians(means, quats, torch.full((n, 3), scale), torch.full((n,), 0.9), torch.zeros(n, 1, 3))
