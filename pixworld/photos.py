"""Photos in: decoded, upright, with what their EXIF says."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from pixworld.cameras import Cameras
from pixworld.views import InputError, Photo

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_PIXELS = 200_000_000  # of one photo, checked before its pixels are decoded
MIN_SIDE = 16  # pixels; smaller photos are skipped
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice this; its default is below what phones take


def load_photos(paths: Sequence[Path]) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Read JPEG and PNG photos from folders and files: the photos by name, and (name, reason) of those skipped.

    Raises InputError when a path is missing, two photos share a name, or none can be used.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [x for x in path.iterdir() if x.suffix.lower() in PHOTO_SUFFIXES and not x.name.startswith(".")]
            if not inside:
                raise InputError(f"The folder {path} holds no JPEG or PNG photos; give a folder of photos.")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path} does not exist; give a folder of photos or photo files.")
    if not files:
        raise InputError("No photos were given; give a folder of photos or photo files.")
    files = sorted(set(files), key=lambda x: x.name)
    for a, b in itertools.pairwise(files):
        if a.name == b.name:
            raise InputError(f"Two photos are named {a.name} ({a.parent} and {b.parent}); rename one of them.")
    photos: list[Photo] = []
    skipped: list[tuple[str, str]] = []
    for file in files:
        try:
            photos.append(_load_photo(file))
        except InputError as error:
            skipped.append((file.name, str(error)))
        except Exception as error:  # the decoders raise many kinds on broken files
            skipped.append((file.name, f"it is not a readable JPEG or PNG ({error})"))
    if not photos:
        name, reason = skipped[0]
        raise InputError(f"None of the {len(skipped)} photos can be used: of {name}, {reason}; give other photos.")
    return photos, skipped


def _load_photo(path: Path) -> Photo:
    with warnings.catch_warnings():
        # between once and twice its limit Pillow only warns; it is checked next, from the header
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=("JPEG", "PNG"))
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"its {width} x {height} pixels are more than the {MAX_PIXELS // 10**6} million allowed")
        if min(width, height) < MIN_SIDE:
            raise InputError(f"its {width} x {height} pixels are too few ({MIN_SIDE} a side at least)")
        focal_px = _exif_focal(image)
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip
            upright = Image.fromarray(
                (np.asarray(upright, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
            )
        if "A" in upright.getbands() or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright)
        return Photo(path.name, np.array(upright.convert("RGB")), focal_px)


def _exif_focal(image: Image.Image) -> float | None:
    """Focal length in pixels, or None where the EXIF does not say or says nonsense.

    FocalLengthIn35mmFilm is read as relative to the 36 mm side of the film, which phones and drones follow more
    closely than the diagonal.
    """
    exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
    long_side = max(image.size)

    def number(tag: ExifTags.Base) -> float:
        try:
            value = float(exif.get(tag, 0))
        except (TypeError, ValueError, ZeroDivisionError):
            return 0.0
        return value if math.isfinite(value) else 0.0

    focal_px = number(ExifTags.Base.FocalLengthIn35mmFilm) / 36 * long_side
    if not focal_px:
        # the unit of the sensor's resolution: 2 inch, 3 cm, 4 mm; counted at the size the camera wrote
        mm = {2: 25.4, 3: 10.0, 4: 1.0}.get(int(number(ExifTags.Base.FocalPlaneResolutionUnit)), 25.4)
        written = max(number(ExifTags.Base.ExifImageWidth), number(ExifTags.Base.ExifImageHeight)) or long_side
        pixels_per_mm = number(ExifTags.Base.FocalPlaneXResolution) / mm * long_side / written
        focal_px = number(ExifTags.Base.FocalLength) * pixels_per_mm
    return focal_px if 0.2 * long_side < focal_px < 20 * long_side else None


def resize_photo(image: UInt8[np.ndarray, "h w 3"], camera: Cameras, size: int) -> tuple[np.ndarray, Cameras]:
    """Scale an image and its camera down so that the short side is at most `size` pixels; never up."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    if scale >= 1:
        return image, camera
    new = max(1, round(height * scale)), max(1, round(width * scale))
    small = Image.fromarray(image).resize(new[::-1], Image.Resampling.LANCZOS)
    return np.array(small), camera.resize(*new)
