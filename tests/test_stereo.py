"""Plane-sweep stereo on a slanted, textured wall of known depth, and what stands in the way of views."""

from dataclasses import replace

import torch

from pixworld import stereo
from pixworld.cameras import Cameras
from pixworld.depth_hints import known_depth, resize_depth
from pixworld.methods.pixworld.model import densify_hints
from pixworld.views import PosedPhoto, Views
from pixworld.visibility import in_the_way

HEIGHT, WIDTH = 48, 64


def wall(eye_x: float, eye_y: float) -> tuple[Views, torch.Tensor]:
    """A view of the wall z = 3 + 0.3 x from a camera that looks along z, and its z-depth."""
    c2w = torch.eye(4)
    c2w[:2, 3] = torch.tensor([eye_x, eye_y])
    K = torch.tensor([[60.0, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]])
    cameras = Cameras(c2w[None], K[None], HEIGHT, WIDTH)
    origins, directions = cameras.rays()
    depth = ((3 + 0.3 * origins[..., 0]) / (directions[..., 2] - 0.3 * directions[..., 0]))[0]
    x, y, _ = (origins + depth[None, ..., None] * directions)[0].unbind(-1)
    grey = sum(torch.sin(a * x + b * y + c) for a, b, c in [(9, 3, 0), (-4, 11, 1), (17, -8, 2), (5, 19, 3)]) / 8 + 0.5
    return Views(grey[None, None].expand(-1, 3, -1, -1).clamp(0, 1), cameras), depth


def photos(count: int = 4) -> tuple[list[PosedPhoto], list[torch.Tensor]]:
    out, depths = [], []
    for i in range(count):
        views, depth = wall(0.25 * i, 0.1 * (i % 2))
        origins, directions = views.cameras.rays()
        points = (origins + depth[None, ..., None] * directions)[0, ::12, ::12].reshape(-1, 3)
        out.append(PosedPhoto(f"{i}.png", views, points))
        depths.append(depth)
    return out, depths


def test_the_depth_of_a_wall_is_found():
    given, depths = photos()
    for photo, depth in zip(stereo.match(given), depths):
        found = photo.stereo[0]
        known = found > 0
        assert known.float().mean() > 0.6
        error = (found[known].log() - depth[known].log()).abs()
        assert error.median() < 0.006 and error.quantile(0.95) < 0.03


def test_two_photos_are_enough_and_one_is_left_alone():
    given, depths = photos(2)
    found = stereo.match(given)[0].stereo[0]
    assert (found > 0).float().mean() > 0.4
    assert (found[found > 0].log() - depths[0][found > 0].log()).abs().median() < 0.01
    assert stereo.match(given[:1])[0].stereo is None


def test_photos_of_other_shapes_and_without_points_do_no_harm():
    given, depths = photos()
    upright = Views(
        given[1].views.images[..., 8:40],
        given[1].views.cameras.crop(0, 8, HEIGHT, 32),
    )
    given[1] = PosedPhoto("1.png", upright, given[1].points)
    given[2] = PosedPhoto("2.png", given[2].views, torch.zeros(0, 3))
    matched = stereo.match(given)
    assert matched[2].stereo is None and matched[1].stereo.shape == (1, HEIGHT, 32)
    found = matched[1].stereo[0]
    assert (found[found > 0].log() - depths[1][:, 8:40][found > 0].log()).abs().median() < 0.01


