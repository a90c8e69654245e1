"""Splat PLY: the layout of Kerbl et al. 2023, which every splat tool reads. Axes are ours (x right, y down, z forward).

One `vertex` element, little-endian float32: x y z, nx ny nz (zero), f_dc_0..2, f_rest_* (channel-major: all of red,
then green, then blue; none at degree 0), opacity (logit), scale_0..2 (ln), rot_0..3 (wxyz).

Binary files are read and written here, a slab of rows at a time, as fast as the disk takes them; text is left to
plyfile, which is also what the tests compare with. The header is checked against the size of the file first, so that a
damaged one costs no memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from plyfile import PlyData

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.splats.checks import make_sound, open_splats
from pixworld.splats.rows import pack, unpack
from pixworld.views import InputError

# opacities are clamped to this distance from 0 and 1, where the logit is infinite; it is float32's step below 1
_OPACITY_MARGIN = 2.0**-23
_SLAB = 1 << 13  # rows at once: 2 MB at SH degree 3, so that a slab stays in the cache while it is taken apart
_HEADER_BYTES = 1 << 16
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"},
    **{"double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float32": "f4", "float64": "f8"},
}
_DEGREES = {0: 0, 9: 1, 24: 2, 45: 3}  # by the number of f_rest properties


_NORMALS = ("nx", "ny", "nz")  # written for other readers, who count on them; never read


class _NoPly(ValueError):
    """What is wrong with a header, in a few words."""


@dataclass(frozen=True)
class _Header:
    """The header of a PLY file with one element of scalars."""

    order: str  # "<", ">" or "" for text
    count: int
    dtype: np.dtype
    size: int  # of the header, bytes


def _properties(degree: int) -> list[str]:
    rest = 3 * ((degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def save_ply(path: Path, gaussians: Gaussians, comments: Sequence[str] = ()) -> None:
    """Write an unbatched set of finite Gaussians. Comments become `comment` lines (one line of ASCII each).

    Raises InputError when the file cannot be written.
    """
    assert gaussians.means.ndim == 2, "save_ply writes one scene, without batch axes"
    g = gaussians.detach().to("cpu", torch.float32)
    names = _properties(g.sh_degree)
    lines = [" ".join(comment.split()).encode("ascii", "replace").decode() for comment in comments]
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in lines)]
    header += [f"element vertex {len(g)}", *(f"property float {name}" for name in names), "end_header", ""]
    means, quats, scales, opacities, sh = (x.numpy() for x in (g.means, g.quats, g.scales, g.opacities, g.sh))
    slabs = np.zeros((2, _SLAB, len(names)), "<f4")
    with (
        atomic(path) as temp,
        open(temp, "wb", buffering=0) as file,
        ThreadPoolExecutor(1) as writer,  # a slab is filled while the one before it is written
        np.errstate(all="ignore"),
    ):
        written = writer.submit(_write, file, "\n".join(header).encode())
        for i, rows in enumerate(_slabs(len(g))):
            table = slabs[i % 2, : rows.stop - rows.start]
            o = np.clip(opacities[rows], _OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
            pack(table, means[rows], sh[rows], np.log(o / (1 - o)), np.log(scales[rows]), quats[rows])
            assert np.isfinite(table.sum()) or np.isfinite(table).all(), "Gaussians must be finite, scales above 0"
            written.result()
            written = writer.submit(_write, file, table)
        written.result()


def _slabs(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _SLAB):
        yield slice(start, min(start + _SLAB, rows))


def _write(file: BinaryIO, data: bytes | np.ndarray) -> None:
    """Write all of it: an unbuffered file may take less at a time."""
    left = memoryview(data).cast("B")
    while left:
        left = left[file.write(left) :]


def load_ply(path: Path) -> Gaussians:
    """Read a splat PLY (binary or text, SH degree 0 to 3). Raises InputError when it is not a sound one."""
    with open_splats(path) as file:
        try:
            header = _read_header(file, os.fstat(file.fileno()).st_size)
        except _NoPly as error:
            raise InputError(f"{path} cannot be read as a PLY file ({error}); export it as a 3DGS PLY.") from None
        names = header.dtype.names
        rest = sum(name.startswith("f_rest_") for name in names)
        if rest not in _DEGREES:
            raise InputError(f"{path} has {rest} f_rest properties; 0, 9, 24 or 45 (SH degree 0 to 3) can be read.")
        missing = [name for name in _properties(_DEGREES[rest]) if name not in names and name not in _NORMALS]
        if missing:
            raise InputError(f"{path} is no splat file: it lacks {', '.join(missing[:4])}; export it as a 3DGS PLY.")
        return _gaussians(path, names, header.count, _DEGREES[rest], _tables(path, file, header))


def _read_header(file: BinaryIO, file_size: int) -> _Header:
    """Parse a header whose first element is `vertex`, of scalars and of a count that fits the size of the file. What
    follows it in a binary file, as some exporters' camera data do, is left unread."""
    lines, order, count, fields, others = [], None, None, [], False
    while not lines or lines[-1] != ["end_header"]:
        line = file.readline(_HEADER_BYTES)
        if not line.endswith(b"\n") or file.tell() > _HEADER_BYTES or (not lines and line.strip() != b"ply"):
            raise _NoPly("it has no complete header" if lines else "it does not begin with `ply`")
        try:
            lines.append(line.decode("ascii").split())
        except UnicodeDecodeError:
            if not line.startswith((b"comment", b"obj_info")):
                raise _NoPly("its header is not text") from None
            lines.append(["comment"])
    for line in lines[1:-1]:
        match line:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", "ascii" | "binary_little_endian" | "binary_big_endian" as kind, "1.0"] if order is None:
                order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
            case ["element", "vertex", number] if count is None and number.isdecimal() and len(number) < 19:
                count = int(number)
            case ["element", name, _] if name != "vertex" and count is not None and order:
                others = True
            case ["property", *_] if others:
                pass
            case ["element", *_]:
                raise _NoPly("it must have one `vertex` element, of a count of at least 0, before any other")
            case ["property", kind, name] if kind in _TYPES and count is not None:
                fields.append((name, _TYPES[kind]))
            case ["property", *_]:
                raise _NoPly("a property is a list, of unknown type, or before the element")
            case _:
                raise _NoPly(f"its header has the line `{' '.join(line)[:40]}`")
    if order is None or not fields or len({name for name, _ in fields}) != len(fields):
        raise _NoPly("its header lacks the format or properties, or names a property twice")
    dtype = np.dtype([(name, (order or "<") + kind) for name, kind in fields])
    body = file_size - file.tell()
    if order and (body < count * dtype.itemsize if others else body != count * dtype.itemsize):
        raise _NoPly(f"{count} vertices take {count * dtype.itemsize} bytes, but {body} follow the header")
    if not order and body + 1 < 2 * count * len(fields):
        raise _NoPly(f"it is too short for {count} vertices")
    return _Header(order, count, dtype, file.tell())


