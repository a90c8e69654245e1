"""The tasks of the service with a real server, a real worker and the weights that ship, at small size."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

from backend import worker
from backend.client import Client
from backend.protocol import ProtocolError, decode
from backend.server import CANCEL_GRACE_S
from backend.tasks.arrays import MAX_PREVIEW, preview_arrays, read_gaussians
from pixworld.cameras import Cameras, look_at
from pixworld.checkpoint import load_checkpoint
from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.splats import load_splats

ROOT = Path(__file__).parents[1]
FIELDS = ("means", "quats", "scales", "opacities", "sh")


@pytest.fixture(scope="module")
def client():
    command = [sys.executable, "-m", "backend", "serve", "--bind", "tcp://127.0.0.1:*", "--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    with Client(process.stdout.readline().split()[4].rstrip(";"), timeout_s=60) as client:
        yield client
    process.terminate()
    assert process.wait(30) == 0


def cameras_on_an_arc(v: int = 6) -> Cameras:
    angle = torch.linspace(-0.6, 0.6, v)
    eye = torch.stack([4 * angle.sin(), -0.5 + 0.2 * angle, -4 * angle.cos()], -1)
    c2w = look_at(eye, torch.zeros(3), torch.tensor([0.0, -1, 0]))
    K = torch.tensor([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]).repeat(v, 1, 1)
    return Cameras(c2w, K, 64, 96)


def ball() -> Gaussians:
    """Coloured spots on a ball of radius 1, in front of a wall at z = 2 that fills every view."""
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    y, x = torch.meshgrid(torch.linspace(-7, 7, 57), torch.linspace(-9, 9, 73), indexing="ij")
    wall = torch.stack([x, y, torch.full_like(x, 2.0)], -1).reshape(-1, 3)
    means = torch.cat([ball, wall])
    n = len(means)
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1)
    scales = torch.cat([torch.full((4000, 3), 0.05), torch.full((len(wall), 3), 0.14)])
    colour = torch.nn.functional.interpolate(torch.randn(1, 3, 6, 6, 6, generator=generator), (24, 24, 24))[0]
    cell = ((means.clamp(-2.9, 2.9) + 3) * 4).long()
    sh = colour[:, cell[:, 0], cell[:, 1], cell[:, 2]].T[:, None]
    return Gaussians(means, quats, scales, torch.full((n,), 0.95), sh.contiguous())


def arrays_of(gaussians: Gaussians) -> dict[str, np.ndarray]:
    return {name: getattr(gaussians, name).numpy() for name in FIELDS}


def arrays_of_cameras(cameras: Cameras) -> dict[str, np.ndarray]:
    sizes = np.array([(cameras.height, cameras.width)] * len(cameras), np.int32)
    return {"c2w": cameras.c2w.double().numpy(), "K": cameras.K.double().numpy(), "sizes": sizes}


def photographs(cameras: Cameras, gaussians: Gaussians | None = None) -> dict[str, np.ndarray]:
    """PNG files of renders."""
    images = render(gaussians or ball(), cameras).rgb.clamp(0, 1)
    out = {}
    for i, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "PNG")
        out[f"photo/{i}"] = np.frombuffer(buffer.getvalue(), np.uint8)
    return out


def do(client, task, fields, arrays):
    """The last event of a job, and those before."""
    progress = []
    last = client.wait(client.submit(task, fields, arrays), progress.append)
    return last, progress


def result_of(client, task, fields, arrays):
    last, progress = do(client, task, fields, arrays)
    assert last.kind == "result", last.header
    return last, progress


def check_gaussians(arrays):
    n = len(arrays["means"])
    assert n > 0 and set(FIELDS) <= arrays.keys()
    assert [arrays[name].shape[:1] for name in FIELDS] == [(n,)] * 5 and arrays["sh"].shape[2] == 3
    assert all(arrays[name].dtype == np.float32 and np.isfinite(arrays[name]).all() for name in FIELDS)
    np.testing.assert_allclose(np.linalg.norm(arrays["quats"], axis=1), 1, atol=1e-4)


def previews_of(progress):
    """They hold Gaussians, not too many."""
    shown = [event for event in progress if event.header.get("preview")]
    assert all(0 < len(event.arrays["means"]) <= MAX_PREVIEW for event in shown)
    for event in shown:
        check_gaussians(event.arrays)
    assert not any(event.arrays for event in progress if not event.header.get("preview"))
    return shown


# --- the tasks


def test_hello_names_the_checkpoint(client):
    until = time.monotonic() + 60
    while not (hello := client.hello())["ready"] and time.monotonic() < until:
        time.sleep(0.1)
    assert hello["ready"] and hello["device"] == "cpu"
    about = load_checkpoint()[1]
    assert (hello["checkpoint"], hello["hash"]) == (about["name"], about["hash"])


def test_reconstruct_shows_how_it_goes(client):
    cameras = cameras_on_an_arc(4)
    names = [f"{i}.png" for i in range(4)]
    fields = {"names": names, "camera_names": names, "previews": True, "options": {"refine": 60, "size": 64}}
    last, progress = result_of(client, "reconstruct", fields, photographs(cameras) | arrays_of_cameras(cameras))
    check_gaussians(last.arrays)
    shown = previews_of(progress)
    assert shown and {event.header["stage"] for event in shown} == {"refine"}
    # they are in the frame of the result
    middle, spread = np.median(last.arrays["means"], axis=0), last.arrays["means"].std()
    assert np.abs(np.median(shown[0].arrays["means"], axis=0) - middle).max() < spread
    fields = {**fields, "previews": False}
    _, progress = result_of(client, "reconstruct", fields, photographs(cameras) | arrays_of_cameras(cameras))
    assert previews_of(progress) == []


def test_reconstruct_says_which_photo_shows_a_gaussian(client):
    cameras = cameras_on_an_arc(4)
    names = ["d.png", "b.png", "c.png", "a.png"]  # the result is sorted by name
    fields = {"names": names, "camera_names": names, "options": {"refine": 20, "size": 64, "holdout": 3}}
    sent = photographs(cameras) | arrays_of_cameras(cameras)
    last, progress = result_of(client, "reconstruct", {**fields, "by_photo": True}, sent)
    labels, photos = last.arrays["photo"], last.header["photos"]
    assert labels.dtype.str == "<i4" and labels.shape == (len(last.arrays["means"]),)
    assert [p["name"] for p in photos] == sorted(names) and "attribute" in {e.header["stage"] for e in progress}
    train = [i for i, p in enumerate(photos) if p["split"] == "train"]
    assert len(train) == 2 and set(labels.tolist()) - {-1} == set(train)
    arrays = {name: torch.tensor(last.arrays[name]) for name in FIELDS}
    for n in np.random.default_rng(0).choice(np.flatnonzero(labels >= 0), 20, replace=False):  # it alone is white
        sh = torch.full((len(labels), 1, 3), -9.0)
        sh[n] = 2.0
        alone = Gaussians(**{**arrays, "sh": sh})
        weights = []
        for i in train:
            c2w, K = (torch.tensor(last.arrays[name][i : i + 1]).float() for name in ("c2w", "K"))
            weights.append(render(alone, Cameras(c2w, K, *last.arrays["sizes"][i].tolist())).rgb.sum())
        assert train[int(torch.stack(weights).argmax())] == labels[n]
    last, _ = result_of(client, "reconstruct", fields, sent)
    assert "photo" not in last.arrays
    confidence = last.arrays["confidence"]
    assert confidence.shape == last.arrays["opacities"].shape and confidence.dtype == np.float32
    assert confidence.min() >= 0 and 1 < confidence.max() <= len(names)
    last, _ = do(client, "reconstruct", {**fields, "by_photo": 1}, sent)
    assert last.header["code"] == "BAD_FIELD"


def test_generate_along_cameras_from_an_image(client):
    cameras = cameras_on_an_arc(5)
    image = {"photo/0": photographs(cameras.select([0]))["photo/0"]}
    fields = {
        "names": ["frame_0001.png"], "prompt": "a ball", "trajectory": "", "guidance": 2.0, "previews": True,
        "camera_names": [f"frame_000{i}.png" for i in range(1, 6)],
        "options": {"views": 3, "steps": 3, "size": 32, "seed": 7},
    }  # fmt: skip
    last, progress = result_of(client, "generate", fields, image | arrays_of_cameras(cameras))
    check_gaussians(last.arrays)
    photos = last.header["photos"]
    assert [p["split"] for p in photos] == ["given", "generated", "generated", "generated"]
    assert photos[0]["name"] == "frame_0001.png" and len({p["name"] for p in photos}) == 4
    np.testing.assert_allclose(last.arrays["c2w"], cameras.c2w[[0, 1, 3, 4]].double().numpy(), atol=1e-5)
    for i, (height, width) in enumerate(last.arrays["sizes"]):
        shown = Image.open(io.BytesIO(last.arrays[f"photo/{i}"].tobytes()))
        assert shown.size == (width, height) == (96, 64)  # those of the photo
    assert last.header["report"]["seed"] == 7 and last.header["report"]["prompt"] == "a ball"
    assert len(previews_of(progress)) >= 1
    again, _ = result_of(client, "generate", fields, image | arrays_of_cameras(cameras))
    np.testing.assert_array_equal(again.arrays["means"], last.arrays["means"])


def test_generate_from_a_prompt_along_a_trajectory(client):
    fields = {"names": [], "prompt": "a room", "trajectory": "orbit", "options": {"views": 2, "steps": 1, "size": 16}}
    last, _ = result_of(client, "generate", fields, {})
    check_gaussians(last.arrays)
    assert last.header["report"]["path"] == "orbit" and len(last.header["photos"]) == 2


def test_regenerate_gives_what_is_in_the_box(client):
    box = np.diag([1.3, 1.3, 1.3, 1.0])
    box[:3, 3] = [0.1, 0, 0]
    fields = {"prompt": "a ball", "options": {"steps": 2, "seed": 1}, "guidance": 1, "previews": True}
    scene = arrays_of(ball()) | arrays_of_cameras(cameras_on_an_arc()) | {"box": box}
    last, progress = result_of(client, "regenerate", fields, scene)
    check_gaussians(last.arrays)
    local = (last.arrays["means"] - box[:3, 3]) / 1.3
    assert np.abs(local).max() <= 1 + 1e-5
    assert last.header["report"]["replaced"] == 4000 and last.header["report"]["generated"] == 3
    shown = previews_of(progress)
    assert shown
    for event in shown:
        assert np.abs((event.arrays["means"] - box[:3, 3]) / 1.3).max() <= 1 + 1e-5


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat", "sog", "glb", "usd"])
def test_export_gives_a_file_that_reads_back(client, tmp_path, suffix):
    if suffix == "usd":
        pytest.importorskip("pxr", reason="usd-core is not installed")
    scene = ball()
    last, _ = result_of(client, "export", {"format": suffix}, arrays_of(scene))
    path = tmp_path / f"scene.{suffix}"
    path.write_bytes(last.arrays["file"].tobytes())
    back = load_splats(path)
    assert len(back) == len(scene)
    distance, i = cKDTree(back.means.numpy()).query(scene.means.numpy())  # formats may sort and quantise
    assert distance.max() < 0.02 and len(set(i)) > 0.95 * len(scene)
    assert (back.sh[i, 0] - scene.sh[:, 0]).abs().median() < 0.05


def test_mesh_with_and_without_cameras(client):
    scene = ball()
    alone = scene.select(torch.arange(len(scene)) < 4000)
    last, progress = result_of(client, "mesh", {"options": {"resolution": 48}}, arrays_of(alone))
    vertices, faces = last.arrays["vertices"], last.arrays["faces"]
    assert vertices.dtype == np.float32 and faces.dtype == np.int32 and faces.max() < len(vertices)
    assert np.median(np.abs(np.linalg.norm(vertices, axis=1) - 1)) < 0.06
    assert {event.header["stage"] for event in progress} >= {"render depth", "fuse", "mesh"}
    cameras = arrays_of_cameras(cameras_on_an_arc())
    last, _ = result_of(client, "mesh", {"options": {"resolution": 48}}, arrays_of(scene) | cameras)
    wall = last.arrays["vertices"][np.linalg.norm(last.arrays["vertices"], axis=1) > 2.5]
    assert len(wall) and np.abs(wall[:, 2] - 2).max() < 0.5


def test_generated_views_have_names_of_their_own(client):
    """An image may be an earlier result, or have no suffix; the first one leads whatever its name."""
    cameras = cameras_on_an_arc(2)
    fields = {
        "names": ["generated_00.jpg", "a"], "camera_names": ["generated_00.jpg", "a"], "trajectory": "arc",
        "options": {"views": 2, "steps": 1, "size": 16},
    }  # fmt: skip
    last, _ = result_of(client, "generate", fields, photographs(cameras) | arrays_of_cameras(cameras))
    names = [photo["name"] for photo in last.header["photos"]]
    assert names == ["generated_00.jpg", "a.png", "generated_01.jpg", "generated_02.jpg"]


def test_a_generation_can_be_cancelled(client):
    fields = {"names": [], "prompt": "a room", "options": {"views": 4, "steps": 1000, "size": 64}}
    job = client.submit("generate", fields, {})
    asked = []

    def cancel(event):
        if event.header["stage"] == "generate":
            asked.append(time.monotonic())
            client.cancel(job)

    assert client.wait(job, cancel).kind == "cancelled"
    assert time.monotonic() - asked[0] < CANCEL_GRACE_S - 1  # by itself: later the worker would be killed


@pytest.mark.parametrize(
    "task, fields, arrays, code, words",
    [
        ("generate", {"names": []}, {}, "NO_INPUT", "write a prompt or choose images"),
        ("generate", {"names": [], "prompt": 3}, {}, "BAD_FIELD", "'prompt' must be text"),
        ("generate", {"names": [], "prompt": "x", "guidance": "y"}, {}, "BAD_FIELD", "must be a number"),
        ("generate", {"names": [], "prompt": "x", "trajectory": "loop"}, {}, "BAD_FIELD", "orbit, arc, dolly, spiral"),
        ("generate", {"names": [], "prompt": "x", "options": {"views": 99}}, {}, "BAD_INPUT", "views is 99"),
        ("generate", {"names": [], "prompt": "x", "options": {"seed": -1}}, {}, "BAD_INPUT", "seed is -1"),
        ("generate", {"names": [], "prompt": "x", "options": {"fov": 9}}, {}, "BAD_FIELD", "no option 'fov'"),
        ("generate", {"names": ["a.png"]}, {"photo/0": np.zeros(9, "u1")}, "BAD_INPUT", "photo"),
        ("reconstruct", {"names": [], "previews": 1}, {}, "BAD_FIELD", "must be true or false"),
        ("reconstruct", {"names": []}, {}, "NO_INPUT", "no photos"),
        ("export", {"format": "obj"}, arrays_of(ball()), "BAD_FIELD", "ply, spz, splat"),
        ("export", {"format": "ply"}, {}, "BAD_ARRAY", "'means' must be <f4 of shape [n, 3]"),
        ("export", {"format": "ply"}, {"means": np.zeros((0, 3), "f4")}, "BAD_ARRAY", "'sh'"),
        ("mesh", {"options": {"resolution": 9999}}, arrays_of(ball()), "BAD_INPUT", "resolution is 9999"),
        ("mesh", {}, {**arrays_of(ball()), "opacities": np.zeros(3, "f4")}, "BAD_ARRAY", "'opacities'"),
        ("mesh", {}, arrays_of(ball()) | {"scales": -ball().scales.numpy()}, "BAD_INPUT", "scales below 0"),
        ("regenerate", {}, arrays_of(ball()), "BAD_ARRAY", "'box'"),
        ("regenerate", {}, {**arrays_of(ball()), "box": np.eye(4)}, "BAD_ARRAY", "'c2w'"),
        (
            "regenerate",
            {},
            arrays_of(ball()) | arrays_of_cameras(cameras_on_an_arc()) | {"box": np.diag([1.0, 0, 1, 1])},
            "BAD_INPUT",
            "no volume",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(client, task, fields, arrays, code, words):
    last, _ = do(client, task, fields, arrays)
    assert last.kind == "error", last.kind
    assert last.header["code"] == code and words in last.header["message"], last.header


# --- without a server


def test_previews_are_few_the_same_and_cover_as_much():
    n = 4 * MAX_PREVIEW
    generator = torch.Generator().manual_seed(0)
    many = Gaussians(
        torch.randn(n, 3, generator=generator), torch.tensor([1.0, 0, 0, 0]).expand(n, 4), torch.full((n, 3), 0.1),
        torch.full((n,), 0.5), torch.zeros(n, 1, 3),
    )  # fmt: skip
    first, second = preview_arrays(many), preview_arrays(many)
    assert len(first["means"]) == MAX_PREVIEW and np.array_equal(first["means"], second["means"])
    np.testing.assert_allclose(first["scales"], 0.2)  # a quarter of them, each of four times the area
    few = many.select(torch.arange(n) < 10)
    np.testing.assert_array_equal(preview_arrays(few)["means"], few.means.numpy())


def test_previews_leave_time_for_the_work(monkeypatch):
    now, sent = [100.0], []
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(worker, "send", lambda _, frames: sent.append(decode(frames)[0]))
    report = worker.Reporter(None, SimpleNamespace(value=0), "job")

    def slow():
        now[0] += 3
        return {}

    report("refine", 1, 9)
    for wait_s in (0.0, 0.0, 0.9, 0.2):
        now[0] += wait_s
        report.preview(slow)
    shown = [header for header in sent if header.get("preview")]
    assert len(shown) == 2 and shown[0]["stage"] == "refine" and shown[0]["step"] == 1


def test_gaussians_of_a_message_are_normalised_and_stay_as_they_were():
    arrays = arrays_of(ball())
    arrays["quats"] = 3 * arrays["quats"]
    for array in arrays.values():
        array.setflags(write=False)
    back = read_gaussians(arrays)
    torch.testing.assert_close(back.quats, ball().quats)
    with pytest.raises(ProtocolError, match="k is 1, 4, 9 or 16"):
        read_gaussians({**arrays, "sh": np.zeros((len(back), 2, 3), np.float32)})
