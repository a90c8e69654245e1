"""The extension in real Blenders: the zip is installed with its wheels, photos are reconstructed through a live
backend, the .blend is saved, opened again and rendered, and every picture is compared with our own renderer.

    scripts/test_blender PYTHON.. [--photos DIR] [--out DIR]

Prints one row a Blender. PSNR is that of the worst of the views; import is the main thread's longest pause while the
result came in; rendering times hold for the machine that ran them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODULE = "bl_ext.user_default.pixworld"
TARGETS = {"CYCLES": 45.0, "EEVEE": 38.0, "VIEWPORT": 45.0}  # dB
VIEWS = (0, -1)  # of the photo cameras
SETTINGS = {"views": 6, "size": 288, "refine": 60}
FIELDS = ("means", "quats", "scales", "opacities", "sh")


# --- inside Blender


def inside(zipped: Path, address: str, photos: Path, out: Path) -> None:
    """What a user does, without a window. Writes scene.blend, and to result.npz what it shows and what it took."""
    import importlib.util

    for name in ("zmq", "msgpack"):
        if importlib.util.find_spec(name):
            sys.exit(f"this Python has {name} of its own, so that the wheels of the zip would not be tried")
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    bpy.ops.wm.read_factory_settings(use_empty=True)
    addon_utils.enable("bl_pkg")
    bpy.ops.extensions.package_install_files(
        filepath=str(zipped), repo="user_default", enable_on_install=True, overwrite=True
    )
    addon = importlib.import_module(MODULE)
    import zmq

    print(f"pyzmq {zmq.__version__} from {zmq.__file__}")
    operators = importlib.import_module(f"{MODULE}.operators")
    bpy.context.preferences.addons[MODULE].preferences.address = address
    settings = bpy.context.scene.pixworld
    settings.photos = str(photos)
    for name, value in SETTINGS.items():
        setattr(settings, name, value)
    deadline = time.monotonic() + 600
    while not operators.session.busy:
        try:
            bpy.ops.pixworld.reconstruct()
        except RuntimeError as error:
            if "loading its model" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)
    longest = 0.0
    while operators.session.busy:
        assert time.monotonic() < deadline, operators.session.stage
        start = time.perf_counter()
        operators.tick()
        longest = max(longest, time.perf_counter() - start)
        time.sleep(0.02)
    assert operators.session.state == "done", operators.session.error
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "scene.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(out / "scene.blend"))

    scene = bpy.context.scene
    cameras, rendering, splats = (importlib.import_module(f"{MODULE}.{x}") for x in ("cameras", "rendering", "splats"))
    (cloud,) = (x for x in scene.objects if splats.is_splats(x))
    shots = sorted((x for x in scene.objects if x.type == "CAMERA"), key=lambda x: x.name)
    bpy.context.view_layer.update()
    arrays = splats.transformed(splats.arrays_of(cloud), np.array(cloud.matrix_world))
    found = {f"gaussians/{name}": arrays[name] for name in FIELDS}
    times = {"import": longest}
    engines = scene.render.bl_rna.properties["engine"].enum_items.keys()
    eevee = next(x for x in ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE") if x in engines or x == "BLENDER_EEVEE")
    for engine, name in (("CYCLES", "CYCLES"), (eevee, "EEVEE")):
        rendering.match_training(scene, engine)
        for i in VIEWS:
            cameras.look_through(shots[i], scene)
            start = time.perf_counter()
            found[f"{name}/{i}"] = _rendered(scene, out)
            times[name] = time.perf_counter() - start  # of the last view: shaders are compiled with the first
            K, width, height = cameras.intrinsics_of(shots[i], scene.render)
            found |= {f"K/{i}": K, f"c2w/{i}": cameras.pose_of(shots[i]), f"size/{i}": np.array((height, width))}
    times["VIEWPORT"] = _viewport(scene, cloud, shots, cameras, found)
    found["facts"] = np.frombuffer(json.dumps({"blender": bpy.app.version_string, "times": times}).encode(), np.uint8)
    np.savez(out / "result.npz", **found)
    assert addon is not None


def _rendered(scene, out: Path) -> np.ndarray:
    """The active camera's picture [h w 3], not rounded."""
    import bpy

    settings = scene.render.image_settings
    settings.file_format, settings.color_depth, settings.color_mode = "OPEN_EXR", "32", "RGBA"
    scene.render.filepath = str(out / "frame.exr")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(scene.render.filepath)
    width, height = image.size
    pixels = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return pixels.reshape(height, width, 4)[::-1, :, :3]


