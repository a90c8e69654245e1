"""What every reader of splat files asks of a file before it believes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from pixworld.gaussians import Gaussians
from pixworld.views import InputError

# Real splat files shrink by less than 20; deflate reaches 1000 and zstd 20000 on bytes that say nothing.
_MAX_EXPANSION, _ALWAYS_ALLOWED = 100, 1 << 25


def open_splats(path: Path):
    """Open a splat file for reading. Raises InputError when that is not possible."""
    try:
        return open(path, "rb")
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{path} {reason}; give the path of a splat file.") from None


def check_expansion(path: Path, packed: int, unpacked: int) -> None:
    """Refuse a compressed file that says it unpacks to far more bytes than splats can: a zip bomb, or damage."""
    if unpacked > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * packed):
        raise InputError(f"{path} claims to unpack from {packed} to {unpacked} bytes; it is damaged, export it again.")


def make_sound(
    path: Path,
    means: Float32[np.ndarray, "n 3"],
    quats: Float32[np.ndarray, "n 4"],
    scales: Float32[np.ndarray, "n 3"],
    opacities: Float32[np.ndarray, " n"],
    sh: Float32[np.ndarray, "n k 3"],
) -> None:
    """Check what a file held, normalise quats in place, and make scales of 0 the smallest normal number.

    Raises InputError when values are not finite, scales are negative, opacities are outside 0..1 or a rotation is 0.
    """
    if not len(means):
        return
    with np.errstate(all="ignore"):
        # a sum is infinite or NaN whenever a term is, and is quick to have
        if not all(np.isfinite(x.sum()) or np.isfinite(x).all() for x in (means, quats, scales, opacities, sh)):
            raise InputError(f"{path} holds values that are not finite; export it again.")
        quats /= np.abs(quats).max(axis=1, keepdims=True).clip(np.finfo(np.float32).tiny)  # squares may overflow
        lengths = np.sqrt(np.einsum("ij,ij->i", quats, quats))[:, None]
        if lengths.min() == 0:
            raise InputError(f"{path} holds rotations of length zero; export it again.")
        np.divide(quats, lengths, out=quats)
    if scales.min() < 0 or opacities.min() < 0 or opacities.max() > 1:
        raise InputError(f"{path} holds scales below 0 or opacities outside 0..1; export it again.")
    np.maximum(scales, np.finfo(np.float32).tiny, out=scales)  # so that the logarithm of a flat Gaussian is finite


def sound_gaussians(path: Path, means, quats, scales, opacities, sh) -> Gaussians:
    """Gaussians of the arrays of a file, which they take over; checks and errors as `make_sound`."""
    arrays = [np.ascontiguousarray(x, np.float32) for x in (means, quats, scales, opacities, sh)]
    make_sound(path, *arrays)
    return Gaussians(*(torch.from_numpy(x) for x in arrays))
