"""RealEstate10K's text files: a clip a file, a camera a line.

The first line is the video's address. Every other line has 19 numbers: the timestamp in microseconds; fx, fy, cx, cy as
shares of the image's width and height; two zeros (distortion); and the 3 x 4 world-to-camera matrix row by row, OpenCV
axes. Source: Zhou et al. 2018, "Stereo Magnification", and the data set's page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixworld.camera_files.parts import image_size, intrinsics_of, named_camera, pose_of, rigid_pose
from pixworld.files import atomic
from pixworld.views import InputError, NamedCamera

_FRAME_US = 33_333  # between cameras whose names are no timestamps: 30 a second


def load(path: Path, size: tuple[int, int] | None) -> list[NamedCamera]:
    """The cameras of a clip, named by their timestamps. The images' size is that of TIMESTAMP.png (or .jpg) beside the
    file or in the folder of its name, or else `size` (height, width). Raises InputError, which names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); give a RealEstate10K file.") from error
    cameras = []
    for i, line in enumerate(lines, start=1):
        words = line.split()
        if not words or (i == 1 and len(words) == 1):  # the address
            continue
        try:
            cameras.append(_parse_line(path, words, size))
        except InputError as error:
            raise InputError(f"{path}, line {i}: {error}") from None
    if not cameras:
        raise InputError(f"{path} holds no cameras; give a RealEstate10K file, or a transforms.json.")
    return cameras


def _parse_line(path: Path, words: list[str], size: tuple[int, int] | None) -> NamedCamera:
    try:
        timestamp, values = int(words[0]), np.array(words[1:], dtype=np.float64)
    except (ValueError, OverflowError):
        timestamp, values = 0, np.zeros(0)
    if len(values) != 18 or not np.isfinite(values).all():
        raise InputError("it is not 19 numbers; give a RealEstate10K file (timestamp, intrinsics, 3 x 4 pose).")
    if values[4:6].any():
        raise InputError("it has lens distortion; undistort the images first and give zeros.")
    for folder in (path.with_suffix(""), path.parent):
        size = image_size(folder / str(timestamp)) or size
    if size is None:
        raise InputError("the size of the images is not known; put them into the folder named like the file.")
    height, width = size
    w2c = rigid_pose(values[6:].reshape(3, 4), "its pose")
    intrinsics = tuple((values[:4] * [width, height, width, height]).tolist())
    return named_camera(str(timestamp), np.linalg.inv(w2c), intrinsics, size)


def save(path: Path, cameras: Sequence[NamedCamera]) -> None:
    """Write a clip. Cameras whose names are whole numbers keep them as timestamps; otherwise all are 1/30 s apart."""
    stems = [Path(camera.name).stem for camera in cameras]
    if not all(stem.isdecimal() for stem in stems):
        stems = [str(i * _FRAME_US) for i in range(len(cameras))]
    lines = ["pixworld"]  # in place of the video's address
    for stem, camera in zip(stems, cameras):
        fx, fy, cx, cy = intrinsics_of(camera)
        height, width = camera.cameras.height, camera.cameras.width
        w2c = np.linalg.inv(pose_of(camera))[:3]
        values = [fx / width, fy / height, cx / width, cy / height, 0, 0, *w2c.ravel()]
        assert all(math.isfinite(x) for x in values)
        lines.append(" ".join([stem, *(f"{x:.9g}" for x in values)]))
    with atomic(path) as temp:
        temp.write_text("\n".join(lines) + "\n", encoding="utf-8")
