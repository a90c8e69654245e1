"""Spherical harmonics up to degree 3, in the order and signs of pixworld/sh.py. Pure numpy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

C0 = 0.28209479177387814  # the constant band


def first(x: Any, y: Any, z: Any) -> list[Any]:
    """The basis of degree 1 at unit directions. x, y, z are numbers, arrays or node fields."""
    c = 0.4886025119029199
    return [-c * y, c * z, -c * x]


def second(x: Any, y: Any, z: Any) -> list[Any]:
    """The basis of degree 2."""
    xx, yy, zz, c = x * x, y * y, z * z, 1.0925484305920792
    return [c * (x * y), -c * (y * z), 0.31539156525252005 * (3.0 * zz - 1.0), -c * (x * z), c / 2 * (xx - yy)]


def third(x: Any, y: Any, z: Any) -> list[Any]:
    """The basis of degree 3."""
    xx, yy, zz = x * x, y * y, z * z
    return [
        -0.5900435899266435 * (y * (3.0 * xx - yy)),
        2.890611442640554 * (x * (y * z)),
        -0.4570457994644658 * (y * (5.0 * zz - 1.0)),
        0.3731763325901154 * (z * (5.0 * zz - 3.0)),
        -0.4570457994644658 * (x * (5.0 * zz - 1.0)),
        1.445305721320277 * (z * (xx - yy)),
        -0.5900435899266435 * (x * (xx - 3.0 * yy)),
    ]


def bands(x: Any, y: Any, z: Any) -> list[Any]:
    """The 15 basis values above the constant one at unit directions."""
    return [*first(x, y, z), *second(x, y, z), *third(x, y, z)]


def colours(sh: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """What coefficients [n k 3] show along directions [n 3], not necessarily unit: max(0, 0.5 + SH), [n 3]."""
    rgb = 0.5 + C0 * sh[:, 0]
    if sh.shape[1] > 1:
        x, y, z = directions.T / np.linalg.norm(directions, axis=1)
        for i, weight in enumerate(bands(x, y, z)[: sh.shape[1] - 1]):
            rgb += weight[:, None] * sh[:, i + 1]
    return np.maximum(rgb, 0, out=rgb)


@functools.cache
def _probe() -> tuple[np.ndarray, np.ndarray]:
    """Fixed directions [64 3] and the pseudo-inverse [15 64] of their basis."""
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, np.linalg.pinv(np.stack(bands(*directions.T), axis=1))


def rotate(sh: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Coefficients [n k 3] of the function turned by rotation [3 3]: f'(d) = f(R⁻¹ d).

    The span of the bands is closed under rotation, so the least-squares fit on fixed directions is exact.
    """
    k = sh.shape[1] - 1
    if k == 0:
        return sh.copy()
    directions, inverse = _probe()
    matrix = inverse @ np.stack(bands(*(directions @ rotation).T), axis=1)
    out = sh.copy()
    out[:, 1:] = np.einsum("ij,njc->nic", matrix[:k, :k].astype(sh.dtype), sh[:, 1:], optimize=True)
    return out
