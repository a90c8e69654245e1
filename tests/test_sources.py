"""Real training data: every layout gives the same views, pixels and cameras agree, and what is broken is skipped."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import ExifTags, Image

from pixworld.camera_files import save_cameras
from pixworld.cameras import Cameras
from pixworld.data import frames, pseudo_depth, scene_folders, sources
from pixworld.data.sampling import training_batch
from pixworld.data.sources import open_source
from pixworld.data.stores import Folder, Tar
from pixworld.views import InputError, NamedCamera

HEIGHT, WIDTH = 48, 80
SHAPE = (24, 40)

spec = importlib.util.spec_from_file_location("prepare_scenes", Path(__file__).parents[1] / "scripts/prepare_scenes.py")
prepare_scenes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_scenes)


def ramp(height: int, width: int, blue: int = 0) -> np.ndarray:
    """An image whose red is the share of the width, and green that of the height, at every pixel's centre."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    grey = np.stack(np.broadcast_arrays(x[None], y[:, None], blue / 255), -1)
    return (255 * grey).round().astype(np.uint8)


def save(path: Path, image: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def make_cameras(n: int, arc, height: int = HEIGHT, width: int = WIDTH) -> list[NamedCamera]:
    path = arc(n, height, width)
    return [NamedCamera(f"{1000 * i}.png", path.select([i])) for i in range(n)]


def make_scene(folder: Path, arc, kind: str = "transforms", n: int = 10) -> None:
    """A scene in one of the layouts; `folder` is also the clip's name."""
    cameras = make_cameras(n, arc)
    images = folder if kind == "realestate10k" else folder / "images"
    for i, camera in enumerate(cameras):
        save(images / camera.name, ramp(HEIGHT, WIDTH, 8 * i))
    if kind == "transforms":
        save_cameras(folder / "transforms.json", cameras, images="images")
    elif kind == "realestate10k":
        save_cameras(folder.with_suffix(".txt"), cameras)
    else:
        save_cameras(folder / "sparse" / "0", cameras, kind=kind)


def make_bank(folder: Path, arc, scenes: int) -> None:
    """A bank of noise: 4 views of 24 x 40 pixels a scene."""
    folder.mkdir()
    cameras, rng = arc(4, 24, 40), np.random.default_rng(0)
    arrays = {"c2w": cameras.c2w, "K": cameras.K}
    arrays = {name: np.stack([x.numpy()] * scenes) for name, x in arrays.items()}
    arrays["images"] = rng.integers(0, 255, (scenes, 4, 24, 40, 3), dtype=np.uint8)
    arrays["depth"] = rng.random((scenes, 4, 24, 40)).astype(np.float16)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "captions.json").write_text(json.dumps([f"scene {i}" for i in range(scenes)]))
    (folder / "meta.json").write_text(json.dumps({"scenes": scenes, "views": 4, "height": 24, "width": 40}))


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def pack(folder: Path, tar: Path) -> None:
    with tarfile.open(tar, "w") as out:
        out.add(folder, folder.name)


def opened(path: Path, n: int = 4) -> sources.Scenes:
    return open_source(str(path), frames=n, shape=SHAPE)


def frame_in(folder: Path, name: str, camera: Cameras | None = None, **options) -> frames.Frame:
    return frames.Frame(Folder(folder), name, camera, **options)


# ---- one frame


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("size", [(480, 640), (1201, 901)])  # the second is decoded at 1/8, which does not divide it
@pytest.mark.parametrize("position", [(0.5, 0.5), (0.0, 1.0), (0.8, 0.1)])
def test_pixels_and_intrinsics_move_together(tmp_path, name, size, position):
    save(tmp_path / name, ramp(*size), **({"quality": 98} if name.endswith("jpg") else {}))
    K = torch.tensor([[[700.0, 0, 300], [0, 710, 250], [0, 0, 1]]])
    camera = Cameras(torch.eye(4)[None], K, *size)
    decoded = frames.decode(frame_in(tmp_path, name, camera), (96, 96), position)
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ decoded.K.inverse().T
    expected = (rays @ K[0].T)[..., :2] / torch.tensor([size[1], size[0]])
    error = (decoded.image[:2].movedim(0, -1) - expected).abs()
    assert error[2:-2, 2:-2].max() < 0.012  # of the side; a pixel is 0.0104 of the wanted image
    assert error.mean() < 0.003
    assert (decoded.depth == 0).all()


