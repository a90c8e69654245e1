"""Recipes of `pixworld-tiny` under the same small budget, measured on the same held-out scenes: a table for LOG.md.

python scripts/compare_recipes.py --data banks/train --held-out banks/heldout --out runs/recipes

Every row is a training run of its own, and runs that are there already are not repeated. The geometry loss, the
ablation of the paper, is run with two seeds, as is what it is compared with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import tyro

# The perceptual loss is off in all: it costs more than the network.
SHARED = ["recipe.perceptual_weight=0"]
# Name -> settings that differ from the preset.
RECIPES: dict[str, list[str]] = {
    "base": [],
    "geometry loss": ["recipe.geometry_weight=0.1"],
    "one stream": ["streams=shared"],
    "PRoPE, no ray input": ["cameras=prope"],
    "ray input, no PRoPE": ["cameras=rays"],
    "no depth loss": ["recipe.depth_weight=0"],
    "L_FM on renders at t > 0.5 only": ["recipe.flow_from=0.5"],
    "no depth given": ["recipe.hints=0"],
}
TWO_SEEDS = ("base", "geometry loss")
# Columns: protocol and its options.
MEASURED = {
    "4 views": ["nvs-4"],
    "4 views, no points": ["nvs-4", "--points", "0"],
    "2 views": ["nvs-2"],
    "1 view, generated": ["gen-1-first", "--steps", "10"],
}


def main(data: Path, held_out: Path, out: Path, steps: int = 160, scenes: int = 32, only: tuple[str, ...] = ()) -> None:
    """Train, measure, print.

    Args:
        data: bank to train on
        held_out: bank to measure on
        out: folder of the runs
        steps: of every run, of 16 scenes
        scenes: that each run is measured on; a quarter of them for generation
        only: names of recipes; all without it
    """
    print("| recipe | seed |", " | ".join(f"{name}: PSNR, SSIM, ST-LPIPS" for name in MEASURED), "| pose AUC@30 |")
    print("|" + "---|" * (3 + len(MEASURED)))
    runs = [(name, 0) for name in RECIPES] + [(name, 1) for name in TWO_SEEDS]
    for name, seed in sorted(runs, key=lambda run: run[0] not in TWO_SEEDS):
        if only and name not in only:
            continue
        run = out / f"{name.replace(' ', '-').replace(',', '').replace('>', 'above')}-{seed}"
        if not (run / "done").exists():
            settings = [f"seed={seed}", "warmup=20", f"sheet_every={steps}", *SHARED, *RECIPES[name]]
            resume = ["--resume"] if (run / "checkpoints").exists() else []
            backend(run, "train", "--preset", "pixworld-tiny", "--data", data, "--out", run, "--steps", steps, *resume,
                    "--set", *settings)  # fmt: skip
            (run / "done").touch()
        cells = []
        for column, options in MEASURED.items():
            generated = options[0].startswith("gen")
            folder = run / f"evaluate-{column.replace(' ', '-').replace(',', '')}"
            if not (folder / "report.json").exists():
                count, posed = scenes // 4 if generated else scenes, 6 if column == "4 views" else 0
                backend(run, "evaluate", "--checkpoint", run / "weights", "--data", held_out, "--protocol", *options,
                        "--scenes", count, "--pose-scenes", posed, "--out", folder)  # fmt: skip
            report = json.loads((folder / "report.json").read_text())
            mean = report["mean"][report["model"]]
            cells.append(", ".join(f"{mean[k]:.{n}f}" for k, n in (("psnr", 2), ("ssim", 3), ("perceptual", 3))))
            auc = mean.get("auc30") if column == "4 views" else auc
        print(f"| {name} | {seed} | {' | '.join(cells)} | {auc:.2f} |", flush=True)


def backend(run: Path, *args: object) -> None:
    """A command of its own process; what it says goes to the run's folder."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / "output.txt").open("a") as log:
        command = [sys.executable, "-m", "backend", *map(str, args)]
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"{' '.join(command)} failed; see {run}/output.txt")


if __name__ == "__main__":
    tyro.cli(main)
