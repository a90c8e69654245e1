"""Edited splats as files. PLY is written here; the other formats are the backend's (its task "export").

PLY layout of Kerbl et al. 2023, as `pixworld.splats.ply` writes it: x y z, nx ny nz (zero), f_dc_0..2, f_rest_*
(channel-major), opacity (logit), scale_0..2 (ln), rot_0..3 (wxyz); little-endian float32.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

import bpy
import numpy as np
from mathutils import Matrix

from . import cameras, splats

FORMATS = ("ply", "spz", "splat", "sog", "glb", "usd")
_OPACITY_MARGIN = 2.0**-23  # where the logit is infinite, float32's step below 1 is taken
_SLAB = 1 << 14  # rows written at once

Frame = Literal["SCENE", "WORLD", "BLENDER"]


def frame_of(obj: bpy.types.Object, frame: Frame) -> np.ndarray:
    """Matrix [4 4] from a splat object's space to that of a file.

    "SCENE" is the space of its root, that of the reconstruction's own files. "WORLD" is Blender's world in the axes of
    splat files (x right, y down, z forward), where other programs find it upright. "BLENDER" is the world as it is.
    """
    world = np.array(obj.matrix_world)
    if frame == "BLENDER":
        return world
    if frame == "WORLD":
        return cameras.Y_DOWN_TO_Z_UP.T @ world
    root = root_of(obj)
    return np.array(root.matrix_world.inverted() @ obj.matrix_world) if root is not obj else np.eye(4)


def root_of(obj: bpy.types.Object) -> bpy.types.Object:
    """The root of the scene that an object is in, by which it is moved, turned and scaled; of one that is in none, the
    topmost parent."""
    while splats.ROOT not in obj and obj.parent is not None:
        obj = obj.parent
    return obj


def world_of(obj: bpy.types.Object) -> Matrix:
    """The matrix of an object to the world, also of a hidden one, which Blender does not keep up to date."""
    if obj.visible_get() or obj.parent is None or obj.parent_type != "OBJECT" or obj.constraints:
        return obj.matrix_world.copy()
    return world_of(obj.parent) @ obj.matrix_parent_inverse @ obj.matrix_basis


def placed(arrays: Mapping[str, np.ndarray], matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Gaussians in the space of a file; as they are, bit for bit, where that is their own. ValueError if stretched."""
    if np.allclose(matrix, np.eye(4), rtol=0, atol=1e-6):
        return dict(arrays)
    return splats.transformed(arrays, matrix)


def write_ply(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write Gaussians (arrays as in `splats.attributes`) whole or not at all. Raises ValueError if it cannot be done.

    No bpy in here: a thread may call it.
    """
    rest = 3 * (arrays["sh"].shape[1] - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    count = len(arrays["means"])
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header = "\n".join([*lines, *(f"property float {name}" for name in names), "end_header", ""]).encode()

    def rows(part: slice) -> np.ndarray:
        means, quats, scales, opacities, sh = (np.asarray(arrays[name][part], np.float32) for name in splats.FIELDS)
        opacity = np.clip(opacities, _OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
        columns = [
            means, np.zeros_like(means), sh[:, 0], sh[:, 1:].transpose(0, 2, 1).reshape(len(means), rest),
            np.log(opacity / (1 - opacity))[:, None], np.log(np.maximum(scales, 1e-30)), quats,
        ]  # fmt: skip
        return np.concatenate(columns, axis=1, dtype="<f4")

    write(path, chain([header], (rows(slice(i, i + _SLAB)) for i in range(0, count, _SLAB))))


def write(path: Path, parts: Iterable[bytes | np.ndarray]) -> None:
    """Write a file through one beside it, so that no half of it is ever seen. Raises ValueError with a sentence."""
    path = Path(path)
    temp = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        try:
            with open(temp, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())  # the content must be on disk before the name is
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder or make room."
        ) from None
