"""A user's session in Blender's window, step by step, with a picture of each.

    blender --python scripts/blender_session.py -- ZIP PYTHON PHOTOS OUT [SHOOT]

ZIP is the extension, PYTHON that of the backend, PHOTOS a folder of photos. SHOOT is a command that takes a picture of
the screen into the file that is put in place of {}; without it Blender takes them, which some drivers leave black.
Blender quits at the end; OUT/session.json tells what was measured, or what went wrong.
"""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy
import numpy as np
from mathutils import Euler

ZIP, PYTHON, PHOTOS, OUT = (Path(x) for x in sys.argv[sys.argv.index("--") + 1 :][:4])
SHOOT = " ".join(sys.argv[sys.argv.index("--") + 5 :])
MODULE = "bl_ext.user_default.pixworld"
LIMIT_S = 900  # for one step
SETTINGS = {"views": 8, "size": 384, "refine": 150, "key_views": 4, "steps": 8}

told: dict[str, object] = {"blender": bpy.app.version_string}


def session() -> Iterator[float]:
    """The steps; yields the seconds to wait, while Blender goes on."""
    bpy.ops.extensions.package_install_files(filepath=str(ZIP), repo="user_default", enable_on_install=True)
    jobs = importlib.import_module(f"{MODULE}.jobs")
    jobs.pump = timed(jobs.pump)
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.python = str(PYTHON)
    scene, settings = bpy.context.scene, bpy.context.scene.pixworld
    for name, value in SETTINGS.items():
        setattr(settings, name, value)
    for name in ("Cube", "Light"):
        bpy.data.objects.remove(bpy.data.objects[name])
    yield from open_tab()

    assert not bpy.ops.pixworld.reconstruct.poll(), "the button works without a backend"
    began = time.monotonic()
    bpy.ops.pixworld.start_backend()
    yield from until(lambda: jobs.session.about and jobs.session.about["ready"])
    told["start_s"] = time.monotonic() - began
    settings.photos = str(PHOTOS)
    yield 1
    shoot("1_backend")

    began = time.monotonic()
    ask(bpy.ops.pixworld.reconstruct)
    yield from until(lambda: preview() and jobs.session.fraction > 0.3, jobs)
    look_at_preview()
    yield 2
    shoot("2_preview")
    yield from until(lambda: not jobs.session.busy, jobs)
    told["reconstruct_s"] = time.monotonic() - began
    assert jobs.session.state == "done" and not preview()
    scene_made = named("PixWorld Scene Splats")
    assert scene_made.type == "POINTCLOUD"
    told["gaussians"] = len(scene_made.data.points)
    yield from view_camera()
    yield 4
    shoot("3_reconstructed")

    # A camera that moves from one photo to the next but one; the photos behind them are what is given.
    photo_cameras = [x for x in scene.objects if "pixworld_size" in x]
    path = animate(photo_cameras[0], photo_cameras[2])
    for thing in bpy.context.selected_objects:
        thing.select_set(False)
    photo_cameras[0].select_set(True)
    settings.source, settings.path, scene.camera = "BACKGROUNDS", "CAMERA", path
    scene_made.hide_set(True)
    began = time.monotonic()
    ask(bpy.ops.pixworld.generate)
    yield from until(lambda: not jobs.session.busy, jobs)
    told["generate_s"] = time.monotonic() - began
    assert jobs.session.state == "done"
    world = named("PixWorld World Splats")
    told["card"] = json.loads(world["pixworld_card"])["task"]
    yield from view_camera()
    yield 4
    shoot("4_generated")

    count = len(scene.objects)
    settings.steps = 100
    ask(bpy.ops.pixworld.generate)
    yield from until(lambda: jobs.session.stage == "generate" and jobs.session.step > 1, jobs)
    began = time.monotonic()
    bpy.ops.pixworld.cancel()
    told["cancel_s"] = time.monotonic() - began
    yield 2
    assert jobs.session.state == "cancelled" and not preview() and len(scene.objects) == count
    shoot("5_cancelled")

    bpy.ops.ed.undo()
    yield 1
    assert not any(x.name.startswith("PixWorld World") for x in bpy.data.objects), "undo left the generated world"
    named("PixWorld Scene Splats").hide_set(False)
    bpy.context.scene.camera = next(x for x in bpy.context.scene.objects if "pixworld_size" in x)
    yield from view_camera()
    yield 3
    shoot("6_undone")
    bpy.ops.wm.save_as_mainfile(filepath=str(OUT / "session.blend"))
    told["saved_mb"] = (OUT / "session.blend").stat().st_size / 1e6
    bpy.ops.wm.open_mainfile(filepath=str(OUT / "session.blend"))
    yield 3
    assert len(named("PixWorld Scene Splats").data.points) == told["gaussians"]
    yield from open_tab()
    yield from view_camera()
    yield 3
    shoot("7_opened_again")
    process = jobs.local.process
    bpy.ops.preferences.addon_disable(module=MODULE)
    assert process.poll() is not None and not bpy.app.timers.is_registered(jobs.tick), "something was left behind"
    told["left_behind"] = "nothing"


