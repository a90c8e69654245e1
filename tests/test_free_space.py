"""Free space: around cameras, up to the nearest surface that a photo knows; and refinement keeps it free."""

from dataclasses import replace

import pytest
import torch

from pixworld import free_space
from pixworld.cameras import Cameras, look_at
from pixworld.free_space import FEWEST, OUTLIERS, POINTS, SHARE, FreeSpace, known_points
from pixworld.gaussians import Gaussians
from pixworld.refine import CLEARED_EVERY, RefineOptions, _Refinement, refine
from pixworld.views import InputError, Views

HEIGHT, WIDTH = 24, 40


def photo(x: float, yaw: float, distance: float) -> Views:
    """From (x, 0, 0), turned about y, of a wall at right angles."""
    yaw = torch.tensor(yaw)
    eye = torch.tensor([x, 0.0, 0.0])
    c2w = look_at(eye, eye + torch.stack([yaw.sin(), torch.tensor(0.0), yaw.cos()]), torch.tensor([0.0, -1, 0]))
    K = torch.tensor([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1.0]])
    g = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, HEIGHT, WIDTH, generator=g)
    return Views(images, Cameras(c2w[None], K[None], HEIGHT, WIDTH), torch.full((1, HEIGHT, WIDTH), distance))


def depths(view: Views, *values: float) -> Views:
    """As if the photo knew these at its first pixels, and nothing else."""
    depth = torch.zeros(1, HEIGHT, WIDTH)
    depth.view(-1)[: len(values)] = torch.tensor(values)
    return replace(view, depth=depth)


def test_it_ends_where_any_photo_sees_a_surface():
    """The second looks along x, at a wall at x = 5; the third at one behind it, farther away."""
    ahead, aside, farther = photo(0.0, 0.0, 10.0), photo(1.0, torch.pi / 2, 4.0), photo(1.0, torch.pi / 2, 8.0)
    assert FreeSpace.of([ahead]).radii.tolist() == pytest.approx([SHARE * 10], rel=0.01)
    for photos in ([ahead, aside, farther], [farther, aside, ahead]):
        radii = FreeSpace.of(photos).radii.tolist()
        assert radii == pytest.approx([SHARE * (5 if p is ahead else 4) for p in photos], rel=0.01)


def test_a_few_points_that_are_wrong_do_not_count():
    view = photo(0.0, 0.0, 10.0)
    flat = view.depth.flatten()
    flat[:: int(2 / OUTLIERS)] = 0.1
    assert FreeSpace.of([view]).radii.item() == pytest.approx(SHARE * 10, rel=0.01)


@pytest.mark.parametrize("known", [0, FEWEST - 1])
def test_around_a_photo_that_knows_nothing_nothing_is_free(known):
    blind, knowing = depths(photo(0.0, 0.0, 10.0), *[10.0] * known), photo(1.0, 0.0, 10.0)
    assert FreeSpace.of([blind, replace(blind, depth=None)]).radii.tolist() == [0, 0]
    assert FreeSpace.of([blind, knowing]).radii.tolist() == pytest.approx([0, SHARE * 10], rel=0.01)
    assert not FreeSpace.of([blind]).holds(torch.zeros(1, 3)).any()


def test_points_are_where_the_depth_says():
    points, z = known_points(photo(1.0, torch.pi / 2, 4.0))
    assert torch.allclose(points[:, 0], torch.tensor(5.0), atol=1e-5)
    assert len(points) == POINTS and (z == 4).all()


def test_points_are_of_all_rows_and_columns():
    """Every other pixel of an image would be in the same columns again and again."""
    points, _ = known_points(photo(0.0, 0.0, 10.0))
    assert [len(points[:, axis].mul(100).round().unique()) for axis in (0, 1)] == [WIDTH, HEIGHT]


def test_it_holds_beside_and_behind(monkeypatch):
    """What is as near within a photo stays: it sees it itself."""
    monkeypatch.setattr(free_space, "PAIRS", 4)  # two points at once
    space = FreeSpace.of([photo(0.0, 0.0, 10.0), photo(20.0, torch.pi, 5.0)])
    around = torch.tensor([[0, 0, -1], [1.0, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, 1]])
    for ahead, x, radius in zip((1, -1), (0.0, 20.0), space.radii):
        inside, outside = (torch.tensor([x, 0, 0]) + share * radius * ahead * around for share in (0.9, 1.1))
        assert space.holds(inside).tolist() == [True, True, True, True, False]
        assert not space.holds(outside).any()


