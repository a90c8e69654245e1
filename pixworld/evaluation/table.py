"""The result of an evaluation as Markdown, with the paper's own rows below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pixworld.evaluation.poses import MIN_SIDE, SIDE

# names of rows
NEAREST, MEAN, LIFT_ROW = "nearest view", "mean colour", "exact-depth lift"
TRUE = "true frames"  # what structure from motion makes of them: about the most that a pose score can be

# metric -> heading and decimals
COLUMNS = {
    "psnr": ("PSNR ↑", 2),
    "ssim": ("SSIM ↑", 3),
    "perceptual": ("{perceptual} ↓", 3),
    "auc30": ("AUC@30 ↑", 3),
    "auc15": ("AUC@15 ↑", 3),
    "auc5": ("AUC@5 ↑", 3),
}

# PixWorld's rows of its project page (Gao et al. 2026): LPIPS, and VBench scores, of RealEstate10K and DL3DV-10K.
NVS = ("PSNR ↑", "SSIM ↑", "LPIPS ↓")
GENERATED = (*NVS, "I2V Subj. ↑", "I2V BG ↑", "I.Q. ↑", "Aes.Q. ↑", "AUC@30 ↑", "AUC@15 ↑", "AUC@5 ↑")
_ONE = {
    "RealEstate10K": (18.88, 0.702, 0.325, 0.979, 0.978, 0.623, 0.556, 0.869, 0.798, 0.614),
    "DL3DV-10K": (16.50, 0.527, 0.449, 0.952, 0.956, 0.631, 0.567, 0.793, 0.706, 0.485),
}
_TWO = {
    "RealEstate10K": (23.54, 0.815, 0.210, 0.974, 0.974, 0.628, 0.561, 0.880, 0.817, 0.649),
    "DL3DV-10K": (19.37, 0.594, 0.340, 0.950, 0.956, 0.607, 0.565, 0.821, 0.734, 0.534),
}
PAPER: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[float, ...]]]] = {
    "nvs-4": ("4 views", NVS, {"RealEstate10K": (26.21, 0.844, 0.138), "DL3DV-10K": (23.18, 0.714, 0.226)}),
    "nvs-8": ("8 views", NVS, {"RealEstate10K": (28.58, 0.892, 0.101), "DL3DV-10K": (22.46, 0.681, 0.257)}),
    "gen-1-first": ("1 view, mean of First Frame and Bidirectional", GENERATED, _ONE),
    "gen-1-bidirectional": ("1 view, mean of First Frame and Bidirectional", GENERATED, _ONE),
    "gen-2-interpolate": ("2 views, mean of Interpolation and Extrapolation", GENERATED, _TWO),
    "gen-2-extrapolate": ("2 views, mean of Interpolation and Extrapolation", GENERATED, _TWO),
}


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of a report of `evaluate`."""
    columns = {k: (label.format(perceptual=report["perceptual"]["label"]), n) for k, (label, n) in COLUMNS.items()}
    columns |= {k: (f"{score['label']} ↑", 3) for k, score in report["scores"].items()}
    measured = {k for row in report["mean"].values() for k, value in row.items() if value is not None}
    columns = {k: v for k, v in columns.items() if k in measured}
    rows = [
        [name, *(_cell(row.get(k), decimals) for k, (_, decimals) in columns.items())]
        for name, row in report["mean"].items()
    ]
    lines = [f"## {report['protocol']}: {report['data']}", ""]
    lines += [
        f"{report['given']} given, {report['held']:.3g} held out a scene; means over frames, then over scenes.",
        "",
    ]
    lines += _table(["", *(label for label, _ in columns.values())], rows)
    lines += ["", *(f"- {note}" for note in notes(report))]
    if len(report["samples"]) <= 12:
        lines += ["", "PSNR of each:", "", *_psnr_of_each(report)]
    if report["protocol"] in PAPER:
        what, headings, paper = PAPER[report["protocol"]]
        lines += [
            "",
            "---",
            "",
            f"Other data, for orientation: the paper's model (1.04 B parameters, 336 x 448), {what}.",
            "",
        ]
        lines += _table(
            ["", *headings],
            [
                [f"PixWorld (Gao et al. 2026), {data}", *(_cell(x, 2 if i == 0 else 3) for i, x in enumerate(values))]
                for data, values in paper.items()
            ],
        )
    return "\n".join(lines) + "\n"


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know about the numbers, one bullet each."""
    mean, (height, width) = report["mean"], report["frames"]
    ours, near = mean[report["model"]]["psnr"], mean[NEAREST]["psnr"]
    said = [f"{report['model']} is {ours - near:+.2f} dB from the copy of the nearest view."]
    if LIFT_ROW in mean:
        lift = mean[LIFT_ROW]["psnr"]
        if lift > near:
            said[0] += f" That is {(ours - near) / (lift - near):.0%} of the way to the exact-depth lift."
        said.append(
            "Exact-depth lift: every given pixel at its true depth as one round Gaussian, holes in the mean colour: "
            "the ceiling of pixel-aligned Gaussians that only copy what they see."
        )
    if not report["perceptual"]["measured"]:
        said.append(f"Perceptual distance not measured: {report['perceptual']['label']}")
    if min(height, width) < MIN_SIDE:
        said.append(f"Pose AUC not measured: frames of {height} x {width} px are too small to pose.")
    elif report["posed"]:
        said.append(
            f"Pose AUC: COLMAP on the frames rendered at all cameras of the first {report['posed']} scenes; pairs that "
            f"it does not register count 180 degrees. '{TRUE}' is what it makes of the true ones."
        )
        if min(height, width) < SIDE:
            said[-1] += f" Frames of {height} x {width} px are small for it: they are enlarged, and all rows suffer."
    said += [
        f"{score['label']} not measured: needs {score['needs']} (--score {key}=MODULE:FUNCTION)."
        for key, score in report["scores"].items()
        if not score["measured"]
    ]
    return said


def _psnr_of_each(report: Mapping[str, Any]) -> list[str]:
    rows = {row: columns["psnr"] for row, columns in report["per_sample"].items() if "psnr" in columns}
    return _table(
        ["", *rows],
        [[name, *(_cell(values[i], 2) for values in rows.values())] for i, name in enumerate(report["samples"])],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
