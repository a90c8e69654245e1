"""Procedural scenes: what a seed gives, that depth, cameras and colours agree, both tracers, and banks on disk."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.data import bank, procedural, things, trace, trace_torch
from pixworld.data.sampling import training_batch
from pixworld.data.sources import open_source
from pixworld.views import InputError

HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def texels():
    """Two texture images in place of the library, which takes seconds to draw; scenes are told of as many as it has."""
    rng = np.random.default_rng(0)
    images = rng.integers(40, 220, (2, 8, 8, 3), dtype=np.uint8).repeat(32, 1).repeat(32, 2)
    return trace.mipmaps(images)[np.arange(things.SYNTHETIC) % 2]


def proposals(kind: str, seed: int, texels, views: int = 3):
    """A scene of one kind whose cameras can be used, with its images and depth."""
    rng = np.random.default_rng(seed)
    while True:
        scene = procedural.propose(kind, rng, views, HEIGHT / WIDTH, len(texels))
        if bank.sensible(scene, HEIGHT // 2, WIDTH // 2):
            return scene, *trace.trace(scene, texels, HEIGHT, WIDTH)


def test_a_seed_is_a_scene_and_an_index_another(texels):
    first, again, other = (bank.make_scene(*which, texels, 16, 24, 4) for which in ((5, 0), (5, 0), (5, 1)))
    assert first[0].caption == again[0].caption
    for a, b in zip(first[1:], again[1:]):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0].c2w, other[0].c2w)


@pytest.mark.parametrize("kind", procedural.KINDS)
def test_depth_and_cameras_agree(kind, texels):
    """Points lifted from one view and projected by `Cameras` have the next view's depth, and its colours."""
    scene, images, depth = proposals(kind, 1, texels)
    K = trace.pixel_intrinsics(scene, HEIGHT, WIDTH)
    cameras = Cameras(torch.from_numpy(scene.c2w), torch.from_numpy(K), HEIGHT, WIDTH)
    rotation = cameras.c2w[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(3, 3, 3), rtol=0, atol=1e-9)
    origins, directions = cameras.rays()
    z = torch.from_numpy(depth)
    points = (origins + z[..., None] * directions)[0][z[0] > 0]
    colours = torch.from_numpy(images[0]).double()[z[0] > 0]
    pixels, seen = cameras.select([1]).project(points)
    x, y = pixels[0].floor().long().unbind(-1)
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT) & (seen[0] > 0)
    there, expected = z[1][y[inside], x[inside]], seen[0][inside]
    visible = (there / expected - 1).abs() < 0.05
    assert visible.double().mean() > 0.5
    # nearest-pixel lookup: half a pixel of slope and texture remain
    assert (there / expected - 1)[visible].abs().median() < 0.02
    difference = (torch.from_numpy(images[1]).double()[y[inside], x[inside]] - colours[inside]).abs().mean(-1)
    shuffled = (torch.from_numpy(images[1]).double()[y[inside], x[inside]].flip(0) - colours[inside]).abs().mean(-1)
    assert difference[visible].median() < 12
    assert difference[visible].mean() < 0.6 * shuffled.mean()


