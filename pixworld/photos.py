"""Photos in: decoded, upright, in sRGB, with their masks and what their EXIF says."""

from __future__ import annotations

import io
import itertools
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageCms, ImageOps

from pixworld.cameras import Cameras
from pixworld.exif import focal_length_px, gps_position
from pixworld.video import VIDEO_SUFFIXES, load_video
from pixworld.views import InputError, Photo

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}
MASK_SUFFIX = ".mask.png"
MASK_FOLDER = "masks"
MAX_PIXELS = 200_000_000  # of one photo, checked before its pixels are decoded
MIN_SIDE = 16  # pixels; smaller photos are skipped
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice this; its default is below what phones take

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")  # how JPEG and PNG files begin
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png"}


def load_photos(paths: Sequence[Path]) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Read JPEG and PNG photos and videos, from folders and files: the photos by name, and (name, reason) of those
    skipped.

    A folder gives its photos, or its videos where it holds no photo; a video gives its sharpest frames. A mask (light
    where the photo may be used) is `NAME.mask.png` beside the photo or `masks/NAME.png` in its folder, NAME with or
    without the photo's suffix, or else the photo's alpha channel. A photo without a usual suffix is named with one.
    Raises InputError when a path is missing, two photos share a name, or none can be used.
    """
    photos: list[Photo] = []
    skipped: list[tuple[str, str]] = []
    for file in _files(paths):
        try:
            photos += load_video(file) if file.suffix.lower() in VIDEO_SUFFIXES else [_load_photo(file)]
        except InputError as error:
            skipped.append((file.name, str(error)))
        except Exception as error:  # the decoders raise many kinds on broken files
            skipped.append((file.name, f"it is not a readable JPEG or PNG ({error})"))
    if not photos:
        name, reason = skipped[0]
        who = f"{name} cannot be used" if len(skipped) == 1 else f"None of {len(skipped)} photos can be used: of {name}"
        raise InputError(f"{who}, {reason}; give other photos.")
    photos.sort(key=lambda photo: photo.name)
    for name, count in Counter(photo.name for photo in photos).items():
        if count > 1:
            raise InputError(f"{count} photos would be named {name}; rename the files or videos they come from.")
    return photos, skipped


def _files(paths: Sequence[Path]) -> list[Path]:
    """Photo and video files, sorted by name. Raises InputError."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            seen = [x for x in path.iterdir() if x.is_file() and not x.name.startswith(".")]
            inside = [x for x in seen if _is_photo(x)] or [x for x in seen if x.suffix.lower() in VIDEO_SUFFIXES]
            if not inside:
                raise InputError(f"The folder {path} holds no JPEG or PNG photos and no video; give one that does.")
            files += inside
        elif path.is_file():
            if not path.name.lower().endswith(MASK_SUFFIX):  # as `photos/*` gives them
                files.append(path)
        else:
            raise InputError(f"{path} does not exist; give a folder of photos or photo files.")
    if not files:
        raise InputError("No photos were given; give a folder of photos or photo files.")
    files = sorted(set(files), key=lambda x: x.name)
    for a, b in itertools.pairwise(files):
        if a.name == b.name:
            raise InputError(f"Two photos are named {a.name} ({a.parent} and {b.parent}); rename one of them.")
    return files


def _is_photo(file: Path) -> bool:
    if file.suffix:
        return file.suffix.lower() in PHOTO_SUFFIXES and not file.name.lower().endswith(MASK_SUFFIX)
    with file.open("rb") as stream:
        return stream.read(4).startswith(_MAGIC)


def _open(path: Path) -> Image.Image:
    """A JPEG or PNG whose header says that its pixels may be decoded."""
    with warnings.catch_warnings():
        # between once and twice its limit Pillow only warns; it is checked next, from the header
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=("JPEG", "PNG"))
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise InputError(f"its {width} x {height} pixels are more than the {MAX_PIXELS // 10**6} million allowed")
    return image


def _load_photo(path: Path) -> Photo:
    with _open(path) as image:
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise InputError(f"its {width} x {height} pixels are too few ({MIN_SIDE} a side at least)")
        name = path.name if path.suffix.lower() in PHOTO_SUFFIXES else path.name + _SUFFIX[image.format]
        focal_px, gps = focal_length_px(image), gps_position(image)
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip
            upright = Image.fromarray(
                (np.asarray(upright, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
            )
        alpha = None
        if "A" in upright.getbands() or "transparency" in upright.info:
            profile = upright.info.get("icc_profile")
            upright = upright.convert("RGBA")
            alpha = upright.getchannel("A")
            colours = _to_srgb(upright.convert("RGB"), profile)
            upright = Image.composite(colours, Image.new("RGB", upright.size, "white"), alpha)
        else:
            upright = _to_srgb(upright, upright.info.get("icc_profile"))
    mask = _mask_file(path)
    if mask is not None:
        usable = _load_mask(mask, upright.size)
    else:
        usable = None if alpha is None or alpha.getextrema()[0] > 127 else np.asarray(alpha) > 127
    if usable is not None and not usable.any():
        raise InputError(f"its mask ({mask.name if mask else 'alpha channel'}) leaves nothing of it")
    return Photo(name, np.array(upright), focal_px, usable, gps)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours in sRGB. A profile that is broken or of another kind of pixels is passed over, as browsers do."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                pixels = image.convert("RGB") if image.mode == "P" else image
                return ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB")


def _mask_file(photo: Path) -> Path | None:
    for name in (photo.name, photo.stem):
        for mask in (photo.with_name(name + MASK_SUFFIX), photo.parent / MASK_FOLDER / f"{name}.png"):
            if mask.is_file():
                return mask
    return None


def _load_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask at the size (width, height) of its upright photo, True where it is light."""
    with _open(path) as mask:
        if abs(mask.width * size[1] - mask.height * size[0]) > max(*size, *mask.size):
            raise InputError(
                f"its mask {path.name} is {mask.width} x {mask.height} pixels, the upright photo {size[0]} x {size[1]}"
            )
        return np.asarray(mask.convert("L").resize(size, Image.Resampling.NEAREST)) > 127


def resize_photo(image: UInt8[np.ndarray, "h w 3"], camera: Cameras, size: int) -> tuple[np.ndarray, Cameras]:
    """Scale an image and its camera down so that the short side is at most `size` pixels; never up."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    if scale >= 1:
        return image, camera
    new = max(1, round(height * scale)), max(1, round(width * scale))
    small = Image.fromarray(image).resize(new[::-1], Image.Resampling.LANCZOS)
    return np.array(small), camera.resize(*new)


def resize_mask(mask: Bool[np.ndarray, "h w"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """A smaller mask, True where every pixel that it stands for is."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small) == 255
