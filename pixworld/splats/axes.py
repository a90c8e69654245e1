"""Axes of formats: our world is x right, y down, z forward (RDF, as in splat PLY); other formats differ by signs."""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Float64

from pixworld.gaussians import Gaussians
from pixworld.sh import sh_basis

RUB = (1, -1, -1)  # from or to x right, y up, z back: OpenGL, SPZ, USD
LUF = (-1, -1, 1)  # from or to x left, y up, z forward: glTF


@functools.cache
def sh_signs(degree: int, signs: tuple[int, int, int]) -> torch.Tensor:
    """Sign [k] that each SH coefficient takes when the axes of the function are multiplied by signs.

    Every basis function is even or odd in each of x, y and z, so one generic direction tells.
    """
    direction = torch.tensor([0.2, 0.5, 0.8426], dtype=torch.float64)
    mirrored = direction * torch.tensor(signs, dtype=torch.float64)
    return torch.sign(sh_basis(degree, mirrored) * sh_basis(degree, direction))


def flip(gaussians: Gaussians, signs: tuple[int, int, int]) -> Gaussians:
    """The same splats with the world's axes multiplied by signs (+1 or -1): exact, and its own inverse.

    With D = diag(signs) the rotation R becomes D R D, which is a rotation even where D is a mirror. Its covariance is
    that of D R, because a Gaussian does not change when its own axes are mirrored.
    """
    x, y, z = signs
    g = gaussians
    return Gaussians(
        means=g.means * g.means.new_tensor(signs),
        quats=g.quats * g.quats.new_tensor([1, y * z, x * z, x * y]),
        scales=g.scales,
        opacities=g.opacities,
        sh=g.sh * sh_signs(g.sh_degree, signs).to(g.sh)[:, None],
    )


def placed(gaussians: Gaussians, matrix: Float64[np.ndarray, "4 4"]) -> Gaussians:
    """Gaussians moved by the matrix of a scene's node (column vectors). Raises ValueError where it is no similarity."""
    if np.array_equal(matrix, np.eye(4)):
        return gaussians
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    rotation = matrix[:3, :3] / (scale or 1)
    if not scale > 0 or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4):
        raise ValueError("a node is stretched or mirrored, which Gaussians cannot be; bake its transform")
    return gaussians.transform(scale, torch.from_numpy(rotation), torch.from_numpy(matrix[:3, 3]))
