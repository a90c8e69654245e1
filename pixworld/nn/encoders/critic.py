"""Our own geometry critic (methods/geometry_critic) behind the interface."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.views import InputError


class Critic(nn.Module):
    """Patch features of a trained GeometryCritic."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras | None = None) -> Float[Tensor, "b v l d"]:
        return self.model.features(images)


def bundled() -> Path:
    """The critic that ships."""
    return Path(__file__).parents[2] / "weights" / "geometry-critic-small"


def load(path: Path) -> nn.Module:
    from pixworld.checkpoint import load_checkpoint  # methods import this package

    model, _ = load_checkpoint(path)
    if not hasattr(model, "features"):
        raise InputError(f"{path} is a checkpoint of another method than geometry-critic; give one that is")
    return Critic(model)
