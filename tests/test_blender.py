"""The extension in a real Blender (bpy as a module), each check in a process of its own.

A check is a function that gets a folder; pytest runs this file as a script with its name. All of them but those of the
pure geometry work on the built zip, installed as a user installs it.
"""

import importlib.util
import os
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MODULE = "bl_ext.user_default.pixworld"
NOBODY = "tcp://127.0.0.1:9"  # the discard port: nothing listens there

pytestmark = pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="bpy is not installed")


def in_blender(check, folder, *args):
    """Run a check in a fresh process; fails with what it printed."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "BLENDER_USER_RESOURCES": str(folder / "user"),
    }
    command = [sys.executable, __file__, check.__name__, str(folder), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    """The extension's zip, without wheels: this Python has pyzmq and msgpack."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "scripts" / "build_extension", "--no-wheels", "--out", out], check=True)
    (built,) = out.glob("*.zip")
    return built


@pytest.fixture(scope="module")
def service():
    """A real backend with the task of blender_jobs.py; its address."""
    code = "from backend import server; server.serve('tcp://127.0.0.1:*', 'cpu', 'blender_jobs')"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[4].rstrip(";")
    process.terminate()
    process.wait(10)


@pytest.fixture
def photos(tmp_path):
    """A folder of three small photos, one with an accent in its name, and a file that is none."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "bé.JPG", "c.png"):
        Image.new("RGB", (96, 80), (200, 100, 50)).save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    return folder


# --- the zip


def test_zip_holds_what_ships(extension):
    import backend

    with zipfile.ZipFile(extension) as archive:
        names = set(archive.namelist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
        for name in ("__init__", "protocol", "client"):
            assert archive.read(f"backend/{name}.py") == (ROOT / "backend" / f"{name}.py").read_bytes()
    assert "backend/server.py" not in names and not any("__pycache__" in name for name in names)
    assert manifest["version"] == backend.__version__
    assert set(manifest["permissions"]) == {"network", "files"}


def test_stage_lists_the_wheels_of_a_platform(tmp_path):
    import runpy

    stage = runpy.run_path(str(ROOT / "scripts" / "build_extension"))["stage"]
    wheels = [tmp_path / f"msgpack-1.0-{tag}-win_amd64.whl" for tag in ("cp313-cp313", "cp311-cp311")]
    for wheel in wheels:
        wheel.write_bytes(b"")
    stage(tmp_path / "staged", "windows-x64", wheels)
    manifest = tomllib.loads((tmp_path / "staged" / "blender_manifest.toml").read_text())
    assert manifest["platforms"] == ["windows-x64"]
    assert manifest["wheels"] == sorted(f"./wheels/{wheel.name}" for wheel in wheels)
    assert all((tmp_path / "staged" / name).is_file() for name in manifest["wheels"])


# --- cameras


def check_cameras(folder):
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Matrix, Vector

    from blender_addon import cameras

    scene = bpy.context.scene
    rng = np.random.default_rng(0)

    def error_px(camera, K, c2w, width, height):
        """Largest distance between Blender's projection of points (single precision) and ours."""
        pixels = rng.uniform(0, (width, height), (20, 2))
        local = np.linalg.inv(K) @ np.c_[pixels, np.ones(20)].T * rng.uniform(2, 4, 20)
        points = (c2w @ np.r_[local, np.ones((1, 20))]).astype(np.float32)
        seen = [world_to_camera_view(scene, camera, Vector(p[:3])) for p in points.T]
        exact = K @ (np.linalg.inv(c2w) @ points)[:3]
        pixels = (exact[:2] / exact[2]).T
        return np.abs([(p.x * width, (1 - p.y) * height) for p in seen] - pixels).max()

    root = bpy.data.objects.new("root", None)
    scene.collection.objects.link(root)
    worst = 0.0
    for i in range(40):
        width, height = ((128, 96), (72, 120), (100, 100), (128, 40))[i % 4]
        fx = rng.uniform(0.8, 1.5) * width
        fy = fx * rng.uniform(0.8, 1.25) if i % 3 == 0 else fx
        cx, cy = (0.5 + rng.uniform(-0.3, 0.3, 2)) * (width, height)
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        c2w = np.eye(4)
        c2w[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        c2w[:3, :3] *= np.linalg.det(c2w[:3, :3])
        c2w[:3, 3] = rng.uniform(-0.5, 0.5, 3)
        camera = cameras.make(f"camera {i}", c2w, K, width, height, scene.collection)
        camera.parent = root
        turn = cameras.upright([c2w])
        assert np.allclose(turn[:3, :3] @ -c2w[:3, 1], (0, 0, 1), atol=1e-6)
        assert np.allclose(turn @ turn.T, np.eye(4)) and np.linalg.det(turn) > 0
        root.matrix_basis = Matrix(turn)
        cameras.look_through(camera, scene)
        bpy.context.view_layer.update()
        worst = max(worst, error_px(camera, K, turn @ c2w, width, height))
        got, *size = cameras.intrinsics_of(camera, scene.render)
        assert np.allclose(got, K, atol=1e-4) and size == [width, height]
        assert np.allclose(cameras.pose_of(camera), turn @ c2w, atol=1e-6)
    print(f"photo cameras: {worst:.1e} px")
    assert worst < 1e-4

    data = camera.data
    data.lens, data.sensor_width, data.sensor_height, data.shift_x, data.shift_y = 30, 36, 20, 0.1, -0.07
    render = scene.render
    render.resolution_percentage = 25
    for fit in ("AUTO", "HORIZONTAL", "VERTICAL"):
        for size in ((640, 480), (480, 640)):
            data.sensor_fit = fit
            render.resolution_x, render.resolution_y = size
            render.pixel_aspect_x, render.pixel_aspect_y = 1.2, 1
            K, width, height = cameras.intrinsics_of(camera, render)
            assert error_px(camera, K, cameras.pose_of(camera), width, height) < 1e-4
    data.type = "ORTHO"
    try:
        cameras.intrinsics_of(camera, render)
    except ValueError as error:
        assert "perspective" in str(error)
    else:
        raise AssertionError("an orthographic camera has no K")

    # a scene that no window shows
    other = bpy.data.scenes.new("other")
    other.camera = bpy.data.objects.new("mover", bpy.data.cameras.new("mover"))
    other.collection.objects.link(other.camera)
    for frame, x in ((1, 0), (10, 5)):
        other.camera.location.x = x
        other.camera.keyframe_insert("location", frame=frame)
    assert bpy.context.scene == scene
    assert np.allclose(cameras.path_of(None, other, [1, 10]).c2w[:, 0, 3], (0, 5))


def test_cameras_are_exact(tmp_path):
    print(in_blender(check_cameras, tmp_path))


# --- splats


def some_gaussians(n=6000, degree=3, seed=0):
    """Anisotropic Gaussians in front of the identity camera, some of them beside and behind it; numpy arrays."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    k = (degree + 1) ** 2
    arrays = {
        "means": rng.uniform((-2, -1.5, -0.5), (2, 1.5, 5), (n, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": np.exp(rng.normal(-3.6, 0.6, (n, 3))),
        "opacities": rng.uniform(0, 1, n),
        "sh": np.concatenate([rng.normal(0, 0.8, (n, 1, 3)), rng.normal(0, 0.15, (n, k - 1, 3))], axis=1),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def check_attributes(folder):
    import bpy

    from blender_addon import splats

    arrays = some_gaussians(500, degree=1)
    splats.make("splats", arrays, bpy.context.scene.collection)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "saved.blend"))
    loaded = bpy.data.objects["splats"]
    assert loaded.type == "POINTCLOUD" and not bpy.data.meshes.get("splats")

    def read(name, prop, width):
        values = np.empty(500 * width, np.float32)
        loaded.data.attributes[name].data.foreach_get(prop, values)
        return values.reshape(500, width)

    assert np.array_equal(read("position", "vector", 3), arrays["means"])
    assert np.array_equal(read("scale", "vector", 3), arrays["scales"])
    assert np.array_equal(read("rotation", "value", 4), arrays["quats"])
    assert np.array_equal(read("radius", "value", 1)[:, 0], 3 * arrays["scales"].max(1))
    base = read("radiance:base", "color" if bpy.app.version < (5, 2, 0) else "vector", 4)
    assert np.allclose(base[:, :3], 0.5 + 0.28209479 * arrays["sh"][:, 0], atol=1e-6)
    assert np.array_equal(base[:, 3], arrays["opacities"])
    for i in range(3):
        assert np.array_equal(read(f"radiance:sh_{i}", "vector", 3), arrays["sh"][:, i + 1])

    bpy.ops.wm.read_factory_settings()
    bpy.ops.object.mode_set(mode="EDIT")  # where Blender's own conversion is not available
    made = splats.make("splats", arrays, bpy.context.scene.collection)
    assert made.type == "POINTCLOUD" and len(made.data.points) == 500
    assert {"position", "radius", "scale", "rotation", "radiance:base"} <= set(made.data.attributes.keys())


def test_attributes_survive_saving(tmp_path):
    in_blender(check_attributes, tmp_path)


def pixels_of(path, width, height):
    """RGB [h w 3] of an image file, as it is stored."""
    import bpy

    image = bpy.data.images.load(str(path))
    values = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(values)
    return values.reshape(height, width, 4)[::-1, :, :3]


def render_frame(folder, frame=None):
    """Render the open scene with Cycles: RGB [h w 3], not rounded to 8 bits."""
    import bpy

    render = bpy.context.scene.render
    render.threads_mode, render.threads = "FIXED", 2
    render.image_settings.file_format, render.image_settings.color_depth = "OPEN_EXR", "32"
    render.filepath = str(folder / "frame.exr")
    if frame is None:
        bpy.ops.render.render(write_still=True)
        return pixels_of(folder / "frame.exr", render.resolution_x, render.resolution_y)
    bpy.context.scene.frame_start = bpy.context.scene.frame_end = frame
    render.filepath = str(folder / "frame_####")
    bpy.ops.render.render(animation=True)
    return pixels_of(folder / f"frame_{frame:04d}.exr", render.resolution_x, render.resolution_y)


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
    out = {"landscape.jpg": render_frame(folder)}

    # another camera, of another shape and with pixels that are not square
    from blender_addon import cameras

    cameras.look_through(bpy.data.objects["portrait.jpg"], scene)
    out["portrait.jpg"] = render_frame(folder)

    # the whole scene moved, turned and scaled by its root changes nothing for its own cameras
    root = scene.camera.parent
    root.location, root.rotation_euler, root.scale = (1, 2, 3), (0.3, 0.5, -1), (0.5, 0.5, 0.5)
    out["moved"] = render_frame(folder)

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
    out["animated"] = render_frame(folder, frame=5)
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
    arrays = some_gaussians()
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
    error = ours.permute(1, 2, 0).numpy() - images[shot]
    psnr = -10 * np.log10((error**2).mean())
    print(f"Cycles against pixworld.render, {shot}: {psnr:.1f} dB")
    assert ours.mean() > 0.1
    assert psnr > 50


def test_make_blend_tells_what_is_wrong(tmp_path):
    (tmp_path / "scene.ply").write_text("no splats")
    command = [sys.executable, str(ROOT / "scripts" / "make_blend.py"), str(tmp_path / "scene.ply")]
    command += ["--cameras", str(tmp_path / "none.json"), "--out", str(tmp_path / "scene.blend")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be read as a PLY" in done.stderr
    assert not (tmp_path / "scene.blend").exists()


# --- the add-on


def install(extension):
    """Install and enable the zip as a user does; returns its operators module."""
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    addon_utils.enable("bl_pkg")
    bpy.ops.extensions.package_install_files(
        filepath=str(extension), repo="user_default", enable_on_install=True, overwrite=True
    )
    return importlib.import_module(f"{MODULE}.operators")


def set_up(extension, address, photos):
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)  # the default cube would stand in the way
    operators = install(extension)
    bpy.context.preferences.addons[MODULE].preferences.address = address
    settings = bpy.context.scene.pixworld
    settings.photos = str(photos)
    return operators, settings


def pump_until(operators, done, seconds=20):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, (operators.session.state, operators.session.error)
        operators.tick()
        time.sleep(0.01)


def reports(operator):
    """The error that an operator reports; from Python it is a RuntimeError."""
    try:
        operator()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("no error was reported")


def check_nothing_stays(folder, extension, service):
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    def state():
        lists = {name: getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers)}
        handlers = {name: len(found) for name, found in lists.items() if isinstance(found, list)}
        fds = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]  # none but on Linux
        sockets = sum("socket:" in fd for fd in fds)
        return set(dir(bpy.types)), handlers, hasattr(bpy.types.Scene, "pixworld"), threading.active_count(), sockets

    addon_utils.enable("bl_pkg")
    before = state()
    operators = install(extension)
    assert hasattr(bpy.types, "PIXWORLD_PT_main") and bpy.context.scene.pixworld.views == 8
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.address = service
    assert bpy.ops.pixworld.test_backend() == {"FINISHED"}
    assert "cpu" in operators.session.backend and bpy.app.timers.is_registered(operators.tick)

    script = folder / "python"  # a local process that runs on, whatever its arguments
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    preferences.python = str(script)
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    process = operators.local.process
    assert process.poll() is None
    addon_utils.disable(MODULE)
    assert process.poll() is not None
    assert not bpy.app.timers.is_registered(operators.tick)
    after = state()
    assert after == before, [(a, b) for a, b in zip(after, before) if a != b]

    addon_utils.enable(MODULE)
    assert hasattr(bpy.types, "PIXWORLD_PT_main")


def test_disabling_leaves_nothing(tmp_path, extension, service):
    in_blender(check_nothing_stays, tmp_path, extension, service)


def check_local_backend(folder, extension):
    """Start Backend runs the real service, Test Connection talks to it, Stop Backend ends it; or says why not."""
    import socket

    import bpy

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    operators = install(extension)
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.address = f"tcp://127.0.0.1:{port}"
    operators.session.error, operators.session.notes = "earlier", ["earlier"]
    preferences.python = str(folder / "absent")
    assert "no Python" in reports(bpy.ops.pixworld.start_backend)
    assert "no Python" in operators.session.error and not operators.session.notes
    text = folder / "text"
    text.write_text("no program")
    preferences.python = str(text)
    assert "choose .venv/bin/python" in reports(bpy.ops.pixworld.start_backend)
    preferences.python = "/bin/false"
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    pump_until(operators, lambda: operators.session.error, 20)
    assert "code 1 and an empty log" in operators.session.error and "choose .venv" in operators.session.error
    preferences.python = sys.executable
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    process = operators.local.process
    pump_until(operators, lambda: operators.session.connected, 40)
    assert bpy.ops.pixworld.test_backend() == {"FINISHED"}
    assert bpy.ops.pixworld.stop_backend() == {"FINISHED"} and not operators.local.running
    pump_until(operators, lambda: process.poll() is not None, 10)
    assert "no backend answers" in reports(bpy.ops.pixworld.test_backend)

    preferences.address = "tcp://10.0.0.1:5555"  # not this computer: the backend refuses and ends
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    pump_until(operators, lambda: operators.session.error, 20)
    assert "ended with code" in operators.session.error
    assert any("10.0.0.1" in line for line in operators.local.last_lines) and operators.local.log.is_file()

    other = folder / "python"  # one that has no PixWorld
    other.write_text("#!/bin/sh\necho No module named backend >&2\nexit 1\n")
    other.chmod(0o755)
    preferences.python = str(other)
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    operators.session.error = ""
    pump_until(operators, lambda: operators.session.error, 20)
    assert "PixWorld is not installed" in operators.session.error and "scripts/setup" in operators.session.error


def test_local_backend(tmp_path, extension):
    in_blender(check_local_backend, tmp_path, extension)


def check_reconstruct(folder, extension, service, photos):
    import bpy

    operators, _settings = set_up(extension, service, photos)
    session = operators.session
    assert bpy.ops.pixworld.reconstruct() == {"FINISHED"}
    assert session.state == "running" and not bpy.ops.pixworld.reconstruct.poll()
    seen = set()
    pump_until(operators, lambda: seen.add(session.stage) or session.state != "running")
    assert session.state == "done" and "refine" in seen
    collection = bpy.context.scene.collection.children["PixWorld Scene"]
    (cloud,) = (x for x in collection.objects if x.type == "POINTCLOUD")
    assert len(cloud.data.points) == 2000 and cloud.data.attributes["confidence"].data[-1].value == 3
    cameras = collection.children[0].objects
    assert [x.name for x in cameras] == ["a.jpg", "bé.JPG", "c.png"]
    assert (
        bpy.context.scene.camera == cameras["a.jpg"] and cameras["c.png"].data.background_images[0].image.size[0] == 96
    )
    assert (bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y) == (96, 80)
    assert render_frame(folder).mean() > 0.05

    # twice more: some of the photos, then again after an undo of Blender
    bpy.ops.pixworld.choose_photos(directory=str(photos) + os.sep, files=[{"name": "a.jpg"}, {"name": "c.png"}])
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.state != "running")
    assert len(bpy.context.scene.collection.children["PixWorld Scene.001"].children[0].objects) == 2
    bpy.ops.ed.undo()
    assert "PixWorld Scene.001" not in bpy.data.collections
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.state != "running")
    assert session.state == "done", session.error


def test_reconstruct(tmp_path, extension, service, photos):
    in_blender(check_reconstruct, tmp_path, extension, service, photos)


def check_failures(folder, extension, service, photos):
    import bpy
    import zmq

    from backend import protocol

    operators, settings = set_up(extension, NOBODY, photos)
    session, preferences = operators.session, bpy.context.preferences.addons[MODULE].preferences

    def nothing_came():
        return "PixWorld Scene" not in bpy.data.collections and session.job is None

    assert "no backend answers" in reports(bpy.ops.pixworld.reconstruct)
    assert session.state == "error" and "no backend answers" in session.error

    settings.photos = ""
    assert "No photos are chosen" in reports(bpy.ops.pixworld.reconstruct)
    settings.photos = str(folder / "absent")
    assert "is not a folder" in reports(bpy.ops.pixworld.reconstruct)
    (folder / "empty").mkdir()
    settings.photos = str(folder / "empty")
    assert "0 JPEG or PNG photos" in reports(bpy.ops.pixworld.reconstruct)
    settings.photos = str(photos)
    preferences.address = "nonsense"
    assert "not an address" in reports(bpy.ops.pixworld.reconstruct)

    # a backend of another version, which answers anything with its own header
    context = zmq.Context()
    other = context.socket(zmq.ROUTER)
    preferences.address = f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"

    def answer():
        while other.poll(4000):
            who, *_ = other.recv_multipart()
            other.send_multipart([who, protocol.msgpack.packb({"protocol": 99, "header": {}, "arrays": []})])

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    message = reports(bpy.ops.pixworld.reconstruct)
    assert "protocol 99" in message and "same version" in message
    thread.join()
    context.destroy(linger=0)

    preferences.address = service
    settings.seed = 1  # the task fails
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.state != "running")
    assert session.state == "error" and session.error == "These photos do not overlap; take more."
    assert nothing_came()

    settings.seed = 2  # the task goes on until it is cancelled
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.stage == "refine")
    job = session.job
    assert bpy.ops.pixworld.cancel() == {"FINISHED"}
    assert session.state == "cancelled" and not bpy.ops.pixworld.cancel.poll()
    deadline = time.monotonic() + 10
    while session.client.status(job)["state"] != "cancelled":
        assert time.monotonic() < deadline
    assert nothing_came()

    # a result that comes after another file was opened is dropped
    settings.seed = 3
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "first.blend"))
    bpy.ops.pixworld.reconstruct()
    job = session.job
    bpy.ops.wm.open_mainfile(filepath=str(folder / "first.blend"))
    assert session.job is None and session.state == "cancelled"
    deadline = time.monotonic() + 10
    while session.client.status(job)["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
    for _ in range(20):
        operators.tick()
        time.sleep(0.01)
    assert nothing_came()

    # a result without its arrays
    session.pump = lambda: operators.Event("", "result", {}, {})
    operators.pump()
    assert "cannot be read" in session.error and nothing_came()


def test_failures_are_told(tmp_path, extension, service, photos):
    in_blender(check_failures, tmp_path, extension, service, photos)


def check_silence(folder, extension, photos):
    """A backend that takes a job and then says nothing more counts as dead."""
    import bpy
    import zmq

    from backend import __version__, protocol

    context = zmq.Context()
    silent = context.socket(zmq.ROUTER)
    address = f"tcp://127.0.0.1:{silent.bind_to_random_port('tcp://127.0.0.1')}"
    operators, _settings = set_up(extension, address, photos)

    def answer_once():
        who, *frames = silent.recv_multipart()
        header, _ = protocol.decode(frames)
        reply = {"kind": "hello", "request": header["request"], "version": __version__, "ready": True}
        silent.send_multipart([who, *protocol.encode(reply)])

    threading.Thread(target=answer_once, daemon=True).start()
    assert bpy.ops.pixworld.reconstruct() == {"FINISHED"}
    operators.session.client.timeout_s = operators.session.patience_s = 1.0
    pump_until(operators, lambda: operators.session.state != "running", 10)
    assert operators.session.state == "error" and "stopped answering" in operators.session.error
    context.destroy(linger=0)


def test_a_silent_backend_counts_as_dead(tmp_path, extension, photos):
    in_blender(check_silence, tmp_path, extension, photos)


if __name__ == "__main__":
    check, folder, *rest = sys.argv[1:]
    globals()[check](Path(folder), *rest)
