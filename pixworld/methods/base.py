"""What every method offers to the training loop, the service and the evaluation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from pixworld.views import OnStep, Scene, Task, Views


class Draws(NamedTuple):
    """What the losses of a step draw from."""

    shared: torch.Generator  # alike in all ranks of a run, which have to use the same parameters
    own: torch.Generator  # of one rank: what differs from scene to scene

    @staticmethod
    def seeded(seed: int, rank: int = 0) -> Draws:
        shared, own = torch.Generator(), torch.Generator()
        return Draws(shared.manual_seed(seed), own.manual_seed(seed * 4096 + rank + 1))


class Method(nn.Module):
    """A network that turns a Task into a Scene, and knows its own losses."""

    def optimised(self) -> dict[str, list[Parameter]]:
        """Named groups of parameters that are optimised in turns."""
        return {"model": list(self.parameters())}

    def losses(self, views: Views, group: str, draws: Draws) -> dict[str, Tensor]:
        """Weighted loss terms of one batch for a group; the loop minimises their sum. All randomness comes from
        `draws`."""
        raise NotImplementedError

    def infer(self, task: Task, on_step: OnStep) -> Scene:
        """Do the task. Raises Cancelled when on_step does."""
        raise NotImplementedError
