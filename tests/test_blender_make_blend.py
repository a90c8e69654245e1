"""scripts/make_blend.py: what Cycles shows of its .blend, and what it says of files that cannot be used."""

import subprocess
import sys

import blender
import numpy as np
import pytest
import torch
from blender import ROOT, gaussians_in_view, in_blender, psnr, render_frame

pytestmark = blender.needs_bpy

VIEWS = {  # name: (width, height, K, position)
    "landscape.jpg": (128, 96, [[110, 0, 70.5], [0, 110, 40], [0, 0, 1]], (0, 0, 0)),
    "portrait.jpg": (72, 112, [[95, 0, 36], [0, 101, 56], [0, 0, 1]], (0.3, -0.2, -0.4)),
}


def check_render(folder):
    """Open scene.blend in a Blender without the extension and render what it shows through every camera."""
    import bpy

    bpy.ops.wm.open_mainfile(filepath=str(folder / "scene.blend"))
    assert not any("pixworld" in addon.module for addon in bpy.context.preferences.addons)
    scene = bpy.context.scene
    assert (scene.camera.name, scene.render.engine) == ("landscape.jpg", "CYCLES")
    photo = scene.camera.data.background_images[0].image
    assert photo.packed_file and tuple(photo.size) == (128, 96)
    out = {"landscape.jpg": render_frame(scene, folder)}

    # another camera, of another shape and with pixels that are not square
    from blender_addon import cameras

    cameras.look_through(bpy.data.objects["portrait.jpg"], scene)
    out["portrait.jpg"] = render_frame(scene, folder)

    # the whole scene moved, turned and scaled by its root changes nothing for its own cameras
    root = scene.camera.parent
    root.location, root.rotation_euler, root.scale = (1, 2, 3), (0.3, 0.5, -1), (0.5, 0.5, 0.5)
    out["moved"] = render_frame(scene, folder)

    # a camera that moves from frame to frame, of the kind that Blender makes
    root.location, root.scale = (0, 0, 0), (1, 1, 1)
    root.matrix_basis = cameras.Matrix(cameras.Y_DOWN_TO_Z_UP)
    data = bpy.data.cameras.new("own")
    own = bpy.data.objects.new("own", data)
    scene.collection.objects.link(own)
    own.rotation_euler = (np.pi / 2, 0, 0)  # looks along +y, which is z of the photos
    for frame, x in ((1, -0.5), (5, 0.4)):
        own.location = (x, -0.3, 0.1)
        own.keyframe_insert("location", frame=frame)
    scene.camera = own
    data.clip_start = 0.01
    scene.render.resolution_x, scene.render.resolution_y = 64, 96
    scene.render.pixel_aspect_x = scene.render.pixel_aspect_y = 1
    out["animated"] = render_frame(scene, folder, frame=5)
    np.savez(folder / "rendered.npz", **out)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Gaussians, and what a .blend of make_blend.py shows of them: name -> RGB [h w 3]."""
    from PIL import Image

    from pixworld.camera_files import save_cameras
    from pixworld.cameras import Cameras
    from pixworld.gaussians import Gaussians
    from pixworld.splats import load_ply, save_ply
    from pixworld.views import NamedCamera

    folder = tmp_path_factory.mktemp("scene")
    (folder / "photos").mkdir()
    named = []
    for name, (width, height, K, position) in VIEWS.items():
        c2w = torch.eye(4)
        c2w[:3, 3] = torch.tensor(position)
        named.append(NamedCamera(name, Cameras(c2w[None], torch.tensor(K)[None].float(), height, width), "train"))
        Image.new("RGB", (2 * width, 2 * height), "teal").save(folder / "photos" / name)
    arrays = gaussians_in_view(6000, log_scale=-3.6)
    save_ply(folder / "scene.ply", Gaussians(*(torch.from_numpy(a) for a in arrays.values())))
    save_cameras(folder / "transforms.json", named)
    command = [sys.executable, ROOT / "scripts" / "make_blend.py", folder / "scene.ply"]
    command += ["--cameras", folder / "transforms.json", "--photos", folder / "photos", "--out", folder / "scene.blend"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    assert sorted(x.name for x in folder.iterdir() if x.is_file()) == ["scene.blend", "scene.ply", "transforms.json"]
    in_blender(check_render, folder)
    return load_ply(folder / "scene.ply"), np.load(folder / "rendered.npz")


@pytest.mark.parametrize("shot", ["landscape.jpg", "portrait.jpg", "moved", "animated"])
def test_cycles_matches_our_renderer(rendered, shot):
    from pixworld.cameras import Cameras
    from pixworld.render import render

    gaussians, images = rendered
    if shot == "animated":  # Blender's own camera: 50 mm on 36 mm of the longer side
        width, height, focal = 64, 96, 50 / 36 * 96
        K, position = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], (0.4, -0.1, -0.3)
    else:
        width, height, K, position = VIEWS["portrait.jpg" if shot == "moved" else shot]
    c2w = torch.eye(4)
    c2w[:3, 3] = torch.tensor(position)
    ours = render(gaussians, Cameras(c2w[None], torch.tensor(K)[None].float(), height, width)).rgb[0]
    reached = psnr(images[shot][..., :3], ours.permute(1, 2, 0).numpy())
    print(f"Cycles against pixworld.render, {shot}: {reached:.1f} dB")
    assert ours.mean() > 0.1
    assert reached > 50


def test_make_blend_tells_what_is_wrong(tmp_path):
    (tmp_path / "scene.ply").write_text("no splats")
    command = [sys.executable, str(ROOT / "scripts" / "make_blend.py"), str(tmp_path / "scene.ply")]
    command += ["--cameras", str(tmp_path / "none.json"), "--out", str(tmp_path / "scene.blend")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be read as a PLY" in done.stderr
    assert not (tmp_path / "scene.blend").exists()


if __name__ == "__main__":
    blender.main(globals())