def _tables(path: Path, file: BinaryIO, header: _Header) -> Iterator[np.ndarray]:
    """Yield the rows of the file, a slab at a time, as float32 tables; each is overwritten by the next.

    NumPy does this and not torch, which would wait for its own threads in every operation: where other programs want
    the cores too, that takes many times longer.
    """
    dtype, width = header.dtype, len(header.dtype.names)
    if not header.order:
        try:
            data = PlyData.read(path)["vertex"].data
            whole = np.stack([data[name].astype(np.float32) for name in dtype.names], axis=-1)
        except Exception as error:  # plyfile lets many kinds through on damaged files
            raise InputError(f"{path} cannot be read as a PLY file ({error}); export it again.") from error
        yield from (whole[rows] for rows in _slabs(header.count))
        return
    plain = dtype == np.dtype([(name, "<f4") for name in dtype.names])
    slab = np.empty(min(_SLAB, header.count), dtype)
    table = np.empty((0 if plain else len(slab), width), np.float32)
    for rows in _slabs(header.count):
        part = slab[: rows.stop - rows.start]
        _read(file, part)
        if not plain:
            for i, name in enumerate(dtype.names):
                table[: len(part), i] = part[name]
        yield part.view("<f4").reshape(len(part), width) if plain else table[: len(part)]


def _read(file: BinaryIO, rows: np.ndarray) -> None:
    """Fill the rows: a file may give less at a time."""
    left = memoryview(rows).cast("B")
    while left:
        taken = file.readinto(left)
        assert taken, "the file shrank while it was read"
        left = left[taken:]


def _gaussians(path: Path, names: Sequence[str], n: int, degree: int, tables: Iterator[np.ndarray]) -> Gaussians:
    """Take tables of n rows in all, whose columns are `names`, apart."""
    k = (degree + 1) ** 2
    columns = np.array([names.index(name) for name in _properties(degree) if name not in _NORMALS])
    means, quats, scales, opacities, sh = (np.empty((n, *x), np.float32) for x in ((3,), (4,), (3,), (), (k, 3)))
    with np.errstate(all="ignore"):  # what is not finite is looked for, and said in a sentence
        for rows, table in zip(_slabs(n), tables):
            unpack(table, columns, means[rows], sh[rows], opacities[rows], scales[rows], quats[rows])
            np.exp(scales[rows], out=scales[rows])
            opacities[rows] = 1 / (1 + np.exp(-opacities[rows]))
            make_sound(path, *(x[rows] for x in (means, quats, scales, opacities, sh)))
    return Gaussians(*(torch.from_numpy(x) for x in (means, quats, scales, opacities, sh)))
