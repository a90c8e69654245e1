"""Photos in."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from pixworld.cameras import Cameras
from pixworld.photos import MAX_PIXELS, load_photos, resize_photo
from pixworld.views import InputError


def photo_array(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them; the top-left corner is red."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 - 200 * x / width, 200 * y / height, 100 + 0 * x], axis=-1)
    image[: height // 3, : width // 3] = (255, 0, 0)
    return image.astype(np.uint8)


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
