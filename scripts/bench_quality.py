"""The README's table of quality: one line a protocol, from the reports of `backend evaluate`.

    python scripts/bench_quality.py tables --bank banks/heldout --photos ../shared/data/real/eval
    python scripts/bench_quality.py sweep --bank banks/train

`tables` keeps every report and its full table under OUT. `sweep` finds the constants of the exact-depth lift
(pixworld/evaluation/baselines.py): give it scenes of another seed than those that are measured.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from pixworld.checkpoint import load_checkpoint
from pixworld.data.bank import Bank
from pixworld.evaluation.baselines import SWEEP
from pixworld.evaluation.baselines import sweep as lift_sweep
from pixworld.evaluation.protocols import PROTOCOLS, split
from pixworld.evaluation.run import evaluate
from pixworld.evaluation.table import LIFT_ROW, MEAN, NEAREST, markdown
from pixworld.files import write_json

POINTS = (300, 0)  # a given view, of reconstruction


def tables(
    bank: Path | None = None,
    photos: Path | None = None,
    checkpoint: Path | None = None,
    out: Path = Path("out/quality"),
    scenes: int = 100,
    generated: int = 10,
    pose_scenes: int = 0,
) -> None:
    """Evaluate by every protocol that the data has views for, and print the summary.

    Args:
        bank: folder of held-out procedural scenes
        photos: folder of photo sets, each with its transforms.json
        checkpoint: model to measure; the bundled one without it
        out: folder for the reports
        scenes: of the bank, for reconstruction
        generated: scenes of the bank, for generation
        pose_scenes: scenes to estimate poses on, each time
    """
    model, info = load_checkpoint(checkpoint)
    name = f"{info['name']} {info['hash']}"
    runs = []
    if bank:
        frames = Bank(bank).arrays["images"].shape[1]
        for protocol, rules in PROTOCOLS.items():
            if rules.generated:
                runs.append((bank, protocol, 0, generated))
            elif rules.views < frames:
                runs += [(bank, protocol, points, scenes) for points in POINTS]
    if photos:
        runs.append((photos, "nvs-4", 0, scenes))
    print(
        f"| {name} | mean colour | nearest view | predicted | exact-depth lift | SSIM | ST-LPIPS, nearest | predicted |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for data, protocol, points, count in runs:
        report = evaluate(model, name, data, protocol, scenes=count, points=points, pose_scenes=pose_scenes)
        label = f"{protocol}-{data.name}-{points}"
        write_json(out / f"{label}.json", report)
        (out / f"{label}.md").write_text(markdown(report), encoding="utf-8")
        mean = report["mean"]
        ours, near, lift = mean[name], mean[NEAREST], mean.get(LIFT_ROW)
        share = (
            "" if lift is None else f", {(ours['psnr'] - near['psnr']) / (lift['psnr'] - near['psnr']):.0%} of the way"
        )
        cells = [
            f"{protocol}, {report['data']}",
            f"{mean[MEAN]['psnr']:.2f}",
            f"{near['psnr']:.2f}",
            f"{ours['psnr']:.2f} ({ours['psnr'] - near['psnr']:+.2f}{share})",
            "" if lift is None else f"{lift['psnr']:.2f}",
            f"{ours['ssim']:.3f}",
            *("" if row["perceptual"] is None else f"{row['perceptual']:.3f}" for row in (near, ours)),
        ]
        print("|", " | ".join(cells), "|", flush=True)


def sweep(bank: Path, protocol: str = "nvs-4", scenes: int = 40, every: int = 37, eps2d: float = 0.1) -> None:
    """Print the PSNR of the exact-depth lift over scale and opacity.

    Args:
        bank: folder of procedural scenes
        protocol: what is given
        scenes: how many
        every: distance between them in the bank
        eps2d: low-pass of the renders, square pixels
    """
    source = Bank(bank)
    chosen = range(0, len(source), every)[:scenes]
    scores = lift_sweep([split(str(i), source.views(i), PROTOCOLS[protocol], 0, 0) for i in chosen], eps2d)
    print("| scale \\ opacity |", " | ".join(map(str, SWEEP["opacity"])), "|")
    print("|" + "---|" * (1 + len(SWEEP["opacity"])))
    for scale in SWEEP["scale"]:
        print("|", " | ".join([str(scale), *(f"{scores[scale, x]:.2f}" for x in SWEEP["opacity"])]), "|")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"tables": tables, "sweep": sweep}, description=__doc__)
