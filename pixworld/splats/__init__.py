"""Splat files: `load_splats` and `save_splats` choose the format by suffix; a module a format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pixworld.gaussians import Gaussians
from pixworld.splats.gltf import load_gltf, save_gltf
from pixworld.splats.ply import load_ply, save_ply
from pixworld.splats.sog import load_sog, save_sog
from pixworld.splats.splat import load_splat, save_splat
from pixworld.splats.spz import load_spz, save_spz
from pixworld.splats.usd import load_usd, save_usd
from pixworld.views import InputError

__all__ = ["FORMATS", "Format", "format_of", "load_ply", "load_splats", "save_ply", "save_splats"]


class Format(NamedTuple):
    """How files of a suffix are read and written; what is kept is in the docstring of their module."""

    name: str
    load: Callable[[Path], Gaussians]
    save: Callable[[Path, Gaussians, Sequence[str]], None]


_GLTF = Format("glTF KHR_gaussian_splatting", load_gltf, save_gltf)
_USD = Format("USD ParticleField3DGaussianSplat", load_usd, save_usd)
FORMATS = {
    ".ply": Format("splat PLY", load_ply, save_ply),
    ".spz": Format("SPZ", load_spz, save_spz),
    ".splat": Format("antimatter15 .splat", load_splat, save_splat),
    ".sog": Format("SOG", load_sog, save_sog),
    ".glb": _GLTF,
    ".gltf": _GLTF,
    ".usd": _USD,
    ".usda": _USD,
    ".usdc": _USD,
}


def format_of(path: Path) -> Format:
    """The format of a path's suffix. Raises InputError when it is none of ours."""
    try:
        return FORMATS[Path(path).suffix.lower()]
    except KeyError:
        raise InputError(f"{path} is no splat file by its name; use one of {', '.join(FORMATS)}.") from None


def load_splats(path: Path) -> Gaussians:
    """Read a splat file of any format in FORMATS, in our axes (x right, y down, z forward), on the CPU, float32.

    Raises InputError, without taking much memory, when the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the splat file in it, scene.ply for example.")
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a splat file.")
    return format_of(path).load(path)


def save_splats(path: Path, gaussians: Gaussians, comments: Sequence[str] = (), spz_version: Literal[3, 4] = 3) -> None:
    """Write an unbatched set of finite Gaussians, whole or not at all, in the format of the suffix.

    Comments are kept where the format has room for them. Raises InputError when the file cannot be written.
    """
    assert gaussians.means.ndim == 2, "a file holds one scene, without batch axes"
    chosen = format_of(path)
    options = {"version": spz_version} if chosen.save is save_spz else {}
    chosen.save(Path(path), gaussians, comments, **options)
