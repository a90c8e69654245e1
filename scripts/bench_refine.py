"""PSNR of held-out photos against seconds of refinement, from PixWorld's prediction and from lifted points.

python scripts/bench_refine.py --photos ../shared/data/real/eval

Every 4th photo is held out; the others have their given cameras, and points are triangulated from them alone. The
longest run is looked at on the way, with the clock stopped: it shows whether it overfits. Seconds include the start
(stereo and prediction, or lifting), not the cameras.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pixworld  # noqa: F401, isort: skip. Before torch, whose threads it sets up

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from pixworld.camera_files import load_cameras
from pixworld.checkpoint import load_checkpoint
from pixworld.gaussians import Gaussians
from pixworld.lift import lift_points
from pixworld.metrics import psnr
from pixworld.photos import load_photos
from pixworld.reconstruct import nearest_photo, photo_view, pose_apart, predict
from pixworld.refine import Progress, RefineOptions, refine
from pixworld.render import render
from pixworld.stereo import match
from pixworld.views import PosedPhoto

EVERY = 4


def main(
    photos: Path,
    sets: tuple[str, ...] = (),
    size: int = 288,
    budgets: tuple[float, ...] = (15, 30, 120),
    looks: tuple[float, ...] = (0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9),
    inits: tuple[Literal["pixworld", "sfm"], ...] = ("sfm", "pixworld"),
    max_gaussians: int | None = None,
) -> None:
    """Print a row for each set and start.

    Args:
        photos: folder of photo sets, each with its transforms.json
        sets: which of them; all without it
        size: short side of the photos, pixels
        budgets: seconds of refinement, a run each
        looks: shares of the longest budget at which that run is looked at on the way
        inits: what to start from
        max_gaussians: see `backend refine`
    """
    columns = [f"{b:g} s" for b in budgets] + [f"peak of the {budgets[-1]:g} s", "fall after it"]
    print(f"{torch.get_num_threads()} threads, {size} px\n")
    print("| photo set | start | s to start | nearest photo | before |", " | ".join(columns), "| Gaussians | steps |")
    print("|" + "---|" * (7 + len(columns)))
    model, _ = load_checkpoint(None, "cpu")
    means: dict[str, list[list[float]]] = {init: [] for init in inits}
    for file in sorted(photos.glob("*/transforms.json")):
        if sets and file.parent.name not in sets:
            continue
        train, test = posed_photos(file, size)
        near = mean_psnr([nearest_photo(p, train).views.images for p in test], test)
        for init in inits:
            began = time.monotonic()
            if init == "sfm":
                seen, start = train, lift_points(train)
            else:
                seen = match(train)
                start = predict(model, seen, 8, "cpu", lambda *_: None)
            row = [time.monotonic() - began, near, score(start, test)]
            for budget in budgets:
                options = RefineOptions(None, budget - row[0], max_gaussians)  # the start counts
                watch = looks if budget == budgets[-1] else ()
                refined, curve, taken = run(start, seen, test, options, watch)
                row.append(score(refined, test))
            row += [max(curve + row[-1:]), max(curve + row[-1:]) - row[-1]]
            means[init].append(row)
            cells = [f"{x:.2f}" for x in row] + [f"{len(refined):,}", f"{taken:,}"]
            print("|", " | ".join([file.parent.name, init, *cells]), "|", flush=True)
    for init, rows in means.items():
        mean = [sum(column) / len(rows) for column in zip(*rows)]
        print("|", " | ".join(["mean", init, *(f"{x:.2f}" for x in mean)]), "| | |")


def posed_photos(cameras: Path, size: int) -> tuple[list[PosedPhoto], list[PosedPhoto]]:
    """Training and held-out photos."""
    loaded, _ = load_photos([cameras.parent])
    held = {p.name for p in sorted(loaded, key=lambda p: p.name)[::EVERY]}
    posed = pose_apart(loaded, load_cameras(cameras), held, size, seed=0, on_progress=lambda *_: None).photos
    return [p for p in posed if p.name not in held], [p for p in posed if p.name in held]


def run(
    start: Gaussians, train: list[PosedPhoto], test: list[PosedPhoto], options: RefineOptions, looks: tuple[float, ...]
) -> tuple[Gaussians, list[float], int]:
    """The refined Gaussians, the scores on the way and the steps taken. Looking stops the clock."""
    curve: list[float] = []
    due = list(looks)
    clock = Clock()

    def on_step(progress: Progress) -> None:
        if due and progress.fraction >= due[0]:
            due.pop(0)
            with clock.stopped():
                curve.append(score(progress.gaussians(), test))

    views = [photo_view(p) for p in train]
    refined = refine(start, views, options, soft=True, on_step=on_step, clock=clock)
    return refined.gaussians, curve, refined.steps


class Clock:
    """Seconds since it was made, without the blocks in which it was stopped."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self.start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        before = time.monotonic()
        yield
        self.start += time.monotonic() - before


@torch.no_grad()
def score(gaussians: Gaussians, test: list[PosedPhoto]) -> float:
    return mean_psnr([render(gaussians, p.views.cameras).rgb for p in test], test)


def mean_psnr(images: list[Tensor], test: list[PosedPhoto]) -> float:
    """Of images [1 3 h w], brought to the photos' size."""
    total = 0.0
    for image, photo in zip(images, test):
        truth = photo.views.images
        image = F.interpolate(image, truth.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
        total += psnr(image.clamp(0, 1), truth).item()
    return total / len(test)


if __name__ == "__main__":
    tyro.cli(main)
