"""Camera files, in and out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pixworld.cameras import Cameras
from pixworld.files import write_json
from pixworld.views import InputError, NamedCamera

# OpenCV camera axes (x right, y down, z forward) <-> OpenGL (x right, y up, z backward)
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def load_cameras(path: Path) -> list[NamedCamera]:
    """Read a nerfstudio `transforms.json`: OpenGL camera-to-world, intrinsics in pixels, global or per frame.

    Raises InputError, which names the frame, on anything that is not an undistorted pinhole camera with a rigid pose.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a transforms.json.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); give a transforms.json.") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(x, dict) for x in frames):
        raise InputError(f"{path} has no list of `frames`; give a transforms.json in nerfstudio's layout.")
    cameras = []
    for i, frame in enumerate(frames):
        name = PurePosixPath(str(frame.get("file_path", "")).replace("\\", "/")).name
        try:
            cameras.append(_parse_frame(name, {**content, **frame}))
        except InputError as error:
            raise InputError(f"{path}, frame {i} ({name or 'unnamed'}): {error}") from None
        except OverflowError:
            raise InputError(
                f"{path}, frame {i} ({name}): a number is too large; give pixels and scene units."
            ) from None
    names = [camera.name for camera in cameras]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} names the image {name} more than once; give every frame its own file name.")
    return cameras


def _parse_frame(name: str, frame: dict) -> NamedCamera:
    if not name:
        raise InputError("it has no file_path; name its image.")
    model = frame.get("camera_model", "PINHOLE")
    if model not in ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV"):
        raise InputError(f"camera model {model} is not supported; undistort the photos and give PINHOLE cameras.")
    for key in ("k1", "k2", "k3", "k4", "p1", "p2"):
        if frame.get(key, 0) != 0:
            raise InputError(f"it has lens distortion ({key}); undistort the photos first and give their cameras.")

    def number(key: str, default: float | None = None) -> float:
        value = frame.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{key} is {'missing' if value is None else 'not a finite number'}; give it in pixels.")
        return float(value)

    def focal(key: str, angle_key: str, side: int, default: float | None) -> float:
        if key not in frame and angle_key in frame:
            angle = number(angle_key)
            if not 0 < angle < math.pi:
                raise InputError(f"{angle_key} is {angle}; give radians between 0 and pi.")
            return side / 2 / math.tan(angle / 2)
        return number(key, default)

    width, height = number("w"), number("h")
    if not (width.is_integer() and height.is_integer() and min(width, height) > 0):
        raise InputError(f"its size is {width:g} x {height:g}; give whole pixels above 0.")
    fx = focal("fl_x", "camera_angle_x", int(width), None)
    fy = focal("fl_y", "camera_angle_y", int(height), fx)
    if min(fx, fy) <= 0:
        raise InputError(f"its focal length is {fx:g}, {fy:g}; give pixels above 0.")
    K = np.array([[fx, 0, number("cx", width / 2)], [0, fy, number("cy", height / 2)], [0, 0, 1]])
    c2w = _parse_pose(frame.get("transform_matrix")) @ _FLIP
    cameras = Cameras(
        torch.tensor(c2w, dtype=torch.float32)[None],
        torch.tensor(K, dtype=torch.float32)[None],
        height=int(height),
        width=int(width),
    )
    if not (cameras.c2w.isfinite().all() and cameras.K.isfinite().all() and cameras.K.det().item() > 0):
        raise InputError("its numbers do not fit single precision; give pixels and scene units.")
    split = frame.get("split")
    return NamedCamera(name, cameras, split if split in ("train", "holdout") else None)


def _parse_pose(matrix: Any) -> Float[np.ndarray, "4 4"]:
    try:
        matrix = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1]])
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError("its transform_matrix is not 4 x 4 finite numbers; give the camera-to-world matrix.")
    rotation = matrix[:3, :3]
    u, singular, v = np.linalg.svd(rotation)
    # printed matrices are off by a little, which is put right; scale, shear or a mirror are errors
    if (
        np.abs(singular - 1).max() > 0.01
        or np.linalg.det(rotation) < 0
        or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6
    ):
        raise InputError("its transform_matrix is not a rotation and a translation; give a rigid camera-to-world pose.")
    matrix[:3, :3] = u @ v
    return matrix


def save_cameras(
    path: Path, cameras: Sequence[NamedCamera], extra: dict[str, Any] | None = None, images: str = "."
) -> None:
    """Write a nerfstudio `transforms.json`; `extra` holds further top-level keys, `images` is the folder of the images,
    seen from the file's."""
    frames = []
    for camera in cameras:
        K = camera.cameras.K[0].double().cpu().numpy()
        assert K[0, 1] == 0, "transforms.json has no skew"
        pose = camera.cameras.c2w[0].double().cpu().numpy() @ _FLIP
        frame = {
            "file_path": PurePosixPath(images, camera.name).as_posix(),
            "w": camera.cameras.width,
            "h": camera.cameras.height,
            "fl_x": K[0, 0],
            "fl_y": K[1, 1],
            "cx": K[0, 2],
            "cy": K[1, 2],
            "transform_matrix": pose.tolist(),
        }
        frames.append(frame if camera.split is None else {**frame, "split": camera.split})
    write_json(path, {"camera_model": "PINHOLE", **(extra or {}), "frames": frames})
