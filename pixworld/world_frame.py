"""Where down, north and a metre are, in the arbitrary world that structure from motion finds.

The world becomes: y down; and with GPS x east, z north, in metres, the origin amid the cameras.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pixworld.sfm import pycolmap  # as it is set up there

Gps = tuple[float, float, float]  # latitude, longitude in degrees, altitude in metres

# Cameras' x axes are level, people and gimbals hold them so. They tell the vertical when they point in ways that differ
# (variance of their second direction), and agree on it (of the third, relative to that).
_MIN_FAN = 0.01  # of axes that turn by 6 degrees (rms)
_MAX_TILT = 0.3
_MIN_GPS = 3  # photos
_MIN_SPREAD_M = 5.0  # rms distance from the middle: below, it is noise
_MAX_RESIDUAL = 0.25  # rms, of the spread: above, the positions contradict the photos
_OUTLIER = 0.3  # of the spread
_MIN_USED = 0.6  # share of the positions that must fit
_MIN_GPS_UP = 5  # positions, for the vertical as well
_MAX_GPS_TILT = 0.035  # radians, standard error of that vertical

_ENU_TO_WORLD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # east, north, up -> east, down, north


class WorldFrame(NamedTuple):
    """The similarity x -> scale * rotation @ x + translation, and where it comes from."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    about: dict[str, Any]  # for the report: up, scale, and what became of the GPS positions


def world_frame(c2w: Float[np.ndarray, "n 3 4"], gps: Sequence[Gps | None], seed: int = 0) -> WorldFrame:
    """The frame for cameras (OpenCV axes), from their GPS positions where at least 3 photos have one, these are spread
    out and fit the cameras; otherwise only the vertical is set, and the scale stays arbitrary."""
    assert len(c2w) == len(gps)
    up, up_from = up_direction(c2w)
    turn = rotation_between(up, np.array([0.0, -1.0, 0.0]))
    about: dict[str, Any] = {"up": up_from, "scale": "arbitrary"}
    has = np.array([x is not None for x in gps])
    if has.sum() < _MIN_GPS:
        return WorldFrame(1.0, turn, np.zeros(3), about)
    fitted = _fit_gps(c2w[has, :, 3], np.array([x for x in gps if x is not None]), up, up_from, seed)
    if isinstance(fitted, str):
        return WorldFrame(1.0, turn, np.zeros(3), {**about, "gps": {"photos": int(has.sum()), "unused": fitted}})
    return fitted


def up_direction(c2w: Float[np.ndarray, "n 3 4"]) -> tuple[Float[np.ndarray, "3"], str]:
    """The unit vertical of cameras that are held level, and what it was found by: "horizon", the direction that their
    x axes are most square to, or "cameras", their mean up, where the x axes all point one way."""
    x, up, forward = c2w[:, :, 0], -c2w[:, :, 1], c2w[:, :, 2]
    variance, axes = np.linalg.eigh(x.T @ x / len(x))
    if variance[1] > _MIN_FAN and variance[0] < _MAX_TILT * variance[1]:
        vertical = axes[:, 0]
        # cameras are seldom upside down; those that look straight down (or up) more often look down
        sign = (up @ vertical).mean() or 0.0
        if abs(sign) < 0.1:
            sign = -(forward @ vertical).mean()
        return (vertical if sign >= 0 else -vertical), "horizon"
    mean = up.mean(axis=0)
    if np.linalg.norm(mean) < 1e-3:  # they look every way up, and any frame is as good
        mean = np.array([0.0, -1.0, 0.0])
    return mean / np.linalg.norm(mean), "cameras"