@pytest.mark.parametrize("kind", procedural.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_torch_tracer_is_the_twin(kind, dtype, texels):
    scene, _, _ = proposals(kind, 2, texels, views=2)
    images, depth = trace.trace(scene, texels, 12, 18)
    twin_images, twin_depth = trace_torch.trace(scene, torch.from_numpy(texels), 12, 18, dtype)
    difference = np.abs(images.astype(int) - twin_images.numpy()).max(-1)
    assert (difference <= 2).mean() >= 0.99
    same = np.abs(depth - twin_depth.numpy()) <= 1e-3 * depth
    assert same.mean() >= (1 if dtype == torch.float64 else 0.99)


def test_known_geometry():
    """A box face, a ball, a can and the sky on the optical axis, at distances known by hand."""
    b = things.Builder(np.random.default_rng(0), things.SYNTHETIC)
    m = b.material(1.0, patterns={things.PLAIN: 1})
    b.box((0, 0, -50), (1, 1, 1), m)  # the enclosure, out of sight
    b.box((4, 0, 0), (2, 2, 2), m)
    b.add(things.ELLIPSOID, (0, 4, 0), (1, 1.5, 1), m)
    b.add(things.CYLINDER, (-4, 0, 0), (0.5, 0.5, 1), m)
    eyes = np.zeros((4, 3))
    targets = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    c2w = procedural.look_at(eyes, targets, np.zeros(4))
    world = b.world(np.ones((2, 3)), np.ones((3, 3)))
    scene = procedural.Scene(world, c2w, np.full(4, 1.0), 0.2, 1.0, 1.0, (0, 0), 0.4, "")
    depth, primitive = trace.probe(scene, 3, 3)
    np.testing.assert_allclose(depth[:, 1, 1], [3, 2.5, 3.5, 0], atol=1e-12)
    np.testing.assert_array_equal(primitive[:, 1, 1], [1, 2, 3, -1])
    assert trace.inside(world, np.array([[4.0, 0, 0], [0, 4, 1.05], [-4, 0.6, 0], [0, 0, 0]]), 0.1).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_captions_use_the_vocabulary():
    words, captions = set(procedural.VOCABULARY), set()
    assert 100 <= len(procedural.VOCABULARY) <= 250 and all(re.fullmatch("[a-z]+", w) for w in words)
    for kind in procedural.KINDS:
        rng = np.random.default_rng(3)
        for _ in range(25):
            caption = procedural.propose(kind, rng, 2, 2 / 3, things.SYNTHETIC).caption
            assert set(caption.replace(",", "").split()) <= words, caption
            captions.add(caption)
    assert len(captions) > 90


def test_a_bank_comes_back_as_it_was_traced(tmp_path, texels, monkeypatch):
    monkeypatch.setattr(bank, "mipmaps", lambda images: texels)
    monkeypatch.setattr(bank, "library", lambda folder: None)
    bank.build_bank(tmp_path / "b", scenes=3, seed=4, height=16, width=24, views=4, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    opened = bank.Bank(tmp_path / "b")
    assert len(opened) == 3
    scene, images, depth = bank.make_scene(4, 2, texels, 16, 24, 4)
    views = opened.views(2)
    assert views.text == (scene.caption,) and len(views) == 4 and views.depth.dtype == torch.float32
    np.testing.assert_array_equal((views.images * 255).round().movedim(1, -1).numpy(), images)
    np.testing.assert_allclose(views.depth.numpy(), depth, rtol=1e-3)
    np.testing.assert_allclose(views.cameras.c2w.numpy(), scene.c2w, rtol=1e-6, atol=1e-6)
    bank.contact_sheet(opened, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_stopped_bank_goes_on(tmp_path, texels, monkeypatch):
    monkeypatch.setattr(bank, "mipmaps", lambda images: texels)
    monkeypatch.setattr(bank, "library", lambda folder: None)
    monkeypatch.setattr(bank, "SHARD", 1)
    settings = {"scenes": 3, "seed": 4, "height": 16, "width": 24, "views": 2, "workers": 1}
    traced, make = [], bank.make_scene

    def make_or_stop(seed, index, *rest):
        if index == 2 and 2 not in traced:
            traced.append(2)
            raise KeyboardInterrupt
        traced.append(index)
        return make(seed, index, *rest)

    monkeypatch.setattr(bank, "make_scene", make_or_stop)
    with pytest.raises(KeyboardInterrupt):
        bank.build_bank(tmp_path / "b", **settings)
    assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match="unfinished bank with other settings"):
        bank.build_bank(tmp_path / "b", **{**settings, "seed": 5})
    bank.build_bank(tmp_path / "b", **settings)
    assert traced == [0, 1, 2, 2]
    whole = tmp_path / "whole"
    bank.build_bank(whole, **settings)
    for name in (*(f"{a}.npy" for a in bank.ARRAYS), "captions.json", "meta.json"):
        assert (tmp_path / "b" / name).read_bytes() == (whole / name).read_bytes()


def test_bad_folders_get_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"is not a bank of scenes.*python -m pixworld.data.bank"):
        bank.Bank(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({"scenes": 1}))
    (tmp_path / "captions.json").write_text("[]")
    with pytest.raises(InputError, match="is not a bank"):
        bank.Bank(tmp_path)
    with pytest.raises(InputError, match="exists already"):
        bank.build_bank(tmp_path, scenes=1, seed=0)
    with pytest.raises(InputError, match="at least one scene"):
        bank.build_bank(tmp_path / "new", scenes=0, seed=0)
    with pytest.raises(InputError, match=r"no .jpg files"):
        procedural.library(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    monkeypatch.setattr(procedural, "SYNTHETIC", 0)
    with pytest.raises(InputError, match="not a readable photo"):
        procedural.library(tmp_path)


def test_the_library_is_the_same_every_time(monkeypatch):
    monkeypatch.setattr(procedural, "SYNTHETIC", 2)
    first, again = procedural.library(None), procedural.library(None)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 256, 256, 3) and first.std((1, 2)).min() > 5


def test_ranks_share_a_batch(tmp_path, texels, monkeypatch):
    monkeypatch.setattr(bank, "mipmaps", lambda images: texels)
    monkeypatch.setattr(bank, "library", lambda folder: None)
    bank.build_bank(tmp_path / "b", scenes=3, seed=4, height=16, width=32, views=3, workers=1)
    source = open_source(str(tmp_path / "b"))
    shapes = set()
    for step in range(12):
        whole = training_batch(source, 4, 0, step, scenes=3)
        first, second = (training_batch(source, 4, 0, step, scenes=3, rank=rank, world=2) for rank in (0, 1))
        assert torch.equal(torch.cat([first.images, second.images]), whole.images)
        assert torch.equal(torch.cat([first.depth, second.depth]), whole.depth)
        assert torch.equal(torch.cat([first.cameras.K, second.cameras.K]), whole.cameras.K)
        assert first.text + second.text == whole.text
        assert torch.equal(training_batch(bank.Bank(tmp_path / "b"), 4, 0, step, 3).images, whole.images)
        shapes.add(training_batch(source, 4, 0, step, scenes=3, multiple=16).images.shape[-2:])
    assert shapes == {(16, 16), (16, 32), (32, 16)}  # sides are multiples of the patch
