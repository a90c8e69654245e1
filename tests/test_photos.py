"""Photos in."""

from __future__ import annotations

import subprocess
import zlib

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageFilter

from pixworld.cameras import Cameras
from pixworld.files import image_to_tensor, save_video
from pixworld.photos import MAX_PIXELS, load_photos, resize_mask, resize_photo
from pixworld.video import load_video, sharpest_frames
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


def test_names_get_a_suffix_that_can_be_saved(tmp_path):
    Image.fromarray(photo_array()).save(tmp_path / "one", "JPEG")
    Image.fromarray(photo_array()).save(tmp_path / "two", "PNG")
    Image.fromarray(photo_array()).save(tmp_path / "three.heic", "JPEG")  # as some phones' exports are named
    (tmp_path / "notes").write_text("no photo")
    assert [p.name for p in load_photos([tmp_path])[0]] == ["one.jpg", "two.png"]
    assert [p.name for p in load_photos([tmp_path / "three.heic"])[0]] == ["three.heic.jpg"]
    Image.fromarray(photo_array()).save(tmp_path / "one.jpg")
    with pytest.raises(InputError, match=r"2 photos would be named one\.jpg"):
        load_photos([tmp_path])


def test_icc_profiles_become_srgb(tmp_path):
    """A profile whose red, green and blue are sRGB's, and whose tone curve is linear."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = srgb.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    at = profile.index(b"para")  # the parametric curve that all three channels share: type 3, then g a b c d
    curve = b"para\0\0\0\0\0\0\0\0" + (1 << 16).to_bytes(4, "big")  # type 0: x ** 1
    profile = profile[:at] + curve + profile[at + len(curve) :]
    grey = np.full((32, 32, 3), 55, np.uint8)  # linear 0.2157
    Image.fromarray(grey).save(tmp_path / "linear.png", icc_profile=profile)
    Image.fromarray(np.dstack([grey, grey[..., :1] * 0 + 255])).save(tmp_path / "rgba.png", icc_profile=profile)
    Image.fromarray(grey).save(tmp_path / "srgb.png", icc_profile=srgb)
    Image.fromarray(grey).save(tmp_path / "broken.png", icc_profile=b"no profile")
    photos, skipped = load_photos([tmp_path])
    values = {photo.name: photo.image[5, 5].tolist() for photo in photos}
    assert not skipped and values["srgb.png"] == values["broken.png"] == [55] * 3
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    assert all(abs(x - expected) <= 2 for name in ("linear.png", "rgba.png") for x in values[name])


def gps_exif(latitude: tuple, altitude: float, below: bytes = b"\0") -> Image.Exif:
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "S", latitude
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", (151.0, 12.0, 36.0)
    gps[ExifTags.GPS.GPSAltitude], gps[ExifTags.GPS.GPSAltitudeRef] = altitude, below
    return exif


def test_gps(tmp_path):
    image = Image.fromarray(photo_array())
    image.save(tmp_path / "a.jpg", exif=gps_exif((33.0, 51.0, 18.0), 12.5))
    image.save(tmp_path / "b.jpg", exif=gps_exif((33.0, 51.0, 18.0), 2.5, b"\1"))
    image.save(tmp_path / "c.jpg", exif=gps_exif((133.0, 0.0, 0.0), 1.0))
    image.save(tmp_path / "d.jpg")
    a, b, c, d = (photo.gps for photo in load_photos([tmp_path])[0])
    assert a == pytest.approx((-33.855, 151.21, 12.5)) and b[2] == -2.5 and c is None and d is None


def test_masks(tmp_path):
    (tmp_path / "masks").mkdir()
    left = np.zeros((48, 64), np.uint8)
    left[:, :32] = 255
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.png"):
        Image.fromarray(photo_array()).save(tmp_path / name)
    Image.fromarray(left).save(tmp_path / "a.mask.png")
    Image.fromarray(left).save(tmp_path / "b.jpg.mask.png")
    Image.fromarray(left[::2, ::2]).save(tmp_path / "masks" / "c.png")  # of half the size
    Image.fromarray(np.dstack([left, left, left])).save(tmp_path / "masks" / "d.jpg.png")
    Image.fromarray(left[:30]).save(tmp_path / "masks" / "e.png")
    Image.fromarray(0 * left).save(tmp_path / "masks" / "f.png")
    Image.fromarray(np.dstack([photo_array(), left])).save(tmp_path / "g.png")
    for paths in ([tmp_path], sorted(x for x in tmp_path.iterdir() if x.is_file())):
        photos, skipped = load_photos(paths)
        assert [photo.name for photo in photos] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "g.png"]
        assert all(np.array_equal(photo.mask, left > 0) for photo in photos)
        reasons = dict(skipped)
        assert "e.png is 64 x 30 pixels" in reasons["e.jpg"] and "leaves nothing" in reasons["f.jpg"]
    Image.fromarray(np.dstack([photo_array(), 0 * left + 255])).save(tmp_path / "g.png")
    (photo,), _ = load_photos([tmp_path / "g.png"])
    assert photo.mask is None
    small = resize_mask(left > 0, 12, 15)  # the middle column stands for both sides
    assert small.shape == (12, 15) and small[:, :7].all() and not small[:, 7:].any()


def test_resize_photo():
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]]), height=48, width=64)
    image, small = resize_photo(photo_array(), camera, 24)
    assert image.shape == (24, 32, 3) and (small.height, small.width) == (24, 32)
    torch.testing.assert_close(small.K[0].diagonal(), torch.tensor([25.0, 25.0, 1.0]))
    assert resize_photo(photo_array(), camera, 512)[1] is camera


# --- video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """40 frames of noise at 20 a second, of which every fourth is sharp."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)).resize(
        (192, 144), Image.Resampling.NEAREST
    )

    def frames():
        for i in range(40):
            image = noise if i % 4 == 2 else noise.filter(ImageFilter.GaussianBlur(3))
            image = np.array(image)
            image[:8, : 4 * i] = 255  # a bar as long as the frame's index
            yield image_to_tensor(image)

    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    save_video(path, frames(), 20)
    return path


