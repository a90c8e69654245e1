"""One frame of a real data set -> an image of the wanted size, its intrinsics and depth.

The image is decoded at draft size, cropped and resized in one go; the same window moves the intrinsics and the depth.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.data.stores import Store
from pixworld.exif import focal_length_px
from pixworld.photos import MAX_PIXELS
from pixworld.views import InputError

DEPTH_SUFFIX = ".depth.png"  # a frame's (pseudo-)depth is NAME.depth.png beside NAME.jpg
MILLIMETRE = 1e-3  # the unit of 16-bit depth images that do not say theirs, as nerfstudio reads them


@dataclass(frozen=True)
class Frame:
    """A posed frame that has not been read. Its file may be of another size than its camera (DL3DV's images_4)."""

    store: Store
    image: str
    camera: Cameras | None  # one view; None for a photo of unknown camera
    depth: str | None = None
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # k1, k2, p1, p2 of OpenCV


class Window(NamedTuple):
    """The part of an image, in its pixels, that is scaled to the wanted size."""

    left: float
    top: float
    scale: float  # wanted pixels a pixel


class Decoded(NamedTuple):
    image: Float[Tensor, "3 h w"]
    K: Float[Tensor, "3 3"]
    depth: Float[Tensor, "h w"]  # 0 where unknown


def decode(frame: Frame, shape: tuple[int, int], position: tuple[float, float] = (0.5, 0.5)) -> Decoded:
    """Read a frame so that it covers `shape` (height, width); `position`, 0..1 down and right, says which part is kept
    where its aspect differs. Raises InputError, or what the image decoder raises on a broken file."""
    with _open(frame.store.read(frame.image)) as image:
        width, height = upright_size(image)
        K = _intrinsics(frame, image, height, width)
        window = cover((height, width), shape, position)
        if window.scale > 1.01:
            raise InputError(f"{frame.image} has {width} x {height} pixels, too few for {shape[1]} x {shape[0]}")
        if any(frame.distortion):
            window = _inside(window, K, frame.distortion, (height, width), shape)
            grid = source_positions(window, K, frame.distortion, shape)
            whole = max(1, round(height * window.scale)), max(1, round(width * window.scale))
            pixels = _resample(
                _read(image, (0.0, 0.0, float(width), float(height)), whole), grid / torch.tensor([width, height])
            )
        else:
            grid = source_positions(window, K, frame.distortion, shape)
            right, bottom = window.left + shape[1] / window.scale, window.top + shape[0] / window.scale
            pixels = _read(image, (window.left, window.top, right, bottom), shape)
    depth = torch.zeros(shape)
    if frame.depth is not None:
        depth = _nearest(read_depth(frame.store.read(frame.depth)), grid / torch.tensor([width, height]))
    return Decoded(pixels, _in_window(K, window), depth)


def cover(size: tuple[int, int], shape: tuple[int, int], position: tuple[float, float]) -> Window:
    """The largest window of an image of `size` that has the aspect of `shape` (both height, width)."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    top, left = (p * (a - b / scale) for p, a, b in zip(position, size, shape, strict=True))
    return Window(left, top, scale)


def distort(points: Float[Tensor, "*n 2"], coefficients: tuple[float, float, float, float]) -> Float[Tensor, "*n 2"]:
    """Where a lens puts the ideal image coordinates x/z, y/z. The radial and tangential model of Brown 1966, with
    OpenCV's k1, k2, p1, p2."""
    k1, k2, p1, p2 = coefficients
    x, y = points.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=-1,
    )


def source_positions(
    window: Window, K: Float[Tensor, "3 3"], distortion: tuple[float, float, float, float], shape: tuple[int, int]
) -> Float[Tensor, "h w 2"]:
    """For every wanted pixel the position (x, y) in the image that it is taken from."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in shape), indexing="ij")
    ideal = torch.stack([x / window.scale + window.left, y / window.scale + window.top], dim=-1)
    if not any(distortion):
        return ideal
    focal, centre = K.diagonal()[:2], K[:2, 2]
    return distort((ideal - centre) / focal, distortion) * focal + centre


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as it is shown, i.e. with its EXIF orientation applied."""
    turned = image.getexif().get(0x0112, 1) >= 5
    return image.size[::-1] if turned else image.size


def image_size(store: Store, name: str) -> tuple[int, int]:
    """(height, width) of an upright image. Raises OSError where it is none."""
    with _open(store.read(name)) as image:
        return upright_size(image)[::-1]


