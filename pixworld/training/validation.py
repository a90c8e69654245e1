"""What a run measures of itself now and then, on scenes that it never trains on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixworld.evaluation import no_hints, novel_views, point_hints, sample_sheet
from pixworld.methods.base import Method
from pixworld.views import Views

FRAMES = 8  # of a scene, evenly over its path
CONTEXTS = {"4": (0, 2, 5, 7), "2": (0, 7)}  # frames that are given; the others are predicted
POINTS = 100  # depth points a view
SHEET_SCENES = 4


def validate(model: Method, scenes: Sequence[Views]) -> tuple[dict[str, float], Tensor | None]:
    """Scores, and a picture for the eye where the method makes scenes. A method that has `validate` measures itself."""
    if hasattr(model, "validate"):
        return model.validate(scenes), None
    long = [scene.select(_evenly(len(scene))) for scene in scenes if len(scene) >= FRAMES]
    if not long:  # single images
        return {}, None
    scores = {}
    for name, context in CONTEXTS.items():
        for kind, hints in (("", no_hints), ("_points", point_hints(POINTS))):
            result = novel_views(model, long, context, hints)
            scores |= {f"psnr_{name}{kind}": result["psnr"], f"gain_{name}{kind}": result["psnr"] - result["nearest"]}
    return scores, sample_sheet(model, long[:SHEET_SCENES])


def _evenly(frames: int) -> list[int]:
    return torch.linspace(0, frames - 1, FRAMES).round().int().tolist()
