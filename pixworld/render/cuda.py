"""The rasterizer on a GPU: gsplat, and the only file that imports it.

gsplat compiles its kernels on first use (nvcc needed). Without CUDA even its import can fail in misleading ways, so
nothing of it is touched before torch.cuda.is_available().
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rasterize(
    means: Float[Tensor, "s n 3"],
    quats: Float[Tensor, "s n 4"],
    scales: Float[Tensor, "s n 3"],
    opacities: Float[Tensor, "s n"],
    colours: Float[Tensor, "s c n 3"],
    w2c: Float[Tensor, "s v 4 4"],
    K: Float[Tensor, "s v 3 3"],
    *,
    width: int,
    height: int,
    eps2d: float,
    near: float,
    antialiased: bool,
) -> Float[Tensor, "s v 5 h w"]:
    """See pixworld.render for the semantics. Raises RuntimeError without a GPU."""
    if not torch.cuda.is_available():
        raise RuntimeError("the CUDA rasterizer needs an NVIDIA GPU; use backend='cpu'")
    import gsplat

    shared = colours.shape[1] == 1
    blended, alpha, _ = gsplat.rasterization(
        means,
        quats,
        scales,
        opacities,
        colours[:, 0] if shared else colours,
        w2c,
        K,
        width,
        height,
        near_plane=near,
        eps2d=eps2d,
        packed=False,
        render_mode="RGB+D",  # Σ w z; render() divides by Σ w
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    return torch.cat([blended, alpha], dim=-1).movedim(-1, -3)
