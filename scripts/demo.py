"""The demo behind `scripts/demo`: reconstruct photos, fly around the result, and put it into a .blend file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pixworld  # noqa: F401, isort: skip. Before torch, whose threads it sets up

import numpy as np
import torch
import tyro
from PIL import Image

from backend.cli import Stages, run_command
from backend.folders import reconstruct_folder
from backend.options import make_options
from pixworld.camera_files import load_cameras, save_cameras
from pixworld.cameras import Cameras
from pixworld.files import save_video, write_json
from pixworld.photos import PHOTO_SUFFIXES
from pixworld.render import render
from pixworld.splats import load_ply
from pixworld.trajectories import interpolate
from pixworld.views import NamedCamera

ROOT = Path(__file__).resolve().parents[1]
FRAMES, FPS = 96, 24.0


def main(
    photos: tyro.conf.Positional[Path | None] = None,
    /,
    set: Literal["room", "motorcycle"] = "room",
    out: Path = ROOT / "out" / "demo",
) -> None:
    """Reconstruct photos without being given their poses; leaves scene.ply, transforms.json, report.json, preview.png,
    turntable.mp4 and scene.blend. A second run skips what is there.

    Args:
        photos: a folder of your photos; without it the bundled set
        set: which bundled set: the room (rendered photos) or the motorcycle (a real stereo pair)
        out: folder for the results
    """
    out.mkdir(parents=True, exist_ok=True)
    source = str(photos.resolve()) if photos else set
    stamp = out / "source.json"
    if stamp.exists() and json.loads(stamp.read_text()) != source:
        shutil.rmtree(out / "photos", ignore_errors=True)  # the results of other photos
        for name in ("report.json", "turntable.mp4", "scene.blend"):
            (out / name).unlink(missing_ok=True)
    write_json(stamp, source)

    truth = None
    scored = out / "report.json"
    if source == "motorcycle" and scored.exists() and "depth_median_error" not in json.loads(scored.read_text()):
        scored.unlink()  # interrupted before it was scored
    with _stage("reconstruct", out / "report.json") as needed:
        if needed:
            cameras = None
            if photos is None and set == "motorcycle":
                photos, cameras, truth = motorcycle(out / "motorcycle")
            photos = photos or ROOT / "scripts" / "demo_photos"
            # Few photos leave none to hold out.
            count = sum(file.suffix.lower() in PHOTO_SUFFIXES for file in photos.iterdir()) if photos.is_dir() else 0
            options = make_options(holdout=8 if count >= 8 else 0, size=512, refine=300)
            with Stages() as stages:
                report = reconstruct_folder([photos], out, cameras, options, stages)
            if truth is not None:
                report |= depth_score(out, truth)
                write_json(out / "report.json", report)
    report = json.loads((out / "report.json").read_text())

    named = load_cameras(out / "transforms.json")
    with _stage("turntable", out / "turntable.mp4") as needed:
        if needed:
            fly(out, named)
    with _stage("blend", out / "scene.blend") as needed:
        if needed:
            command = [sys.executable, str(ROOT / "scripts" / "make_blend.py"), str(out / "scene.ply")]
            command += ["--cameras", str(out / "transforms.json"), "--photos", str(out / "photos")]
            subprocess.run([*command, "--out", str(out / "scene.blend")], check=True)

    if report["psnr"] is not None:
        print(
            f"held-out PSNR {report['psnr']:.2f} dB; predicted: {report['feedforward_psnr']:.2f} dB; "
            f"copying the nearest photo: {report['baseline_nearest_view_psnr']:.2f} dB"
        )
    if "depth_median_error" in report:
        print(f"depth: median error {100 * report['depth_median_error']:.1f} %, "
              f"{100 * report['depth_within_10_percent']:.0f} % of pixels within 10 %")  # fmt: skip
    print(f"open {out / 'scene.blend'} in Blender, or {out / 'preview.png'} and {out / 'turntable.mp4'} here")


class _stage:
    """Names a stage, says whether its file is still needed, and prints its time."""

    def __init__(self, name: str, file: Path):
        self.name, self.file = name, file

    def __enter__(self) -> bool:
        self.started = time.monotonic()
        if self.file.exists():
            print(f"{self.name}: {self.file} is there already, skipped", flush=True)
            return False
        print(f"{self.name} ...", flush=True)
        return True

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            print(f"{self.name}: {time.monotonic() - self.started:.1f} s", flush=True)


def fly(out: Path, named: list[NamedCamera]) -> None:
    """Render turntable.mp4 along a smooth path through the photos' cameras."""
    size = named[0].cameras
    scale = 480 / min(size.height, size.width)
    height, width = (2 * round(side * scale / 2) for side in (size.height, size.width))
    cameras = Cameras.cat([c.cameras.resize(height, width) for c in named])
    path = interpolate(cameras, FRAMES)
    gaussians = load_ply(out / "scene.ply")

    def frames():
        with Stages() as stages, torch.no_grad():
            for i in range(FRAMES):
                stages("turntable", i + 1, FRAMES)
                yield render(gaussians, path.select([i])).rgb[0].clamp(0, 1)

    save_video(out / "turntable.mp4", frames(), FPS)


def motorcycle(folder: Path) -> tuple[Path, Path, np.ndarray]:
    """The Middlebury 2014 "motorcycle" pair of the installed scikit-image: photo folder, cameras, true z-depth [h w].

    Calibration from the data set (quarter size): f = 994.978 px, baseline 193.001 mm, principal points 311.193 and
    342.279, 254.877; the disparity belongs to the left photo. Depth is in metres, 0 where unknown.
    """
    from skimage.data import stereo_motorcycle

    left, right, disparity = stereo_motorcycle()
    folder.mkdir(parents=True, exist_ok=True)
    f, cx, cy, baseline = 994.978, (311.193, 342.279), 254.877, 0.193001
    cameras = []
    for i, (name, image) in enumerate((("left.png", left), ("right.png", right))):
        Image.fromarray(image).save(folder / name)
        c2w = torch.eye(4)
        c2w[0, 3] = i * baseline
        K = torch.tensor([[f, 0, cx[i]], [0, f, cy], [0, 0, 1.0]])
        cameras.append(NamedCamera(name, Cameras(c2w[None], K[None], *image.shape[:2])))
    save_cameras(folder / "transforms.json", cameras)
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.where(known, f * baseline / (np.where(known, disparity, 1) + cx[1] - cx[0]), 0)
    return folder, folder / "transforms.json", depth


@torch.no_grad()
def depth_score(out: Path, truth: np.ndarray) -> dict[str, float]:
    """Relative z-depth error of the left view, over the pixels whose truth is known."""
    left = next(c for c in load_cameras(out / "transforms.json") if c.name == "left.png").cameras
    depth = render(load_ply(out / "scene.ply"), left.resize(*truth.shape)).depth[0].numpy()
    error = np.abs(depth - truth)[truth > 0] / truth[truth > 0]
    return {
        "depth_median_error": float(np.median(error)),
        "depth_within_5_percent": float((error < 0.05).mean()),
        "depth_within_10_percent": float((error < 0.10).mean()),
    }


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main, prog="scripts/demo"), "demo")
