"""Photos in, a scene out: poses -> PixWorld -> refinement -> measurement. The CLI and the service both call this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pixworld.views import NamedCamera, Photo, PosedPhoto, Scene

# Called with (stage, step, steps) as the work goes on; it may raise Cancelled.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ReconstructOptions:
    """How to reconstruct; the fields are the CLI's flags."""

    holdout: int = 0  # keep every N-th photo out and measure on it; 0 keeps none
    views: int = 8  # photos that the model sees at once, at most
    size: int = 512  # short side at which photos are refined and measured, never enlarged
    refine: int = 300  # optimisation steps after the prediction
    checkpoint: Path | None = None  # None is the one that ships with the package
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Reconstruction:
    scene: Scene
    photos: tuple[PosedPhoto, ...]  # every posed photo, sorted by name, in the frame of the scene
    holdout: frozenset[str]  # names of those that were kept out
    report: dict[str, Any]  # what report.json holds


def reconstruct(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera] | None,
    options: ReconstructOptions,
    on_progress: OnProgress,
) -> Reconstruction:
    """Reconstruct a scene. Raises InputError when the photos or cameras cannot be used, Cancelled when told to."""
    raise NotImplementedError
