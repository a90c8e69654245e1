"""Blender (bpy as a module) in the tests: every check is a function of its test file, run in a process of its own."""

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # blender_addon is no installed package

MODULE = "bl_ext.user_default.pixworld"
NOBODY = "tcp://127.0.0.1:9"  # the discard port: nothing listens there
FIELDS = ("means", "quats", "scales", "opacities", "sh")

needs_bpy = pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="bpy is not installed")


# --- processes


def child_environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def in_blender(check, folder, *args, seconds=120):
    """Run a check (a function that gets the folder and the arguments as text) in a fresh process; fails with what it
    printed. Its file must call `main` when it is run as a script."""
    env = child_environment() | {"BLENDER_USER_RESOURCES": str(folder / "user")}
    command = [sys.executable, check.__code__.co_filename, check.__name__, str(folder), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def main(checks):
    """The script's side of `in_blender`; `checks` are the globals of the test file."""
    name, folder, *rest = sys.argv[1:]
    checks[name](Path(folder), *rest)


def build(out):
    """The extension's zip, without wheels: this Python has pyzmq and msgpack."""
    subprocess.run([sys.executable, ROOT / "scripts" / "build_extension", "--no-wheels", "--out", out], check=True)
    (built,) = out.glob("*.zip")
    return built


@contextlib.contextmanager
def serve(tasks, keys=None):
    """A real backend with the tasks of a module of the tests, and the keys of a folder; its address."""
    folder = f"Path({str(keys)!r})" if keys else None
    code = "from pathlib import Path; from backend import server; "
    code += f"server.serve('tcp://127.0.0.1:*', 'cpu', {tasks!r}, {folder})"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[4].rstrip(";")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


# --- the extension, within a check


def install(extension):
    """Install and enable the zip as a user does; returns its operators module."""
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    addon_utils.enable("bl_pkg")
    bpy.ops.extensions.package_install_files(
        filepath=str(extension), repo="user_default", enable_on_install=True, overwrite=True
    )
    return module("operators")


def module(name):
    """A module of the installed extension."""
    return importlib.import_module(f"{MODULE}.{name}")


def set_up(extension, address, photos=None):
    """The extension in an empty file, with a backend's address and a folder of photos; its operators, its settings."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)  # the default cube would stand in the way
    operators = install(extension)
    bpy.context.preferences.addons[MODULE].preferences.address = address
    settings = bpy.context.scene.pixworld
    if photos is not None:
        settings.photos = str(photos)
    return operators, settings


def pump_until(operators, done, seconds=20):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, (operators.session.state, operators.session.error)
        operators.tick()
        time.sleep(0.01)


def finish(operators, state="done", seconds=30):
    """Let the job run to its end, which is this state."""
    pump_until(operators, lambda: not operators.session.busy, seconds)
    assert operators.session.state == state, operators.session.error


def refusal(action, *args):
    """The sentence of a ValueError, or the error that an operator reports; from Python that is a RuntimeError."""
    try:
        action(*args)
    except (ValueError, RuntimeError) as error:
        return str(error)
    raise AssertionError("nothing was refused")


# --- scenes


def gaussians_in_view(n=3000, degree=3, seed=0, log_scale=-3.2):
    """Anisotropic Gaussians in front of the identity camera, some of them beside and behind it; numpy arrays."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    k = (degree + 1) ** 2
    arrays = {
        "means": rng.uniform((-2, -1.5, -0.5), (2, 1.5, 5), (n, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": np.exp(rng.normal(log_scale, 0.6, (n, 3))),
        "opacities": rng.uniform(0, 1, n),
        "sh": np.concatenate([rng.normal(0, 0.8, (n, 1, 3)), rng.normal(0, 0.15, (n, k - 1, 3))], axis=1),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def gaussians_in_cube(n=3000, degree=2, seed=0):
    """Anisotropic Gaussians in a cube around the origin, which is 4 wide; numpy arrays."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    arrays = {
        "means": rng.uniform(-2, 2, (n, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": np.exp(rng.normal(-3, 0.6, (n, 3))),
        "opacities": rng.uniform(0, 1, n),
        "sh": rng.normal(0, 0.1, (n, (degree + 1) ** 2, 3)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def subset(arrays, which):
    return {name: array[which] for name, array in arrays.items()}


def assert_same(got, want, tolerance=0.0):
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert got[name].shape == values.shape, name
        assert np.abs(got[name] - values).max(initial=0) <= tolerance, name


def moved_splats(arrays):
    """Splats under a moved, turned and scaled root, themselves moved and turned; as Blender has stored them."""
    import bpy
    from mathutils import Matrix

    from blender_addon import shading, splats

    collection = bpy.context.scene.collection
    root = bpy.data.objects.new("Root", None)
    collection.objects.link(root)
    root.matrix_basis = Matrix.LocRotScale((1, 2, 3), Matrix.Rotation(0.5, 3, "X"), (0.7, 0.7, 0.7))
    cloud = splats.make("Splats", arrays, collection)
    cloud.parent, cloud.location, cloud.rotation_euler = root, (0.2, 0, 0), (0.1, 0.7, -0.3)
    shading.shade(cloud)
    bpy.context.view_layer.update()
    return root, cloud, splats.arrays_of(cloud)


def animated_camera(scene):
    """A camera of 400 x 300 pixels that moves and turns over frames 1 to 9."""
    import bpy

    camera = bpy.data.objects.new("mover", bpy.data.cameras.new("mover"))
    scene.collection.objects.link(camera)
    scene.camera, scene.frame_start, scene.frame_end = camera, 1, 9
    scene.render.resolution_x, scene.render.resolution_y = 400, 300
    for frame, x in ((1, -2.0), (9, 1.5)):
        camera.location, camera.rotation_euler = (x, -6, 1.7), (1.4, 0.1, x / 5)
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)
    return camera


# --- renders


def render_frame(scene, folder, frame=None):
    """RGBA [h w 4] of the scene's camera, not rounded; with a frame, of that one, rendered as an animation."""
    import bpy

    render = scene.render
    render.threads_mode, render.threads = "FIXED", 2
    image = render.image_settings
    image.file_format, image.color_depth, image.color_mode = "OPEN_EXR", "32", "RGBA"
    if frame is None:
        path = folder / "frame.exr"
        render.filepath = str(path)
        bpy.ops.render.render(write_still=True, scene=scene.name)
    else:
        path = folder / f"frame_{frame:04d}.exr"
        render.filepath = str(folder / "frame_####")
        scene.frame_start = scene.frame_end = frame
        bpy.ops.render.render(animation=True, scene=scene.name)
    loaded = bpy.data.images.load(str(path))
    width, height = loaded.size
    assert (width, height) == (render.resolution_x, render.resolution_y)
    pixels = np.empty(width * height * 4, np.float32)
    loaded.pixels.foreach_get(pixels)
    bpy.data.images.remove(loaded)
    return pixels.reshape(height, width, 4)[::-1]


def psnr(got, want):
    return -10 * np.log10(np.mean((got - want) ** 2))
