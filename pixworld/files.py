"""Writing files whole or not at all; images, video and JSON out. Photos come in by `photos.py`."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pixworld.views import InputError

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
