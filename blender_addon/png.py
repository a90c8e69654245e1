"""Pixels of Blender as a PNG file, without any library."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def png(pixels: np.ndarray, linear: bool) -> np.ndarray:
    """The bytes u1 [n] of an 8-bit RGB file of pixels [h w c] of 0..1, the top row first.

    `linear` light is encoded as sRGB; pixels of 8-bit images are encoded already. One or two channels are grey (and
    alpha), three or four colour (and alpha); alpha is left out.
    """
    rgb = pixels[..., :3] if pixels.shape[2] > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    rgb = np.clip(np.nan_to_num(rgb), 0, 1)
    if linear:
        rgb = np.where(rgb > 0.0031308, 1.055 * rgb ** (1 / 2.4) - 0.055, 12.92 * rgb)
    height, width, _ = rgb.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, none
    rows[:, 1:] = np.round(255 * rgb).astype(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return np.frombuffer(file, np.uint8)
