"""Procedural scenes: what a seed gives, that depth, cameras and colours agree, both tracers, and banks on disk."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.data import bank, builder, checks, paths, procedural, shards, textures, trace, trace_torch, walls, world
from pixworld.views import InputError

HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def texels():
    """Two texture images in place of the library, which takes seconds to draw; scenes are told of as many as it has."""
    rng = np.random.default_rng(0)
    images = rng.integers(40, 220, (2, 8, 8, 3), dtype=np.uint8).repeat(32, 1).repeat(32, 2)
    return textures.mipmaps(images)[np.arange(world.SYNTHETIC) % 2]


def proposals(kind: str, seed: int, texels, views: int = 3):
    """A scene of one kind whose cameras can be used, with its images and depth."""
    rng = np.random.default_rng(seed)
    while True:
        scene = procedural.propose(kind, rng, views, HEIGHT / WIDTH, len(texels))
        if checks.sensible(scene, HEIGHT // 2, WIDTH // 2):
            return scene, *trace.trace(scene, texels, HEIGHT, WIDTH)


def test_a_seed_is_a_scene_and_an_index_another(texels):
    first, again, other = (shards.make_scene(*which, texels, 16, 24, 4) for which in ((5, 0), (5, 0), (5, 1)))
    assert first[0].caption == again[0].caption
    for a, b in zip(first[1:], again[1:]):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0].c2w, other[0].c2w)


@pytest.mark.parametrize("kind", procedural.KINDS)
def test_depth_and_cameras_agree(kind, texels):
    """Points lifted from one view and projected by `Cameras` have the next view's depth, and its colours."""
    scene, images, depth = proposals(kind, 1, texels)
    K = world.pixel_intrinsics(scene, HEIGHT, WIDTH)
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
    b = builder.Builder(np.random.default_rng(0), world.SYNTHETIC)
    m = b.material(1.0, patterns={world.PLAIN: 1})
    b.box((0, 0, -50), (1, 1, 1), m)  # the enclosure, out of sight
    b.box((4, 0, 0), (2, 2, 2), m)
    b.add(world.ELLIPSOID, (0, 4, 0), (1, 1.5, 1), m)
    b.add(world.CYLINDER, (-4, 0, 0), (0.5, 0.5, 1), m)
    eyes = np.zeros((4, 3))
    targets = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    c2w = paths.look_at(eyes, targets, np.zeros(4))
    built = b.world(np.ones((2, 3)), np.ones((3, 3)))
    scene = world.Scene(built, c2w, np.full(4, 1.0), 0.2, 1.0, 1.0, (0, 0), 0.4, "")
    depth, primitive = trace.probe(scene, 3, 3)
    np.testing.assert_allclose(depth[:, 1, 1], [3, 2.5, 3.5, 0], atol=1e-12)
    np.testing.assert_array_equal(primitive[:, 1, 1], [1, 2, 3, -1])
    assert trace.inside(built, np.array([[4.0, 0, 0], [0, 4, 1.05], [-4, 0.6, 0], [0, 0, 0]]), 0.1).tolist() == [
        True,
        True,
        False,
        False,
    ]


def seen_from_the_origin(b: builder.Builder, target, texels, sky=0.0):
    """Image [h w 3] and depth of a camera at the origin, without ambient light."""
    built = b.world(np.zeros((2, 3)), np.full((3, 3), sky))
    c2w = paths.look_at(np.zeros((1, 3)), np.array([target], float), np.zeros(1))
    scene = world.Scene(built, c2w, np.ones(1), 0.2, 1.0, 1.0, (0, 0), 0.4, "")
    images, depth = trace.trace(scene, texels, 30, 30)
    return images[0], depth[0]


def test_a_mirror_shows_what_is_before_it(texels):
    b = builder.Builder(np.random.default_rng(0), world.SYNTHETIC)
    plain = {"patterns": {world.PLAIN: 1}}
    dark, mirror = b.material(1.0, mirror=0.0, **plain), b.material(1.0, ("black",), mirror=1.0, **plain)
    red = b.material(1.0, ("red",), glow=2.0, mirror=0.0, **plain)
    b.box((0, 0, -50), (1, 1, 1), dark)  # the enclosure, out of sight
    b.box((3, 0, 0), (2, 8, 8), mirror)
    b.add(world.ELLIPSOID, (-3, 0, 0), (1, 1, 1), red)
    image, depth = seen_from_the_origin(b, (1, 0, 0), texels, sky=0.3)
    np.testing.assert_allclose(depth, 2, atol=1e-9)  # of the mirror, not of what is in it
    r, g, _ = image[15, 15].astype(int)
    assert r > 1.5 * g  # the ball, 5 behind the glass
    edge = image[1, 1].astype(int)
    assert np.ptp(edge) <= 1  # the grey sky


