import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from backend import cli
from backend.folders import output_folder, reconstruct_folder
from backend.options import make_options
from backend.protocol import ProtocolError, decode, encode
from backend.tasks import OPS
from pixworld.camera_files import load_cameras, save_cameras
from pixworld.cameras import Cameras
from pixworld.checkpoint import save_checkpoint
from pixworld.files import save_image
from pixworld.methods.pixworld import PixWorldConfig
from pixworld.render import render
from pixworld.splats import load_ply, save_ply
from pixworld.views import InputError, NamedCamera


def run(capsys, *args):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(arg) for arg in args])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture
def scene(tmp_path, cloud, arc):
    """Gaussians, cameras, and the files of both in tmp_path."""
    gaussians, cameras = cloud(200, seed=3), arc(6, 64, 80)
    save_ply(tmp_path / "scene.ply", gaussians)
    named = [NamedCamera(f"p{i}.jpg", cameras.select([i])) for i in range(len(cameras))]
    save_cameras(tmp_path / "cameras.json", named)
    return gaussians, cameras


@pytest.fixture
def photos(tmp_path, scene):
    """A folder of photos of the scene."""
    for i, rgb in enumerate(render(*scene).rgb):
        save_image(tmp_path / "photos" / f"p{i}.jpg", rgb)
    return tmp_path / "photos"


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model, as it is before training."""
    torch.manual_seed(0)
    config = PixWorldConfig(size=32, width=32, depth=1, heads=2)
    save_checkpoint(tmp_path / "tiny", config, config.build().state_dict())
    return tmp_path / "tiny"


def test_render(tmp_path, scene, capsys):
    out = tmp_path / "deep" / "out"
    code, stdout, _ = run(
        capsys, "render", tmp_path / "scene.ply", "--cameras", tmp_path / "cameras.json", "--out", out
    )
    assert code == 0 and str(out) in stdout
    assert sorted(file.name for file in out.iterdir()) == [*(f"p{i}.png" for i in range(6)), "video.mp4"]
    gaussians, cameras = scene
    image = np.asarray(Image.open(out / "p2.png")) / 255
    np.testing.assert_allclose(image, render(gaussians, cameras).rgb[2].clamp(0, 1).permute(1, 2, 0), atol=0.01)


def test_render_of_several_sizes_makes_no_video(tmp_path, scene, arc, capsys):
    named = [NamedCamera("a.jpg", arc(1, 32, 40)), NamedCamera("b.png", arc(1, 24, 40))]
    save_cameras(tmp_path / "two.json", named)
    args = ["render", tmp_path / "scene.ply", "--cameras", tmp_path / "two.json", "--out", tmp_path / "out"]
    assert run(capsys, *args)[0] == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    save_cameras(tmp_path / "two.json", [named[0], NamedCamera("a.png", arc(1))])
    code, _, stderr = run(capsys, *args)
    assert code == 2 and "a.png" in stderr


def test_reconstruct(tmp_path, photos, checkpoint, capsys):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    out = tmp_path / "out"
    args = (
        "reconstruct", photos, "--out", out, "--cameras", tmp_path / "cameras.json", "--holdout", 3,
        "--checkpoint", checkpoint, "--refine", 3, "--device", "cpu",
    )  # fmt: skip
    code, stdout, stderr = run(capsys, *args)
    assert code == 0, stderr
    assert sorted(file.name for file in out.iterdir()) == [
        "photos", "preview.png", "report.json", "scene.ply", "transforms.json",
    ]  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    keys = "psnr ssim per_image baseline_nearest_view_psnr gaussians views size seconds checkpoint feedforward_psnr"
    assert set(keys.split()) <= report.keys()
    assert [x["name"] for x in report["skipped"]] == ["broken.jpg"] and "skipped broken.jpg" in stderr
    assert report["per_image"].keys() == {"p0.jpg", "p3.jpg"} and f"{report['psnr']:.2f} dB" in stdout
    assert len(load_ply(out / "scene.ply")) == report["gaussians"]
    splits = {camera.name: camera.split for camera in load_cameras(out / "transforms.json")}
    assert splits == {f"p{i}.jpg": "holdout" if i in (0, 3) else "train" for i in range(6)}
    assert Image.open(out / "preview.png").size == (3 * 80, 2 * 64)
    assert "refine" in stderr and "2 more held out" in stdout
    assert run(capsys, *args)[0] == 0  # again, over the earlier result
    assert len(list((out / "photos").iterdir())) == 6 and list(tmp_path.glob("**/.partial-*")) == []


@pytest.mark.parametrize("cameras", [[], ["--cameras", "cameras.json"]])
@pytest.mark.parametrize("copied", [19.0, 21.0])
def test_what_is_worse_than_a_copy_is_said(tmp_path, capsys, monkeypatch, cameras, copied):
    scores = {"psnr": 20.0, "feedforward_psnr": 18.0, "baseline_nearest_view_psnr": copied, "per_image": {"a": {}}}
    report = {"skipped": [], "unregistered": [], "gaussians": 1, "views": 2, "refinement": {"steps": 1}, **scores}
    monkeypatch.setattr("backend.folders.reconstruct_folder", lambda *_, **__: report)
    code, _, stderr = run(capsys, "reconstruct", tmp_path, "--out", tmp_path / "out", *cameras)
    why = "the cameras may be of other photos" if cameras else "the photos may be too far apart"
    assert code == 0 and (f"worse than a copy: {why}" in stderr) == (copied > 20)


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, scene, photos, checkpoint, capsys):
    empty, file, out = tmp_path / "empty", tmp_path / "file", tmp_path / "out"
    empty.mkdir()
    file.write_text("{}")
    dot = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(dot)
    ply, cameras = tmp_path / "scene.ply", tmp_path / "cameras.json"
    other = tmp_path / "other.json"
    save_cameras(other, [NamedCamera("x.jpg", Cameras(torch.eye(4)[None], torch.eye(3)[None], 8, 8))])
    before = sorted(tmp_path.rglob("*"))
    for args in [
        ("reconstruct", "--out", out),
        ("reconstruct", empty, "--out", out),
        ("reconstruct", tmp_path / "absent", "--out", out),
        ("reconstruct", file, "--out", out),
        ("reconstruct", dot, "--out", out),
        ("reconstruct", photos, "--out", file),
        ("reconstruct", photos, "--out", file / "below"),
        ("reconstruct", photos, "--out", "/proc/nowhere"),
        ("reconstruct", photos, "--out", tmp_path, "--checkpoint", checkpoint),
        ("reconstruct", photos, "--out", out, "--cameras", file),
        ("reconstruct", photos, "--out", out, "--cameras", other, "--checkpoint", checkpoint),
        ("reconstruct", photos, "--out", out, "--checkpoint", empty),
        ("reconstruct", photos, "--out", out, "--views", 0),
        ("reconstruct", photos, "--out", out, "--holdout", 1, "--cameras", cameras, "--checkpoint", checkpoint),
        ("render", file, "--cameras", cameras, "--out", out),
        ("render", tmp_path / "absent.ply", "--cameras", cameras, "--out", out),
        ("render", ply, "--cameras", tmp_path / "absent.json", "--out", out),
        ("render", ply, "--cameras", cameras, "--out", file),
        ("serve", "--bind", "tcp://0.0.0.0:5555"),
        ("train", "--preset", "nothing", "--data", "procedural", "--out", out),
    ]:
        code, stdout, stderr = run(capsys, *args)
        assert code == 2, (args, stderr)
        assert stdout == "" and "Traceback" not in stderr
        sentence = stderr.splitlines()[-1]
        assert sentence.startswith("backend: ") and len(sentence) > 30, args
    assert sorted(tmp_path.rglob("*")) == before


def test_originals_are_never_written_over(tmp_path, photos):
    for inputs in ([photos], [photos / "p0.jpg"], [tmp_path / "elsewhere"]):
        with pytest.raises(InputError, match="choose another --out"):
            reconstruct_folder(inputs, tmp_path, None, make_options(), lambda *_: None)
    (tmp_path / "report.json").write_text("{}")  # an earlier result, which may be replaced, but not by itself
    with pytest.raises(InputError, match="choose another --out"):
        reconstruct_folder([photos], tmp_path, None, make_options(), lambda *_: None)


def test_no_gpu_is_said(tmp_path, photos, checkpoint, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    args = ("reconstruct", photos, "--out", tmp_path / "out", "--checkpoint", checkpoint, "--device", "cuda")
    code, _, stderr = run(capsys, *args)
    assert code == 2 and "--device cpu" in stderr
    code, _, stderr = run(capsys, "serve", "--bind", "tcp://127.0.0.1:*", "--device", "cuda")
    assert code == 2 and "--device cpu" in stderr


def test_an_interruption_leaves_nothing(tmp_path, scene, capsys, monkeypatch):
    def interrupt(self, stage, step, steps):
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.Stages, "__call__", interrupt)
    args = ["render", tmp_path / "scene.ply", "--cameras", tmp_path / "cameras.json", "--out", tmp_path / "out"]
    before = sorted(tmp_path.rglob("*"))
    assert run(capsys, *args)[0] == 130
    assert sorted(tmp_path.rglob("*")) == before


def test_earlier_results_stay_when_a_run_fails(tmp_path, scene, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "p0.png").write_text("earlier")
    run(capsys, "render", tmp_path / "absent.ply", "--cameras", tmp_path / "cameras.json", "--out", out)
    assert [file.name for file in out.iterdir()] == ["p0.png"]
    run(capsys, "render", tmp_path / "scene.ply", "--cameras", tmp_path / "cameras.json", "--out", out)
    assert Image.open(out / "p0.png").size == (80, 64)


def test_bad_flags(tmp_path):
    for args in (["reconstruct", "x"], ["render", "a.ply", "--out", "x"], ["dance"], ["serve", "--device", "tpu"]):
        done = subprocess.run([sys.executable, "-m", "backend", *args], capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def message(photos, fields=(), cameras=None, **arrays):
    """Fields and arrays of the task "reconstruct", having crossed the wire."""
    files = sorted(photos.iterdir())
    fields = {"names": [file.name for file in files], "options": {"refine": 2, "holdout": 3}, **dict(fields)}
    arrays |= {f"photo/{i}": np.frombuffer(file.read_bytes(), np.uint8) for i, file in enumerate(files)}
    if cameras is not None:
        fields["camera_names"] = fields["names"]
        arrays = {
            "c2w": cameras.c2w.double().numpy(),
            "K": cameras.K.double().numpy(),
            "sizes": np.array([(cameras.height, cameras.width)] * len(cameras), np.int32),
        } | arrays
    return decode([bytes(frame) for frame in encode(fields, arrays)])


def test_the_service_task_reconstructs(photos, scene, checkpoint, monkeypatch):
    monkeypatch.setattr("pixworld.checkpoint.BUNDLED", checkpoint)
    stages = []
    fields, arrays = OPS["reconstruct"](*message(photos, cameras=scene[1]), "cpu", lambda *step: stages.append(step))
    fields, arrays = decode([bytes(frame) for frame in encode(fields, arrays)])
    n, v = fields["report"]["gaussians"], 6
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "c2w": (v, 4, 4), "K": (v, 3, 3)}
    assert {name: arrays[name].shape for name in shapes} == shapes
    assert arrays["sh"].shape[::2] == (n, 3) and all(arrays[k].dtype == "f4" for k in ("means", "sh", "scales"))
    assert [photo["split"] for photo in fields["photos"]] == ["holdout", "train", "train"] * 2
    np.testing.assert_allclose(arrays["c2w"], scene[1].c2w, atol=1e-5)
    assert arrays["sizes"].tolist() == [[64, 80]] * v
    assert arrays["photo/5"].tobytes()[:2] == b"\xff\xd8"
    assert "refine" in {stage for stage, *_ in stages}


def test_the_service_task_refuses(photos, scene):
    cameras = scene[1]
    bad_pose, bad_focal = cameras.c2w.double().numpy().copy(), cameras.K.double().numpy().copy()
    bad_pose[3, :3, 0] *= 2
    bad_focal[4, 0, 0] = np.nan
    for code, text, fields, arrays in [
        ("NO_INPUT", "no photos", {"names": []}, {}),
        ("BAD_FIELD", "names", {"names": ["../p0.jpg", *"abcde"]}, {}),
        ("BAD_FIELD", "names", {"names": ["/etc/passwd", *"abcde"]}, {}),
        ("BAD_FIELD", "names", {"names": ["C:\\x", *"abcde"]}, {}),
        ("BAD_FIELD", "names", {"names": ["a", "a", *"abcd"]}, {}),
        ("BAD_FIELD", "names", {"names": "p0.jpg"}, {}),
        ("BAD_FIELD", "checkpoint", {"options": {"checkpoint": 1}}, {}),
        ("BAD_FIELD", "whole numbers", {"options": {"size": "512"}}, {}),
        ("BAD_FIELD", "out", {"out": "/tmp"}, {}),
        ("BAD_ARRAY", "photo/6", {"names": [f"p{i}.jpg" for i in range(7)]}, {}),
        ("BAD_CAMERA", "camera 3", {}, {"c2w": bad_pose}),
        ("BAD_CAMERA", "camera 4", {}, {"K": bad_focal}),
        ("BAD_ARRAY", "sizes", {}, {"sizes": np.ones((6, 3), np.int32)}),
    ]:
        job = message(photos, fields, cameras if "names" not in fields else None)
        with pytest.raises(ProtocolError, match=text) as caught:
            OPS["reconstruct"](job[0], {**job[1], **arrays}, "cpu", lambda *_: None)
        assert caught.value.code == code


def test_a_full_disk_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="full"), output_folder(tmp_path / "out") as folder:
        (folder / "scene.ply").write_text("half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_steps_and_seconds_of_the_refinement_both_hold():
    for refine, seconds in ((None, None), (5, None), (None, 9.0), (5, 9.0), (0, 9.0)):
        refinement = make_options(refine=refine, budget_seconds=seconds).refinement
        assert (refinement.steps, refinement.budget_seconds) == (refine, seconds)
