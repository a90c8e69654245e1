"""The pipeline's own decisions: groups, model shapes, sparse depth, the nearest photo."""

from dataclasses import replace

import pytest
import torch

from pixworld.reconstruct import choose_device, group_photos, model_shape, model_view, nearest_photo
from pixworld.views import InputError, PosedPhoto, Views


@pytest.fixture
def photos(arc):
    cameras = arc(7, 48, 64)
    points = torch.tensor([[0.0, 0, 0], [0.2, 0.1, 0.3], [0, 0, -9.0]])  # the last is behind every camera
    return [
        PosedPhoto(f"{i}.jpg", Views(torch.rand(1, 3, 48, 64), cameras.select([i])), points) for i in range(7)
    ]  # fmt: skip


def test_groups_are_even_chains_of_neighbours(photos):
    shuffled = [photos[i] for i in (3, 0, 6, 1, 5, 2, 4)]
    groups = group_photos(shuffled, views=4, size=16, patch=8)
    assert [len(g) for _, g in groups] == [4, 3] and {shape for shape, _ in groups} == {(16, 24)}
    assert sorted(p.name for _, g in groups for p in g) == [p.name for p in photos]


def test_photos_of_other_shapes_form_their_own_groups(photos, arc):
    upright = replace(photos[0], views=Views(torch.rand(1, 3, 64, 48), arc(7, 64, 48).select([0])))
    shapes = {shape for shape, _ in group_photos([*photos, upright], views=8, size=16, patch=8)}
    assert shapes == {(16, 24), (24, 16)}


def test_model_shape_is_a_multiple_of_the_patch(arc):
    assert model_shape(arc(1, 512, 683).select([0]), 64, 8) == (64, 88)
    assert model_shape(arc(1, 900, 500).select([0]), 64, 8) == (112, 64)


def test_model_view_carries_the_points_as_depth(photos):
    view = model_view(photos[3], 16, 24)
    assert view.images.shape == (1, 3, 16, 24)
    pixels, depth = view.cameras.project(photos[3].points[:2])
    known = view.depth > 0
    assert known.sum() == 2
    for (x, y), z in zip(pixels[0], depth[0], strict=True):
        assert torch.allclose(view.depth[0, int(y), int(x)], z)


def test_the_nearest_photo_is_the_neighbour(photos):
    assert nearest_photo(photos[2], [photos[0], photos[3], photos[6]]).name == "3.jpg"


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="no CUDA"):
        choose_device("cuda")