def test_a_turned_photo_is_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    save(tmp_path / "a.jpg", np.rot90(ramp(480, 320)).copy(), exif=exif, quality=98)
    image = frames.decode(frame_in(tmp_path, "a.jpg"), (48, 32)).image
    torch.testing.assert_close(image[:2, [0, -1], [0, -1]], torch.tensor([[0.0, 1], [0.0, 1]]), rtol=0, atol=0.05)


def test_distortion_is_that_of_opencv_and_is_taken_out(tmp_path):
    k = (-0.12, 0.03, 0.004, -0.006)
    camera = pycolmap.Camera(model="OPENCV", width=320, height=200, params=[250, 240, 163, 95, *k])
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).double() - 0.5
    focal, centre = torch.tensor([250.0, 240]), torch.tensor([163.0, 95])
    expected = camera.img_from_cam(np.concatenate([points.numpy(), np.ones((50, 1))], 1))
    np.testing.assert_allclose(frames.distort(points, k) * focal + centre, expected, atol=1e-9)

    save(tmp_path / "a.png", ramp(200, 320))
    K = torch.tensor([[[250.0, 0, 163], [0, 240, 95], [0, 0, 1]]])
    told = Cameras(torch.eye(4)[None], K, 200, 320)
    for strength in (1.0, -1.0):  # barrel; pincushion, of which the frame's middle is kept
        bent = tuple(strength * x for x in k)
        decoded = frames.decode(frame_in(tmp_path, "a.png", told, distortion=bent), (100, 160))
        y, x = torch.meshgrid(torch.arange(100) + 0.5, torch.arange(160) + 0.5, indexing="ij")
        rays = (torch.stack([x, y, torch.ones_like(x)], -1) @ decoded.K.inverse().T)[..., :2]
        at = (frames.distort(rays, bent) * focal + centre) / torch.tensor([320, 200])
        assert at.min() >= 0 and at.max() <= 1
        error = (decoded.image[:2].movedim(0, -1) - at).abs()
        assert error[1:-1, 1:-1].max() < 0.01
    with pytest.raises(InputError, match="too strong"):
        frames.decode(frame_in(tmp_path, "a.png", told, distortion=(9.0, 0.0, 0.0, 0.0)), (100, 160))


def test_frames_that_do_not_fit_are_refused(tmp_path):
    save(tmp_path / "a.png", ramp(40, 60))
    with pytest.raises(InputError, match="too few for 80 x 64"):
        frames.decode(frame_in(tmp_path, "a.png"), (64, 80))
    camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], 40, 40)
    with pytest.raises(InputError, match="60 x 40 pixels, its camera 40 x 40"):
        frames.decode(frame_in(tmp_path, "a.png", camera), (16, 16))


def test_depth_files_keep_what_is_known():
    depth = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)) * 30
    depth[0], depth[1, 0] = 0, 1e-6
    again = frames.read_depth(frames.write_depth(depth))
    assert torch.equal(again > 0, depth > 0)
    assert (again - depth).abs().max() <= 30 / 65535
    plain = io.BytesIO()
    Image.fromarray(np.full((2, 2), 1500, np.uint16)).save(plain, "PNG")
    assert torch.allclose(frames.read_depth(plain.getvalue()), torch.full((2, 2), 1.5))  # millimetres


# ---- layouts


