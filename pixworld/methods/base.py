"""What every method offers to the training loop, the service and the evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from pixworld.views import OnStep, Scene, Task, Views


class Method(nn.Module):
    """A network that turns a Task into a Scene, and knows its own losses."""

    def optimised(self) -> dict[str, list[Parameter]]:
        """Named groups of parameters that are optimised in turns."""
        return {"model": list(self.parameters())}

    def losses(self, views: Views, group: str, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted loss terms of one batch for a group; the loop minimises their sum. All randomness comes from
        `generator`."""
        raise NotImplementedError

    def infer(self, task: Task, on_step: OnStep) -> Scene:
        """Do the task. Raises Cancelled when on_step does."""
        raise NotImplementedError
