"""nerfstudio's `transforms.json`: OpenGL camera-to-world, intrinsics in pixels, global or per frame.

Source: nerfstudio's documentation of its data format; `camera_angle_x` is that of the NeRF synthetic scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pixworld.camera_files.parts import (
    FLIP,
    image_size,
    intrinsics_of,
    named_camera,
    number,
    pose_of,
    rigid_pose,
    whole_size,
)
from pixworld.files import write_json
from pixworld.views import InputError, NamedCamera


def load(path: Path, content: Any, size: tuple[int, int] | None) -> list[NamedCamera]:
    """The cameras of a transforms.json that was parsed. Raises InputError, which names the frame."""
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(x, dict) for x in frames):
        raise InputError(f"{path} has no list of `frames`; give a transforms.json in nerfstudio's layout.")
    cameras = []
    for i, frame in enumerate(frames):
        file = PurePosixPath(str(frame.get("file_path", "")).replace("\\", "/"))
        try:
            cameras.append(_parse_frame(path.parent, file, {**content, **frame}, size))
        except InputError as error:
            raise InputError(f"{path}, frame {i} ({file.name or 'unnamed'}): {error}") from None
        except OverflowError:
            raise InputError(
                f"{path}, frame {i} ({file.name}): a number is too large; give pixels and scene units."
            ) from None
    return cameras


def _parse_frame(folder: Path, file: PurePosixPath, frame: dict, size: tuple[int, int] | None) -> NamedCamera:
    if not file.name:
        raise InputError("it has no file_path; name its image.")
    model = frame.get("camera_model", "PINHOLE")
    if model not in ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV"):
        raise InputError(f"camera model {model} is not supported; undistort the photos and give PINHOLE cameras.")
    for key in ("k1", "k2", "k3", "k4", "p1", "p2"):
        if frame.get(key, 0) != 0:
            raise InputError(f"it has lens distortion ({key}); undistort the photos first and give their cameras.")

    def focal(key: str, angle_key: str, side: int, default: float | None) -> float:
        if key not in frame and angle_key in frame:
            angle = number(frame, angle_key)
            if not 0 < angle < math.pi:
                raise InputError(f"{angle_key} is {angle}; give radians between 0 and pi.")
            return side / 2 / math.tan(angle / 2)
        return number(frame, key, default)

    if "w" not in frame and "h" not in frame:
        size = image_size(folder / file) or size
        frame = frame if size is None else {**frame, "h": size[0], "w": size[1]}
    height, width = whole_size(number(frame, "w"), number(frame, "h"))
    fx = focal("fl_x", "camera_angle_x", width, None)
    fy = focal("fl_y", "camera_angle_y", height, fx)
    intrinsics = fx, fy, number(frame, "cx", width / 2), number(frame, "cy", height / 2)
    split = frame.get("split")
    return named_camera(
        file.name,
        rigid_pose(frame.get("transform_matrix")) @ FLIP,
        intrinsics,
        (height, width),
        split if split in ("train", "holdout") else None,
    )


def save(path: Path, cameras: Sequence[NamedCamera], extra: dict[str, Any] | None, images: str) -> None:
    """Write a transforms.json with intrinsics a frame."""
    frames = []
    for camera in cameras:
        fx, fy, cx, cy = intrinsics_of(camera)
        frame = {
            "file_path": PurePosixPath(images, camera.name).as_posix(),
            "w": camera.cameras.width,
            "h": camera.cameras.height,
            "fl_x": fx,
            "fl_y": fy,
            "cx": cx,
            "cy": cy,
            "transform_matrix": (pose_of(camera) @ FLIP).tolist(),
        }
        frames.append(frame if camera.split is None else {**frame, "split": camera.split})
    write_json(path, {"camera_model": "PINHOLE", **(extra or {}), "frames": frames})
