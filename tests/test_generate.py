"""`backend generate`: where images sit, which cameras are generated, and files that are whole and the same again."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.generate import generate as command
from pixworld.camera_files import load_cameras, save_cameras
from pixworld.cameras import Cameras
from pixworld.checkpoint import load_checkpoint, save_checkpoint
from pixworld.files import save_image
from pixworld.generate import GenerateOptions, generate, place, plan
from pixworld.methods.pixworld import PixWorldConfig
from pixworld.splats import load_splats
from pixworld.trajectories import TRAJECTORIES
from pixworld.views import InputError, NamedCamera, Photo


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of a tiny untrained model."""
    torch.manual_seed(0)
    config = PixWorldConfig(width=32, depth=1, heads=2, text="words", text_width=16, size=16)
    save_checkpoint(tmp_path / "weights", config, config.build().state_dict())
    return tmp_path / "weights"


def photo(name="a.png", height=48, width=64, focal_px=None, seed=0) -> Photo:
    image = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Photo(name, image.to(torch.uint8).numpy(), focal_px)


def named(cameras: Cameras, names: str) -> list[NamedCamera]:
    return [NamedCamera(f"{name}.png", cameras.select([i])) for i, name in enumerate(names)]


def placed(photos, cameras, **options):
    return place(photos, cameras, GenerateOptions(**options), 64, lambda *_: None)


# --- where images sit


def test_a_single_image_sits_at_the_origin_with_its_focal_length():
    (seen,), others = placed([photo(focal_px=80.0)], [])
    assert torch.equal(seen.views.cameras.c2w[0], torch.eye(4)) and others == []
    assert seen.views.cameras.K[0, 0, 0].item() == 80
    (seen,), _ = placed([photo()], [], fov=90.0)  # half the long side
    assert seen.views.cameras.K[0, 0, 0].item() == pytest.approx(32.0, abs=1e-3)


def test_an_image_sits_at_the_camera_named_like_it(arc):
    cameras = arc(3, 48, 64)
    (seen,), others = placed([photo("b.png")], named(cameras, "abc"))
    assert torch.equal(seen.views.cameras.c2w[0], cameras.c2w[1])
    assert [torch.equal(o.c2w[0], cameras.c2w[i]) for o, i in zip(others, (0, 2), strict=True)] == [True, True]


def test_a_single_image_without_a_name_opens_the_path(arc):
    cameras = arc(3, 48, 64)
    (seen,), others = placed([photo("z.png", focal_px=99.0)], named(cameras, "abc"))
    assert torch.equal(seen.views.cameras.c2w[0], cameras.c2w[0]) and len(others) == 2
    assert seen.views.cameras.K[0, 0, 0].item() == 99
    (seen,), _ = placed([photo("z.png")], named(cameras, "abc"))
    assert torch.equal(seen.views.cameras.K[0], cameras.K[0])  # the path's lens, as the aspect is the same


def test_several_images_need_a_camera_each(arc):
    with pytest.raises(InputError, match=r"no camera is named like the image z\.png"):
        placed([photo("a.png"), photo("z.png")], named(arc(3, 48, 64), "abc"))


# --- what is generated


def test_cameras_of_a_file_are_picked_evenly(arc):
    cameras = [c.cameras for c in named(arc(9), "abcdefghi")]
    path, targets = plan([], cameras, cameras[0], 1.0, GenerateOptions(prompt="x", views=5))
    assert torch.equal(targets.c2w, arc(9).c2w[::2])
    assert torch.allclose(path.c2w[[0, -1]], arc(9).c2w[[0, 8]], atol=1e-5)
    _, targets = plan([], cameras, cameras[0], 1.0, GenerateOptions(prompt="x", views=64))
    assert torch.equal(targets.c2w, arc(9).c2w)  # all of them, exactly


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_views_of_a_trajectory_are_spread_and_apart_from_the_image(arc, name):
    first = arc(1)
    path, targets = plan([first], [], first, 4.0, GenerateOptions(trajectory=name, views=4))
    everything = torch.cat([first.positions, targets.positions])
    gaps = torch.cdist(everything, everything) + 1e3 * torch.eye(5)
    reach = torch.cdist(path.positions, path.positions).max()
    assert gaps.min() > 0.1 * reach
    assert torch.cdist(targets.positions, path.positions).amin(1).max() < 1e-5


def test_options_out_of_range_are_one_sentence():
    for options, words in (
        (GenerateOptions(), "nothing to generate from"),
        (GenerateOptions(prompt="x", views=0), "views is 0"),
        (GenerateOptions(prompt="x", fov=200.0), "fov is 200"),
        (GenerateOptions(prompt="x", seed=-1), "seed is -1"),
    ):
        with pytest.raises(InputError, match=words):
            generate([], None, options, lambda *_: None)


# --- the whole


def test_the_given_image_leads_and_sizes_follow_the_patch(weights):
    seen = []
    options = GenerateOptions(views=3, steps=2, size=20, checkpoint=weights, device="cpu")
    made = generate([photo(height=50, width=77)], None, options, lambda *x: seen.append(x))
    assert made.given == 1 and len(made.scene.views) == 4
    assert made.report["size"] == [16, 32]  # 20 x 30.8 px in patches of 8, cut to that aspect
    assert made.report["detail"] == 2  # of the 38 px of the photo that are shown
    assert made.scene.views.images.shape[-2:] == (32, 64) == (made.path.height, made.path.width)
    lifted, generated = 32 * 64, 3 * 16 * 32
    assert lifted < len(made.scene.gaussians) <= lifted + generated
    assert ("generate", 2, 2) in seen and seen[-1] == ("render", 2, 3)
    assert made.report["path"] == "arc" and made.report["generated"] == 3