def write_depth(depth: Float[Tensor, "h w"]) -> bytes:
    """A 16-bit PNG of depths (z, scene units, 0 where unknown) that carries its own unit, the depth of one step."""
    far = depth.max().item()
    unit = far / 65535 if far > 0 else 1.0
    # what is known stays known: 0 is kept for what is not
    steps = torch.where(depth > 0, (depth / unit).round().clamp(1, 65535), 0)
    info = PngImagePlugin.PngInfo()
    info.add_text("unit", repr(unit))
    out = io.BytesIO()
    Image.fromarray(steps.numpy().astype(np.uint16)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def read_depth(data: bytes) -> Float[Tensor, "h w"]:
    """Depths of a 16-bit PNG in the unit that it names, or else in millimetres. Raises InputError."""
    with _open(data) as image:
        if not image.mode.startswith("I"):
            raise InputError(f"its depth is an image of kind {image.mode}; give 16-bit PNG")
        image.load()
        unit = float(image.info.get("unit", MILLIMETRE))
        return torch.from_numpy(np.asarray(image).astype(np.float32)) * unit


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"an image of {image.width} x {image.height} pixels is too large")
    return image


def _intrinsics(frame: Frame, image: Image.Image, height: int, width: int) -> Float[Tensor, "3 3"]:
    """K in pixels of the upright image. A photo of unknown camera has its EXIF's focal length, or its long side (53
    degrees, a 35 mm lens)."""
    if frame.camera is None:
        focal = focal_length_px(image) or float(max(height, width))
        return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    told = frame.camera
    if abs(width * told.height / (height * told.width) - 1) > 0.02:  # rounding of a small copy is within
        raise InputError(
            f"{frame.image} is {width} x {height} pixels, its camera {told.width} x {told.height}; give cameras of "
            "the photos"
        )
    return told.resize(height, width).K[0]


def _in_window(K: Float[Tensor, "3 3"], window: Window) -> Float[Tensor, "3 3"]:
    shift = torch.tensor([[0, 0, window.left], [0, 0, window.top], [0, 0, 0]])
    return torch.diag(torch.tensor([window.scale, window.scale, 1.0])) @ (K - shift)


def _inside(
    window: Window,
    K: Float[Tensor, "3 3"],
    distortion: tuple[float, float, float, float],
    size: tuple[int, int],
    shape: tuple[int, int],
) -> Window:
    """The window, made smaller about its centre until the lens puts all of it inside the image."""
    limit = torch.tensor([size[1], size[0]])
    for zoom in (1 + 0.01 * i for i in range(50)):
        scale = window.scale * zoom
        margin = tuple(0.5 * side * (1 / window.scale - 1 / scale) for side in shape)
        smaller = Window(window.left + margin[1], window.top + margin[0], scale)
        at = source_positions(smaller, K, distortion, shape)
        if (at >= 0).all() and (at <= limit).all():
            return smaller
    raise InputError(f"its lens distortion {distortion} is too strong; undistort the images first")


def _read(image: Image.Image, box: tuple[float, float, float, float], shape: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """The pixels inside `box` of the upright image, antialiased, at `shape`. JPEGs are decoded at 1/2, 1/4 or 1/8 size
    where that is enough."""
    share = max(1e-6, min(shape[1] / (box[2] - box[0]), shape[0] / (box[3] - box[1])))
    width = image.width
    drafted = image.draft("RGB", tuple(max(1, int(side * share)) for side in image.size))  # None but for JPEG
    shrunk = 1 if drafted is None else width / drafted[1][2]
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    box = tuple(min(max(side / shrunk, 0), image.size[i % 2]) for i, side in enumerate(box))
    small = image.convert("RGB").resize(shape[::-1], Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def _resample(image: Float[Tensor, "3 a b"], at: Float[Tensor, "h w 2"]) -> Float[Tensor, "3 h w"]:
    """Bicubic interpolation at positions that are shares of the width and height."""
    out = F.grid_sample(image[None], 2 * at[None] - 1, mode="bicubic", padding_mode="border", align_corners=False)
    return out[0].clamp(0, 1)


def _nearest(values: Float[Tensor, "a b"], at: Float[Tensor, "h w 2"]) -> Float[Tensor, "h w"]:
    """The pixels that positions (shares of the width and height) fall into: depth is never mixed over an edge."""
    size = torch.tensor([values.shape[1], values.shape[0]])
    x, y = (at * size).floor().long().clamp_min(0).minimum(size - 1).unbind(-1)
    return values[y, x]
