"""The quality table of the README: real photo sets with given cameras, and procedural scenes that were held out.

python scripts/bench_quality.py --photos ../shared/data/real/eval --bank banks/heldout
"""

from __future__ import annotations

import json
from pathlib import Path

import tyro

from backend.worker import make_options, reconstruct_folder
from pixworld.checkpoint import load_checkpoint
from pixworld.data.bank import Bank
from pixworld.evaluation import no_hints, novel_views, point_hints
from pixworld.views import Views

CONTEXTS = {"4 views": (0, 2, 5, 7), "2 views, its ends": (0, 7)}  # of 8 frames
SHORT_PATH = 1.8  # depth over path; the easier half of a bank


def main(
    photos: Path | None = None,
    bank: Path | None = None,
    checkpoint: Path | None = None,
    out: Path = Path("out/bench"),
    size: int = 256,
    refine: int = 300,
    scenes: int = 100,
) -> None:
    """Print both tables.

    Args:
        photos: folder of photo sets, each with its transforms.json; every 4th photo is held out
        bank: folder of held-out procedural scenes
        checkpoint: model to measure; the bundled one without it
        out: folder for the reconstructions
        size: short side of the photos, pixels
        refine: refinement steps
        scenes: of the bank for each row, at most
    """
    if photos:
        keys = ("baseline_nearest_view_psnr", "feedforward_psnr", "psnr")
        print(f"| photo set, {size} px | nearest photo | predicted | refined | SSIM | Gaussians | seconds |")
        print("|---|---|---|---|---|---|---|")
        reports = []
        for cameras in sorted(photos.glob("*/transforms.json")):
            options = make_options(holdout=4, size=size, refine=refine, checkpoint=checkpoint)
            name = cameras.parent.name
            reconstruct_folder([cameras.parent], out / name, cameras, options, lambda *_: None)
            report = json.loads((out / name / "report.json").read_text())
            reports.append(report)
            row = [f"{report[k]:.2f}" for k in keys]
            row += [f"{report['ssim']:.3f}", f"{report['gaussians']:,}", f"{sum(report['seconds'].values()):.0f}"]
            print("|", " | ".join([name, *row]), "|", flush=True)
        print("|", " | ".join(["mean"] + [f"{sum(r[k] for r in reports) / len(reports):.2f}" for k in keys]), "| | | |")
    if bank:
        model, info = load_checkpoint(checkpoint)
        held_out = Bank(bank)
        views = [held_out.views(i) for i in range(len(held_out))]
        short = [v for v in views if depth_over_path(v) >= SHORT_PATH]
        print(f"\n| {info['name']} {info['hash']} | scenes | nearest view | PixWorld | gain | SSIM |")
        print("|---|---|---|---|---|---|")
        for kind, chosen in (("all paths", views[:scenes]), ("short paths", short[:scenes])):
            for label, context in CONTEXTS.items():
                for known, hints in (("", no_hints), (", 300 points a view", point_hints(300))):
                    r = novel_views(model, chosen, context, hints)
                    cells = [f"{kind}, {label}{known}", str(len(chosen)), f"{r['nearest']:.2f}", f"{r['psnr']:.2f}"]
                    cells += [f"{r['psnr'] - r['nearest']:+.2f}", f"{r['ssim']:.3f}"]
                    print("|", " | ".join(cells), "|", flush=True)


def depth_over_path(views: Views) -> float:
    """Median depth of the first view over the largest distance of a camera from it: small is hard, since the views
    at the path's ends then share little."""
    reach = (views.cameras.positions - views.cameras.positions[0]).norm(dim=-1).max()
    depth = views.depth[0]
    return (depth[depth > 0].median() / reach).item()


if __name__ == "__main__":
    tyro.cli(main)
