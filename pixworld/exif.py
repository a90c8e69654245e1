"""What a photo's EXIF says about its camera: focal length and position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image


def focal_length_px(image: Image.Image) -> float | None:
    """Focal length in pixels, or None where the EXIF does not say or says nonsense.

    FocalLengthIn35mmFilm is read as relative to the 36 mm side of the film, which phones and drones follow more
    closely than the diagonal.
    """
    exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
    long_side = max(image.size)
    focal_px = _number(exif, ExifTags.Base.FocalLengthIn35mmFilm) / 36 * long_side
    if not focal_px:
        # the unit of the sensor's resolution: 2 inch, 3 cm, 4 mm; counted at the size the camera wrote
        mm = {2: 25.4, 3: 10.0, 4: 1.0}.get(int(_number(exif, ExifTags.Base.FocalPlaneResolutionUnit)), 25.4)
        written = max(_number(exif, tag) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight))
        pixels_per_mm = _number(exif, ExifTags.Base.FocalPlaneXResolution) / mm * long_side / (written or long_side)
        focal_px = _number(exif, ExifTags.Base.FocalLength) * pixels_per_mm
    return focal_px if 0.2 * long_side < focal_px < 20 * long_side else None


def gps_position(image: Image.Image) -> tuple[float, float, float] | None:
    """Latitude and longitude in degrees (WGS 84) and altitude in metres, or None where one is missing or nonsense."""
    gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    latitude = _angle(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "S")
    longitude = _angle(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "W")
    if latitude is None or longitude is None or ExifTags.GPS.GPSAltitude not in gps:
        return None
    altitude = _number(gps, ExifTags.GPS.GPSAltitude)
    below_sea = gps.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01")
    # devices without a fix write zeros
    if (latitude, longitude) == (0, 0) or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude, -altitude if below_sea else altitude


def _number(tags: Mapping[int, Any], tag: int) -> float:
    """The value of a tag, 0 where it is missing or no finite number."""
    try:
        value = float(tags.get(tag, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return value if math.isfinite(value) else 0.0


def _angle(parts: Any, half: Any, negative: str) -> float | None:
    """Degrees of (degrees, minutes, seconds) in the half of the globe that a letter names."""
    try:
        degrees, minutes, seconds = (float(x) for x in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value):
        return None
    return -value if str(half).strip().upper() == negative else value
