"""The start without a model."""

import pytest
import torch

from pixworld.depth_hints import point_depth
from pixworld.lift import lift_points
from pixworld.metrics import psnr
from pixworld.reconstruct import photo_view
from pixworld.render import render
from pixworld.views import InputError, PosedPhoto, Views


@pytest.fixture
def photos(arc, cloud):
    """Photos of a cloud, whose centres are the points."""
    gaussians, cameras = cloud(400, degree=0), arc(4, 48, 64)
    images = render(gaussians, cameras).rgb.clamp(0, 1)
    return [
        PosedPhoto(f"{i}", Views(images[i : i + 1], cameras.select([i])), gaussians.means[i::2][:150]) for i in range(4)
    ]


def test_it_looks_like_the_photos(photos):
    gaussians = lift_points(photos, 2000)
    assert 1800 < len(gaussians) < 2300 and gaussians.sh_degree == 0
    for photo in photos:
        image = render(gaussians, photo.views.cameras).rgb
        black = torch.zeros_like(image)
        assert psnr(image, photo.views.images) > psnr(black, photo.views.images) + 2


def test_nothing_is_lifted_outside_a_mask(photos):
    left = torch.zeros(1, 48, 64, dtype=torch.bool)
    left[:, :, :32] = True
    views = photos[0].views
    photo = PosedPhoto("a", Views(views.images, views.cameras, mask=left), photos[0].points)
    pixels, _ = views.cameras.project(lift_points([photo], 3000).means)
    points, _ = views.cameras.project(photo.points)
    outside = (pixels[0, :, 0] > 32.01).sum()
    assert outside <= (points[0, :, 0] > 32).sum()  # the points themselves may lie anywhere


def test_without_points_there_is_no_start(photos):
    none = [PosedPhoto(p.name, p.views, p.points[:0]) for p in photos]
    with pytest.raises(InputError, match="--init pixworld"):
        lift_points(none)


def test_sparse_depth_is_that_of_the_nearest_point(photos):
    cameras = photos[0].views.cameras
    origins, directions = cameras.rays()
    points = (origins + torch.tensor([3.0, 2.0])[:, None, None, None, None] * directions)[:, 0, 10, 20]
    depth = point_depth(points, cameras)
    assert depth[0, 10, 20] == pytest.approx(2.0, rel=1e-4) and (depth > 0).sum() == 1
    assert photo_view(photos[0]).depth.shape == (1, 48, 64)
