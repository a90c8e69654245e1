"""Camera files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pixworld.camera_files import load_cameras, save_cameras
from pixworld.cameras import Cameras
from pixworld.gaussians import quat_to_matrix
from pixworld.views import InputError, NamedCamera


def named_cameras() -> list[NamedCamera]:
    quats = torch.nn.functional.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[:, :3, :3] = quat_to_matrix(quats)
    c2w[:, :3, 3] = torch.tensor([[1.0, 2, 3], [-4, 5, 60]])
    K = torch.tensor([[500.0, 0, 310], [0, 510, 250], [0, 0, 1]])
    one = NamedCamera("a.jpg", Cameras(c2w[:1], K[None], height=480, width=640), "train")
    return [one, NamedCamera("b.png", Cameras(c2w[1:], K[None] * 1, height=500, width=600), None)]


def test_cameras_round_trip(tmp_path):
    cameras = named_cameras()
    save_cameras(tmp_path / "transforms.json", cameras, {"scene": "test"})
    loaded = load_cameras(tmp_path / "transforms.json")
    for a, b in zip(cameras, loaded, strict=True):
        assert (a.name, a.split, a.cameras.height, a.cameras.width) == (
            b.name,
            b.split,
            b.cameras.height,
            b.cameras.width,
        )
        torch.testing.assert_close(a.cameras.c2w, b.cameras.c2w)
        torch.testing.assert_close(a.cameras.K, b.cameras.K)
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert content["scene"] == "test" and "split" not in content["frames"][1]
    # OpenGL: the camera's y and z point the other way
    matrix = np.array(content["frames"][0]["transform_matrix"])
    np.testing.assert_allclose(matrix[:3, 1:3], -cameras[0].cameras.c2w[0, :3, 1:3].numpy(), atol=1e-6)


def frame_file(tmp_path, top: dict | None = None, **frame):
    frame = {"file_path": "images/a.jpg", "transform_matrix": np.eye(4).tolist(), **frame}
    frame = {k: v for k, v in frame.items() if v is not None}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"w": 64, "h": 48, "fl_x": 50.0, **(top or {}), "frames": [frame]}))
    return path


def test_global_intrinsics_and_defaults(tmp_path):
    top = {"camera_model": "OPENCV", "k1": 0.0, "cx": 30.0}
    (camera,) = load_cameras(frame_file(tmp_path, top, file_path="..\\images\\a.jpg", h=40))
    assert camera.name == "a.jpg" and (camera.cameras.height, camera.cameras.width) == (40, 64)
    assert camera.cameras.K[0].tolist() == [[50, 0, 30], [0, 50, 20], [0, 0, 1]]
    path = tmp_path / "transforms.json"
    frame = {"file_path": "./train/r_0", "transform_matrix": np.eye(4)[:3].tolist()}
    path.write_text(json.dumps({"camera_angle_x": math.pi / 2, "w": 64, "h": 48, "frames": [frame]}))
    (camera,) = load_cameras(path)
    assert camera.name == "r_0" and camera.cameras.K[0, 0, 0] == pytest.approx(32)
    assert camera.cameras.c2w[0].diagonal().tolist() == [1, -1, -1, 1]


def test_rotations_slightly_off_are_put_right(tmp_path):
    matrix = np.eye(4)
    matrix[0, 1] = 1e-3
    (camera,) = load_cameras(frame_file(tmp_path, transform_matrix=matrix.tolist()))
    rotation = camera.cameras.c2w[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k1": 0.1}, r"frame 0 \(a\.jpg\).*distortion.*undistort"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE is not supported"),
        ({"fl_x": 0}, "focal length"),
        ({"fl_x": float("nan")}, "fl_x is not a finite number"),
        ({"fl_x": 1e60}, "single precision"),
        ({"fl_x": 10**400}, "too large"),
        ({"fl_x": "wide"}, "fl_x is not a finite number"),
        ({"w": 0}, "whole pixels"),
        ({"h": 47.5}, "whole pixels"),
        ({"transform_matrix": (2 * np.eye(4)).tolist()}, "rigid"),
        ({"transform_matrix": np.diag([1, 1, -1, 1]).tolist()}, "rigid"),
        ({"transform_matrix": [[1, 2], [3]]}, "4 x 4"),
        ({"transform_matrix": None}, "4 x 4"),
        ({"transform_matrix": [[float("nan")] * 4] * 4}, "4 x 4 finite"),
        ({"file_path": None}, "frame 0.*no file_path"),
    ],
)
def test_bad_cameras(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        load_cameras(frame_file(tmp_path, **change))


def test_bad_camera_files(tmp_path):
    path = tmp_path / "transforms.json"
    with pytest.raises(InputError, match="does not exist"):
        load_cameras(path)
    for content, words in [
        ("{", "as JSON"),
        ("[]", "no list of"),
        ('{"frames": []}', "no list of"),
        ("[" * 10**5, "JSON"),
    ]:
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            load_cameras(path)
    frame = {"file_path": "a.jpg", "transform_matrix": np.eye(4).tolist()}
    path.write_text(json.dumps({"w": 64, "h": 48, "fl_x": 50.0, "frames": [frame, frame]}))
    with pytest.raises(InputError, match="more than once"):
        load_cameras(path)
    path.write_text(json.dumps({"h": 48, "fl_x": 50.0, "frames": [frame]}))
    with pytest.raises(InputError, match="w is missing"):
        load_cameras(path)


# --- images tell their size


def test_sizes_from_the_images(tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("RGB", (30, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    frame = {"file_path": "images/a", "transform_matrix": np.eye(4).tolist()}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"fl_x": 50.0, "frames": [frame, {**frame, "file_path": "b.jpg"}]}))
    a, b = load_cameras(path, (10, 20))
    assert (a.cameras.height, a.cameras.width, b.cameras.height, b.cameras.width) == (30, 40, 10, 20)
    assert a.cameras.K[0, :2, 2].tolist() == [20, 15]
    with pytest.raises(InputError, match=r"frame 1 \(b\.jpg\): w is missing"):
        load_cameras(path)


# --- the other kinds


def assert_same(a: NamedCamera, b: NamedCamera) -> None:
    assert (a.cameras.height, a.cameras.width) == (b.cameras.height, b.cameras.width)
    torch.testing.assert_close(a.cameras.c2w, b.cameras.c2w, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(a.cameras.K, b.cameras.K, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("kind", ["colmap", "colmap-text"])
def test_colmap_round_trip(tmp_path, kind):
    cameras = named_cameras()
    save_cameras(tmp_path / "sparse" / "0", cameras, kind=kind)
    suffix = "bin" if kind == "colmap" else "txt"
    assert (tmp_path / "sparse" / "0" / f"images.{suffix}").is_file() and not list(tmp_path.rglob(".partial*"))
    for path in (tmp_path, tmp_path / "sparse" / "0", tmp_path / "sparse" / "0" / f"cameras.{suffix}"):
        loaded = load_cameras(path)
        assert [x.name for x in loaded] == ["a.jpg", "b.png"] and [x.split for x in loaded] == [None, None]
        for a, b in zip(cameras, loaded, strict=True):
            assert_same(a, b)
    # and in COLMAP itself
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    assert model.num_reg_images() == model.num_cameras() == 2
    for camera in cameras:
        image = model.find_image_with_name(camera.name)
        w2c = camera.cameras.w2c[0, :3].double().numpy()
        np.testing.assert_allclose(image.cam_from_world().matrix(), w2c, atol=1e-5)
        np.testing.assert_allclose(model.cameras[image.camera_id].calibration_matrix(), camera.cameras.K[0], atol=1e-4)


COLMAP_TEXT = {
    "cameras.txt": "1 SIMPLE_PINHOLE 64 48 50 32 24\n",
    "images.txt": "1 1 0 0 0 1 2 3 1 left/a.jpg\n\n2 0 0 0 1 0 0 0 1 b.jpg\n\n",  # qvec wxyz, tvec: world to camera
    "points3D.txt": "",
}


def colmap_folder(tmp_path, **change):
    for name, content in {**COLMAP_TEXT, **{f"{key}.txt": value for key, value in change.items()}}.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_colmap_text_of_another_hand(tmp_path):
    a, b = load_cameras(colmap_folder(tmp_path))
    assert (a.name, b.name, a.cameras.height, a.cameras.width) == ("a.jpg", "b.jpg", 48, 64)
    assert a.cameras.K[0].tolist() == [[50, 0, 32], [0, 50, 24], [0, 0, 1]]
    assert a.cameras.positions[0].tolist() == [-1, -2, -3]
    torch.testing.assert_close(b.cameras.c2w[0].diagonal(), torch.tensor([-1.0, -1, 1, 1]))  # half a turn about z
    assert load_cameras(colmap_folder(tmp_path, cameras="1 SIMPLE_RADIAL 64 48 50 32 24 0\n"))[0].name == "a.jpg"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cameras": "1 SIMPLE_RADIAL 64 48 50 32 24 0.1\n"}, "SIMPLE_RADIAL has lens distortion; undistort"),
        ({"cameras": "1 OPENCV_FISHEYE 64 48 50 50 32 24 0 0 0 0\n"}, "OPENCV_FISHEYE has lens distortion"),
        ({"cameras": "1 SIMPLE_PINHOLE 64 48 50 32\n"}, "cannot be read as a COLMAP model"),
        ({"cameras": "one camera\n"}, "cannot be read as a COLMAP model"),
        ({"images": ""}, "no registered image"),
        ({"images": COLMAP_TEXT["images.txt"].replace("b.jpg", "right/a.jpg")}, "a.jpg more than once"),
        ({"images": "1 1 0 0 0 1 2 3 7 a.jpg\n\n"}, "a.jpg: there is no camera 7"),
    ],
)
def test_bad_colmap_models(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        load_cameras(colmap_folder(tmp_path, **change))


def test_truncated_colmap_files(tmp_path):
    save_cameras(tmp_path, named_cameras(), kind="colmap")
    for name in ("cameras.bin", "images.bin"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="COLMAP model"):
            load_cameras(tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "images.bin").unlink()
    with pytest.raises(InputError, match=r"holds no transforms\.json and no COLMAP model"):
        load_cameras(tmp_path)


def test_realestate10k_round_trip(tmp_path):
    cameras = [replace(x, name=f"{i * 66_733}.png") for i, x in enumerate(named_cameras())]
    save_cameras(tmp_path / "clip.txt", cameras)
    same_size = load_cameras(tmp_path / "clip.txt", (480, 640))
    assert [x.name for x in same_size] == ["0", "66733"]
    assert_same(cameras[0], same_size[0])
    (tmp_path / "clip").mkdir()
    Image.new("RGB", (600, 500)).save(tmp_path / "clip" / "66733.png")  # the size of the images wins
    assert_same(cameras[1], load_cameras(tmp_path / "clip.txt", (480, 640))[1])


def test_realestate10k_line(tmp_path):
    path = tmp_path / "clip.txt"
    line = "52553000 0.5 0.9 0.5 0.25 0 0 1 0 0 1 0 1 0 2 0 0 1 3"
    path.write_text("https://www.youtube.com/watch?v=x\n" + line + "\n")
    (camera,) = load_cameras(path, (100, 200))
    assert camera.name == "52553000" and camera.cameras.K[0].tolist() == [[100, 0, 100], [0, 90, 25], [0, 0, 1]]
    assert camera.cameras.positions[0].tolist() == [-1, -2, -3]
    with pytest.raises(InputError, match="line 2: the size of the images is not known"):
        load_cameras(path)
    for bad, words in [
        ("", "holds no cameras"),
        ("url\n" + line[:-2], "line 2: it is not 19 numbers"),
        (line.replace("0.9", "nan"), "line 1: it is not 19 numbers"),
        (line.replace("0.25 0 0", "0.25 0.1 0"), "distortion"),
        (line.replace(" 1 0 0 1 ", " 2 0 0 1 "), "rigid"),
        (line.replace("0.5 0.9", "0.5 -0.9"), "focal length"),
        (f"{line}\n{line}", "more than once"),
    ]:
        path.write_text(bad)
        with pytest.raises(InputError, match=words):
            load_cameras(path, (100, 200))


def test_flashworld_round_trip(tmp_path):
    first = named_cameras()[0]
    cameras = [first, replace(named_cameras()[1], cameras=named_cameras()[1].cameras.resize(480, 640))]
    save_cameras(tmp_path / "path.json", cameras, {"text_prompt": "a room"}, kind="flashworld")
    content = json.loads((tmp_path / "path.json").read_text())
    assert content["resolution"] == [2, 480, 640] and content["text_prompt"] == "a room"
    loaded = load_cameras(tmp_path / "path.json")
    assert [x.name for x in loaded] == ["0000.png", "0001.png"]
    for a, b in zip(cameras, loaded, strict=True):
        assert_same(a, b)
    with pytest.raises(InputError, match="one image size"):
        save_cameras(tmp_path / "path.json", named_cameras(), kind="flashworld")


def test_flashworld_keys_are_interpolated(tmp_path):
    """Two keys and eight frames: straight ahead, which is -z in OpenGL."""
    key = {"position": [0.0, 0.0, 0.0], "quaternion": [1.0, 0.0, 0.0, 0.0], "fx": 512, "fy": 512, "cx": 256, "cy": 192}
    trajectory = {"resolution": [8, 384, 512], "cameras": [key, {**key, "position": [0.0, 0.0, -0.7], "fx": 526}]}
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(trajectory))
    cameras = Cameras.cat([x.cameras for x in load_cameras(path)])
    assert len(cameras) == 8 and (cameras.height, cameras.width) == (384, 512)
    torch.testing.assert_close(cameras.positions[:, 2], -0.1 * torch.arange(8.0))
    torch.testing.assert_close(cameras.K[:, 0, 0], 512 + 2 * torch.arange(8.0))
    torch.testing.assert_close(cameras.c2w[0, :3, :3], torch.diag(torch.tensor([1.0, -1, -1])))
    for change, words in [
        ({"resolution": [0, 384, 512]}, "asks for 0 frames"),
        ({"resolution": [10**9, 384, 512]}, "frames; give 1 to"),
        ({"resolution": [8, 384]}, "no `resolution`"),
        ({"resolution": [8, -1, 512]}, "whole pixels"),
        ({"cameras": []}, "no list of `cameras`"),
        ({"cameras": [{**key, "quaternion": [0, 0, 0, 0]}]}, "camera 0: its quaternion"),
        ({"cameras": [key, {**key, "position": [0, 0]}]}, "camera 1: its position"),
        ({"cameras": [{**key, "fx": None}]}, "fx is missing"),
        ({"cameras": [{**key, "fx": 0}]}, "focal length"),
    ]:
        path.write_text(json.dumps({**trajectory, **change}))
        with pytest.raises(InputError, match=words):
            load_cameras(path)


def test_folders(tmp_path):
    with pytest.raises(InputError, match=r"holds no transforms\.json"):
        load_cameras(tmp_path)
    save_cameras(tmp_path / "transforms.json", named_cameras())
    assert len(load_cameras(tmp_path)) == 2
    (tmp_path / "file").write_text("")
    for kind in ("colmap", "transforms", "realestate10k"):
        with pytest.raises(InputError, match="cannot be written"):
            save_cameras(tmp_path / "file" / "below", named_cameras(), kind=kind)


@pytest.mark.parametrize("suffix", ["bin", "txt"])
def test_colmap_model_with_points_that_pycolmap_made(tmp_path, suffix):
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.camera_model_id = pycolmap.CameraModelId.PINHOLE
    options.camera_params = [1280, 1270, 512, 384]
    options.num_cameras_per_rig = 2
    model = pycolmap.synthesize_dataset(options)
    model.write_binary(tmp_path) if suffix == "bin" else model.write_text(tmp_path)
    loaded = {x.name: x.cameras for x in load_cameras(tmp_path)}
    images = [model.images[i] for i in model.reg_image_ids()]
    assert len(loaded) == len(images) == 20
    for image in images:
        camera = loaded[image.name.rsplit("/")[-1]]
        w2c = torch.from_numpy(image.cam_from_world().matrix()).float()
        torch.testing.assert_close(camera.w2c[0, :3], w2c, atol=1e-5, rtol=1e-5)
        assert camera.K[0].tolist() == [[1280, 0, 512], [0, 1270, 384], [0, 0, 1]]
