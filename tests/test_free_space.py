"""Free space: around cameras, as far as no photo has seen a surface; and refinement keeps it free."""

from dataclasses import replace

import pytest
import torch

from pixworld.cameras import Cameras, look_at
from pixworld.free_space import OUTLIERS, POINTS, SHARE, FreeSpace, known_points
from pixworld.gaussians import Gaussians
from pixworld.refine import CLEARED_EVERY, RefineOptions, refine
from pixworld.views import Views

SIZE = 32


def photo(x: float, yaw: float, distance: float) -> Views:
    """From (x, 0, 0), turned about y, of a wall at right angles."""
    yaw = torch.tensor(yaw)
    eye = torch.tensor([x, 0.0, 0.0])
    c2w = look_at(eye, eye + torch.stack([yaw.sin(), torch.tensor(0.0), yaw.cos()]), torch.tensor([0.0, -1, 0]))
    K = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])
    g = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, SIZE, SIZE, generator=g)
    return Views(images, Cameras(c2w[None], K[None], SIZE, SIZE), torch.full((1, SIZE, SIZE), distance))


def test_it_ends_where_any_photo_sees_a_surface():
    ahead, aside = photo(0.0, 0.0, 10.0), photo(1.0, torch.pi / 2, 4.0)  # the second looks along x, at a wall at x = 5
    radii = FreeSpace.of([ahead, aside]).radii
    assert radii.tolist() == pytest.approx([SHARE * 5, SHARE * 4], rel=0.01)
    alone = FreeSpace.of([ahead]).radii
    assert alone.tolist() == pytest.approx([SHARE * 10], rel=0.01)


def test_a_few_points_that_are_wrong_do_not_count():
    view = photo(0.0, 0.0, 10.0)
    flat = view.depth.flatten()
    flat[:: int(2 / OUTLIERS)] = 0.1
    assert FreeSpace.of([view]).radii.item() == pytest.approx(SHARE * 10, rel=0.01)


def test_without_depth_nothing_is_free():
    unknown = [replace(photo(0.0, 0.0, 10.0), depth=d) for d in (None, torch.zeros(1, SIZE, SIZE))]
    assert not FreeSpace.of(unknown).holds(torch.zeros(1, 3)).any()


def test_points_are_where_the_depth_says():
    points = known_points(photo(1.0, torch.pi / 2, 4.0))
    assert torch.allclose(points[:, 0], torch.tensor(5.0), atol=1e-5)
    assert 0.5 * POINTS < len(points) <= POINTS


def test_it_holds_in_every_direction():
    space = FreeSpace(torch.tensor([[0.0, 0, 0], [10, 0, 0]]), torch.tensor([1.0, 2.0]))
    means = torch.tensor([[0, 0, -0.9], [0, 1.1, 0], [11.9, 0, 0], [5.0, 0, 0]])
    assert space.holds(means).tolist() == [True, False, True, False]


@pytest.mark.parametrize("known", [True, False])
def test_refinement_drops_what_floats_behind_a_camera(known, cloud):
    """What no photo sees has no gradient; yet it hides the scene from whoever steps back."""
    view = photo(0.0, 0.0, 10.0)
    view = view if known else replace(view, depth=None)
    shown, floating = cloud(50, degree=0), cloud(5, degree=0)
    means = shown.means * 0.1 + torch.tensor([0, 0, 10.0])
    start = Gaussians.cat([replace(shown, means=means), replace(floating, means=floating.means * 0.1 - 1)])
    refined = refine(start, [view], RefineOptions(steps=CLEARED_EVERY + 1)).gaussians
    floats = (refined.means[:, 2] < 5).sum()
    assert (floats == 0) if known else (floats > 0)
    assert (refined.means[:, 2] > 5).any()
