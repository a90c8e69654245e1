"""What the camera formats share: axes, checked numbers, and one camera made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from pixworld.cameras import Cameras
from pixworld.views import InputError, NamedCamera

# OpenCV camera axes (x right, y down, z forward) <-> OpenGL (x right, y up, z backward)
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

IMAGE_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")  # tried after a name, which may come without


def number(frame: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number of a JSON object. Raises InputError."""
    value = frame.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{key} is {'missing' if value is None else 'not a finite number'}; give it in pixels.")
    return float(value)


def whole_size(width: float, height: float) -> tuple[int, int]:
    """(height, width) of an image. Raises InputError."""
    if not (width.is_integer() and height.is_integer() and min(width, height) > 0):
        raise InputError(f"its size is {width:g} x {height:g}; give whole pixels above 0.")
    return int(height), int(width)


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of the upright image at a path that may lack its suffix; None where there is none."""
    for suffix in IMAGE_SUFFIXES:
        file = path.with_name(path.name + suffix) if path.name else path
        if file.is_file():
            try:
                with Image.open(file, formats=("JPEG", "PNG")) as image:
                    turned = image.getexif().get(0x0112, 1) >= 5  # the orientations by a quarter turn
                    return image.size if turned else image.size[::-1]
            except Exception:  # the decoders raise many kinds on broken files
                return None
    return None


def rigid_pose(matrix: Any, what: str = "its transform_matrix") -> Float[np.ndarray, "4 4"]:
    """A pose from 3 x 4 or 4 x 4 numbers, its rotation made exact. Raises InputError, in which `what` names it."""
    try:
        matrix = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1]])
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{what} is not 4 x 4 finite numbers; give a rotation and a translation.")
    rotation = matrix[:3, :3]
    u, singular, v = np.linalg.svd(rotation)
    # printed matrices are off by a little, which is put right; scale, shear or a mirror are errors
    if (
        np.abs(singular - 1).max() > 0.01
        or np.linalg.det(rotation) < 0
        or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6
    ):
        raise InputError(f"{what} is not a rotation and a translation; give a rigid pose.")
    matrix[:3, :3] = u @ v
    return matrix


def named_camera(
    name: str,
    c2w: Float[np.ndarray, "4 4"],
    intrinsics: tuple[float, float, float, float],
    size: tuple[int, int],
    split: str | None = None,
) -> NamedCamera:
    """A camera from its pose (OpenCV axes), (fx, fy, cx, cy) in pixels and (height, width). Raises InputError."""
    fx, fy, cx, cy = intrinsics
    if not min(fx, fy) > 0:
        raise InputError(f"its focal length is {fx:g}, {fy:g}; give pixels above 0.")
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    cameras = Cameras(*(torch.tensor(x, dtype=torch.float32)[None] for x in (c2w, K)), height=size[0], width=size[1])
    if not (cameras.c2w.isfinite().all() and cameras.K.isfinite().all() and cameras.K.det().item() > 0):
        raise InputError("its numbers do not fit single precision; give pixels and scene units.")
    return NamedCamera(name, cameras, split)


def intrinsics_of(camera: NamedCamera) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) in pixels."""
    K = camera.cameras.K[0].double().cpu()
    assert K[0, 1] == 0, "no camera file holds skew"
    return K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item()


def pose_of(camera: NamedCamera) -> Float[np.ndarray, "4 4"]:
    """Camera to world, OpenCV axes."""
    return camera.cameras.c2w[0].double().cpu().numpy()