def test_correlation_equals_its_definition():
    given, depths = photos(2)
    grey, other = (p.views.images.mean(1, keepdim=True) for p in given)
    cameras, theirs = (p.views.cameras for p in given)
    depth = torch.stack([depths[0], 1.2 * depths[0]])
    fast = stereo.correlation(grey, cameras, other, theirs, depth, 5)
    origins, directions = cameras.rays()
    for row, column in ((20, 30), (25, 40)):
        for k in range(2):
            a, b = [], []
            for y in range(row - 2, row + 3):
                for x in range(column - 2, column + 3):
                    point = origins[0, y, x] + depth[k, y, x] * directions[0, y, x]
                    pixel = theirs.project(point[None])[0][0, 0] - 0.5
                    left, top = pixel.floor().long().tolist()
                    fx, fy = (pixel - pixel.floor()).tolist()
                    corners = other[0, 0, top : top + 2, left : left + 2]
                    b.append(torch.tensor([1 - fy, fy]) @ corners @ torch.tensor([1 - fx, fx]))
                    a.append(grey[0, 0, y, x])
            a, b = torch.stack(a), torch.stack(b)
            slow = (a * b).mean() - a.mean() * b.mean()
            variances = (x.var(correction=0) + stereo.FLAT for x in (a, b))
            slow = slow / torch.sqrt(next(variances) * next(variances))
            assert abs(fast[k, row, column] - slow) < 1e-3
    assert fast[0, 20, 30] > 0.99 > fast[1, 20, 30]


