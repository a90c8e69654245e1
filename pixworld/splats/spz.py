"""SPZ, Niantic's compact splat file: about 64 bytes a Gaussian at SH degree 3 before compression, 20 after.

Layout (github.com/nianticlabs/spz): a header, then the streams positions (24-bit fixed point), alphas, colours, ln
scales, rotations and SH bands, 8 bits a value. Versions 1 to 3 gzip the whole; version 4 has a table of contents and
compresses each stream with zstd. Version 1 has float16 positions, versions 1 and 2 rotations as x y z in 8 bits,
versions 3 and 4 as the smallest three components in 10 bits.

All four are read. Version 3 is written unless 4 is asked for: every reader that knows 4 knows 3 as well, and some know
3 only (in 2026 Spark and older releases of splat-transform).

Axes in the file are x right, y up, z back (ours: y down, z forward) unless an SPZ_ADOBE_coordinate_system record says
otherwise. SH of degree 4 is cut to 3. Values out of range are clamped: ln scale to -10..5.94, SH bands to -1..1.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
import zstandard
from einops import rearrange

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.splats.axes import RUB, flip
from pixworld.splats.checks import check_expansion, open_splats, sound_gaussians
from pixworld.splats.quaternions import pack_smallest_three, unpack_smallest_three
from pixworld.views import InputError

_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, count, SH degree, fractional bits, flags, streams (version 4)
_V4_HEADER_BYTES = 32  # _HEADER, the offset of the table of contents, 12 reserved bytes
_TOC_ENTRY = struct.Struct("<QQ")  # compressed and uncompressed bytes of a stream
_GZIP = b"\x1f\x8b"
_BANDS = {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}  # SH coefficients a channel, by degree, without the first
_HAS_EXTENSIONS = 2
_COORDINATES, _SH_RANGE = 0xADBE0003, 0xADBE0001  # extension records
# signs to our axes of the coordinate systems that an extension may name; the others exchange y and z
_SIGNS = {
    **{0: RUB, 1: (-1, 1, -1), 2: (1, 1, -1), 3: (-1, -1, -1), 4: RUB},
    **{5: (-1, 1, 1), 6: (1, 1, 1), 7: (-1, -1, 1), 8: (1, -1, 1)},
}
_COLOUR_SCALE = 0.15 * 255  # of the first SH coefficient
_SH_BITS = np.array([5] * 3 + [4] * 12)  # kept of 8 in the bands, as the reference encoder does, so that they compress
_MAX_EXTENSIONS = 1 << 16  # bytes


def save_spz(path: Path, gaussians: Gaussians, comments: Sequence[str] = (), version: Literal[3, 4] = 3) -> None:
    """Write an unbatched set of finite Gaussians; there is no room for comments.

    Positions keep as many bits after the point as the farthest leaves of 23. Raises InputError when the file cannot be
    written or a position is beyond 2^23.
    """
    g = flip(gaussians.detach().to("cpu", torch.float32), RUB)
    means, quats, scales, opacities, sh = (x.numpy() for x in (g.means, g.quats, g.scales, g.opacities, g.sh))
    reach = float(np.abs(means).max(initial=0.0))
    if not reach < 2**23 - 1:
        raise InputError(f"{path} cannot hold positions beyond 2^23 (found {reach:g}); crop the scene first.")
    fractional_bits = min(23, int(np.floor(np.log2((2**23 - 1) / max(reach, 1e-6)))))
    fixed = np.round(means.astype(np.float64) * 2**fractional_bits).astype("<i4")
    buckets = 2 ** (8 - _SH_BITS[: sh.shape[1] - 1, None])
    bands = (np.round(sh[:, 1:] * 128).astype(np.int32) + 128 + buckets // 2) // buckets * buckets
    streams = [
        fixed[..., None].view(np.uint8)[..., :3].tobytes(),
        _to_bytes(opacities * 255),
        _to_bytes(sh[:, 0] * _COLOUR_SCALE + 127.5),
        _to_bytes((np.log(scales) + 10) * 16),
        pack_smallest_three(quats[:, [1, 2, 3, 0]]).tobytes(),
        _to_bytes(bands),
    ]
    streams = [stream for stream in streams if stream or version == 3]
    header = _HEADER.pack(b"NGSP", version, len(g), g.sh_degree, fractional_bits, 0, len(streams) * (version == 4))
    if version == 3:
        packer = zlib.compressobj(6, wbits=16 + zlib.MAX_WBITS)
        pieces = [*(packer.compress(piece) for piece in [header, *streams]), packer.flush()]
    else:
        packed = [zstandard.ZstdCompressor(level=12).compress(stream) for stream in streams]
        toc = [_TOC_ENTRY.pack(len(p), len(s)) for p, s in zip(packed, streams)]
        pieces = [header, struct.pack("<I12x", _V4_HEADER_BYTES), *toc, *packed]
    with atomic(path) as temp:
        temp.write_bytes(b"".join(pieces))


def _to_bytes(values: np.ndarray) -> bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()


def load_spz(path: Path) -> Gaussians:
    """Read SPZ of version 1 to 4. Raises InputError when the file is not a sound one."""
    with open_splats(path) as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(4)
        file.seek(0)
        try:
            header, extensions, streams = (
                _read_v4(path, file, size) if magic == b"NGSP" else _read_gzip(path, file, size)
            )
            signs, sh_range = _read_extensions(path, extensions)
        except (struct.error, zlib.error, zstandard.ZstdError, EOFError) as error:
            raise InputError(
                f"{path} is damaged or no SPZ file ({error or 'it ends early'}); export it again."
            ) from None
    version, n, degree, fractional_bits = header
    positions, alphas, colours, scales, rotations, bands = streams
    if version == 1:
        means = positions.view("<f2").astype(np.float32)
    else:
        wide = np.zeros((3 * n, 4), np.uint8)
        wide[:, 1:] = positions.reshape(-1, 3)
        means = (wide.view("<i4") >> 8).astype(np.float32) / 2**fractional_bits
    if version <= 2:
        xyz = rotations.reshape(n, 3) / np.float32(127.5) - 1
        quats = np.concatenate([np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1, keepdims=True))), xyz], axis=1)
    else:
        quats = unpack_smallest_three(rotations.view("<u4"))[:, [3, 0, 1, 2]]
    low, high = sh_range
    # the plain range is -1..1 in steps of 1/128 around 128, a named one goes from 0 to 255
    decoded = (bands - np.float32(128)) / 128 if sh_range == (-1, 1) else low + bands * np.float32((high - low) / 255)
    k = (min(degree, 3) + 1) ** 2
    sh = np.empty((n, k, 3), np.float32)
    sh[:, 0] = ((colours - np.float32(127.5)) / _COLOUR_SCALE).reshape(n, 3)
    sh[:, 1:] = rearrange(decoded, "(n k c) -> n k c", n=n, c=3)[:, : k - 1] if n else 0
    gaussians = sound_gaussians(
        path,
        means.reshape(n, 3),
        quats,
        np.exp(scales / np.float32(16) - 10).reshape(n, 3),
        alphas / np.float32(255),
        sh,
    )
    return flip(gaussians, signs)


def _stream_sizes(version: int, n: int, degree: int) -> list[int]:
    rotation = 4 if version >= 3 else 3
    return [n * a for a in (6 if version == 1 else 9, 1, 3, 3, rotation, 3 * _BANDS[degree])]


def _parse_header(path: Path, data: bytes, versions: Sequence[int]) -> tuple[tuple[int, int, int, int], int, int]:
    """((version, count, SH degree, fractional bits), flags, streams) of a header whose version is in `versions`."""
    magic, version, n, degree, fractional_bits, flags, streams = _HEADER.unpack(data)
    if magic != b"NGSP" or version not in versions:
        raise InputError(f"{path} is no SPZ file of version 1 to 4 (it says {magic!r}, version {version}).")
    if degree not in _BANDS or fractional_bits > 24:
        raise InputError(f"{path} has SH degree {degree} and {fractional_bits} fractional bits; it is damaged.")
    return (version, n, degree, fractional_bits), flags, streams


def _read_gzip(path: Path, file: BinaryIO, size: int) -> tuple[tuple, bytes, list[np.ndarray]]:
    if file.read(2) != _GZIP:
        raise InputError(f"{path} is no SPZ file; it begins neither like version 4 nor like gzip.")
    file.seek(0)
    packed = file.read()
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    start = unpacker.decompress(packed, _HEADER.size)
    header, flags, _ = _parse_header(path, start, (1, 2, 3))
    sizes = _stream_sizes(*header[:3])
    extra = _MAX_EXTENSIONS if flags & _HAS_EXTENSIONS else 0
    check_expansion(path, size, sum(sizes))
    body = unpacker.decompress(unpacker.unconsumed_tail, sum(sizes) + extra + 1)
    if not sum(sizes) <= len(body) <= sum(sizes) + extra or not unpacker.eof:
        raise InputError(f"{path} does not hold the {header[1]} Gaussians that it declares; export it again.")
    bounds = np.cumsum([0, *sizes])
    streams = [np.frombuffer(body, np.uint8, b - a, a) for a, b in pairwise(bounds)]
    return header, body[bounds[-1] :], streams


def _read_v4(path: Path, file: BinaryIO, size: int) -> tuple[tuple, bytes, list[np.ndarray]]:
    header, flags, count = _parse_header(path, file.read(_HEADER.size), (4,))
    (toc_offset,) = struct.unpack("<I12x", file.read(16))
    sizes = [s for s in _stream_sizes(*header[:3]) if s]
    check_expansion(path, size, sum(sizes))
    if count != len(sizes) or not _V4_HEADER_BYTES <= toc_offset <= min(size, _V4_HEADER_BYTES + _MAX_EXTENSIONS):
        raise InputError(f"{path} has a damaged table of contents; export it again.")
    extensions = file.read(toc_offset - _V4_HEADER_BYTES) if flags & _HAS_EXTENSIONS else b""
    file.seek(toc_offset)
    toc = [_TOC_ENTRY.unpack(file.read(_TOC_ENTRY.size)) for _ in sizes]
    if [unpacked for _, unpacked in toc] != sizes or file.tell() + sum(packed for packed, _ in toc) != size:
        raise InputError(f"{path} does not hold the {header[1]} Gaussians that it declares; export it again.")
    streams = []
    for packed, unpacked in toc:
        # one byte more than expected is asked for, and a window of at most 128 MB taken, whatever the frame claims
        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        data = unpacker.stream_reader(io.BytesIO(file.read(packed))).read(unpacked + 1)
        if len(data) != unpacked:
            raise InputError(f"{path} does not hold the {header[1]} Gaussians that it declares; export it again.")
        streams.append(np.frombuffer(data, np.uint8))
    return header, extensions, streams + [np.empty(0, np.uint8)] * (6 - len(streams))


def _read_extensions(path: Path, data: bytes) -> tuple[tuple[int, int, int], tuple[float, float]]:
    """Signs to our axes and the range of the SH bands, from records (u32 type, u32 bytes, payload)."""
    signs, sh_range = RUB, (-1.0, 1.0)
    while len(data) >= 8:
        kind, length = struct.unpack_from("<II", data)
        payload, data = data[8 : 8 + length], data[8 + length :]
        if kind == _COORDINATES:
            (system,) = struct.unpack("<I", payload)
            if system not in _SIGNS:
                raise InputError(f"{path} has y and z exchanged (coordinate system {system}); export it as RUB.")
            signs = _SIGNS[system]
        elif kind == _SH_RANGE:
            sh_range = struct.unpack_from("<ff", payload, len(payload) - 8)
    return signs, sh_range
