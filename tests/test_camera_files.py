"""Camera files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

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
