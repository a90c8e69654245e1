"""Atomic writes, images and video."""

from __future__ import annotations

import os

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from pixworld.files import atomic, colour_depth, image_to_tensor, save_image, save_video, tensor_to_image
from pixworld.views import InputError


def photo_array(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them; the top-left corner is red."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 - 200 * x / width, 200 * y / height, 100 + 0 * x], axis=-1)
    image[: height // 3, : width // 3] = (255, 0, 0)
    return image.astype(np.uint8)


def test_atomic_writes_whole_or_nothing(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as temp:
        temp.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]
    with atomic(target) as temp:
        assert temp.parent == tmp_path and temp.suffix == ".txt"
        temp.write_text("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]
    with pytest.raises(InputError, match="cannot be written"), atomic(target / "below" / "a.txt") as temp:
        temp.write_text("never")


def test_image_round_trip(tmp_path):
    tensor = image_to_tensor(photo_array())
    assert tensor.shape == (3, 48, 64) and tensor.max() <= 1
    np.testing.assert_array_equal(tensor_to_image(tensor), photo_array())
    save_image(tmp_path / "a.png", tensor * 2 - 0.5)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.array(image), tensor_to_image((tensor * 2 - 0.5).clamp(0, 1)))


def test_video_of_odd_size(tmp_path):
    frames = (torch.full((3, 33, 47), i / 9) for i in range(10))
    save_video(tmp_path / "a.mp4", frames, fps=10)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    meta = next(reader)
    shown = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert meta["size"] == (46, 32) and meta["codec"] == "h264" and len(shown) == 10
    assert shown == sorted(shown) and shown[0] < 10 and shown[-1] > 245
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_depth_colours():
    colours = colour_depth(torch.tensor([[0.0, 0.5, 1.0], [2.0, 4.0, 9.0]]), lo=1, hi=4)
    grey = colours.mean(dim=0)
    assert colours.shape == (3, 2, 3) and colours[:, 0, 0].tolist() == [0.5] * 3
    assert grey[0, 1] == grey[0, 2] > grey[1, 0] > grey[1, 1] == grey[1, 2]
