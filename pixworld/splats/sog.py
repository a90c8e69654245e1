"""SOG (Spatially Ordered Gaussians, version 2): PlayCanvas' zip of meta.json and lossless WebP images.

A Gaussian is a pixel, row by row, in every image: means_l and means_u (low and high byte of sign(x) ln(1 + |x|) between
two bounds), quats (smallest three in 8 bits, alpha = 252 + index of the largest of wxyz), scales (index into a codebook
of ln scales), sh0 (index into a codebook of coefficients; alpha = opacity), shN_labels (which entry of a palette of SH
bands), shN_centroids (the palette: 64 entries a row, a pixel a coefficient, indices into a codebook). Axes are those of
splat PLY, ours. Source: the format's specification in the PlayCanvas manual.

Gaussians are written in Morton order, in which images compress. Tolerances: means 2^-17 of their range in ln(1 + |x|),
smallest quaternion components 0.003, opacity 1/510; ln scales, colours and entries of the palette 1/254 of their range;
SH bands as far as a palette of at most 65536 reaches (each Gaussian has its own entry when there are no more of them).
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.splats.checks import check_expansion, open_splats, sound_gaussians
from pixworld.splats.codebooks import scalar_codebook, vector_codebook
from pixworld.splats.quaternions import from_smallest_three, smallest_three
from pixworld.views import InputError

_PALETTE = 1 << 16
_PALETTE_COLUMNS = 64
_BANDS = {1: 3, 2: 8, 3: 15}
_MAX_META = 1 << 20  # bytes of meta.json: codebooks of 256 numbers


def morton_order(means: Float[Tensor, "n 3"]) -> Int[Tensor, " n"]:
    """Indices that put points in Morton (Z) order, on a grid of 1024 cells a side over their bounds."""
    if not len(means):
        return torch.empty(0, dtype=torch.int64)
    low, high = means.amin(0), means.amax(0)
    cells = ((means - low) / (high - low).clamp_min(1e-30) * 1023).long()
    code = torch.zeros(len(means), dtype=torch.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(stable=True)


def save_sog(path: Path, gaussians: Gaussians, comments: Sequence[str] = ()) -> None:
    """Write an unbatched set of finite Gaussians, in Morton order. Raises InputError where nothing can be written."""
    g = gaussians.detach().to("cpu", torch.float32)
    g = g.select(morton_order(g.means))
    n = len(g)
    means, quats, scales, opacities, sh = (x.numpy() for x in (g.means, g.quats, g.scales, g.opacities, g.sh))
    logs = np.sign(means) * np.log1p(np.abs(means))
    low, high = (logs.min(0), logs.max(0)) if n else (np.zeros(3), np.ones(3))
    steps = np.round((logs - low) / np.maximum(high - low, 1e-12) * 65535).astype(np.uint16)
    largest, others = smallest_three(quats)
    scale_codebook, scale_index = scalar_codebook(np.log(scales))
    colour_codebook, colour_index = scalar_codebook(sh[:, 0])
    images = {
        "means_l": steps & 255,
        "means_u": steps >> 8,
        "quats": np.concatenate([np.round(others * 127.5 + 127.5), 252 + largest[:, None]], axis=1),
        "scales": scale_index,
        "sh0": np.concatenate([colour_index, np.round(opacities * 255)[:, None]], axis=1),
    }
    meta = {
        "version": 2,
        "asset": {"generator": "PixWorld", "comments": list(comments)},
        "count": n,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_codebook.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colour_codebook.tolist(), "files": ["sh0.webp"]},
    }
    if g.sh_degree and n:
        palette, labels = vector_codebook(g.sh[:, 1:].flatten(1), _PALETTE)
        codebook, index = scalar_codebook(palette.numpy())
        rows = math.ceil(len(palette) / _PALETTE_COLUMNS)
        index = np.pad(index, ((0, rows * _PALETTE_COLUMNS - len(palette)), (0, 0)))
        index = rearrange(index, "(y x) (k c) -> y (x k) c", x=_PALETTE_COLUMNS, c=3)
        images["shN_labels"] = np.stack([labels & 255, labels >> 8, labels * 0], axis=-1)
        meta["shN"] = {
            "count": len(palette),
            "bands": g.sh_degree,
            "codebook": codebook.tolist(),
            "files": ["shN_centroids.webp", "shN_labels.webp"],
        }
    width = max(4, math.ceil(math.sqrt(n) / 4) * 4)
    height = max(4, math.ceil(n / width / 4) * 4)
    with atomic(path) as temp, zipfile.ZipFile(temp, "w") as archive:
        archive.writestr("meta.json", json.dumps(meta, allow_nan=False))
        for name, pixels in images.items():
            padded = np.zeros((height * width, pixels.shape[1]), np.uint8)
            padded[:n] = pixels
            archive.writestr(f"{name}.webp", _webp(padded.reshape(height, width, -1)))
        if "shN" in meta:
            archive.writestr("shN_centroids.webp", _webp(index.astype(np.uint8)))


def _webp(pixels: np.ndarray) -> bytes:
    """Lossless; `exact` keeps the colours of transparent pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "webp", lossless=True, exact=True, quality=50, method=2)
    return file.getvalue()