def test_a_video_gives_its_sharpest_frames(tmp_path, clip):
    photos = load_video(clip, max_frames=10)
    indices = [int(photo.name[5:11]) for photo in photos]
    assert len(photos) == 8 and all(i % 4 == 2 for i in indices) and indices == sorted(set(indices))
    for i, photo in zip(indices, photos):
        assert photo.image.shape == (144, 192, 3)
        assert (photo.image[4].mean(axis=-1) > 240).sum() >= 4 * i - 4  # the frame that the name says
    assert len(load_video(clip, max_frames=3)) == 3


def test_videos_among_the_photos(tmp_path, clip):
    photos, skipped = load_photos([clip])
    assert len(photos) == 8 and not skipped
    (tmp_path / "a.mov").write_bytes(clip.read_bytes())
    assert len(load_photos([tmp_path])[0]) == 8  # a folder without photos
    Image.fromarray(photo_array()).save(tmp_path / "still.jpg")
    assert [p.name for p in load_photos([tmp_path])[0]] == ["still.jpg"]  # the film of a live photo is no input
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:600])
    (tmp_path / "text.mp4").write_text("no video")
    photos, skipped = load_photos([tmp_path, tmp_path / "cut.mp4", tmp_path / "text.mp4", tmp_path / "a.mov"])
    assert len(photos) == 9 and [name for name, _ in skipped] == ["cut.mp4", "text.mp4"]
    assert all("cannot be read as a video" in reason for _, reason in skipped)
    with pytest.raises(InputError, match="cannot be read as a video"):
        load_video(tmp_path / "text.mp4")


def test_a_video_held_upright(tmp_path, clip):
    turned = tmp_path / "turned.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90", "-i", str(clip)]
    subprocess.run([*command, "-c", "copy", str(turned)], check=True)
    (photo, *_) = load_video(turned)
    assert photo.image.shape == (192, 144, 3)


def test_sharpest_frames():
    assert sharpest_frames(np.array([1.0, 5, 2, 3, 9, 1, 0, 7]), 4) == [1, 3, 4, 7]
    assert sharpest_frames(np.arange(3.0), 8) == [0, 1, 2]
