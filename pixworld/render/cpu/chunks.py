"""Gaussians are worked on in chunks of neighbours. How they are cut depends on their number alone, so that what a chunk
adds up (tile histograms, camera gradients), summed in the order of the chunks, does not depend on threads."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def chunked(n: int) -> tuple[int, int]:
    """Number and size of the chunks of n Gaussians. At most 64 of them, as each has a histogram of the tiles."""
    size = max(1024, -(-n // 64))
    return -(-n // size), size


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """What the kernels see of tensors: contiguous, shared where possible."""
    return [x.detach().contiguous().numpy() for x in tensors]
