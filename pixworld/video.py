"""Video in: its sharpest frames, as photos."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float, UInt8

from pixworld.views import InputError, Photo

logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns whenever frames are scaled

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts"}
MAX_FRAMES = 60
MIN_FRAMES = 8
FRAMES_PER_SECOND = 2.0  # of the video's length, between the least and the most
LONG_SIDE = 1920  # pixels; larger frames are scaled down
_SHARPNESS_SIDE = 320  # pixels, where motion blur still shows and noise does not


def load_video(path: Path, max_frames: int = MAX_FRAMES) -> list[Photo]:
    """The sharpest frame of each of up to `max_frames` equal windows, named by its index: clip_000123.jpg.

    A first pass keeps one number a frame; a second decodes the chosen ones, at most 1920 pixels long. Raises InputError
    when the file holds no video that ffmpeg can read.
    """
    path = Path(path)
    try:
        meta, sharpness = _sharpness(path)
        if not len(sharpness):
            raise InputError(f"{path.name} holds no video frame that can be read; convert it to an H.264 mp4.")
        seconds = len(sharpness) / meta["fps"] if meta.get("fps") else 0.0
        wanted = min(max(MIN_FRAMES, math.ceil(FRAMES_PER_SECOND * seconds)), max_frames)
        chosen = sharpest_frames(sharpness, wanted)
        images = _decode(path, chosen)
        if len(images) != len(chosen):
            raise RuntimeError(f"only {len(images)} of {len(chosen)} frames decode")
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1:] or ["no reason given"]
        raise InputError(f"{path.name} cannot be read as a video ({reason[0]}); convert it to an H.264 mp4.") from error
    return [Photo(f"{path.stem}_{index:06d}.jpg", image) for index, image in zip(chosen, images)]


def sharpest_frames(sharpness: Float[np.ndarray, " frames"], windows: int) -> list[int]:
    """The index of the sharpest frame of each of `windows` even windows (one a frame when there are fewer)."""
    windows = min(windows, len(sharpness))
    bounds = np.linspace(0, len(sharpness), windows + 1).round().astype(int)
    return [int(a + sharpness[a:b].argmax()) for a, b in itertools.pairwise(bounds)]


def laplacian_variance(grey: UInt8[np.ndarray, "h w"]) -> float:
    """Variance of the 4-neighbour Laplacian, which blur lowers (Pech-Pacheco et al., ICPR 2000)."""
    x = grey.astype(np.float32)
    laplacian = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    return float(laplacian.var())


def _sharpness(path: Path) -> tuple[dict, Float[np.ndarray, " frames"]]:
    frames = _frames(path, f"scale={_fit(_SHARPNESS_SIDE)}", "gray")
    meta = next(frames)
    return meta, np.array([laplacian_variance(frame[..., 0]) for frame in frames])


def _decode(path: Path, indices: list[int]) -> list[UInt8[np.ndarray, "h w 3"]]:
    chosen = "+".join(f"eq(n\\,{index})" for index in indices)
    frames = _frames(path, f"select={chosen},scale={_fit(LONG_SIDE)}", "rgb24")
    next(frames)
    return list(frames)


def _fit(side: int) -> str:
    """ffmpeg's size of a frame that is scaled down into a square."""
    return f"w='min(iw,{side})':h='min(ih,{side})':force_original_aspect_ratio=decrease"


def _frames(path: Path, filters: str, pixels: str) -> Iterator:
    """What ffmpeg says of the video, then its filtered frames, uint8 [h w c], upright, none dropped or doubled."""
    channels = {"gray": 1, "rgb24": 3}[pixels]
    source = imageio_ffmpeg.read_frames(
        path.resolve(),  # a name that starts with a dash is no option
        pix_fmt=pixels,
        bits_per_pixel=8 * channels,
        output_params=["-vf", filters, "-fps_mode", "passthrough"],
    )
    try:
        meta = next(source)
        yield meta
        width, height = meta["size"]
        for frame in source:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, channels)
    finally:
        source.close()
