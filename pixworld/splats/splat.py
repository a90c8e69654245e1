"""The `.splat` file of antimatter15's web viewer: 32 bytes a Gaussian, nothing else. Axes are ours.

float32 x y z and the three standard deviations; then bytes red, green, blue, opacity (0..255) and rotation wxyz
((value - 128) / 128). Colour has no view dependence, and none outside 0..1. Gaussians are written in the order of
volume times opacity, largest first, because viewers draw while they load.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.sh import C0
from pixworld.splats.checks import open_splats, sound_gaussians
from pixworld.views import InputError

_RECORD = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def save_splat(path: Path, gaussians: Gaussians, comments: Sequence[str] = ()) -> None:
    """Write an unbatched set of finite Gaussians, without SH above degree 0; there is no room for comments.

    Raises InputError when the file cannot be written.
    """
    g = gaussians.detach().to("cpu", torch.float32)
    g = g.select((g.scales.prod(-1) * g.opacities).argsort(descending=True, stable=True))
    records = np.empty(len(g), _RECORD)
    records["means"], records["scales"] = g.means, g.scales
    colours = np.concatenate([g.sh[:, 0].numpy() * C0 + 0.5, g.opacities[:, None].numpy()], axis=1)
    records["rgba"] = np.clip(np.round(colours * 255), 0, 255)
    records["quats"] = np.clip(np.round(g.quats.numpy() * 128 + 128), 0, 255)
    with atomic(path) as temp:
        records.tofile(temp)


def load_splat(path: Path) -> Gaussians:
    """Read a `.splat` file. Raises InputError when it is not a sound one."""
    with open_splats(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % _RECORD.itemsize:
            raise InputError(f"{path} is no .splat file: {size} bytes are not a multiple of 32; export it again.")
        records = np.fromfile(file, _RECORD)
    rgba = records["rgba"].astype(np.float32) / 255
    quats = (records["quats"].astype(np.float32) - 128) / 128
    sh = ((rgba[:, None, :3] - 0.5) / C0).astype(np.float32)
    return sound_gaussians(path, records["means"], quats, records["scales"], rgba[:, 3], sh)
