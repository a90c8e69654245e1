"""Files: splats, photos, camera files, images and video."""

from __future__ import annotations

import json
import math
import os
import zlib

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from numpy.lib.recfunctions import repack_fields
from PIL import ExifTags, Image
from plyfile import PlyData, PlyElement

from pixworld.cameras import Cameras
from pixworld.files import (
    MAX_PIXELS,
    atomic,
    colour_depth,
    image_to_tensor,
    load_cameras,
    load_photos,
    resize_photo,
    save_cameras,
    save_image,
    save_video,
    tensor_to_image,
)
from pixworld.gaussians import Gaussians, quat_to_matrix
from pixworld.ply import load_ply, save_ply
from pixworld.views import InputError, NamedCamera


def random_gaussians(n: int, degree: int) -> Gaussians:
    g = torch.Generator().manual_seed(degree)
    return Gaussians(
        means=torch.randn(n, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=-1),
        scales=torch.rand(n, 3, generator=g) * 0.1 + 1e-3,
        opacities=torch.rand(n, generator=g) * 0.98 + 0.01,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=g),
    )


def photo_array(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them; the top-left corner is red."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 - 200 * x / width, 200 * y / height, 100 + 0 * x], axis=-1)
    image[: height // 3, : width // 3] = (255, 0, 0)
    return image.astype(np.uint8)


# --- splats


@pytest.mark.parametrize("degree", range(4))
def test_ply_round_trip(tmp_path, degree):
    gaussians = random_gaussians(50, degree)
    save_ply(tmp_path / "deep" / "scene.ply", gaussians, comments=["PixWorld", "two\nlines"])
    loaded = load_ply(tmp_path / "deep" / "scene.ply")
    assert loaded.sh_degree == degree
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(loaded, name), getattr(gaussians, name), rtol=2e-6, atol=1e-6)
    assert sorted(os.listdir(tmp_path / "deep")) == ["scene.ply"]


def test_ply_is_the_canonical_layout(tmp_path):
    gaussians = random_gaussians(7, 2)
    save_ply(tmp_path / "scene.ply", gaussians, comments=["made by a test"])
    ply = PlyData.read(tmp_path / "scene.ply")
    assert [e.name for e in ply.elements] == ["vertex"] and not ply.text and ply.byte_order == "<"
    assert ply.comments == ["made by a test"]
    data = ply["vertex"].data
    assert data.dtype.names == (
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(24)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    )
    assert {data.dtype[name].str for name in data.dtype.names} == {"<f4"}
    # channel-major: coefficient 1 + i of channel c is f_rest_{8 c + i}
    np.testing.assert_array_equal(data["f_rest_9"], gaussians.sh[:, 2, 1].numpy())
    np.testing.assert_array_equal(data["f_rest_16"], gaussians.sh[:, 1, 2].numpy())
    np.testing.assert_array_equal(data["rot_0"], gaussians.quats[:, 0].numpy())
    np.testing.assert_allclose(data["scale_1"], np.log(gaussians.scales[:, 1].numpy()), rtol=1e-6)
    p = gaussians.opacities.numpy()
    np.testing.assert_allclose(data["opacity"], np.log(p / (1 - p)), rtol=1e-4, atol=1e-6)


def test_ply_of_extreme_and_no_gaussians(tmp_path):
    g = random_gaussians(2, 0)
    save_ply(tmp_path / "a.ply", Gaussians(g.means, g.quats, g.scales, torch.tensor([0.0, 1.0]), g.sh))
    torch.testing.assert_close(load_ply(tmp_path / "a.ply").opacities, torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    save_ply(tmp_path / "b.ply", g.select(torch.zeros(2, dtype=torch.bool)))
    assert len(load_ply(tmp_path / "b.ply")) == 0


def test_bad_ply(tmp_path):
    path = tmp_path / "scene.ply"
    save_ply(path, random_gaussians(20, 1))
    whole = path.read_bytes()
    data = PlyData.read(path)["vertex"].data.copy()

    def refuses(content: bytes | PlyData, words: str) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.write(path)
        with pytest.raises(InputError, match=words):
            load_ply(path)

    refuses(b"", "cannot be read as a PLY")
    refuses(b"\x89PNG\r\n\x1a\n\xff\xfe", "cannot be read as a PLY")
    refuses(whole[: len(whole) // 2], "cannot be read as a PLY")
    refuses(whole.replace(b"element vertex 20", b"element vertex -1"), "cannot be read as a PLY")
    for second in (b"face", b"vertex"):
        header = b"element " + second + b" 0\nproperty float x\nend_header"
        refuses(whole.replace(b"end_header", header), "exactly one `vertex`|cannot be read as a PLY")
    refuses(PlyData([PlyElement.describe(repack_fields(data[["x", "y", "z"]]), "vertex")]), "lacks f_dc_0")
    names = [n for n in data.dtype.names if n != "f_rest_8"]
    refuses(PlyData([PlyElement.describe(repack_fields(data[names]), "vertex")]), "8 f_rest")
    data["x"][3] = np.nan
    refuses(PlyData([PlyElement.describe(data, "vertex")]), "not finite")
    data["x"], data["rot_0"], data["rot_1"], data["rot_2"], data["rot_3"] = 0, 0, 0, 0, 0
    refuses(PlyData([PlyElement.describe(data, "vertex")]), "length zero")
    with pytest.raises(InputError, match="does not exist"):
        load_ply(tmp_path / "none.ply")


def test_atomic_writes_whole_or_nothing(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as temp:
        temp.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]
    with atomic(target) as temp:
        assert temp.parent == tmp_path and temp.suffix == ".txt"
        temp.write_text("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]
    with pytest.raises(InputError, match="cannot be written"), atomic(target / "below" / "a.txt") as temp:
        temp.write_text("never")


# --- photos


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = photo_array()
    # how a camera held that way stores the upright picture
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 27
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.JPG", quality=95, exif=exif)
    (photo,), skipped = load_photos([tmp_path])
    assert photo.name == "a.JPG" and not skipped and photo.image.shape == upright.shape
    assert np.abs(photo.image.astype(int) - upright).mean() < 4
    assert photo.focal_px == pytest.approx(27 / 36 * 64)


def test_focal_from_the_sensor_resolution(tmp_path):
    exif = Image.Exif()
    ifd = exif.get_ifd(ExifTags.IFD.Exif)
    ifd[ExifTags.Base.FocalLength] = 5.0
    ifd[ExifTags.Base.FocalPlaneXResolution] = 6000.0  # pixels an inch at 640 pixels: a sensor of 2.7 mm
    ifd[ExifTags.Base.FocalPlaneResolutionUnit] = 2
    ifd[ExifTags.Base.ExifImageWidth], ifd[ExifTags.Base.ExifImageHeight] = 640, 480
    Image.fromarray(photo_array()).save(tmp_path / "a.jpg", exif=exif)  # scaled down by 10 since
    (photo,), _ = load_photos([tmp_path / "a.jpg"])
    assert photo.focal_px == pytest.approx(5 * 6000 / 25.4 / 10, rel=1e-4)


def test_pixel_formats(tmp_path):
    grey = np.linspace(0, 255, 32 * 32).reshape(32, 32)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "grey16.png")
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, :16] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    Image.fromarray(rgba[..., :3]).quantize(4).save(tmp_path / "palette.png")
    Image.fromarray(photo_array()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    photos, skipped = load_photos([tmp_path])
    images = {photo.name: photo.image for photo in photos}
    assert not skipped and list(images) == ["alpha.png", "cmyk.jpg", "grey.png", "grey16.png", "palette.png"]
    assert all(x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] == 3 for x in images.values())
    assert np.abs(images["grey16.png"].astype(int) - images["grey.png"]).max() <= 1
    assert images["alpha.png"][0, 0].tolist() == [10, 20, 30] and images["alpha.png"][0, -1].tolist() == [255] * 3
    assert images["palette.png"][0, 0].tolist() == [10, 20, 30]
    assert np.abs(images["cmyk.jpg"].astype(int) - photo_array()).mean() < 6


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("error")
def test_broken_photos_are_named_and_skipped(tmp_path):
    Image.fromarray(photo_array()).save(tmp_path / "good.jpeg")
    whole = (tmp_path / "good.jpeg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(photo_array()[:1, :1]).save(tmp_path / "one.png")
    (tmp_path / "bomb.png").write_bytes(png_header(20000, 20000))
    (tmp_path / "big.png").write_bytes(png_header(15000, MAX_PIXELS // 15000 + 1))
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a photo")
    photos, skipped = load_photos([tmp_path])
    assert [photo.name for photo in photos] == ["good.jpeg"]
    reasons = dict(skipped)
    assert set(reasons) == {"cut.jpg", "text.png", "empty.png", "one.png", "bomb.png", "big.png"}
    assert "too few" in reasons["one.png"] and "million" in reasons["big.png"]


def test_photo_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_photos([tmp_path / "none"])
    with pytest.raises(InputError, match="holds no JPEG or PNG"):
        load_photos([tmp_path])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photo_array()).save(tmp_path / folder / "x.png")
    with pytest.raises(InputError, match=r"Two photos are named x\.png"):
        load_photos([tmp_path / "a", tmp_path / "b"])
    assert len(load_photos([tmp_path / "a", tmp_path / "a" / "x.png"])[0]) == 1  # the same file twice is one
    Image.fromarray(photo_array()[:1, :1]).save(tmp_path / "one.png")
    with pytest.raises(InputError, match=r"one\.png.*too few"):
        load_photos([tmp_path / "one.png"])


def test_resize_photo():
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]]), height=48, width=64)
    image, small = resize_photo(photo_array(), camera, 24)
    assert image.shape == (24, 32, 3) and (small.height, small.width) == (24, 32)
    torch.testing.assert_close(small.K[0].diagonal(), torch.tensor([25.0, 25.0, 1.0]))
    assert resize_photo(photo_array(), camera, 512)[1] is camera


# --- images and video


def test_image_round_trip(tmp_path):
    tensor = image_to_tensor(photo_array())
    assert tensor.shape == (3, 48, 64) and tensor.max() <= 1
    np.testing.assert_array_equal(tensor_to_image(tensor), photo_array())
    save_image(tmp_path / "a.png", tensor * 2 - 0.5)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.array(image), tensor_to_image((tensor * 2 - 0.5).clamp(0, 1)))


def test_video_of_odd_size(tmp_path):
    frames = (torch.full((3, 33, 47), i / 9) for i in range(10))
    save_video(tmp_path / "a.mp4", frames, fps=10)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    meta = next(reader)
    shown = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert meta["size"] == (46, 32) and meta["codec"] == "h264" and len(shown) == 10
    assert shown == sorted(shown) and shown[0] < 10 and shown[-1] > 245
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_depth_colours():
    colours = colour_depth(torch.tensor([[0.0, 0.5, 1.0], [2.0, 4.0, 9.0]]), lo=1, hi=4)
    grey = colours.mean(dim=0)
    assert colours.shape == (3, 2, 3) and colours[:, 0, 0].tolist() == [0.5] * 3
    assert grey[0, 1] == grey[0, 2] > grey[1, 0] > grey[1, 1] == grey[1, 2]


# --- camera files


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
