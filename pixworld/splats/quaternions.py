"""Quaternions as the index of the largest component and the other three, which are within 1/sqrt(2) of zero."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int, UInt32

_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # by the largest
_LEVELS = 511  # of the 9-bit magnitudes


def smallest_three(quats: Float32[np.ndarray, "n 4"]) -> tuple[Int[np.ndarray, " n"], Float32[np.ndarray, "n 3"]]:
    """The index of the largest component, and the other three in order, times sqrt(2) and signed for the largest to be
    positive: -1..1."""
    largest = np.abs(quats).argmax(axis=1)
    signs = np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -1, 1)
    return largest, np.take_along_axis(quats, _OTHERS[largest], 1) * np.float32(2**0.5) * signs.astype(np.float32)


def from_smallest_three(
    largest: Int[np.ndarray, " n"], others: Float32[np.ndarray, "n 3"]
) -> Float32[np.ndarray, "n 4"]:
    """Inverse of `smallest_three`."""
    others = others / np.float32(2**0.5)
    quats = np.empty((len(others), 4), np.float32)
    np.put_along_axis(quats, _OTHERS[largest], others, 1)
    np.put_along_axis(quats, largest[:, None], np.sqrt(np.maximum(0, 1 - (others**2).sum(1, keepdims=True))), 1)
    return quats


def pack_smallest_three(quats: Float32[np.ndarray, "n 4"]) -> UInt32[np.ndarray, " n"]:
    """SPZ's 32 bits: from the top, the index of the largest, then three times a sign bit and a 9-bit magnitude."""
    largest, others = smallest_three(quats)
    magnitudes = np.minimum(np.round(np.abs(others) * _LEVELS), _LEVELS).astype(np.uint32)
    fields = (others < 0).astype(np.uint32) << 9 | magnitudes
    return (largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]).astype("<u4")


def unpack_smallest_three(packed: UInt32[np.ndarray, " n"]) -> Float32[np.ndarray, "n 4"]:
    """Inverse of `pack_smallest_three`."""
    fields = packed[:, None] >> np.array([20, 10, 0], np.uint32)
    others = (fields & _LEVELS).astype(np.float32) / _LEVELS * np.where(fields >> 9 & 1, -1, 1).astype(np.float32)
    return from_smallest_three((packed >> 30).astype(np.int64), others)