def test_what_a_mask_leaves_out_is_not_in_the_scene(weights):
    """Of the masked image, its right half; the Gaussians of the generated views stay."""
    usable = np.zeros((48, 64), bool)
    usable[:, :32] = True
    options = GenerateOptions(views=2, steps=2, checkpoint=weights, device="cpu")
    previews = []
    made = generate([replace(photo(), mask=usable)], None, options, lambda *_: None, previews.append)
    height, width = made.scene.views.images.shape[-2:]
    camera, lifted = made.scene.views.cameras.select([0]), height * width // 2
    columns = camera.project(made.scene.gaussians.means[:lifted])[0][0, :, 0]
    assert columns.max() < width / 2 and columns.min() < 1
    small = math.prod(made.report["size"])
    assert lifted < len(made.scene.gaussians) <= lifted + 2 * small
    assert all(0 < len(p.gaussians) <= small // 2 + 2 * small for p in previews)


def test_images_of_another_shape_are_cut_to_the_first(weights, arc):
    photos = [photo("a.png"), photo("b.png", 64, 48, seed=1)]
    portrait = arc(2, 64, 48)
    cameras = [NamedCamera("a.png", arc(2, 48, 64).select([0])), NamedCamera("b.png", portrait.select([1]))]
    options = GenerateOptions(views=2, steps=1, checkpoint=weights, device="cpu")
    made = generate(photos, cameras, options, lambda *_: None)
    shape = made.scene.views.images.shape
    assert made.given == 2 and shape[0] == 4 and shape[-1] > shape[-2]
    assert made.report["path"] == "images"


def run(out: Path, weights: Path, **more) -> dict[str, bytes]:
    command(out, views=2, steps=2, checkpoint=weights, device="cpu", **more)
    return {str(x.relative_to(out)): x.read_bytes() for x in sorted(out.rglob("*")) if x.is_file()}


def test_the_command_writes_the_same_bytes_twice(tmp_path, weights, capsys):
    save_image(tmp_path / "in" / "a.png", torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(1)))
    inputs = {"image": (tmp_path / "in" / "a.png",), "prompt": "a red wall"}
    first = run(tmp_path / "one", weights, **inputs)
    assert first.keys() == {
        "scene.ply", "transforms.json", "video.mp4", "preview.png", "report.json",
        "views/given_00.png", "views/generated_00.png", "views/generated_01.png",
    }  # fmt: skip
    second = run(tmp_path / "two", weights, **inputs)
    other = run(tmp_path / "other", weights, seed=1, **inputs)
    for name in first.keys() - {"report.json"}:
        assert first[name] == second[name], name
    assert first["scene.ply"] != other["scene.ply"] and first["views/given_00.png"] == other["views/given_00.png"]

    report = json.loads(first["report.json"])
    assert report["prompt"] == "a red wall" and report["images"] == ["a.png"] and report["seed"] == 0
    assert report["checkpoint"]["hash"] == load_checkpoint(weights)[1]["hash"] and report["seconds"] > 0
    cameras = load_cameras(tmp_path / "one" / "transforms.json")
    assert [c.name for c in cameras] == ["given_00.png", "generated_00.png", "generated_01.png"]
    assert len(load_splats(tmp_path / "one" / "scene.ply")) == report["gaussians"]
    assert f"{report['gaussians']} Gaussians, 1 given and 2 generated" in capsys.readouterr().out


def test_text_alone_along_cameras_of_a_file(tmp_path, weights, arc):
    save_cameras(tmp_path / "path.json", named(arc(4, 30, 45), "abcd"))
    files = run(tmp_path / "out", weights, prompt="a room", cameras=tmp_path / "path.json")
    assert "views/generated_01.png" in files and "views/given_00.png" not in files
    made = load_cameras(tmp_path / "out" / "transforms.json")
    assert torch.allclose(made[0].cameras.c2w, arc(4).c2w[:1], atol=1e-5)
    assert torch.allclose(made[1].cameras.c2w, arc(4).c2w[3:], atol=1e-5)


@pytest.mark.parametrize("when", ["pixworld.files.save_video", "pixworld.generate.plan"])
def test_interrupted_it_leaves_nothing(tmp_path, weights, monkeypatch, when):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(when, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", weights, prompt="a room")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["weights"]


def test_own_files_are_not_written_over(tmp_path, weights, arc):
    save_cameras(tmp_path / "out" / "transforms.json", named(arc(2), "ab"))
    save_image(tmp_path / "out" / "views" / "a.png", torch.rand(3, 32, 40))
    with pytest.raises(InputError, match="would be overwritten"):
        run(tmp_path / "out", weights, prompt="x", cameras=tmp_path / "out" / "transforms.json")
    with pytest.raises(InputError, match="written over"):
        run(tmp_path / "out", weights, image=(tmp_path / "out" / "views" / "a.png",))
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path / "new", weights, image=(tmp_path / "none.png",))
    assert not (tmp_path / "new").exists()