@pytest.mark.parametrize("kind", ["transforms", "colmap", "colmap-text", "realestate10k"])
@pytest.mark.parametrize("where", ["folder", "tar", "shard"])
def test_every_layout_gives_the_same_views(tmp_path, arc, kind, where):
    make_scene(tmp_path / "set" / "one", arc, kind)
    path = tmp_path / "set"
    if where == "tar":
        pack(path, tmp_path / "set.tar")
        path = tmp_path / "set.tar"
    if where == "shard":
        prepare_scenes.prepare(path, tmp_path / "shards", size=HEIGHT)
        path = tmp_path / "shards"
    source = opened(path)
    assert len(source) == 1 and "of which 0 could not be used" in source.report()
    views = source.views(0)
    index = [round(x) for x in (views.images[:, 2].mean((1, 2)) * 255 / 8).tolist()]
    stride = index[1] - index[0]
    assert index == list(range(index[0], index[0] + 4 * stride, stride))  # in path order, evenly
    truth = arc(10, HEIGHT, WIDTH).select(index).resize(*SHAPE)
    first = truth.w2c[0] @ truth.c2w
    extent = first[:, :3, 3].norm(dim=-1).max()
    torch.testing.assert_close(views.cameras.c2w[:, :3, :3], first[:, :3, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(views.cameras.positions, first[:, :3, 3] / extent, rtol=0, atol=1e-4)
    torch.testing.assert_close(views.cameras.K, truth.K, rtol=0, atol=1e-3)
    expected = torch.from_numpy(ramp(*SHAPE)).movedim(-1, 0)[:2] / 255
    assert (views.images[:, :2] - expected).abs().mean() < 0.01


def test_dl3dv_reads_the_small_copies(tmp_path, arc):
    """Its JSON speaks of images/ at the video's size, and has lens distortion."""
    scene = tmp_path / "1K" / "0a1b"
    cameras = make_cameras(5, arc, 960, 1600)
    for camera in cameras:
        save(scene / "images_8" / camera.name, ramp(120, 200, 80))
        save(scene / "images_4" / camera.name, ramp(240, 400, 40))
    save_cameras(scene / "transforms.json", cameras, images="images")
    edit(scene / "transforms.json", camera_model="OPENCV", k1=0.01, k2=-0.002, p1=1e-4, p2=0.0, caption="a park")
    small, large = (open_source(str(tmp_path), frames=3, shape=shape).views(0) for shape in ((96, 160), (144, 240)))
    assert small.images[0, 2].mean() * 255 == pytest.approx(80, abs=1)
    assert large.images[0, 2].mean() * 255 == pytest.approx(40, abs=1)
    assert small.text == ("a park",)
    clip = scene_folders.load_clip(next(scene_folders.find_scenes(Folder(tmp_path))), 96)
    assert clip.frames[0].distortion == (0.01, -0.002, 1e-4, 0.0)
    focal = small.cameras.K[0, 0, 0].item() / large.cameras.K[0, 0, 0].item()
    assert focal == pytest.approx(160 / 240, rel=1e-3)


def test_nerf_synthetic_names_without_suffix_or_size(tmp_path, arc):
    cameras = make_cameras(4, arc)
    content = []
    for i, camera in enumerate(cameras):
        rgba = np.dstack([ramp(HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH), np.uint8)])
        save(tmp_path / "train" / f"r_{i + 8}.png", rgba)
        matrix = camera.cameras.c2w[0].double().numpy() @ np.diag([1.0, -1, -1, 1])
        content.append({"file_path": f"./train/r_{i + 8}", "transform_matrix": matrix.tolist()})
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.9, "frames": content}))
    clip = scene_folders.load_clip(next(scene_folders.find_scenes(Folder(tmp_path))), 16)
    assert [x.image for x in clip.frames] == [f"train/r_{i}.png" for i in (8, 9, 10, 11)]  # 10 behind 9
    views = opened(tmp_path).views(0)
    assert views.images.min() == 1  # transparent is white
    assert views.cameras.K[0, 0, 0].item() == pytest.approx(SHAPE[1] / 2 / np.tan(0.45), rel=1e-4)