def test_a_wall_with_a_window_is_the_wall_without_the_window(texels):
    images = []
    for holes in ([], [walls._Item("window", 0.3, 1.4, 1.0, 0.8)]):
        b = builder.Builder(np.random.default_rng(0), world.SYNTHETIC)
        m = b.material(1.0, patterns={world.CHECKER: 1}, glow=1.0, mirror=0.0)
        b.box((0, 0, -50), (1, 1, 1), m)
        b.place(0, -2, -1.2)
        walls._pierced(b, 4.0, 2.5, 0.2, m, holes)
        images.append(seen_from_the_origin(b, (0, -1, 0), texels, sky=0.2))
    (solid, depth), (pierced, through) = images
    hole = (depth > 0) & (through == 0)
    assert 120 < hole.sum() <= 180  # 1 x 0.8 at a distance of 2, 15 x 12 pixels, less the wall's thickness
    beside = (depth > 0) & (depth == through)
    difference = (solid.astype(int) - pierced.astype(int))[beside]  # one shade off: the sky counts in the exposure
    assert beside.sum() > 300 and np.ptp(np.percentile(difference, [2, 98])) <= 8 < np.ptp(solid[beside])


def test_captions_use_the_vocabulary():
    words, captions = set(procedural.VOCABULARY), set()
    assert 100 <= len(procedural.VOCABULARY) <= 250 and all(re.fullmatch("[a-z]+", w) for w in words)
    for kind in procedural.KINDS:
        rng = np.random.default_rng(3)
        for _ in range(25):
            caption = procedural.propose(kind, rng, 2, 2 / 3, world.SYNTHETIC).caption
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
    scene, images, depth = shards.make_scene(4, 2, texels, 16, 24, 4)
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
    monkeypatch.setattr(shards, "SHARD", 1)
    settings = {"scenes": 3, "seed": 4, "height": 16, "width": 24, "views": 2, "workers": 1}
    traced, make = [], shards.make_scene

    def make_or_stop(seed, index, *rest):
        if index == 2 and 2 not in traced:
            traced.append(2)
            raise KeyboardInterrupt
        traced.append(index)
        return make(seed, index, *rest)

    monkeypatch.setattr(shards, "make_scene", make_or_stop)
    with pytest.raises(KeyboardInterrupt):
        bank.build_bank(tmp_path / "b", **settings)
    assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match="unfinished bank with other settings"):
        bank.build_bank(tmp_path / "b", **{**settings, "seed": 5})
    bank.build_bank(tmp_path / "b", **settings)
    assert traced == [0, 1, 2, 2]
    whole = tmp_path / "whole"
    bank.build_bank(whole, **settings)
    for name in (*(f"{a}.npy" for a in shards.ARRAYS), "captions.json", "meta.json"):
        assert (tmp_path / "b" / name).read_bytes() == (whole / name).read_bytes()


def test_workers_propose_and_a_device_traces(tmp_path, texels):
    """What `--device cuda` does, on the torch CPU device: the scenes of the CPU path, shard by shard, one ahead."""
    settings = {"scenes": 3, "seed": 4, "height": 16, "width": 24, "views": 2}
    for folder in ("cpu", "device"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "texels.npy", texels)
    assert list(shards.on_cpu(tmp_path / "cpu", settings, [0], workers=1)) == [3]
    with ThreadPoolExecutor(1) as pool:
        device = torch.device("cpu")
        assert list(shards.on_device(tmp_path / "device", settings, [0], pool, device)) == [3]
    captions = [(tmp_path / folder / "00000000.json").read_text() for folder in ("cpu", "device")]
    assert captions[0] == captions[1]
    load = lambda folder, name: np.load(tmp_path / folder / f"00000000.{name}.npy").astype(float)  # noqa: E731
    assert (np.abs(load("cpu", "images") - load("device", "images")) <= 2).mean() > 0.98
    assert (np.abs(load("cpu", "depth") - load("device", "depth")) <= 2e-3 * load("cpu", "depth")).mean() > 0.98
    for name in ("c2w", "K"):
        np.testing.assert_array_equal(load("cpu", name), load("device", name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(tmp_path):
    with pytest.raises(InputError, match="no CUDA device"):
        bank.build_bank(tmp_path / "new", scenes=1, seed=0, device="cuda")


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
        textures.library(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    monkeypatch.setattr(textures, "SYNTHETIC", 0)
    with pytest.raises(InputError, match="not a readable photo"):
        textures.library(tmp_path)


def test_the_library_is_the_same_every_time(monkeypatch):
    monkeypatch.setattr(textures, "SYNTHETIC", 2)
    first, again = textures.library(None), textures.library(None)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 256, 256, 3) and first.std((1, 2)).min() > 5
