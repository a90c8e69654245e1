"""`backend evaluate`: a checkpoint beside trivial baselines, by the papers' protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from backend.progress import Stages

ProtocolName = Literal[
    "nvs-2", "nvs-4", "nvs-8", "gen-1-first", "gen-1-bidirectional", "gen-2-interpolate", "gen-2-extrapolate"
]


def evaluate(
    data: Path,
    out: Path,
    protocol: ProtocolName = "nvs-4",
    checkpoint: Path | None = None,
    scenes: int = 50,
    pose_scenes: int = 6,
    points: int | None = None,
    size: int | None = None,
    steps: int = 20,
    guidance: float = 1.0,
    score: tuple[str, ...] = (),
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measure a model on scenes that it was not trained on: report.json and table.md, which is printed too.

    Args:
        data: a bank of procedural scenes, or a folder of photo sets (folders of photos with a transforms.json)
        out: folder for the report
        protocol: how many views are given, and whether the others are reconstructed (nvs) or generated (gen)
        checkpoint: folder of a trained model; without it the one that comes with the package
        scenes: how many, at most, from the first
        pose_scenes: how many of them to estimate poses on, which takes seconds each; 0 for none
        points: known depths a given view of procedural scenes; without it 300 for nvs, 0 for gen
        size: short side of photo sets in pixels; without it the model's. Banks are measured at their own
        steps: Euler steps of a generation
        guidance: strength of the caption, of a generation
        score: NAME=MODULE:FUNCTION of networks that you have: i2v-subject, i2v-background, imaging-quality,
            aesthetic-quality, worldscore; see pixworld/evaluation/scores.py
        seed: of everything random
        device: where to compute
    """
    from backend.folders import output_folder
    from backend.options import check_options
    from pixworld.checkpoint import load_checkpoint
    from pixworld.evaluation.run import evaluate as run
    from pixworld.evaluation.scores import load_scores
    from pixworld.evaluation.table import markdown
    from pixworld.files import atomic, write_json
    from pixworld.reconstruct import choose_device
    from pixworld.views import InputError

    check_options(size=size, steps=steps, seed=seed)
    if scenes < 1 or pose_scenes < 0 or (points is not None and points < 0):
        raise InputError("--scenes must be at least 1, --pose-scenes and --points at least 0.")
    if bad := [x for x in score if "=" not in x]:
        raise InputError(f"--score {bad[0]} names no score; write NAME=MODULE:FUNCTION.")
    scores = load_scores(dict(x.split("=", 1) for x in score))
    model, info = load_checkpoint(checkpoint, choose_device(device))
    with output_folder(out) as folder:
        with Stages() as stages:
            report = run(
                model,
                f"{info['name']} {info['hash']}",
                data,
                protocol,
                scenes=scenes,
                pose_scenes=pose_scenes,
                points=points,
                size=size,
                steps=steps,
                guidance=guidance,
                seed=seed,
                scores=scores,
                on_progress=stages,
            )
        table = markdown(report)
        with atomic(folder / "table.md") as temp:
            temp.write_text(table, encoding="utf-8")
        write_json(folder / "report.json", {"checkpoint": info, **report})
    print(table)
