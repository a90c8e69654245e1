"""Codebooks of numbers and of vectors, for formats that store indices."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

_SAMPLE = 1 << 16  # vectors that the centroids are fitted to
_CHUNK = 1 << 14  # vectors whose distances are in memory at once


def scalar_codebook(
    values: Float32[np.ndarray, "*n"], size: int = 256
) -> tuple[Float32[np.ndarray, " size"], Int[np.ndarray, "*n"]]:
    """A sorted codebook of numbers, and the index of each value's nearest entry.

    Half of the entries are evenly spaced, so that no value is farther from its entry than range / (size - 2), and half
    stand at equal shares of the values, where most of them are. With at most `size` distinct values each has its own
    entry, so that nothing is lost.
    """
    distinct = np.unique(values)
    if len(distinct) <= size:
        codebook = np.pad(distinct, (0, size - len(distinct)), mode="edge" if len(distinct) else "constant")
    else:
        even = np.linspace(distinct[0], distinct[-1], size // 2)
        shares = np.quantile(values, (np.arange(size - size // 2) + 0.5) / (size - size // 2))
        codebook = np.sort(np.concatenate([even, shares])).astype(np.float32)
    return codebook, np.searchsorted((codebook[:-1] + codebook[1:]) / 2, values)


def vector_codebook(
    vectors: Float32[Tensor, "n d"], size: int, steps: int = 6
) -> tuple[Float32[Tensor, "m d"], Int[Tensor, " n"]]:
    """Two-level k-means: at most `size` centroids, and the index of each vector's one.

    sqrt(size) coarse clusters are split in proportion to their population: 65536 centroids cost what 2 x 256 would in
    one level, which makes this affordable on a CPU. Up to `size` vectors are kept as they are.
    """
    if len(vectors) <= size:
        return vectors, torch.arange(len(vectors))
    coarse = max(1, round(size**0.5))
    _, owner = _kmeans(vectors, coarse, steps)
    population = torch.bincount(owner, minlength=coarse)
    shares = (population * (size - coarse) // len(vectors) + (population > 0)).tolist()
    order = owner.argsort(stable=True)
    centroids, labels = [], torch.empty(len(vectors), dtype=torch.int64)
    for members, share in zip(order.split(population.tolist()), shares):
        if len(members):
            fine, label = _kmeans(vectors[members], min(share, len(members)), steps)
            labels[members] = label + sum(len(c) for c in centroids)
            centroids.append(fine)
    return torch.cat(centroids), labels


def _kmeans(vectors: Tensor, k: int, steps: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from evenly spaced vectors, which a caller has in spatial order."""
    sample = vectors[:: max(1, len(vectors) // _SAMPLE)]
    centroids = sample[torch.linspace(0, len(sample) - 1, k).long()]
    for _ in range(steps if k < len(sample) else 0):
        label = _nearest(sample, centroids)
        count = torch.bincount(label, minlength=k)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, label, sample)
        centroids = torch.where(count > 0, sums / count.clamp_min(1), centroids)
    return centroids, _nearest(vectors, centroids)


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    half = (centroids**2).sum(-1) / 2
    return torch.cat([(half - part @ centroids.T).argmin(-1) for part in vectors.split(_CHUNK)])
