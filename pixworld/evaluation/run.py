"""`backend evaluate`: a model and the trivial baselines over one protocol, in one report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.evaluation.baselines import Show, exact_lift, mean_colour, nearest_view, shown
from pixworld.evaluation.poses import MIN_SIDE, THRESHOLDS, estimate_poses
from pixworld.evaluation.protocols import PROTOCOLS, Protocol, Sample, open_samples
from pixworld.evaluation.scores import SCORES, SampleScore
from pixworld.evaluation.table import LIFT_ROW, MEAN, NEAREST, TRUE
from pixworld.methods.base import Method
from pixworld.metrics import pose_auc, pose_errors, psnr, ssim
from pixworld.reconstruct import own_depth
from pixworld.views import InputError, Task
from pixworld.visibility import in_the_way

# Called with (stage, step, steps) as the work goes on; it may raise Cancelled.
OnProgress = Callable[[str, int, int], None]


def evaluate(
    model: Method,
    name: str,
    data: Path,
    protocol: str,
    *,
    scenes: int = 50,
    pose_scenes: int = 6,
    points: int | None = None,
    size: int | None = None,
    steps: int = 20,
    guidance: float = 1.0,
    seed: int = 0,
    scores: Mapping[str, SampleScore] | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, Any]:
    """Measure a model, called `name` in tables, beside the baselines. Returns the report, which table.markdown prints.

    `points` known depths a given view on procedural scenes, by default 300 for reconstruction and none for generation,
    where one image would have none; `size` is the short side of photo sets in pixels, by default the model's; poses are
    estimated on the first `pose_scenes` scenes; `scores` are those of scores.py that the user has. Raises InputError.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    if model.config.method != "pixworld":
        raise InputError(
            f"{name} is a checkpoint of {model.config.method}, which makes no scenes; give one of pixworld."
        )
    rules = PROTOCOLS[protocol]
    points = (0 if rules.generated else 300) if points is None else points
    size, patch = size or model.config.size, model.config.patch
    samples = open_samples(data, rules, scenes=scenes, points=points, size=size, patch=patch, seed=seed)
    perceptual, label = _perceptual()
    scores = dict(scores or {}) if rules.generated else {}
    began = time.monotonic()

    rows: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    names, held, posed = [], 0, 0
    for i, sample in enumerate(samples.load()):
        on_progress("evaluate", i, samples.count)
        frames = sample.held.cameras.height, sample.held.cameras.width
        pose = i < pose_scenes and min(frames) >= MIN_SIDE
        for row, show in contenders(model, name, sample, rules, steps, guidance, seed).items():
            found = measure(sample, show, perceptual, scores)
            found |= pose_scores(sample, show(sample.cameras), seed) if pose else {}
            _append(rows[row], found)
        if pose:
            true = torch.cat([sample.given.images, sample.held.images])
            _append(rows[TRUE], pose_scores(sample, true, seed))
        names.append(sample.name)
        held, posed = held + len(sample.held), posed + pose
    on_progress("evaluate", samples.count, samples.count)

    return {
        "protocol": protocol,
        "data": samples.about,
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "options": {"points": points, "size": size, "steps": steps, "guidance": guidance, "seed": seed},
        "given": rules.views,
        "held": held / len(names),
        "frames": list(frames),  # height and width, of the last scene
        "posed": posed,
        "perceptual": {"label": label, "measured": perceptual is not None},
        "scores": {
            key: {"label": x.label, "needs": x.needs, "measured": key in scores}
            for key, x in SCORES.items()
            if rules.generated
        },
        "samples": names,
        "mean": {row: {k: _mean(values) for k, values in columns.items()} for row, columns in rows.items()},
        "per_sample": {row: dict(columns) for row, columns in rows.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def contenders(
    model: Method, name: str, sample: Sample, rules: Protocol, steps: int, guidance: float, seed: int
) -> dict[str, Show]:
    """What shows a sample, by the name of its row."""
    eps2d = model.config.eps2d
    rows = {
        name: predicted(model, sample, rules, steps, guidance, seed),
        NEAREST: nearest_view(sample),
        MEAN: mean_colour(sample),
    }
    if sample.exact is not None:
        rows[LIFT_ROW] = exact_lift(sample, eps2d)
    return rows


def predicted(model: Method, sample: Sample, rules: Protocol, steps: int, guidance: float, seed: int) -> Show:
    """The model's Gaussians, rendered with the low-pass that it was trained with; holes show the mean colour of the
    given views, as with every other row. Reconstructed ones as `reconstruct` takes them: none in the way of a view.
    Generated ones as the method makes them, at its size: `generate` puts the photos in their place, in full detail."""
    device = next(model.parameters()).device
    given = sample.given.to(device)
    targets = sample.held.cameras.to(device) if rules.generated else None
    prompt = sample.prompt if rules.generated else ""  # photos come without a caption
    gaussians = model.infer(Task(given, targets, prompt, seed, steps, guidance), lambda *_: None).gaussians
    if not rules.generated:
        gaussians = gaussians.select(~in_the_way(gaussians.means, own_depth(gaussians, given.cameras)))
    background = given.images.mean((0, 2, 3))
    return lambda cameras: shown(gaussians, cameras.to(device), model.config.eps2d, background).cpu()


@torch.inference_mode()
def measure(
    sample: Sample, show: Show, perceptual: nn.Module | None, scores: Mapping[str, SampleScore]
) -> dict[str, float | None]:
    """Means over the held-out frames."""
    frames, truth = show(sample.held.cameras), sample.held.images
    row = {
        "psnr": psnr(frames, truth).mean().item(),
        "ssim": ssim(frames, truth).mean().item(),
        "perceptual": None if perceptual is None else perceptual(frames, truth).mean().item(),
    }
    return row | {k: float(score(frames, sample.given.images, sample.prompt)) for k, score in scores.items()}


def pose_scores(sample: Sample, frames: Float[Tensor, "v 3 h w"], seed: int) -> dict[str, float]:
    """Pose AUC of frames at all cameras of a sample, given ones too."""
    c2w, found = estimate_poses(frames, sample.cameras, seed)
    errors = pose_errors(c2w, sample.cameras.c2w, found)
    return {f"auc{t}": pose_auc(errors, t) for t in THRESHOLDS}


def _perceptual() -> tuple[nn.Module | None, str]:
    """The perceptual distance and what tables call it, or the reason for there being none."""
    from pixworld.nn.encoders import load_perceptual

    try:
        module = load_perceptual("st-lpips-vgg")
    except InputError as error:
        return None, str(error)
    return module, module.label


def _append(columns: dict[str, list[float | None]], row: Mapping[str, float | None]) -> None:
    for key, value in row.items():
        columns[key].append(value)


def _mean(values: list[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None