def test_semi_global_scores_equal_their_definition():
    scores = torch.rand(6, 4, 5, generator=torch.Generator().manual_seed(1))

    def cost(a: int, b: int) -> float:  # of another depth at the pixel before
        return (0.0, stereo.STEP)[abs(a - b)] if abs(a - b) < 2 else stereo.JUMP

    def along(y: int, x: int, dy: int, dx: int) -> list[float]:
        before = (y - dy, x - dx)
        if not (0 <= before[0] < 4 and 0 <= before[1] < 5):
            return scores[:, y, x].tolist()
        path = along(*before, dy, dx)
        best = [max(path[b] - cost(a, b) for b in range(6)) for a in range(6)]
        return [scores[a, y, x].item() + best[a] - max(path) for a in range(6)]

    found = stereo.semi_global(scores)
    for y, x in ((0, 0), (3, 4), (2, 1)):
        paths = [along(y, x, dy, dx) for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        torch.testing.assert_close(found[:, y, x], torch.tensor(paths).sum(0))


def test_a_depth_is_confirmed_there_and_back():
    """Between cameras far apart a depth 2.8 % off comes back pixels away; between near ones it does not."""
    for distance, agreed in ((0.1, True), (2.4, False)):
        views, depth = wall(0, 0)
        other, theirs = wall(distance, 0)
        off = [(theirs.log()[None] + 0.028, other.cameras)]
        column, _, _ = stereo._seen_at(views.cameras, other.cameras, depth[None])
        seen = (column > 1) & (column < WIDTH - 1)
        count = stereo.confirmations(depth.log()[None], views.cameras, off)
        assert seen.any() and bool(count[seen].float().mean() > 0.9) is agreed
        exact = stereo.confirmations(depth.log()[None], views.cameras, [(theirs.log()[None], other.cameras)])
        assert exact[seen].float().mean() > 0.9


def test_speckles_are_not_supported():
    log_depth = torch.zeros(1, 12, 12)
    sure = torch.zeros(1, 12, 12, dtype=torch.bool)
    sure[0, 2:8, 2:8] = True  # a patch,
    sure[0, 10, 10] = True  # a lone pixel,
    sure[0, :3, 9:] = True  # a patch in a corner,
    log_depth[0, 5, 5] = 1.0  # and one of another depth in the patch
    kept = stereo.supported(log_depth, sure)
    assert (
        kept[0, 3:7, 3:7].sum() == 15
        and kept[0, :2, 10:].all()
        and not kept[0, 10, 10]
        and not kept[0, 5, 5]
        and not (kept & ~sure).any()
    )


def test_depth_of_another_size_keeps_its_values():
    depth = torch.zeros(1, 6, 9)
    depth[0, :3, :3] = torch.tensor([[2.0, 2, 9], [2, 2, 0], [2, 2, 2]])
    small = resize_depth(depth, 2, 3)
    assert small.tolist() == [[[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    large = resize_depth(small, 6, 9)
    assert (large > 0).sum() == 1 and large[0, 1, 1] == 2


def test_stereo_goes_before_points():
    given, _ = photos(2)
    views = given[0].views
    stereo_depth = torch.zeros(1, HEIGHT, WIDTH)
    stereo_depth[0, 0, 0] = 7.0
    both = PosedPhoto("0.png", views, given[0].points, stereo_depth)
    depth = known_depth(both, views.cameras)
    assert depth[0, 0, 0] == 7.0 and 0 < (depth > 0).sum() <= len(given[0].points) + 1


def test_what_stands_before_a_surface_is_in_the_way():
    views, depth = wall(0.0, 0.0)
    origins, directions = views.cameras.rays()
    on, before, behind = ((origins + k * depth[None, ..., None] * directions)[0, 10, 10] for k in (1, 0.7, 1.5))
    outside = torch.tensor([0.0, 0, -1])
    points = torch.stack([on, before, behind, outside])
    view, closer = (views.cameras, depth), (views.cameras, 0.7 * depth)
    assert in_the_way(points, 3 * [view]).tolist() == [False, True, False, False]
    assert not in_the_way(points, 2 * [view]).any()
    # three views that see it there themselves make up for one whose sight it blocks
    assert in_the_way(points, [view, *3 * [closer]])[1].item() is False
    assert in_the_way(points, [view, *2 * [closer]])[1].item() is True


def sparse_scenes() -> tuple[Views, torch.Tensor]:
    """Two scenes alike, [2 4 ..], with a known depth every 12 pixels; and their depth."""
    made = [wall(0.25 * i, 0.1 * (i % 2)) for i in range(4)]
    one, depth = Views.cat([views for views, _ in made]), torch.stack([depth for _, depth in made])
    sparse = torch.zeros_like(depth)
    sparse[:, ::12, ::12] = depth[:, ::12, ::12]
    cameras = replace(one.cameras, c2w=one.cameras.c2w.expand(2, -1, -1, -1), K=one.cameras.K.expand(2, -1, -1, -1))
    return Views(one.images.expand(2, -1, -1, -1, -1), cameras, sparse.expand(2, -1, -1, -1)), depth


def test_hints_of_training_are_densified_as_photos_are():
    views, depth = sparse_scenes()
    dense = densify_hints(views, 1.0, torch.Generator()).depth
    known = dense[0] > 0
    assert known.float().mean() > 0.6
    assert (dense[0][known].log() - depth[known].log()).abs().median() < 0.01
    photos = [photo(views, i) for i in range(4)]
    assert torch.equal(dense[1], torch.cat([known_depth(p, p.views.cameras) for p in stereo.match(photos)]))


def test_a_share_of_the_scenes_is_densified():
    views, _ = sparse_scenes()
    assert torch.equal(densify_hints(views, 0.0, torch.Generator()).depth, views.depth)
    generator = torch.Generator().manual_seed(1)
    counts = [(densify_hints(views, 0.5, generator).depth > 0).flatten(1).sum(1) for _ in range(6)]
    few = (views.depth[0] > 0).sum()
    assert 0 < sum(int((c == few).sum()) for c in counts) < 12


def photo(views: Views, i: int) -> PosedPhoto:
    """The i-th view of the first scene as a photo with the points that are its known depth."""
    one = Views(views.images[0], replace(views.cameras, c2w=views.cameras.c2w[0], K=views.cameras.K[0])).select([i])
    origins, directions = one.cameras.rays()
    z = views.depth[0, i]
    return PosedPhoto(str(i), one, (origins + z[None, ..., None] * directions)[0][z > 0])


def test_stereo_stays_on_the_device_of_the_photos():
    """No other device is here, but torch's meta device refuses to mix with the CPU as well."""
    given, _ = photos(2)
    views = [p.views.to("meta") for p in given]
    grey = [v.images.mean(1, keepdim=True) for v in views]
    start = torch.ones(1, HEIGHT, WIDTH, device="meta")
    offsets = torch.linspace(-1, 1, 5, device="meta")
    found, score = stereo.sweep(grey[0], views[0].cameras, [(grey[1], views[1].cameras)], start, offsets, 5)
    assert found.device.type == score.device.type == "meta" and found.shape == (1, HEIGHT, WIDTH)