def timed(function: Callable[[], None]) -> Callable[[], None]:
    """The same, but the longest time that it keeps the window waiting is told."""

    def run() -> None:
        start = time.perf_counter()
        function()
        told["longest_pause_s"] = max(told.get("longest_pause_s", 0.0), time.perf_counter() - start)

    return run


def until(done: Callable[[], object], jobs: object = None) -> Iterator[float]:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, "a step takes too long"
        assert jobs is None or not jobs.session.error, jobs.session.error
        yield 0.1


def ask(operator: Callable[[], set[str]]) -> None:
    assert operator() == {"FINISHED"}


def named(start: str) -> bpy.types.Object:
    return next(x for x in bpy.data.objects if x.name.startswith(start))


def preview() -> bool:
    return any("pixworld_preview" in x for x in bpy.data.objects)


def viewport() -> tuple[bpy.types.Area, bpy.types.Region]:
    area = max(
        (x for x in bpy.context.window_manager.windows[0].screen.areas if x.type == "VIEW_3D"),
        key=lambda x: x.width * x.height,
    )
    return area, next(x for x in area.regions if x.type == "UI")


def open_tab() -> Iterator[float]:
    area, sidebar = viewport()
    area.spaces.active.show_region_ui = True
    yield 0.5
    sidebar.active_panel_category = "PixWorld"
    area.spaces.active.shading.type = "SOLID"
    area.spaces.active.overlay.show_floor = False
    yield 0.5


def look_at_preview() -> None:
    """From the front, without minding stray splats."""
    area, _ = viewport()
    cloud = next(x for x in bpy.data.objects if "pixworld_preview" in x)
    points = np.empty(3 * len(cloud.data.points), np.float32)
    cloud.data.attributes["position"].data.foreach_get("vector", points)
    points = points.reshape(-1, 3) @ np.array(cloud.matrix_world.to_3x3()).T
    middle = np.median(points, axis=0)
    view = area.spaces.active.region_3d
    view.view_location, view.view_rotation = middle, Euler((math.radians(80), 0, math.radians(15))).to_quaternion()
    view.view_distance = 4 * float(np.median(np.abs(points - middle).max(axis=1)))


def view_camera() -> Iterator[float]:
    area, _ = viewport()
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    yield 1
    region = next(x for x in area.regions if x.type == "WINDOW")
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0], area=area, region=region):
        bpy.ops.view3d.view_center_camera()


def animate(first: bpy.types.Object, last: bpy.types.Object) -> bpy.types.Object:
    """A camera that moves from one to the other in 48 frames."""
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 48
    camera = bpy.data.objects.new("Path", first.data.copy())
    camera.data.show_background_images = False
    camera.rotation_mode = "QUATERNION"
    scene.collection.objects.link(camera)
    for frame, at in ((1, first), (48, last)):
        camera.location, camera.rotation_quaternion, _ = at.matrix_world.decompose()
        for channel in ("location", "rotation_quaternion"):
            camera.keyframe_insert(channel, frame=frame)
    return camera


def shoot(name: str) -> None:
    file = OUT / f"{name}.png"
    if SHOOT:
        subprocess.run(SHOOT.replace("{}", str(file)), shell=True, check=True)
    else:
        bpy.ops.screen.screenshot(filepath=str(file))


def drive(steps: Iterator[float]) -> float | None:
    """One step further, in Blender's timer."""
    try:
        return next(steps)
    except StopIteration:
        told["result"] = "done"
    except Exception as error:  # whatever it is, it is told, and Blender quits
        traceback.print_exc()
        told["result"] = f"failed: {error!r}"
        shoot("failure")
    (OUT / "session.json").write_text(json.dumps(told, indent=1))
    bpy.ops.wm.quit_blender()
    return None


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    steps = session()
    bpy.app.timers.register(lambda: drive(steps), first_interval=2, persistent=True)
