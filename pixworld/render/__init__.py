"""Render Gaussians: one call in front of a CPU, a CUDA and a reference rasterizer with the same semantics."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians


class Rendering(NamedTuple):
    """What the cameras see."""

    rgb: Float[Tensor, "*b v 3 h w"]  # composited over the background
    alpha: Float[Tensor, "*b v h w"]  # accumulated opacity, 0..1
    depth: Float[Tensor, "*b v h w"]  # expected z, Σ w z / Σ w, scene units; 0 where nothing was hit