def load_sog(path: Path) -> Gaussians:
    """Read a bundled SOG file of version 2. Raises InputError when it is not a sound one."""
    with open_splats(path) as file:
        try:
            return _load(path, zipfile.ZipFile(file), os.fstat(file.fileno()).st_size)
        except InputError:
            raise
        # what a zip, its JSON and its images can raise when they are damaged
        except (
            *(zipfile.BadZipFile, zlib.error, OSError, struct.error, EOFError, NotImplementedError, RuntimeError),
            *(ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, Image.DecompressionBombError),
        ) as error:
            raise InputError(f"{path} is damaged or no SOG file ({error}); export it again.") from None


def _load(path: Path, archive: zipfile.ZipFile, size: int) -> Gaussians:
    def member(name: str, most: int) -> bytes:
        """Unpack a member, up to a size that is checked before anything is allocated for it."""
        if archive.getinfo(name).file_size > most:
            raise InputError(f"{path} has a {name} of {archive.getinfo(name).file_size} bytes; it is damaged.")
        with archive.open(name) as data:
            return data.read(most)

    meta = json.loads(member("meta.json", _MAX_META))
    n = meta["count"]
    if meta.get("version") != 2:
        raise InputError(f"{path} is SOG of version {meta.get('version', 1)}; version 2 can be read, convert it.")
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"its count is {n!r}")
    check_expansion(path, size, 20 * n)

    def image(name: str, pixels: int) -> np.ndarray:
        """The first pixels [pixels, 4] of an image that has at least as many."""
        data = member(name, size)
        width, height = _webp_size(data)
        check_expansion(path, size, 4 * width * height)
        if width * height < pixels:
            raise InputError(f"{path} has a {name} of {width} x {height}, too small for {pixels}; export it again.")
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
            return np.asarray(picture.convert("RGBA")).reshape(-1, 4)[:pixels]

    def indexed(index: np.ndarray, codebook: list[float]) -> np.ndarray:
        return np.asarray(codebook, np.float32)[index]

    files = {part: meta[part]["files"] for part in ("means", "scales", "quats", "sh0")}
    low, high = (np.asarray(meta["means"][key], np.float64).reshape(3) for key in ("mins", "maxs"))
    steps = image(files["means"][0], n)[:, :3] + 256.0 * image(files["means"][1], n)[:, :3]
    logs = low + (high - low) * steps / 65535
    quats = image(files["quats"][0], n)
    if n and quats[:, 3].min() < 252:
        raise InputError(f"{path} holds rotations without a largest component; export it again.")
    sh0 = image(files["sh0"][0], n)
    sh = indexed(sh0[:, :3], meta["sh0"]["codebook"])[:, None]
    if shn := meta.get("shN"):
        k, count = _BANDS[shn["bands"]], shn["count"]
        labels = image(shn["files"][1], n).astype(np.int64)
        labels = labels[:, 0] + 256 * labels[:, 1]
        rows = math.ceil(count / _PALETTE_COLUMNS)
        # the image is exactly as wide as 64 entries, so its pixels are the entries one after the other
        palette = image(shn["files"][0], rows * _PALETTE_COLUMNS * k).reshape(-1, k, 4)[:count, :, :3]
        sh = np.concatenate([sh, indexed(palette, shn["codebook"])[labels]], axis=1)
    return sound_gaussians(
        path,
        np.sign(logs) * np.expm1(np.abs(logs)),
        from_smallest_three(quats[:, 3].astype(np.int64) - 252, quats[:, :3].astype(np.float32) / 127.5 - 1),
        np.exp(indexed(image(files["scales"][0], n)[:, :3], meta["scales"]["codebook"])),
        sh0[:, 3].astype(np.float32) / 255,
        sh,
    )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header of a lossless WebP, before a decoder makes room for them (RFC 9649)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or data[12:16] not in (b"VP8L", b"VP8X"):
        raise ValueError("an image is no lossless WebP")
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    bits = int.from_bytes(data[21:25], "little")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