def test_strides_stay_in_the_range_of_the_set(tmp_path, arc):
    make_scene(tmp_path / "one", arc, n=30)
    edit(tmp_path / "one" / "transforms.json", stride=[2, 5])
    source, rng, seen = opened(tmp_path), np.random.default_rng(0), set()
    for _ in range(20):
        views = source.sample(0, rng, 2, (12, 20))
        index = (views.images[:, 2].mean((1, 2)) * 255 / 8).round()
        seen.add(int(index[1] - index[0]))
    assert seen == {2, 3, 4, 5}
    assert len(source.sample(0, rng, 20, (12, 20))) == 20  # of 30 frames: the range gives way


def test_photos_are_scenes_of_one_view(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 72
    save(tmp_path / "a.jpg", ramp(480, 800), exif=exif)
    save(tmp_path / "b" / "b.png", ramp(HEIGHT, WIDTH))
    (tmp_path / "a.txt").write_text("a ramp\n")
    (tmp_path / "b" / "b.json").write_text('{"prompt": "another"}')
    prepare_scenes.prepare(tmp_path, tmp_path / "out" / "shards", size=24)
    for path in (tmp_path, tmp_path / "out" / "shards"):
        source = opened(path)
        assert len(source) == 2
        a, b = source.views(0), source.sample(1, np.random.default_rng(0), 4, SHAPE)
        assert a.text == ("a ramp",) and a.images.shape == (1, 3, *SHAPE)
        assert a.cameras.K[0, 0, 0].item() == pytest.approx(2 * 40) and (a.depth == 0).all()
        assert b.cameras.K[0, 0, 0].item() == pytest.approx(40)  # unknown: the long side
        assert b.text == ("another",)


# ---- depth


def test_pseudo_depth_is_cached_beside_the_frames(tmp_path, arc):
    make_scene(tmp_path / "one", arc, n=5)
    asked = []

    def estimate(views):
        asked.append(len(views))
        # twice the distance of the cameras' path's first, and a ramp over the width
        return 8.0 + views.images[:, 0]

    assert pseudo_depth.cache_depth(tmp_path, estimate, views=3) == []
    assert asked == [3, 2]
    (tmp_path / "one" / "images" / "0.depth.png").unlink()
    pseudo_depth.cache_depth(tmp_path, estimate)
    assert asked == [3, 2, 1]  # what is there stays
    views = opened(tmp_path, 5).views(0)
    clip = scene_folders.load_clip(next(scene_folders.find_scenes(Folder(tmp_path))), 16)
    extent = max((x.camera.positions - clip.frames[0].camera.positions).norm().item() for x in clip.frames)
    torch.testing.assert_close(views.depth * extent, 8.0 + views.images[:, 0], rtol=0, atol=0.02)
    prepare_scenes.prepare(tmp_path, tmp_path / "shards", size=24)
    again = opened(tmp_path / "shards", 5).views(0)
    torch.testing.assert_close(again.depth, views.depth, rtol=2e-3, atol=0)


def test_exact_depth_of_nerfstudio(tmp_path, arc):
    make_scene(tmp_path, arc, n=4)
    content = json.loads((tmp_path / "transforms.json").read_text())
    save(tmp_path / "depth" / "d.png", np.full((HEIGHT, WIDTH), 2500, np.uint16))
    content["frames"][1]["depth_file_path"] = "depth/d.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    views = opened(tmp_path).views(0)
    extent = arc(4).positions.sub(arc(4).positions[0]).norm(dim=-1).max()
    assert torch.allclose(views.depth[1] * extent, torch.tensor(2.5), atol=1e-4)
    assert (views.depth[[0, 2, 3]] == 0).all()


# ---- what is broken


def test_bad_scenes_are_named_counted_and_replaced(tmp_path, arc, capsys):
    for name in "abcdef":
        make_scene(tmp_path / name, arc, n=5)
    (tmp_path / "a" / "transforms.json").write_text("{")
    (tmp_path / "c" / "images" / "2000.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")  # seen only when it is drawn
    for image in (tmp_path / "d" / "images").iterdir():
        image.unlink()
    edit(tmp_path / "e" / "transforms.json", camera_model="OPENCV_FISHEYE")
    source = opened(tmp_path)

    def draws(source, scenes):
        return [source.sample(i, np.random.default_rng([i, 7]), 4, SHAPE) for i in scenes]

    views = draws(source, range(6))
    assert sorted(source.bad) == [0, 2, 3, 4]
    err = capsys.readouterr().err
    draws(source, range(6))
    assert capsys.readouterr().err == ""  # said once
    report = source.report()
    assert "6 scenes, of which 4 could not be used" in report
    for name, reason in {"/a": "JSON", "/c": "2000.png|image", "/d": "images", "/e": "OPENCV_FISHEYE"}.items():
        assert f"{tmp_path.name}{name}: " in err and f"skipped {tmp_path.name}{name}: " in report, reason
    # what takes the place depends on the draw alone, not on what was met before
    for i in (4, 3, 0):
        assert torch.equal(draws(opened(tmp_path), [i])[0].images, views[i].images)


def test_no_usable_scene_is_an_error(tmp_path, arc):
    make_scene(tmp_path / "one", arc, n=3)
    with pytest.raises(InputError, match=r"No scene of .* can be used; of .*/one: it has 3 frames, 4 are wanted"):
        opened(tmp_path).views(0)
    (tmp_path / "empty").mkdir()
    for path, words in {
        "absent": "does not exist; give a bank",
        "empty": "holds no scenes; give",
        "one:0": "weight above 0",
        "": "is not a data set",
    }.items():
        with pytest.raises(InputError, match=words):
            open_source(f"{tmp_path}/{path}" if path else "")


@pytest.mark.parametrize("damage", ["cut", "header", "zip", "nothing"])
def test_a_corrupt_shard_never_stops_a_run(tmp_path, arc, damage, capsys):
    whole, broken = tmp_path / "a.tar", tmp_path / "b.tar"
    for name, tar in (("one", whole), ("two", broken)):
        for part in "xyz":
            make_scene(tmp_path / name / part, arc, n=4)
        prepare_scenes.prepare(tmp_path / name, tmp_path / f"{name}-shards", size=24)
        next((tmp_path / f"{name}-shards").glob("*.tar")).rename(tar)
    names = list(Tar(broken).members)
    at = Tar(broken).members[names[len(names) // 2]][0]  # in the second scene's
    data = bytearray(broken.read_bytes())
    if damage == "cut":
        data = data[: at + 10]
    elif damage == "header":
        data[at - 512 : at] = b"?" * 512
    elif damage == "zip":
        data = b"PK\3\4" + bytes(600)
    else:
        data = b""
    broken.write_bytes(data)
    folder = tmp_path / "shards"
    folder.mkdir()
    for tar in (whole, broken):
        tar.rename(folder / tar.name)
    source = opened(folder)
    said = capsys.readouterr().err
    assert "shard b.tar: it is" in said and "shard b.tar" in source.report()
    assert len(source) == (5 if damage in ("cut", "header") else 3)
    for i in range(len(source)):  # the scene that was cut has too few frames left
        assert len(source.sample(i, np.random.default_rng(i), 4, SHAPE)) == 4
    assert len(source.bad) == (1 if damage in ("cut", "header") else 0)


# ---- shards and mixtures


def test_a_stopped_conversion_goes_on(tmp_path, arc, monkeypatch, capsys):
    for name in "abc":
        make_scene(tmp_path / "set" / name, arc, n=4)
    make_scene(tmp_path / "set" / "bad", arc, n=4)
    (tmp_path / "set" / "bad" / "transforms.json").write_text("{")
    convert, asked = prepare_scenes.convert, []

    def convert_or_stop(entry, size):
        asked.append(entry.path)
        if entry.path == "b" and asked.count("b") == 1:
            raise KeyboardInterrupt
        return convert(entry, size)

    monkeypatch.setattr(prepare_scenes, "convert", convert_or_stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_scenes.prepare(tmp_path / "set", tmp_path / "out", size=24, shard_mb=0)
    assert [x.name for x in sorted((tmp_path / "out").iterdir())] == ["prepare.json", "shard-00000.tar"]
    with pytest.raises(InputError, match="other settings"):
        prepare_scenes.prepare(tmp_path / "set", tmp_path / "out", size=30)
    prepare_scenes.prepare(tmp_path / "set", tmp_path / "out", size=24, shard_mb=0)
    assert asked == ["a", "b", "bad", "b", "c"] or asked == ["a", "b", "b", "bad", "c"]
    assert "skipped set/bad" in capsys.readouterr().err
    prepare_scenes.prepare(tmp_path / "set", tmp_path / "straight", size=24, shard_mb=0)
    for name in (f"shard-{i:05d}.tar" for i in range(3)):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert len(opened(tmp_path / "out")) == 3


def test_a_mixture_draws_one_kind_at_a_time(tmp_path, arc):
    make_bank(tmp_path / "bank", arc, scenes=4)
    for name in "ab":
        make_scene(tmp_path / "real" / name, arc)
    save(tmp_path / "photos" / "p.jpg", ramp(HEIGHT, WIDTH))
    spec = f"{tmp_path}/bank:2,{tmp_path}/real,{tmp_path}/photos:1"
    source = open_source(spec)
    assert len(source) == 7 and source.frames == 4 and source.shape == (24, 40)  # the bank's
    assert torch.equal(source.views(6).images, open_source(f"{tmp_path}/bank").views(3).images)  # the first comes last
    assert source.views(0).images.shape == (1, 3, 24, 40)
    counts = {1: 0, 4: 0}
    for step in range(40):
        views = training_batch(source, 2, 0, step, scenes=len(source) - 1)
        counts[views.images.shape[1]] += 1
        assert views.depth.shape == (*views.images.shape[:2], *views.images.shape[-2:]) and len(views.text) == 2
    assert 4 <= counts[1] <= 18  # a quarter of 40
    parts = [training_batch(source, 4, 0, 9, scenes=6, rank=rank, world=2) for rank in (0, 1)]
    whole = training_batch(source, 4, 0, 9, scenes=6)
    assert torch.equal(torch.cat([x.images for x in parts]), whole.images)
    assert torch.equal(torch.cat([x.cameras.c2w for x in parts]), whole.cameras.c2w)
    assert sum((x.text for x in parts), ()) == whole.text
    assert "4 procedural scenes" in source.report() and "photos: 1 scenes" in source.report()


def test_a_bank_can_be_cropped_for_another_shape(tmp_path, arc):
    make_bank(tmp_path / "bank", arc, scenes=1)
    source = open_source(f"{tmp_path}/bank", frames=2, shape=(32, 32))
    views, whole = source.views(0), open_source(f"{tmp_path}/bank").views(0)
    assert views.images.shape == (2, 3, 32, 32) and views.depth.shape == (2, 32, 32)
    middle = views.cameras.K[0].inverse() @ torch.tensor([16.0, 16, 1])
    assert torch.allclose(
        whole.cameras.K[0] @ middle, torch.tensor([20.0, 12, 1]), atol=0.5
    )  # whole pixels are cropped


# ---- the real thing


def test_a_real_training_set(shared):
    source = open_source(str(shared / "real" / "train"), frames=8, shape=(96, 96))
    views = source.sample(0, np.random.default_rng(0), 8, (96, 96))
    assert not source.bad
    assert views.images.std() > 0.05 and views.cameras.positions.norm(dim=-1).max().item() == pytest.approx(1, rel=1e-5)


def test_the_evaluation_sets_can_be_read(shared):
    source = open_source(str(shared / "real" / "eval"), frames=6, shape=(64, 96))
    assert len(source) == 4
    for i in range(4):
        assert source.views(i).images.shape == (6, 3, 64, 96)
    assert not source.bad
