"""Photos, camera files, images and video. Every file is written whole or not at all. Splats are in `ply.py`."""

from __future__ import annotations

import itertools
import json
import math
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.views import InputError, NamedCamera, Photo

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_PIXELS = 200_000_000  # of one photo, checked before its pixels are decoded
MIN_SIDE = 16  # pixels; smaller photos are skipped
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice this; its default is below what phones take

# OpenCV camera axes (x right, y down, z forward) <-> OpenGL (x right, y up, z backward)
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

# Near to far: an arc in OKLCH whose lightness falls evenly from 0.93 to 0.23, chroma 0.13 where sRGB has it.
_DEPTH_COLOURS = [
    (255, 232, 144), (255, 202, 108), (248, 172, 94), (235, 144, 91), (218, 119, 94), (198, 96, 99),
    (173, 76, 103), (146, 58, 105), (118, 43, 105), (89, 29, 101), (60, 15, 94), (33, 0, 84),
]  # fmt: skip


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, of the same suffix; it becomes `path` when the block ends well.

    Parent folders are made. Raises InputError when the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    temp = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temp
            with open(temp, "rb+") as file:
                os.fsync(file.fileno())  # the content must be on disk before the name is
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be written ({reason}); choose another folder or make room.") from error


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; numbers must be finite."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic(path) as temp:
        temp.write_text(text + "\n", encoding="utf-8")


# --- photos in


def load_photos(paths: Sequence[Path]) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Read JPEG and PNG photos from folders and files: the photos by name, and (name, reason) of those skipped.

    Raises InputError when a path is missing, two photos share a name, or none can be used.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [x for x in path.iterdir() if x.suffix.lower() in PHOTO_SUFFIXES and not x.name.startswith(".")]
            if not inside:
                raise InputError(f"The folder {path} holds no JPEG or PNG photos; give a folder of photos.")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path} does not exist; give a folder of photos or photo files.")
    if not files:
        raise InputError("No photos were given; give a folder of photos or photo files.")
    files = sorted(set(files), key=lambda x: x.name)
    for a, b in itertools.pairwise(files):
        if a.name == b.name:
            raise InputError(f"Two photos are named {a.name} ({a.parent} and {b.parent}); rename one of them.")
    photos: list[Photo] = []
    skipped: list[tuple[str, str]] = []
    for file in files:
        try:
            photos.append(_load_photo(file))
        except InputError as error:
            skipped.append((file.name, str(error)))
        except Exception as error:  # the decoders raise many kinds on broken files
            skipped.append((file.name, f"it is not a readable JPEG or PNG ({error})"))
    if not photos:
        name, reason = skipped[0]
        raise InputError(f"None of the {len(skipped)} photos can be used: of {name}, {reason}; give other photos.")
    return photos, skipped


def _load_photo(path: Path) -> Photo:
    with warnings.catch_warnings():
        # between once and twice its limit Pillow only warns; it is checked next, from the header
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=("JPEG", "PNG"))
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"its {width} x {height} pixels are more than the {MAX_PIXELS // 10**6} million allowed")
        if min(width, height) < MIN_SIDE:
            raise InputError(f"its {width} x {height} pixels are too few ({MIN_SIDE} a side at least)")
        focal_px = _exif_focal(image)
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip
            upright = Image.fromarray(
                (np.asarray(upright, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
            )
        if "A" in upright.getbands() or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright)
        return Photo(path.name, np.array(upright.convert("RGB")), focal_px)


def _exif_focal(image: Image.Image) -> float | None:
    """Focal length in pixels, or None where the EXIF does not say or says nonsense.

    FocalLengthIn35mmFilm is read as relative to the 36 mm side of the film, which phones and drones follow more
    closely than the diagonal.
    """
    exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
    long_side = max(image.size)

    def number(tag: ExifTags.Base) -> float:
        try:
            value = float(exif.get(tag, 0))
        except (TypeError, ValueError, ZeroDivisionError):
            return 0.0
        return value if math.isfinite(value) else 0.0

    focal_px = number(ExifTags.Base.FocalLengthIn35mmFilm) / 36 * long_side
    if not focal_px:
        # the unit of the sensor's resolution: 2 inch, 3 cm, 4 mm; counted at the size the camera wrote
        mm = {2: 25.4, 3: 10.0, 4: 1.0}.get(int(number(ExifTags.Base.FocalPlaneResolutionUnit)), 25.4)
        written = max(number(ExifTags.Base.ExifImageWidth), number(ExifTags.Base.ExifImageHeight)) or long_side
        pixels_per_mm = number(ExifTags.Base.FocalPlaneXResolution) / mm * long_side / written
        focal_px = number(ExifTags.Base.FocalLength) * pixels_per_mm
    return focal_px if 0.2 * long_side < focal_px < 20 * long_side else None


def resize_photo(image: UInt8[np.ndarray, "h w 3"], camera: Cameras, size: int) -> tuple[np.ndarray, Cameras]:
    """Scale an image and its camera down so that the short side is at most `size` pixels; never up."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    if scale >= 1:
        return image, camera
    new = max(1, round(height * scale)), max(1, round(width * scale))
    small = Image.fromarray(image).resize(new[::-1], Image.Resampling.LANCZOS)
    return np.array(small), camera.resize(*new)


# --- images and video out


def image_to_tensor(image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(image).permute(2, 0, 1).to(torch.float32) / 255


def tensor_to_image(tensor: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Values outside 0..1 are clamped."""
    return (tensor.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def save_image(path: Path, tensor: Float[Tensor, "3 h w"]) -> None:
    """Write an image in the format of the suffix."""
    with atomic(path) as temp:
        Image.fromarray(tensor_to_image(tensor)).save(temp, quality=95)


def save_video(path: Path, frames: Iterable[Float[Tensor, "3 h w"]], fps: int | float) -> None:
    """Write an H.264 mp4. Frames share a size; an odd last row or column is cropped, which the codec cannot hold."""
    with atomic(path) as temp:
        writer = None
        try:
            for frame in frames:
                height, width = (side // 2 * 2 for side in frame.shape[-2:])
                if writer is None:
                    writer = imageio_ffmpeg.write_frames(
                        str(temp), (width, height), fps=fps, quality=8, macro_block_size=2, ffmpeg_log_level="error"
                    )
                    writer.send(None)
                writer.send(np.ascontiguousarray(tensor_to_image(frame)[:height, :width]))
        finally:
            if writer is not None:
                writer.close()
        assert writer is not None, "a video needs at least one frame"


def colour_depth(depth: Float[Tensor, "h w"], lo: int | float, hi: int | float) -> Float[Tensor, "3 h w"]:
    """Colour depths from `lo` (light) to `hi` (dark) evenly in log depth; unknown depth (0) is grey."""
    assert 0 < lo < hi
    known = depth > 0
    position = torch.where(known, (depth / lo).clamp_min(1e-6).log() / math.log(hi / lo), 0.0).clamp(0, 1)
    table = torch.tensor(_DEPTH_COLOURS, dtype=depth.dtype, device=depth.device) / 255
    position = position * (len(table) - 1)
    below = position.floor().long().clamp_max(len(table) - 2)
    colours = torch.lerp(table[below], table[below + 1], (position - below)[..., None])
    return torch.where(known[..., None], colours, 0.5).permute(2, 0, 1)


# --- camera files


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
