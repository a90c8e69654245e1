"""Protocols, baselines, poses of frames, scores and the table."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.evaluate import evaluate as command
from pixworld.camera_files import save_cameras
from pixworld.cameras import Cameras
from pixworld.checkpoint import save_checkpoint
from pixworld.data.bank import ARRAYS
from pixworld.evaluation import nearest_views
from pixworld.evaluation.baselines import LIFT, exact_lift, lift, mean_colour, nearest_view
from pixworld.evaluation.poses import MIN_SIDE, estimate_poses
from pixworld.evaluation.protocols import FRAMES, PROTOCOLS, open_samples, photo_sample, split
from pixworld.evaluation.run import evaluate
from pixworld.evaluation.scores import SCORES, likeness, load_scores
from pixworld.evaluation.table import PAPER, markdown
from pixworld.files import save_image
from pixworld.methods.pixworld import PixWorldConfig
from pixworld.metrics import pose_auc, pose_errors, psnr
from pixworld.render import render
from pixworld.view_choice import camera_distance, farthest_points, nearest
from pixworld.views import InputError, NamedCamera, Views


def textured_wall(cameras: Cameras, seed: int = 0) -> Views:
    """Views, exact in colour and depth, of a wall at z = 0 with a pattern of coarse noise."""
    origins, directions = cameras.rays()
    depth = -origins[..., 2] / directions[..., 2]
    points = (origins + depth[..., None] * directions)[..., :2]
    pattern = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    grid = (points / 4).clamp(-1, 1).flatten(1, 2)[:, None]
    colours = torch.nn.functional.grid_sample(pattern.expand(len(grid), -1, -1, -1), grid, align_corners=False)
    images = colours[:, :, 0].unflatten(-1, depth.shape[1:])
    return Views(images, cameras, depth=depth, text=("a wall",))


@pytest.fixture
def wall(arc):
    return lambda v=8, height=32, width=40, seed=0: textured_wall(arc(v, height, width), seed)


def save_bank(folder, scenes: list[Views]):
    """A bank on disk of scenes of one size."""
    folder.mkdir(parents=True)
    arrays = {
        "images": np.stack([(255 * s.images).byte().movedim(1, -1).numpy() for s in scenes]),
        "depth": np.stack([s.depth.numpy() for s in scenes]),
        "c2w": np.stack([s.cameras.c2w.numpy() for s in scenes]),
        "K": np.stack([s.cameras.K.numpy() for s in scenes]),
    }
    for name, dtype in ARRAYS.items():
        np.save(folder / f"{name}.npy", arrays[name].astype(dtype))
    (folder / "captions.json").write_text(json.dumps([s.text[0] for s in scenes]))
    (folder / "meta.json").write_text(json.dumps({"scenes": len(scenes), "seed": 9}))
    return folder


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PixWorldConfig(width=32, depth=1, heads=2, text="words", text_width=16, size=32).build().eval()


@pytest.fixture
def quick(monkeypatch):
    """A perceptual distance without a network, where the network is not what is tested."""

    class Difference(torch.nn.Module):
        label = "mean difference"

        def forward(self, a, b):
            return (a - b).abs().mean((-3, -2, -1))

    monkeypatch.setattr("pixworld.nn.encoders.load_perceptual", lambda name: Difference())


# --- which views


def test_nearest_by_position_then_by_direction(arc):
    cameras = arc(5)
    assert nearest(cameras.select([0, 2, 4]), cameras.select([1, 3])).tolist()[0::2] == [0, 1]
    same = replace(cameras, c2w=torch.cat([cameras.c2w[..., :3], cameras.c2w[:1, :, 3:].expand(5, -1, -1)], dim=-1))
    assert nearest(same.select([1, 4]), same.select([0, 3])).tolist() == [0, 1]
    assert camera_distance(cameras, cameras).diagonal().abs().max() < 1e-5


def test_farthest_points_begin_with_the_ends_and_fill_gaps(arc):
    cameras = arc(9)
    assert farthest_points(cameras, 2) == [0, 8]
    assert farthest_points(cameras, 5) == [0, 2, 4, 6, 8]
    assert farthest_points(cameras, 1, cameras.select([0])) == [8]
    assert farthest_points(cameras, 2, cameras.select([0])) == [4, 8]
    assert farthest_points(cameras, 9) == list(range(9))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_split_every_frame_once(wall, name):
    scene = wall(12)
    protocol = PROTOCOLS[name]
    sample = split("x", scene, protocol, 0, 0)
    assert len(sample.given) == protocol.views and sample.given.depth is None
    assert len(sample.given) + len(sample.held) == (FRAMES if protocol.generated else 12)
    rows = sample.cameras.c2w.flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert sample.exact.shape[0] == protocol.views and sample.prompt == "a wall"


def test_reconstruction_is_given_both_ends_and_points(wall):
    scene = wall(8)
    sample = split("x", scene, PROTOCOLS["nvs-4"], 100, 3)
    assert torch.equal(sample.given.images, scene.images[[0, 2, 5, 7]])
    known = sample.given.depth > 0  # the points, and what stereo finds from them
    assert known[0].sum() > 50
    assert ((sample.given.depth / sample.exact)[known] - 1).abs().quantile(0.95) < 0.1
    with pytest.raises(InputError, match="8 views, and this protocol needs 9"):
        split("x", scene, PROTOCOLS["nvs-8"], 0, 0)


def test_generation_definitions(wall):
    scene = wall(8)

    def given(name):
        sample = split("x", scene, PROTOCOLS[name], 0, 0)
        return [int((scene.images == x).flatten(1).all(1).nonzero()[0]) for x in sample.given.images]

    assert given("gen-1-first") == [0] and given("gen-1-bidirectional") == [4]
    assert given("gen-2-interpolate") == [0, 7] and given("gen-2-extrapolate") == [3, 4]


def test_data_that_is_neither(tmp_path):
    with pytest.raises(InputError, match="neither a bank of scenes nor a folder of photo sets"):
        open_samples(tmp_path, PROTOCOLS["nvs-4"], scenes=1, points=0, size=64, patch=8, seed=0)


def test_photo_sets_give_spread_photos_and_their_points(shared):
    folder = shared / "real" / "eval" / "nineveh_panel17"
    sample = photo_sample(folder, PROTOCOLS["nvs-4"], 64, 8, 0)
    assert sample.given.images.shape == (4, 3, 88, 64) and len(sample.held) == 20 and sample.exact is None
    assert (sample.given.depth > 0).flatten(1).sum(1).min() > 5
    generated = photo_sample(folder, PROTOCOLS["gen-2-interpolate"], 64, 8, 0)
    assert len(generated.held) == 6 and generated.given.depth is None


# --- baselines


def test_nearest_view_copies(wall):
    sample = split("x", wall(8), PROTOCOLS["nvs-2"], 0, 0)
    frames = nearest_view(sample)(sample.held.cameras)
    assert torch.equal(frames[0], sample.given.images[0]) and torch.equal(frames[-1], sample.given.images[1])
    batch = wall(8)
    batch = replace(
        batch,
        images=batch.images[None],
        depth=None,
        cameras=replace(batch.cameras, c2w=batch.cameras.c2w[None], K=batch.cameras.K[None]),
    )
    assert torch.equal(nearest_views(batch, [0, 7], list(range(1, 7)))[0], frames)


def test_mean_colour_is_the_best_constant(wall):
    sample = split("x", wall(8), PROTOCOLS["nvs-4"], 0, 0)
    frames = mean_colour(sample)(sample.given.cameras)
    assert frames.shape == sample.given.images.shape
    best = psnr(frames, sample.given.images).mean()
    assert best > psnr(frames + 0.05, sample.given.images).mean()


def test_exact_lift_shows_a_wall_from_elsewhere(wall):
    sample = split("x", wall(8), PROTOCOLS["nvs-4"], 0, 0)
    lifted = psnr(exact_lift(sample, 0.1)(sample.held.cameras), sample.held.images).mean()
    copied = psnr(nearest_view(sample)(sample.held.cameras), sample.held.images).mean()
    assert lifted > copied + 4


def test_exact_lift_puts_what_has_no_depth_far_away(wall):
    sample = split("x", wall(8), PROTOCOLS["nvs-2"], 0, 0)
    exact = sample.exact.clone()
    exact[:, :10] = 0
    again = exact_lift(replace(sample, exact=exact), 0.1)(sample.given.cameras)
    assert psnr(again, sample.given.images).min() > 20


def test_the_lift_shows_its_background_only_where_nothing_was_hit(wall):
    sample = split("x", wall(8), PROTOCOLS["nvs-4"], 0, 0)
    show = exact_lift(sample, 0.1)
    plain = render(lift(sample.given, sample.exact, *LIFT[4]), sample.held.cameras, eps2d=0.1)
    gap = (show(sample.held.cameras) - plain.rgb).abs().amax(1)
    assert (gap <= 1 - plain.alpha + 1e-4).all()


# --- poses


def test_poses_of_true_frames_are_found(arc):
    scene = textured_wall(arc(5, 192, 256))
    c2w, found = estimate_poses(scene.images, scene.cameras)
    assert found.all()
    assert pose_auc(pose_errors(c2w, scene.cameras.c2w, found), 30) > 0.8


def test_frames_of_one_colour_have_no_poses(arc):
    cameras = arc(3, 64, 80)
    _, found = estimate_poses(torch.full((3, 3, 64, 80), 0.5), cameras)
    assert not found.any()


# --- scores


def test_likeness_by_hand():
    """Features on a circle: the given view at 0 degrees, frames at 0, 60 and 90."""
    table = {0.0: 0.0, 0.25: 60.0, 0.5: 90.0}

    def features(images):
        angle = torch.tensor([table[round(x.mean().item(), 2)] for x in images]).deg2rad()
        return torch.stack([angle.cos(), angle.sin()], 1)

    frames = torch.tensor([0.0, 0.25, 0.5])[:, None, None, None].expand(3, 3, 2, 2)
    score = likeness(features, 0.5, 0.5, 0.0)(frames, frames[:1], "")
    assert score == pytest.approx(0.5 * 1 + 0.5 * (0.5 + 3**0.5 / 2) / 2, abs=1e-4)


def test_scores_are_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text("def seven(images):\n    return images.new_full((len(images),), 7.0)\n")
    monkeypatch.chdir(tmp_path)
    score = load_scores({"aesthetic-quality": "my_scores:seven"})["aesthetic-quality"]
    assert score(torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4), "") == pytest.approx(0.7)


@pytest.mark.parametrize("chosen", [{"beauty": "a:b"}, {"worldscore": "no_such_module:f"}, {"worldscore": "json:none"}])
def test_scores_that_cannot_be_had(chosen):
    with pytest.raises(InputError):
        load_scores(chosen)


# --- the whole


def test_evaluate_a_bank(tmp_path, wall, model, quick):
    bank = save_bank(tmp_path / "bank", [wall(8, 32, 40, seed) for seed in range(2)])
    report = evaluate(model, "tiny", bank, "nvs-4", pose_scenes=1)
    assert min(32, 40) < MIN_SIDE and report["posed"] == 0
    rows = report["mean"]
    assert list(rows) == ["tiny", "nearest view", "mean colour", "exact-depth lift"]
    assert rows["exact-depth lift"]["psnr"] > rows["nearest view"]["psnr"] > rows["mean colour"]["psnr"]
    assert rows["tiny"]["psnr"] == pytest.approx(np.mean(report["per_sample"]["tiny"]["psnr"]))
    json.dumps(report, allow_nan=False)
    table = markdown(report)
    assert "too small to pose" in table and "300 points of known depth" in table and "scene 0001" in table
    assert table.index("\n---\n") < table.index("Other data, for orientation") < table.index("26.21")
    again = evaluate(model, "tiny", bank, "nvs-4", pose_scenes=1)
    assert {**report, "seconds": 0} == {**again, "seconds": 0}


def test_evaluate_generation_says_what_was_not_measured(tmp_path, wall, model, quick):
    bank = save_bank(tmp_path / "bank", [wall(8)])
    mine = {"i2v-subject": likeness(lambda images: images.flatten(1), 0.5, 0.5, 0.0)}
    report = evaluate(model, "tiny", bank, "gen-2-extrapolate", steps=2, scores=mine)
    table = markdown(report)
    assert "I2V Subj. ↑" in table and "I2V Subj. not measured" not in table
    assert "WorldScore not measured: needs" in table and "given views with no depth" in table
    assert report["scores"].keys() == SCORES.keys() and report["given"] == 2 and report["held"] == 6


def test_every_protocol_of_the_paper_has_its_rows():
    assert PROTOCOLS.keys() - PAPER.keys() == {"nvs-2"}
    for _, headings, rows in PAPER.values():
        assert all(len(row) == len(headings) for row in rows.values())


def test_the_command_writes_a_report_and_prints_the_table(tmp_path, wall, model, capsys):
    save_checkpoint(tmp_path / "weights", model.config, model.state_dict())
    bank = save_bank(tmp_path / "bank", [wall(8)])
    command(bank, tmp_path / "out", checkpoint=tmp_path / "weights", pose_scenes=0, device="cpu")
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text() in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["checkpoint"]["name"] == "weights" and report["protocol"] == "nvs-4"
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == ["report.json", "table.md"]
    with pytest.raises(InputError, match="names no score"):
        command(bank, tmp_path / "bad", score=("worldscore",))
    assert not (tmp_path / "bad").exists()


def test_photo_sets_are_measured_with_poses(tmp_path, arc, model, quick):
    """A set of photos of a wall, written as a user has it; frames are large enough to pose."""
    scene = textured_wall(arc(5, 96, 128))
    folder = tmp_path / "sets" / "wall"
    named = []
    for i, image in enumerate(scene.images):
        save_image(folder / f"p{i}.png", image)
        named.append(NamedCamera(f"p{i}.png", scene.cameras.select([i])))
    save_cameras(folder / "transforms.json", named)
    report = evaluate(model, "tiny", tmp_path / "sets", "nvs-4", size=64, pose_scenes=1)
    assert report["samples"] == ["wall"] and report["held"] == 1 and report["frames"] == [64, 88]
    assert report["mean"]["true frames"]["auc30"] > 0.5 > report["mean"]["mean colour"]["auc30"]
    assert "exact-depth lift" not in report["mean"] and "true frames" in markdown(report)
