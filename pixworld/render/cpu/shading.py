"""Colours of Gaussians as each view sees them: spherical harmonics, forward and backward.

The twin of pixworld.sh.sh_to_rgb, whose temporaries hold every basis value and product of every view: 19 times as
much memory as the colours at degree 3.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.render.cpu.chunks import arrays, chunked
from pixworld.render.cpu.jit import inlined, kernel, parallel


@inlined
def basis(d, n, out):
    """out [16] of pixworld.sh.sh_basis at the unit vector n [3] along d [3]; returns 1 / |d|."""
    T = d.dtype.type
    inv = T(1) / max(math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), T(1e-12))
    x, y, z = d[0] * inv, d[1] * inv, d[2] * inv
    n[0], n[1], n[2] = x, y, z
    a, c = T(0.4886025119029199), T(1.0925484305920792)
    out[0] = T(0.28209479177387814)
    out[1] = -a * y
    out[2] = a * z
    out[3] = -a * x
    out[4] = c * x * y
    out[5] = -c * y * z
    out[6] = T(0.31539156525252005) * (T(3) * z * z - T(1))
    out[7] = -c * x * z
    out[8] = T(0.5) * c * (x * x - y * y)
    a, c, e = T(0.5900435899266435), T(0.4570457994644658), T(2.890611442640554)
    out[9] = -a * y * (T(3) * x * x - y * y)
    out[10] = e * x * y * z
    out[11] = -c * y * (T(5) * z * z - T(1))
    out[12] = T(0.3731763325901154) * z * (T(5) * z * z - T(3))
    out[13] = -c * x * (T(5) * z * z - T(1))
    out[14] = T(0.5) * e * z * (x * x - y * y)
    out[15] = -a * x * (x * x - T(3) * y * y)
    return inv


@inlined
def basis_backward(n, g, out):
    """out [3] = Σ g_j d basis_j / dn, with g [16]."""
    T = n.dtype.type
    x, y, z = n[0], n[1], n[2]
    a, c = T(0.4886025119029199), T(1.0925484305920792)
    dx = -a * g[3] + c * (y * g[4] - z * g[7] + x * g[8])
    dy = -a * g[1] + c * (x * g[4] - z * g[5] - y * g[8])
    dz = a * g[2] - c * (y * g[5] + x * g[7]) + T(6 * 0.31539156525252005) * z * g[6]
    a, c, e = T(0.5900435899266435), T(0.4570457994644658), T(2.890611442640554)
    p, q = T(3) * (x * x - y * y), T(5) * z * z - T(1)
    dx += e * (y * z * g[10] + x * z * g[14]) - c * q * g[13] - a * (T(6) * x * y * g[9] + p * g[15])
    dy += e * (x * z * g[10] - y * z * g[14]) - c * q * g[11] - a * (p * g[9] - T(6) * x * y * g[15])
    dz += e * (x * y * g[10] + T(1 / 6) * p * g[14]) - T(10) * c * z * (y * g[11] + x * g[13])
    dz += T(3 * 0.3731763325901154) * q * g[12]
    out[0], out[1], out[2] = dx, dy, dz


@kernel
def shade(start, stop, size, sh, means, eyes, out):
    """For chunks start..stop, of `size` Gaussians: out [s v n 3], the colour in each view."""
    T = means.dtype.type
    n = means.shape[1]
    chunks = (n + size - 1) // size
    d, unit, b = np.empty(3, means.dtype), np.empty(3, means.dtype), np.empty(16, means.dtype)
    for task in range(start, stop):
        s, chunk = task // chunks, task % chunks
        for g in range(chunk * size, min((chunk + 1) * size, n)):
            for v in range(eyes.shape[1]):
                for i in range(3):
                    d[i] = means[s, g, i] - eyes[s, v, i]
                basis(d, unit, b)
                for c in range(3):
                    colour = T(0.5)
                    for j in range(sh.shape[2]):
                        colour += b[j] * sh[s, g, j, c]
                    out[s, v, g, c] = max(colour, T(0))


@kernel
def shade_backward(start, stop, size, sh, means, eyes, upstream, d_sh, d_means, d_eyes):
    """For chunks start..stop, of `size` Gaussians: gradients of all inputs.

    d_eyes [s chunk v 3] is what the chunk adds to the gradient of the eyes.
    """
    T = means.dtype.type
    n = means.shape[1]
    d, unit, b = np.empty(3, means.dtype), np.empty(3, means.dtype), np.empty(16, means.dtype)
    db, dn = np.zeros(16, means.dtype), np.empty(3, means.dtype)
    for task in range(start, stop):
        s, chunk = task // d_eyes.shape[1], task % d_eyes.shape[1]
        for g in range(chunk * size, min((chunk + 1) * size, n)):
            for v in range(eyes.shape[1]):
                up = upstream[s, v, g]
                if up[0] == T(0) and up[1] == T(0) and up[2] == T(0):  # not drawn: it may hold NaNs
                    continue
                for i in range(3):
                    d[i] = means[s, g, i] - eyes[s, v, i]
                inv = basis(d, unit, b)
                for j in range(sh.shape[2]):
                    db[j] = T(0)
                for c in range(3):
                    colour = T(0.5)
                    for j in range(sh.shape[2]):
                        colour += b[j] * sh[s, g, j, c]
                    if colour > T(-1e-6):  # at 0, but for rounding, too: black can brighten
                        for j in range(sh.shape[2]):
                            d_sh[s, g, j, c] += b[j] * up[c]
                            db[j] += sh[s, g, j, c] * up[c]
                basis_backward(unit, db, dn)
                along = unit[0] * dn[0] + unit[1] * dn[1] + unit[2] * dn[2]
                for i in range(3):
                    dd = (dn[i] - unit[i] * along) * inv
                    d_means[s, g, i] += dd
                    d_eyes[s, chunk, v, i] -= dd


class _Shade(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sh, means, eyes):
        inputs = arrays(sh, means, eyes)
        s, n = means.shape[:2]
        out = np.empty((s, eyes.shape[1], n, 3), inputs[1].dtype)
        chunks, size = chunked(n)
        parallel(shade, s * chunks, size, *inputs, out)
        ctx.save_for_backward(sh, means, eyes)
        return torch.from_numpy(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        sh, means, eyes, upstream = arrays(*ctx.saved_tensors, upstream)
        chunks, size = chunked(means.shape[1])
        d_sh, d_means = np.zeros_like(sh), np.zeros_like(means)
        d_eyes = np.zeros((len(means), chunks, *eyes.shape[1:]))  # float64: a sum over all Gaussians
        parallel(shade_backward, len(means) * chunks, size, sh, means, eyes, upstream, d_sh, d_means, d_eyes)
        return tuple(torch.from_numpy(x) for x in (d_sh, d_means, d_eyes.sum(axis=1).astype(eyes.dtype)))


def colours_in_views(
    sh: Float[Tensor, "s n k 3"], means: Float[Tensor, "s n 3"], eyes: Float[Tensor, "s v 3"]
) -> Float[Tensor, "s v n 3"]:
    """sh_to_rgb of every Gaussian along the direction from the eye of every view, differentiable in all three."""
    return _Shade.apply(sh, means, eyes)