def test_far_from_the_origin_it_is_the_same():
    """Distances by the matrix product, which many points would be taken through, are wrong by metres there."""
    shift = torch.tensor([1e4, 0, 0])
    here = [photo(0.0, 0.0, 10.0), photo(1.0, 0.0, 10.0)]
    there = [photo(1e4, 0.0, 10.0), photo(1e4 + 1, 0.0, 10.0)]
    points = torch.linspace(-9, -1, 100)[:, None] * torch.tensor([0, 0, 1.0])
    spaces = FreeSpace.of(here), FreeSpace.of(there)
    assert torch.allclose(spaces[0].radii, spaces[1].radii, rtol=1e-2)
    assert (spaces[0].holds(points) == spaces[1].holds(points + shift)).float().mean() > 0.98


@pytest.mark.parametrize(
    "number, z, held", [(1, 2.9, False), (1, 3.1, True), (2, 4.9, True), (3, 4.9, False), (3, 5.1, True)]
)
def test_what_photos_see_stays(number, z, held):
    """One in the nearer half of its depths, or ENOUGH before the end of theirs."""
    view = depths(photo(0.0, 0.0, 1.0), *[1.0] * 9, *[3.0] * 9, *[5.0] * 9, 1e4)
    space = replace(FreeSpace.of([view] * number), radii=torch.full([number], 100.0))
    assert space.holds(torch.tensor([[0, 0, z]])).item() == held
    assert space.holds(torch.tensor([[0.4 * z, 0, z]])).item() == held
    assert space.holds(torch.tensor([[0, 0.4 * z, z]])).item()  # outside the frame


def test_what_a_mask_hides_is_not_seen():
    view = photo(0.0, 0.0, 10.0)
    masked = replace(view, mask=(torch.arange(WIDTH) < WIDTH // 2).expand(1, HEIGHT, WIDTH))
    points = torch.tensor([[-0.1, 0, 1.0], [0.1, 0, 1.0]])
    assert (known_points(masked)[0][:, 0] < 0).all() and (known_points(view)[0][:, 0] > 0).any()
    assert FreeSpace.of([view]).holds(points).tolist() == [False, False]
    assert FreeSpace.of([masked]).holds(points).tolist() == [False, True]


def test_a_bare_wall_that_a_camera_stood_at_stays():
    """Nothing of it is known, and it is in the balls of those who looked elsewhere; but the camera at it sees it."""
    aside = [photo(0.2 * i, torch.pi / 2, 10.0) for i in range(4)]
    at_it = depths(photo(0.0, 0.0, 10.0), *[10.0] * FEWEST)  # in a corner
    wall = torch.tensor([[0.1, 0.1, 2.0]])
    assert FreeSpace.of(aside).holds(wall).all()
    assert not FreeSpace.of([*aside, at_it]).holds(wall).any()
    assert not FreeSpace.of([*aside, replace(at_it, depth=None)]).holds(wall).any()


@pytest.fixture
def start(cloud):
    """50 Gaussians ten ahead of the camera, and 5 behind it, near."""
    shown, floating = cloud(50, degree=0), cloud(5, degree=0)
    means = shown.means * 0.1 + torch.tensor([0, 0, 10.0])
    return Gaussians.cat([replace(shown, means=means), replace(floating, means=floating.means * 0.1 - 1)])


@pytest.mark.parametrize("known", [True, False])
def test_refinement_drops_what_floats_behind_a_camera(known, start):
    """What no photo sees has no gradient; yet it hides the scene from whoever steps back."""
    view = photo(0.0, 0.0, 10.0)
    view = view if known else replace(view, depth=None)
    refined = refine(start, [view], RefineOptions(steps=1)).gaussians
    floats = (refined.means[:, 2] < 5).sum()
    assert (floats == 0) if known else (floats > 0)
    assert (refined.means[:, 2] > 5).any()


def test_what_comes_there_while_refining_goes(start):
    """At the next clearing for good; what is shown or returned before that is already without."""
    view = photo(0.0, 0.0, 10.0)
    work = _Refinement(start, [view], RefineOptions(steps=10 * CLEARED_EVERY), soft=False)
    rows = len(work.fields["means"])
    with torch.no_grad():
        work.fields["means"][:3] = -1
    for _ in range(CLEARED_EVERY - 1):
        work.step(0.0)
    assert len(work.fields["means"]) == rows and len(work.gaussians()) == rows - 3
    work.step(0.0)
    assert all(len(x) == rows - 3 for x in work.fields.values())
    work.step(0.0)


def test_when_everything_floats_it_says_so(start):
    with pytest.raises(InputError, match="give a scene and its cameras"):
        refine(start.select(start.means[:, 2] < 5), [photo(0.0, 0.0, 10.0)], RefineOptions(steps=1))


def test_something_is_left_of_a_scene_that_has_come_to_float(start):
    work = _Refinement(start, [photo(0.0, 0.0, 10.0)], RefineOptions(), soft=False)
    work.fields["means"].data[:] = -1
    work.clear()
    assert len(work.gaussians()) == len(work.fields["means"]) == 50
