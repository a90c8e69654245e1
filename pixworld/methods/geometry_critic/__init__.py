"""Geometry critic: a small VGGT-like network (Wang et al. 2025) that we train on procedural depth and poses ourselves.

Its patch features judge whether rendered views form one consistent 3D scene (the geometry perception loss).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pixworld.methods.geometry_critic.model import GeometryCritic


@dataclass(frozen=True)
class GeometryCriticRecipe:
    """Which frames a training step shows, how they are spoilt, and what the loss terms weigh."""

    frames: tuple[int, int] = (2, 6)  # fewest and most
    spoilt: float = 0.6  # share of frames that are blurred and noisy, as imperfect renders are
    blur: float = 4.0  # largest factor by which a frame is shrunk and enlarged again
    noise: float = 0.15  # largest standard deviation, images 0..1
    confidence: float = 0.2  # reward of log confidence (alpha of VGGT)
    translation_weight: float = 1.0
    rotation_weight: float = 2.0
    fov_weight: float = 1.0


@dataclass(frozen=True)
class GeometryCriticConfig:
    """Everything that decides the network's shape and training."""

    method: Literal["geometry-critic"] = "geometry-critic"
    width: int = 256  # d
    depth: int = 4  # pairs of a block within each view and a block across all views
    heads: int = 4
    patch: int = 8  # pixels
    registers: int = 4  # tokens a view besides the patches and the camera
    frames: int = 8  # of a scene that a training step takes its views from
    size: int = 64  # short side of the images that it is trained on; larger ones are shrunk to it, pixels
    aspect: float = 1.5  # their long side over the short one
    recipe: GeometryCriticRecipe = field(default_factory=GeometryCriticRecipe)

    def build(self) -> GeometryCritic:
        from pixworld.methods.geometry_critic.model import GeometryCritic

        return GeometryCritic(self)


def geometry_critic_small() -> GeometryCriticConfig:
    """What ships: 6.6 M parameters, trained here."""
    return GeometryCriticConfig()
