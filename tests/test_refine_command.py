"""`backend refine`: a splat file and photos in, a nearer splat file out; Ctrl-C keeps what there is."""

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from backend import cli
from pixworld.camera_files import load_cameras, save_cameras
from pixworld.cameras import Cameras
from pixworld.files import save_image
from pixworld.metrics import psnr
from pixworld.render import render
from pixworld.splats import load_splats, save_splats
from pixworld.views import NamedCamera


@pytest.fixture
def truth(tmp_path, cloud, arc):
    """Photos of a cloud, their cameras, and the cloud with its colours spoiled as scene.spz."""
    gaussians, cameras = cloud(300, degree=0), arc(6, 48, 64)
    (tmp_path / "photos").mkdir()
    named = []
    for i, image in enumerate(render(gaussians, cameras).rgb):
        save_image(tmp_path / "photos" / f"p{i}.png", image)
        named.append(NamedCamera(f"p{i}.png", cameras.select([i])))
    save_cameras(tmp_path / "transforms.json", named, images="photos")
    g = torch.Generator().manual_seed(0)
    noise = 0.4 * torch.randn(gaussians.sh.shape, generator=g)
    save_splats(tmp_path / "scene.spz", type(gaussians)(*spoil(gaussians, noise)))
    return gaussians, cameras


def spoil(gaussians, noise):
    return gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh + noise


def score(path, truth: tuple) -> float:
    gaussians, cameras = truth
    images = [render(g, cameras).rgb.clamp(0, 1) for g in (load_splats(path), gaussians)]
    return psnr(*images).mean().item()


def arguments(tmp_path, *more) -> list[str]:
    files = ("--photos", tmp_path / "photos", "--cameras", tmp_path / "transforms.json")
    return [str(x) for x in ("refine", tmp_path / "scene.spz", *files, "--device", "cpu", *more)]


def test_refine_gets_nearer_and_tells_so(tmp_path, truth, capsys):
    out = tmp_path / "better.ply"
    cli.main(arguments(tmp_path, "--out", out, "--steps", 60, "--max-gaussians", 350, "--poses", "--exposure"))
    printed = capsys.readouterr()
    assert "dB" in printed.err and f"{out}:" in printed.out and "PSNR of these photos" in printed.out
    assert score(out, truth) > score(tmp_path / "scene.spz", truth) + 3
    corrected = load_cameras(tmp_path / "better.transforms.json")
    assert [c.name for c in corrected] == [f"p{i}.png" for i in range(6)]
    assert all(isinstance(c.cameras, Cameras) for c in corrected)


def test_what_is_held_out_is_only_measured(tmp_path, truth, capsys):
    named = load_cameras(tmp_path / "transforms.json")
    save_cameras(
        tmp_path / "transforms.json", [replace(c, split="holdout" if i < 2 else "train") for i, c in enumerate(named)]
    )
    cli.main(arguments(tmp_path, "--out", tmp_path / "better.ply", "--steps", 1, "--max-gaussians", 350))
    printed = capsys.readouterr()
    assert "on 4 photos" in printed.out and "PSNR of held-out photos" in printed.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--out", "x.txt"), "txt"),
        (("--out", "x.ply", "--steps", 0), "steps"),
        (("--out", "x.ply", "--sh-degree", 9), "sh_degree"),
        (("--out", "x.ply", "--early-stop"), "spares one"),
        (("--out", "x.ply", "--budget-seconds", 0), "budget"),
    ],
)
def test_bad_flags_are_one_sentence(tmp_path, truth, capsys, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments(tmp_path, *more))
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert stop.value.code == 2 and words in error
    assert not (tmp_path / "x.ply").exists()


def test_interrupted_it_keeps_what_there_is(tmp_path, truth):
    out = tmp_path / "kept.ply"
    command = [sys.executable, "-m", "backend", *arguments(tmp_path, "--out", out, "--steps", 100_000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for line in process.stderr:  # the first tenth takes too long to wait for: any word means that it has begun
        if line.startswith(b"refine"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert b"Ctrl-C again" in process.stderr.read() and process.wait(30) == 0
    assert score(out, truth) > score(tmp_path / "scene.spz", truth) + 1


def test_ended_before_it_is_better_the_scene_stays(tmp_path, truth, capsys, monkeypatch):
    gaussians, _ = truth
    save_splats(tmp_path / "scene.spz", gaussians)
    polls = itertools.count()
    monkeypatch.setattr("backend.refine.interruptible", lambda _: nullcontext(lambda: next(polls) > 0))
    cli.main(arguments(tmp_path, "--out", tmp_path / "kept.ply"))
    assert "what is kept is the start" in capsys.readouterr().err
    assert torch.equal(load_splats(tmp_path / "kept.ply").means, load_splats(tmp_path / "scene.spz").means)