def rotation_between(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes the unit vector a to the unit vector b."""
    axis, cosine = np.cross(a, b), a @ b
    if cosine < -1 + 1e-9:  # half a turn about any axis square to a
        axis = np.linalg.svd(a[None])[2][1]
        return 2 * np.outer(axis, axis) - np.eye(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def _fit_gps(
    positions: Float[np.ndarray, "m 3"], gps: Float[np.ndarray, "m 3"], up: np.ndarray, up_from: str, seed: int
) -> WorldFrame | str:
    """The metric frame, or why there is none."""
    transform = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    target = transform.ellipsoid_to_enu(gps, *gps.mean(axis=0)) @ _ENU_TO_WORLD.T
    target = target - target.mean(axis=0)
    spread = _rms(target)
    if spread < _MIN_SPREAD_M:
        return f"they are only {spread:.1f} m apart (rms)"
    if _rms(positions - positions.mean(axis=0)) < 1e-9:
        return "the cameras stand in one place"
    fit = _fit_freely(positions, target, _OUTLIER * spread, seed)
    if fit is not None:
        up_from = "gps"
    else:
        turn = rotation_between(up, np.array([0.0, -1.0, 0.0]))
        fit = _fit_upright(positions @ turn.T, target, _OUTLIER * spread)
        fit = fit._replace(rotation=fit.rotation @ turn)
    used = fit.used.sum()
    if used < max(_MIN_GPS, _MIN_USED * len(gps)):
        return f"only {used} of {len(gps)} fit the cameras"
    residual = _rms((fit.apply(positions) - target)[fit.used])
    if residual > _MAX_RESIDUAL * spread:
        return f"they miss the cameras by {residual:.1f} m (rms), at a spread of {spread:.1f} m"
    report = {"photos": len(gps), "used": int(used), "residual_m": round(residual, 2), "spread_m": round(spread, 2)}
    return WorldFrame(fit.scale, fit.rotation, fit.translation, {"up": up_from, "scale": "metres", "gps": report})


class _Fit(NamedTuple):
    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    used: Bool[np.ndarray, " m"]  # the others are outliers

    def apply(self, points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m 3"]:
        return self.scale * points @ self.rotation.T + self.translation


def _fit_freely(source: np.ndarray, target: np.ndarray, max_error: float, seed: int) -> _Fit | None:
    """The similarity with all its seven degrees of freedom, where the positions tell the vertical well enough: not from
    few, nor along a line, nor where altitudes are as rough as those of phones."""
    options = pycolmap.RANSACOptions()
    options.max_error = max_error
    options.random_seed = seed
    robust = pycolmap.estimate_sim3d_robust(source, target, options)
    if robust is None or robust["num_inliers"] < _MIN_GPS_UP:
        return None
    used = np.asarray(robust["inlier_mask"])
    similarity = pycolmap.estimate_sim3d(source[used], target[used])
    if similarity is None:
        return None
    fit = _Fit(similarity.scale, similarity.rotation.matrix(), similarity.translation, used)
    error = (fit.apply(source) - target)[used]
    noise = np.sqrt((error**2).sum() / (3 * len(error) - 7))
    across = np.linalg.svd(target[used] - target[used].mean(axis=0), compute_uv=False)[1]  # rms times root of count
    return fit if noise < _MAX_GPS_TILT * across else None


def _fit_upright(source: Float[np.ndarray, "m 3"], target: Float[np.ndarray, "m 3"], max_error: float) -> _Fit:
    """The similarity that turns about y only. Heights are not used, in which GPS is worst.

    With x + i z as one complex number, scale and heading are one complex factor, which two positions tell: of all pairs
    the one that most positions agree with is taken, then least squares over these.
    """
    p, q = (x[:, 0] + 1j * x[:, 2] for x in (source, target))
    best, used = (0, 0.0), np.zeros(len(p), bool)
    for i, j in itertools.combinations(range(0, len(p), 1 + len(p) // 100), 2):
        if abs(p[j] - p[i]) > 1e-9:
            error = abs((q[j] - q[i]) / (p[j] - p[i]) * (p - p[i]) - (q - q[i]))
            score = ((error < max_error).sum(), -np.minimum(error, max_error).sum())
            if score > best:
                best, used = score, error < max_error
    if not used.any():
        return _Fit(1.0, np.eye(3), np.zeros(3), used)
    a, b = p[used] - p[used].mean(), q[used] - q[used].mean()
    factor = (a.conj() * b).sum() / (a.conj() * a).sum().real
    scale = float(abs(factor))
    c, s = factor.real / scale, factor.imag / scale
    rotation = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return _Fit(scale, rotation, target[used].mean(axis=0) - scale * rotation @ source[used].mean(axis=0), used)


def _rms(vectors: Float[np.ndarray, "m 3"]) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))
