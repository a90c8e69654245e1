"""FlashWorld's trajectory JSON: key cameras, and the number and size of the frames on the way through them.

`resolution` is [frames, height, width]; a camera has `position`, `quaternion` (w, x, y, z; camera to world, OpenGL
axes) and fx, fy, cx, cy in pixels of that size. Keys of another number than `frames` are interpolated evenly in their
index: positions and intrinsics linearly, rotations on the sphere. Source: FlashWorld's public code (Li et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixworld.camera_files.parts import FLIP, intrinsics_of, named_camera, number, pose_of, whole_size
from pixworld.cameras import Cameras
from pixworld.files import write_json
from pixworld.gaussians import quat_from_matrix, quat_to_matrix
from pixworld.trajectories import at
from pixworld.views import InputError, NamedCamera

MAX_FRAMES = 10_000


def load(path: Path, content: dict[str, Any]) -> list[NamedCamera]:
    """The cameras of every frame, named 0000.png, 0001.png, .. Raises InputError."""
    keys, resolution = content["cameras"], content.get("resolution")
    if not isinstance(keys, list) or not keys or not all(isinstance(x, dict) for x in keys):
        raise InputError(f"{path} has no list of `cameras`; give a FlashWorld trajectory or a transforms.json.")
    if not isinstance(resolution, list) or len(resolution) != 3 or not all(type(x) is int for x in resolution):
        raise InputError(f"{path} has no `resolution` [frames, height, width]; give three whole numbers.")
    frames, height, width = resolution
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"{path} asks for {frames} frames; give 1 to {MAX_FRAMES}.")
    named = []
    for i, key in enumerate(keys):
        try:
            named.append(_parse_key(key, whole_size(float(width), float(height))))
        except InputError as error:
            raise InputError(f"{path}, camera {i}: {error}") from None
        except OverflowError:
            raise InputError(f"{path}, camera {i}: a number is too large; give pixels and scene units.") from None
    cameras = Cameras.cat([x.cameras for x in named])
    if len(cameras) != frames:
        cameras = at(cameras, torch.linspace(0, len(cameras) - 1, frames, dtype=torch.float64))
    return [NamedCamera(f"{i:04d}.png", cameras.select([i])) for i in range(frames)]


def _parse_key(key: dict[str, Any], size: tuple[int, int]) -> NamedCamera:
    quaternion, position = (_vector(key, name, n) for name, n in (("quaternion", 4), ("position", 3)))
    if not 0.5 < np.linalg.norm(quaternion) < 2:
        raise InputError("its quaternion is not a rotation; give w, x, y, z of unit length.")
    c2w = np.eye(4)
    c2w[:3, :3] = quat_to_matrix(torch.from_numpy(quaternion)).numpy()
    c2w[:3, 3] = position
    intrinsics = number(key, "fx"), number(key, "fy"), number(key, "cx"), number(key, "cy")
    return named_camera("key", c2w @ FLIP, intrinsics, size)


def _vector(key: dict[str, Any], name: str, length: int) -> np.ndarray:
    try:
        vector = np.array(key.get(name), dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise InputError(f"its {name} is not {length} finite numbers.")
    return vector


def save(path: Path, cameras: Sequence[NamedCamera], extra: dict[str, Any] | None) -> None:
    """Write a trajectory without prompts; `extra` may hold text_prompt, image_prompt and image_index."""
    sizes = {(x.cameras.height, x.cameras.width) for x in cameras}
    if len(sizes) != 1:
        raise InputError(f"{path}: a FlashWorld trajectory has one image size, these cameras have {len(sizes)}.")
    keys = []
    for camera in cameras:
        pose = pose_of(camera) @ FLIP
        names = ("fx", "fy", "cx", "cy")
        keys.append(
            {
                "quaternion": quat_from_matrix(torch.from_numpy(pose[:3, :3].copy())).tolist(),
                "position": pose[:3, 3].tolist(),
                **dict(zip(names, intrinsics_of(camera), strict=True)),
            }
        )
    content = {"image_prompt": None, "text_prompt": "", "image_index": 0, **(extra or {})}
    write_json(path, {**content, "resolution": [len(cameras), *sizes.pop()], "cameras": keys})
