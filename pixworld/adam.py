"""Adam over named tensors whose rows come and go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

DECAY = 0.9, 0.999  # of the averages of gradients and of their squares
EPS = 1e-15


class Adam:
    """Algorithm 1 of Kingma & Ba 2015, with both corrections in the step size.

    Not torch's own, because that imports torch's compiler first: 1 to 2 of the 15 seconds that a refinement may take.
    Torch's fused kernel would be faster still, but is not public.
    """

    def __init__(self, rates: Mapping[str, float]):
        self.rates = dict(rates)  # step size of each tensor
        self.steps = 0
        self.averages: dict[str, tuple[Tensor, Tensor]] = {}  # of a tensor's gradients, and of their squares

    @torch.no_grad()
    def step(self, tensors: Mapping[str, Tensor], factor: float = 1.0) -> None:
        """Move each tensor against its gradient, by `factor` times its step size."""
        self.steps += 1
        first, second = (1 - decay**self.steps for decay in DECAY)
        for name, x in tensors.items():
            if name not in self.averages:
                self.averages[name] = torch.zeros_like(x), torch.zeros_like(x)
            average, square = self.averages[name]
            average.lerp_(x.grad, 1 - DECAY[0])
            square.mul_(DECAY[1]).addcmul_(x.grad, x.grad, value=1 - DECAY[1])
            size = self.rates[name] * factor * second**0.5 / first
            x.addcdiv_(average, square.sqrt().add_(EPS * second**0.5), value=-size)

    def take(self, name: str, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> None:
        """Let a tensor have other rows: row i goes on from the present row source[i], or anew where fresh."""
        if name in self.averages:
            rows = tuple(x[source] for x in self.averages[name])
            for x in rows:
                x[fresh] = 0
            self.averages[name] = rows