def _viewport(scene, cloud, shots, cameras, found: dict[str, np.ndarray]) -> float:
    """Add what the viewport's shader draws of the views; returns the seconds of the last picture."""
    import importlib

    import bpy

    gpu_splats, splats = (importlib.import_module(f"{MODULE}.{x}") for x in ("gpu_splats", "splats"))
    on_card = gpu_splats.Cloud(splats.read(cloud.data))
    for i in VIEWS:
        cameras.look_through(shots[i], scene)
        bpy.context.view_layer.update()
        render = scene.render
        projection = shots[i].calc_matrix_camera(
            bpy.context.evaluated_depsgraph_get(), x=render.resolution_x, y=render.resolution_y,
            scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y,
        )  # fmt: skip
        view = np.linalg.inv(np.array(shots[i].matrix_world, float))
        size = render.resolution_x, render.resolution_y
        start = time.perf_counter()
        picture = gpu_splats.picture([(on_card, np.array(cloud.matrix_world))], view, np.array(projection), size)
        seconds = time.perf_counter() - start
        found[f"VIEWPORT/{i}"] = picture[..., :3]
    return seconds


# --- outside


def compare(result: Path) -> tuple[str, int, dict[str, float], dict[str, float]]:
    """Blender's version, Gaussians, PSNR in dB of the worst view, and seconds, by name."""
    import torch

    from pixworld.cameras import Cameras
    from pixworld.gaussians import Gaussians
    from pixworld.render import render

    with np.load(result) as found:
        gaussians = Gaussians(*(torch.from_numpy(found[f"gaussians/{name}"]) for name in FIELDS))
        facts = json.loads(found["facts"].tobytes())
        worst = dict.fromkeys(TARGETS, float("inf"))
        for i in VIEWS:
            height, width = map(int, found[f"size/{i}"])
            c2w, K = (torch.from_numpy(found[f"{name}/{i}"]).float()[None] for name in ("c2w", "K"))
            ours = render(gaussians, Cameras(c2w, K, height, width)).rgb[0].permute(1, 2, 0).numpy()
            for name in TARGETS:
                psnr = -10 * np.log10(np.mean((found[f"{name}/{i}"] - ours) ** 2))
                worst[name] = min(worst[name], float(psnr))
    return facts["blender"], len(gaussians), worst, facts["times"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", type=Path, metavar="PYTHON", help="a Python with bpy and numpy")
    parser.add_argument("--photos", type=Path, default=ROOT / "scripts" / "demo_photos", help="what is reconstructed")
    parser.add_argument("--out", type=Path, help="keep .blend files and logs in this folder")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as temp:
        out = (options.out or Path(temp)).resolve()
        build = [sys.executable, ROOT / "scripts" / "build_extension", "--platform", "linux-x64", "--out", out / "zip"]
        subprocess.run(build, check=True)
        (zipped,) = (out / "zip").glob("*.zip")
        serve = [sys.executable, "-m", "backend", "serve", "--bind", "tcp://127.0.0.1:*"]
        with open(out / "backend.log", "w") as log:
            backend = subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            address = next(word for word in backend.stdout.readline().split() if word.startswith("tcp://")).rstrip(";,")
            rows, missed = [], 0
            for python in options.pythons:
                row, good = try_one(python.absolute(), zipped, address, options.photos.resolve(), out)
                missed += not good
                rows.append(row)
                print(row, flush=True)
        finally:
            backend.terminate()
            backend.wait(20)
    print("\n| Blender | Gaussians | Cycles | EEVEE | viewport | import | Cycles | EEVEE | viewport |")
    print("|---|---|---|---|---|---|---|---|---|", *rows, sep="\n")
    return 1 if missed else 0


def try_one(python: Path, zipped: Path, address: str, photos: Path, out: Path) -> tuple[str, bool]:
    """A row of the table, and whether the Blender reached the targets."""
    folder = out / python.parent.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, Path(__file__).resolve(), "--inside", zipped, address, photos, folder]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"BLENDER_USER_RESOURCES": str(folder / "user")}
    with open(folder / "log", "w") as log:
        done = subprocess.run(list(map(str, command)), env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    if done.returncode or not (folder / "result.npz").exists():
        last = (folder / "log").read_text().strip().splitlines()[-1:]
        return f"| {folder.name} | failed: {' '.join(last)} |", False
    version, count, psnr, times = compare(folder / "result.npz")
    cells = [f"{psnr[name]:.1f} dB" for name in TARGETS] + [f"{times[x]:.2f} s" for x in ("import", *TARGETS)]
    good = all(psnr[name] >= target for name, target in TARGETS.items())
    return f"| {version} | {count:,} | {' | '.join(cells)} |", good


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
    else:
        sys.exit(main())
