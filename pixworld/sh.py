"""Real spherical harmonics up to degree 3, in the sign convention of 3D Gaussian splatting files."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

C0 = 0.28209479177387814


def degree_of(coefficients: int) -> int:
    """SH degree of a coefficient count 1, 4, 9 or 16."""
    try:
        return {1: 0, 4: 1, 9: 2, 16: 3}[coefficients]
    except KeyError:
        raise ValueError(f"{coefficients} SH coefficients a channel; expected 1, 4, 9 or 16 (degree 0 to 3)") from None


def sh_basis(degree: int, directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n k"]:
    """Basis values at unit directions (from the camera to the Gaussian), k = (degree + 1)^2.

    Source: the polynomial table of Sloan, "Efficient Spherical Harmonic Evaluation", with the Condon-Shortley phase
    that Kerbl et al. 2023 store in PLY files.
    """
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, C0)]
    if degree >= 1:
        c = 0.4886025119029199
        terms += [-c * y, c * z, -c * x]
    if degree >= 2:
        c = 1.0925484305920792
        terms += [
            c * x * y,
            -c * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -c * x * z,
            c / 2 * (x * x - y * y),
        ]
    if degree >= 3:
        terms += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(terms, dim=-1)


def sh_to_rgb(sh: Float[Tensor, "*#n k 3"], directions: Float[Tensor, "*#n 3"]) -> Float[Tensor, "*#n 3"]:
    """Colour max(0, 0.5 + Σ sh · basis) seen along directions (camera to Gaussian, not necessarily unit)."""
    degree = degree_of(sh.shape[-2])
    if degree == 0:
        rgb = sh[..., 0, :] * C0
        rgb = torch.broadcast_tensors(rgb, directions)[0]  # not broadcast_shapes, whose first call imports sympy (1 s)
    else:
        basis = sh_basis(degree, torch.nn.functional.normalize(directions, dim=-1))
        rgb = (basis[..., None] * sh).sum(-2)
    return (rgb + 0.5).clamp_min(0)


def rgb_to_sh(rgb: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 1 3"]:
    """Degree-0 coefficients that show rgb from everywhere."""
    return ((rgb - 0.5) / C0)[..., None, :]


@functools.cache
def _probe(degree: int) -> tuple[Tensor, Tensor]:
    """Fixed directions [64, 3] and the pseudo-inverse [k, 64] of their basis, fp64."""
    directions = torch.nn.functional.normalize(
        torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    return directions, torch.linalg.pinv(sh_basis(degree, directions))


def rotate_sh(sh: Float[Tensor, "*n k 3"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "*n k 3"]:
    """Coefficients of the rotated function f'(d) = f(R⁻¹ d)."""
    if sh.shape[-2] == 1:
        return sh
    matrix = sh_rotation(degree_of(sh.shape[-2]), rotation.detach().cpu()).to(sh)
    return torch.einsum("ij,...jc->...ic", matrix, sh)


def sh_rotation(degree: int, rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b k k"]:
    """What `rotate_sh` multiplies coefficients with. SH space is closed under rotation, so the exact least-squares fit
    on fixed directions is the rotation."""
    directions, inverse = (x.to(rotation.device) for x in _probe(degree))
    return (inverse @ sh_basis(degree, directions @ rotation.double())).to(rotation)
