"""PixWorld (Gao et al. 2026): reconstruction and generation as one pixel-space diffusion on rendered views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pixworld.methods.pixworld.model import PixWorld


@dataclass(frozen=True)
class PixWorldRecipe:
    """How a training scene is split into clean, noisy and novel views, and what the loss terms weigh."""

    contexts: dict[int, float] = field(default_factory=lambda: {2: 0.25, 4: 0.55, 6: 0.2})  # views seen -> share
    generative: float = 0.4  # share of steps with noisy views; the others are pure reconstruction
    generated_views: int = 4  # clean + noisy views of a generative step
    clean: dict[int, float] = field(default_factory=lambda: {0: 0.2, 1: 0.5, 2: 0.2, 3: 0.1})  # clean ones of these
    novel: int = 3  # views that are rendered and compared but not seen
    text_drop: float = 0.2
    # Scenes whose clean views carry sparse depth, as structure from motion gives it: log-uniform counts, with noise.
    hints: float = 0.65
    hint_counts: tuple[int, int] = (1, 600)  # a view
    hint_noise: float = 0.02  # relative
    hint_outliers: float = 0.03
    time_floor: float = 0.25  # of 1 - t in the velocity loss, so that its weight stays under 16
    flow_weight: float = 0.25
    colour_weight: float = 0.25  # the flow-matching loss again, on the colour map before lifting
    depth_weight: float = 0.2


@dataclass(frozen=True)
class PixWorldConfig:
    """Everything that decides the network's shape, activations and training."""

    method: Literal["pixworld"] = "pixworld"
    width: int = 256  # d
    depth: int = 8  # two-stream blocks
    heads: int = 4
    patch: int = 8  # pixels
    size: int = 64  # short side of the images that it is trained on, pixels
    text_width: int = 128
    sh_degree: int = 0
    gate: float = 0.3  # residual gates at the start of training; 0 is adaLN-Zero as published
    depth_prior: float = 0.3  # log depth, in units of the scene, where no hint tells it
    scale_range: tuple[float, float] = (0.4, 4.0)  # of a Gaussian, in pixel footprints
    scale_start: float = 0.5
    opacity_start: float = 0.6
    eps2d: float = 0.1  # low-pass of training renders, square pixels; 0.3 would blur images this small
    recipe: PixWorldRecipe = field(default_factory=PixWorldRecipe)

    def build(self) -> PixWorld:
        from pixworld.methods.pixworld.model import PixWorld

        return PixWorld(self)


def pixworld_small() -> PixWorldConfig:
    """What ships: trained here on two CPU cores."""
    return PixWorldConfig()
