"""COLMAP model folders, binary and text: cameras and images, not points.

pycolmap could do it, but it reads all points, and a broken file can make it end the process. Source: COLMAP's
documentation of its output format and its list of models. Poses are world to camera, OpenCV axes; the centre of the
top-left pixel is (0.5, 0.5).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from pixworld.camera_files.parts import intrinsics_of, named_camera, pose_of, rigid_pose, whole_size
from pixworld.files import atomic
from pixworld.gaussians import quat_from_matrix, quat_to_matrix
from pixworld.views import InputError, NamedCamera

FILES = {f"{name}.{suffix}" for name in ("cameras", "images") for suffix in ("bin", "txt")}

# Models in the order of their numbers in binary files, and how many parameters they have.
_MODELS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12,
}  # fmt: skip
# Those that are a pinhole when what follows their focal lengths (how many) and principal point is 0.
_FOCALS = {"SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2, "FULL_OPENCV": 2}


class _Lens(NamedTuple):
    model: str
    width: float
    height: float
    params: tuple[float, ...]


class _Shot(NamedTuple):
    name: str
    camera_id: int
    pose: tuple[float, ...]  # quaternion w, x, y, z and translation, world to camera


def is_model(folder: Path) -> bool:
    return any(_has(folder, suffix) for suffix in ("bin", "txt"))


def _has(folder: Path, suffix: str) -> bool:
    return (folder / f"cameras.{suffix}").is_file() and (folder / f"images.{suffix}").is_file()


def load(folder: Path) -> list[NamedCamera]:
    """The cameras of the images of a model, sorted by name; points are not read, nor needed. Raises InputError, which
    names the image."""
    try:
        if _has(folder, "bin"):
            lenses, shots = _read_cameras_bin(folder / "cameras.bin"), _read_images_bin(folder / "images.bin")
        else:
            lenses, shots = _read_cameras_txt(folder / "cameras.txt"), _read_images_txt(folder / "images.txt")
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise InputError(f"{folder} cannot be read as a COLMAP model ({error}); give a whole one.") from error
    if not shots:
        raise InputError(f"The COLMAP model {folder} has no registered image; give another one.")
    cameras = []
    for shot in shots:
        try:
            cameras.append(_camera(shot, lenses))
        except InputError as error:
            raise InputError(f"{folder}, image {shot.name}: {error}") from None
    return sorted(cameras, key=lambda camera: camera.name)


def _camera(shot: _Shot, lenses: dict[int, _Lens]) -> NamedCamera:
    if shot.camera_id not in lenses:
        raise InputError(f"there is no camera {shot.camera_id}; give a whole model.")
    lens = lenses[shot.camera_id]
    focals = _FOCALS.get(lens.model)
    if focals is None or any(lens.params[focals + 2 :]):
        raise InputError(
            f"its camera {lens.model} has lens distortion; undistort the photos (colmap image_undistorter) and give "
            "that model."
        )
    (*f, cx, cy) = lens.params[: focals + 2]
    quaternion = np.array(shot.pose[:4])
    if not 0.5 < np.linalg.norm(quaternion) < 2:
        raise InputError("its quaternion is not a rotation; give w, x, y, z of unit length.")
    w2c = np.eye(4)
    w2c[:3, :3], w2c[:3, 3] = quat_to_matrix(torch.from_numpy(quaternion)).numpy(), shot.pose[4:]
    c2w = np.linalg.inv(rigid_pose(w2c, "its pose"))
    return named_camera(shot.name, c2w, (f[0], f[-1], cx, cy), whole_size(lens.width, lens.height))


def _file_name(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file if not line.startswith("#"))


def _read_cameras_txt(path: Path) -> dict[int, _Lens]:
    lenses = {}
    for words in (line.split() for line in _lines(path) if line):
        model, params = words[1], tuple(float(x) for x in words[4:])
        if len(params) != _MODELS.get(model, len(params)):
            raise ValueError(f"a {model} camera has {_MODELS[model]} parameters, not {len(params)}")
        lenses[int(words[0])] = _Lens(model, float(words[2]), float(words[3]), params)
    return lenses


def _read_images_txt(path: Path) -> list[_Shot]:
    shots = []
    lines = _lines(path)
    for line in lines:
        if line:
            words = line.split(maxsplit=9)
            shots.append(_Shot(_file_name(words[9]), int(words[8]), tuple(float(x) for x in words[1:8])))
            next(lines, None)  # the image's points, which may be none
    return shots


def _read_cameras_bin(path: Path) -> dict[int, _Lens]:
    data = path.read_bytes()
    (count,) = struct.unpack_from("<Q", data)
    at, lenses = 8, {}
    for _ in range(count):  # a wrong count runs into the end of the file
        camera_id, number, width, height = struct.unpack_from("<IiQQ", data, at)
        if not 0 <= number < len(_MODELS):
            raise ValueError(f"camera {camera_id} is of an unknown model, {number}")
        model = list(_MODELS)[number]
        params = struct.unpack_from(f"<{_MODELS[model]}d", data, at + 24)
        lenses[camera_id] = _Lens(model, float(width), float(height), params)
        at += 24 + 8 * len(params)
    return lenses


def _read_images_bin(path: Path) -> list[_Shot]:
    shots = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (count,) = struct.unpack_from("<Q", data)
        at = 8
        for _ in range(count):
            _, *pose, camera_id = struct.unpack_from("<I7dI", data, at)
            end = data.find(b"\0", at + 64)
            if end < 0:
                raise ValueError("the file is truncated")
            shots.append(_Shot(_file_name(data[at + 64 : end].decode()), camera_id, tuple(pose)))
            (points,) = struct.unpack_from("<Q", data, end + 1)
            at = end + 9 + 24 * points
            if at > len(data):
                raise ValueError("the file is truncated")
    return shots


def save(folder: Path, cameras: Sequence[NamedCamera], text: bool) -> None:
    """Write the files of a model of PINHOLE cameras, without points, into a folder, which is made. Cameras of equal
    intrinsics are written once."""
    lenses: dict[tuple, int] = {}  # width, height, fx, fy, cx, cy -> camera id
    shots = []
    for camera in cameras:
        size = camera.cameras.width, camera.cameras.height
        camera_id = lenses.setdefault((*size, *intrinsics_of(camera)), len(lenses) + 1)
        w2c = np.linalg.inv(pose_of(camera))
        quaternion = quat_from_matrix(torch.from_numpy(w2c[:3, :3].copy()))
        shots.append(_Shot(camera.name, camera_id, (*quaternion.tolist(), *w2c[:3, 3].tolist())))
    if text:
        contents = {
            "cameras.txt": "".join(f"{i} PINHOLE {_words(lens)}\n" for lens, i in lenses.items()),
            "images.txt": "".join(  # the second line of an image is for its points
                f"{i} {_words(shot.pose)} {shot.camera_id} {shot.name}\n\n" for i, shot in enumerate(shots, start=1)
            ),
            "points3D.txt": "",
        }
        contents = {name: content.encode() for name, content in contents.items()}
    else:
        number = list(_MODELS).index("PINHOLE")
        contents = {
            "cameras.bin": struct.pack("<Q", len(lenses))
            + b"".join(struct.pack("<IiQQ4d", i, number, *lens) for lens, i in lenses.items()),
            "images.bin": struct.pack("<Q", len(shots))
            + b"".join(
                struct.pack("<I7dI", i, *shot.pose, shot.camera_id) + shot.name.encode() + b"\0" + bytes(8)
                for i, shot in enumerate(shots, start=1)
            ),
            "points3D.bin": bytes(8),
        }
    for name, content in contents.items():
        with atomic(folder / name) as temp:
            temp.write_bytes(content)


def _words(values: Sequence[int | float]) -> str:
    return " ".join(f"{x:.17g}" for x in values)
