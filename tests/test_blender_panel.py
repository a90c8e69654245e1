"""The PixWorld panel in a real Blender: the camera's path, sources of images, generation along a camera, results with
their shot cards, the preview, the connection. Each check runs in a process of its own."""

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import blender
import numpy as np
import pytest
from blender import ROOT, in_blender

pytestmark = pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="bpy is not installed")


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    return blender.build(tmp_path_factory.mktemp("dist"))


def serve(*more):
    """A real backend with the tasks of blender_jobs.py: its process and its address."""
    code = f"from backend import server; server.serve('tcp://127.0.0.1:*', 'cpu', 'blender_jobs', {', '.join(more)})"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split()[4].rstrip(";")


@pytest.fixture(scope="module")
def service():
    process, address = serve()
    yield address
    process.terminate()
    process.wait(10)


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(("a.jpg", "b.jpg", "c.png")):
        Image.new("RGB", (96, 80), (200, 100, 50 * i)).save(folder / name)
    return folder


# --- the path of a camera


def projected(scene, camera, points):
    """What world_to_camera_view does, in double precision from the numbers that Blender keeps: places in the image from
    its top left, in units of its sides. (Blender's own rounds a place to 6e-8 of the image, which is 2e-4 px of 3840,
    and its view frame to as much again.)"""
    data, render = camera.data, scene.render
    sides = np.array([render.resolution_x * render.pixel_aspect_x, render.resolution_y * render.pixel_aspect_y])
    tall = data.sensor_fit == "VERTICAL" or (data.sensor_fit == "AUTO" and sides[1] > sides[0])
    sensor = data.sensor_height if data.sensor_fit == "VERTICAL" else data.sensor_width
    unit = sensor / data.lens / sides[int(tall)]  # of the plane at distance 1, per pixel
    low = unit * (np.array([data.shift_x, data.shift_y]) * sides[int(tall)] - sides / 2)
    pose = np.array(camera.matrix_world, np.float64)
    pose[:3, :3] /= np.linalg.norm(pose[:3, :3], axis=0)
    local = np.linalg.solve(pose, np.c_[points, np.ones(len(points))].T).T
    uv = (local[:, :2] / -local[:, 2:3] - low) / (unit * sides)
    return np.c_[uv[:, 0], 1 - uv[:, 1]]


def check_path(folder):
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    from blender_addon import cameras

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene, rng = bpy.context.scene, np.random.default_rng(0)
    render = scene.render
    scene.frame_start, scene.frame_end = 10, 30
    assert cameras.key_frames(scene, 3) == [10, 20, 30] and cameras.key_frames(scene, 1) == [10]
    assert len(cameras.key_frames(scene, 64)) == 21
    worst = {"bpy's own": 0.0, "in double": 0.0}
    for i in range(30):
        size = ((512, 512), (640, 480), (480, 640), (3840, 2160), (1080, 1920))[i % 5]
        render.resolution_percentage = (100, 50, 25)[i % 3]  # of which no fraction of a pixel is left
        render.resolution_x, render.resolution_y = (side * 100 // render.resolution_percentage for side in size)
        render.pixel_aspect_x, render.pixel_aspect_y = ((1, 1), (1.2, 1), (1, 1.5))[i % 3]
        data = bpy.data.cameras.new("camera")
        camera = bpy.data.objects.new("camera", data)
        parent, target = (bpy.data.objects.new(name, None) for name in ("parent", "target"))
        for thing in (camera, parent, target):
            scene.collection.objects.link(thing)
        data.sensor_fit = ("AUTO", "HORIZONTAL", "VERTICAL")[(i // 3) % 3]
        data.sensor_width, data.sensor_height = rng.uniform(10, 40, 2)
        data.shift_x, data.shift_y = rng.uniform(-0.3, 0.3, 2)
        parent.rotation_euler, parent.scale = rng.uniform(-3, 3, 3), [rng.uniform(0.3, 3)] * 3
        target.location = rng.uniform(-2, 2, 3)
        camera.parent = parent
        for frame in (10, 30):
            data.lens = rng.uniform(15, 120)
            data.keyframe_insert("lens", frame=frame)
            for thing in (camera, parent):
                thing.location = rng.uniform(-4, 4, 3)
                thing.keyframe_insert("location", frame=frame)
        camera.rotation_euler = rng.uniform(-3, 3, 3)
        if i % 2:
            camera.constraints.new("TRACK_TO").target = target
        scene.camera = camera
        scene.frame_set(12)
        frames = [10, 17, 30]
        path = cameras.path_of(None, scene, frames)
        assert scene.frame_current == 12
        for frame, c2w, K, (height, width) in zip(frames, *path):
            assert (width, height) == size
            scene.frame_set(frame)
            pixels = np.c_[rng.uniform(0, size, (10, 2)), np.ones(10)]
            points = (c2w @ np.r_[(np.linalg.inv(K) @ pixels.T) * rng.uniform(2, 6, 10), np.ones((1, 10))])[:3].T
            points = points.astype(np.float32).astype(np.float64)
            ours = K @ (np.linalg.inv(c2w) @ np.c_[points, np.ones(10)].T)[:3]
            ours = (ours[:2] / ours[2]).T
            blenders = np.array([world_to_camera_view(scene, camera, Vector(p)) for p in points])[:, :2]
            for name, seen in (
                ("bpy's own", np.c_[blenders[:, 0], 1 - blenders[:, 1]]),
                ("in double", projected(scene, camera, points)),
            ):
                worst[name] = max(worst[name], np.abs(seen * size - ours).max())
    print(f"world_to_camera_view: {worst} px")
    assert worst["in double"] < 1e-6
    assert worst["bpy's own"] < 1e-2  # single precision throughout

    def refused(words):
        try:
            cameras.path_of(None, scene, [10])
        except ValueError as error:
            assert all(word in str(error) for word in (camera.name, *words)), error
        else:
            raise AssertionError("nothing was refused")

    data.type = "ORTHO"
    refused(["orthographic", "Perspective"])
    data.type = "PANO"
    refused(["panoramic", "Perspective"])
    data.type = "PERSP"
    camera.constraints.clear()
    parent.scale = (1, 3, 1)
    refused(["skewed"])

    # a marker changes the camera, an image behind one has the camera's lens
    other = bpy.data.objects.new("other", bpy.data.cameras.new("other"))
    scene.collection.objects.link(other)
    scene.timeline_markers.new("cut", frame=20).camera = other
    scene.timeline_markers.new("start", frame=1).camera = other
    assert np.allclose(cameras.path_of(None, scene, [25]).c2w[0], cameras.FLIP)
    render.resolution_x, render.resolution_y, render.resolution_percentage = 400, 200, 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1
    K = cameras.path_of(other, scene, [10]).K[0]
    background = other.data.background_images.new()
    background.image = bpy.data.images.new("square", 100, 100)
    for method, points in (
        ("FIT", ((100, 0), (300, 200))),
        ("CROP", ((0, -100), (400, 300))),
        ("STRETCH", ((0, 0), (400, 200))),
    ):
        background.frame_method = method
        view = cameras.behind(other, background, scene)
        assert view.sizes.tolist() == [[100, 100]]
        rays = np.linalg.inv(K) @ np.c_[np.array(points, float), np.ones(2)].T  # of the image's corners
        corners = view.K[0] @ rays
        assert np.allclose(corners[:2] / corners[2], [[0, 100], [0, 100]]), method


def test_path_is_exact(tmp_path):
    print(in_blender(check_path, tmp_path))


# --- the add-on


def set_up(extension, address):
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    blender.install(extension)
    bpy.context.preferences.addons[blender.MODULE].preferences.address = address
    return blender.module("operators"), bpy.context.scene.pixworld


def finish(operators, seconds=30):
    """Let the job run to its end."""
    deadline = time.monotonic() + seconds
    while operators.session.busy:
        assert time.monotonic() < deadline, (operators.session.state, operators.session.error)
        operators.tick()
        time.sleep(0.01)
    assert operators.session.state == "done", operators.session.error


def refusal(operator):
    """What the operator reports; from Python it is a RuntimeError."""
    try:
        operator()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("no error was reported")


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


def check_generate(folder, extension, address, photos):
    import bpy

    operators, settings = set_up(extension, address)
    cameras, results = blender.module("cameras"), blender.module("results")
    session, scene = operators.session, bpy.context.scene
    settings.source = "NONE"
    assert "write a prompt" in refusal(bpy.ops.pixworld.generate)
    settings.prompt, settings.key_views, settings.steps, settings.seed = "a harbour at dusk", 5, 4, 7
    assert "no active camera" in refusal(bpy.ops.pixworld.generate)
    mover = animated_camera(scene)
    mover.data.type = "ORTHO"
    assert "mover is orthographic" in refusal(bpy.ops.pixworld.generate)
    mover.data.type = "PERSP"
    path = cameras.path_of(mover, scene, [1, 3, 5, 7, 9])

    scene.frame_set(4)
    assert bpy.ops.pixworld.generate() == {"FINISHED"} and scene.frame_current == 4
    finish(operators)
    world = scene.collection.children["PixWorld World"]
    (cloud,) = (x for x in world.objects if x.type == "POINTCLOUD")
    made = sorted(world.children[0].objects, key=lambda x: x.name)
    assert [x.name for x in made] == [f"key_{i:03d}" for i in range(5)]
    assert scene.camera == mover and scene.render.resolution_x == 400  # the user's own stay
    bpy.context.view_layer.update()
    for camera, c2w in zip(made, path.c2w):
        assert np.abs(cameras.pose_of(camera) - c2w).max() < 2e-6, (cameras.pose_of(camera), c2w)
        assert camera["pixworld_split"] == "generated"
    # the splats stand before the first key view, as they were made before its camera
    means = np.empty(3000, np.float32)
    cloud.data.attributes["position"].data.foreach_get("vector", means)
    in_world = np.c_[means.reshape(-1, 3), np.ones(1000)] @ np.array(cloud.matrix_world).T
    seen = (np.linalg.inv(path.c2w[0]) @ in_world.T)[:3].T
    assert (seen.min(axis=0) > (-1.001, -0.801, 1.999)).all() and (seen.max(axis=0) < (1.001, 0.801, 4.001)).all()

    # the shot card, and the same again when everything else has been changed
    card = json.loads(cloud["pixworld_card"])
    assert (card["task"], card["settings"]["seed"], card["settings"]["prompt"]) == ("generate", 7, "a harbour at dusk")
    assert card["backend"]["hash"] == "0123456789ab" and len(card["cameras"]) == 5
    assert np.array_equal([x["c2w"] for x in card["cameras"]], path.c2w)
    settings.seed, settings.prompt, settings.key_views, settings.path = 1, "", 2, "orbit"
    mover.animation_data_clear()
    assert results.selected(scene) == cloud == bpy.context.object, (settings.picked, bpy.context.object)
    settings.picked = ""
    assert not bpy.ops.pixworld.run_again.poll()
    settings.result = bpy.data.objects.find(cloud.name)
    assert results.selected(scene) == cloud == bpy.context.object and cloud.select_get()
    bpy.ops.pixworld.run_again()
    finish(operators)
    assert settings.seed == 7 and settings.path == "CAMERA"
    again = next(x for x in scene.collection.children["PixWorld World.001"].objects if x.type == "POINTCLOUD")
    assert json.loads(again["pixworld_card"])["cameras"] == card["cameras"]
    other = np.empty(3000, np.float32)
    again.data.attributes["position"].data.foreach_get("vector", other)
    assert np.array_equal(means, other)

    # one undo step a result; and the result can be removed
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert "PixWorld World.001" not in bpy.data.collections and "PixWorld World" in bpy.data.collections
    scene.pixworld.result = bpy.data.objects.find("PixWorld World Splats")
    kept = set(bpy.data.objects.keys()) & {"mover"}
    bpy.ops.pixworld.remove_result()
    assert set(bpy.data.objects.keys()) == kept and not bpy.data.collections and not bpy.data.images

    # a still camera is no way, but a built-in path begins at it; one photo is at its first camera
    settings = scene.pixworld
    bpy.data.objects["mover"].animation_data_clear()
    assert "does not move" in refusal(bpy.ops.pixworld.generate)
    settings.path = "orbit"
    settings.source, settings.photos = "FOLDER", str(photos)
    bpy.ops.pixworld.choose_photos(directory=str(photos) + os.sep, files=[{"name": "a.jpg"}])
    bpy.ops.pixworld.generate()
    finish(operators)
    card = json.loads(next(x for x in bpy.data.objects if "pixworld_card" in x)["pixworld_card"])
    (sent,) = card["cameras"]
    assert np.abs(np.array(sent["c2w"]) - cameras.pose_of(bpy.data.objects["mover"])).max() < 1e-6
    assert [x["name"] for x in card["photos"]] == ["a.jpg"]
    settings.photos, settings.path = str(photos), "CAMERA"
    assert "It is not known where" in refusal(bpy.ops.pixworld.generate)
    settings.path = "IMAGES"
    bpy.ops.pixworld.generate()
    finish(operators)
    assert session.state == "done"


def test_generate_along_the_camera(tmp_path, extension, service, photos):
    in_blender(check_generate, tmp_path, extension, service, photos)


def check_sources(folder, extension, address, photos):
    import bpy
    from PIL import Image

    photos = Path(photos)
    operators, settings = set_up(extension, address)
    sources, cameras = blender.module("sources"), blender.module("cameras")
    scene = bpy.context.scene

    def collect():
        steps = sources.collect(settings, scene)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def pixels(source):
        (folder / "x").write_bytes(source.data.tobytes())
        return np.asarray(Image.open(folder / "x").convert("RGB"))

    # images of this file: from disk, packed, ticked off; of another format and of floats as PNG
    loaded = [bpy.data.images.load(str(photos / name)) for name in ("a.jpg", "b.jpg", "c.png")]
    loaded[0].pack()
    loaded[1].pixworld_use = False
    colours = np.random.default_rng(0).integers(0, 255, (7, 9, 3), np.uint8)
    Image.fromarray(colours).save(folder / "d.tiff")
    bpy.data.images.load(str(folder / "d.tiff"))
    painted = bpy.data.images.new("light", 4, 4, float_buffer=True)
    painted.pixels = [0.5, 0.25, 0.0, 1.0] * 16
    painted.file_format, painted.filepath_raw = "OPEN_EXR", str(folder / "light.exr")
    painted.save()
    bpy.data.images.remove(painted)
    light = bpy.data.images.load(str(folder / "light.exr"))
    settings.source = "IMAGES"
    found = {x.name: x for x in collect()}
    assert set(found) == {"a.jpg", "c.png", "d.tiff.png", "light.exr.png"}
    assert found["a.jpg"].data.tobytes() == (photos / "a.jpg").read_bytes()
    assert np.array_equal(pixels(found["d.tiff.png"]), colours)
    linear = np.array(light.pixels[:3])  # what Blender takes the file for is another matter in 4.2 than in 5.0
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert np.array_equal(pixels(found["light.exr.png"])[0, 0], np.round(255 * encoded))
    assert not any(x.camera for x in found.values())

    # two of one name
    loaded[1].pixworld_use, loaded[1].name = True, "sub/a.jpg"
    loaded[2].name = "sub_a.jpg"
    assert {"a.jpg", "sub_a.jpg", "sub_a_1.jpg"} <= {x.name for x in collect()}

    # behind the active camera: the image is at the camera; two cameras that are selected make a reconstruction
    camera = animated_camera(scene)
    settings.source = "BACKGROUNDS"
    assert "no background image" in refusal(bpy.ops.pixworld.reconstruct)
    camera.data.background_images.new().image = loaded[0]
    (one,) = collect()
    assert one.camera.sizes.tolist() == [[80, 96]] and np.allclose(one.camera.c2w[0], cameras.pose_of(camera))
    second = camera.copy()
    second.data = camera.data.copy()
    second.animation_data_clear()
    second.location.x += 1
    second.data.background_images[0].image = loaded[2]
    scene.collection.objects.link(second)
    camera.select_set(True)
    second.select_set(True)
    bpy.context.view_layer.update()
    bpy.ops.pixworld.reconstruct()
    finish(operators)
    made = scene.collection.children["PixWorld Scene"].children[0].objects
    bpy.context.view_layer.update()
    for original, imported in zip((camera, second), made):
        assert np.abs(cameras.pose_of(original) - cameras.pose_of(imported)).max() < 2e-6
    assert operators.session.notes == ["blurred.jpg was left out: it is too blurred"]

    # a sequence and a movie
    (folder / "frames").mkdir()
    for i in range(3, 13):
        Image.new("RGB", (32, 24), (20 * i, 0, 0)).save(folder / "frames" / f"shot_{i:04d}.png")
    settings.source, settings.images = "CLIP", 4
    settings.clip = bpy.data.movieclips.load(str(folder / "frames" / "shot_0003.png"))
    assert settings.clip.source == "SEQUENCE"
    assert [x.name for x in collect()] == [f"shot_{i:04d}.png" for i in (3, 6, 9, 12)]

    # the scene itself at key views; the settings of its renders stay (Cycles: EEVEE wants a graphics driver)
    blender.module("key_renders").EEVEE = "CYCLES"
    scene.cycles.samples = 1
    scene.render.resolution_x, scene.render.resolution_y = 40, 30
    settings.source, settings.images, settings.path, settings.key_views = "RENDER", 3, "CAMERA", 2
    settings.prompt = "a grey room"
    render = scene.render
    render.image_settings.file_format, render.image_settings.color_depth = "OPEN_EXR", "32"
    render.filepath, render.engine = "//mine", "BLENDER_WORKBENCH"
    found = collect()
    assert [x.name for x in found] == ["frame_0001.png", "frame_0005.png", "frame_0009.png"]
    assert pixels(found[0]).shape == (30, 40, 3)
    path = cameras.path_of(None, scene, [1, 5, 9])
    assert np.array_equal(np.concatenate([x.camera.c2w for x in found]), path.c2w)
    kept = render.image_settings.file_format, render.image_settings.color_depth, render.filepath, render.engine
    assert kept == ("OPEN_EXR", "32", "//mine", "BLENDER_WORKBENCH")
    settings.match_training = False
    bpy.ops.pixworld.generate()
    finish(operators)
    world = scene.collection.children["PixWorld World"].children[0].objects
    splits = [x["pixworld_split"] for x in world]
    assert splits.count("given") == 3 and splits.count("generated") == 2  # of frames 1, 3, 5, 7, 9


def test_sources(tmp_path, extension, service, photos):
    in_blender(check_sources, tmp_path, extension, service, photos)


def check_preview(folder, extension, address, photos):
    import bpy

    operators, settings = set_up(extension, address)
    session, results = operators.session, blender.module("results")
    settings.photos, settings.seed = str(photos), 2  # goes on until it is cancelled

    def wait_for(done):
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, session.error
            operators.tick()
            time.sleep(0.01)

    def preview():
        return bpy.data.objects.get(results.PREVIEW)

    def count():
        return len(preview().data.points) if preview() else 0

    bpy.ops.pixworld.reconstruct()
    wait_for(preview)
    first = count()
    wait_for(lambda: count() > first)  # it is refined
    assert len([x for x in bpy.data.objects if x.name.startswith(results.PREVIEW)]) == 1
    data, points = preview().data, preview().data.points
    arrays = importlib.import_module("blender_jobs").gaussians(len(points), 5)
    results.show_preview(arrays)  # as many: in place
    assert preview().data == data and np.allclose(points[7].co, arrays["means"][7])
    assert session.left_s is None or session.left_s >= 0

    # saving leaves it out, an undo brings no second one, and cancelling removes it
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"), copy=True)
    with bpy.data.libraries.load(str(folder / "saved.blend")) as (saved, _):
        assert results.PREVIEW not in saved.objects
    wait_for(preview)
    bpy.ops.ed.undo_push(message="with a preview")
    bpy.ops.ed.undo_push(message="another step")
    bpy.ops.ed.undo()
    wait_for(lambda: count() > 0)
    assert session.job is not None
    bpy.ops.pixworld.cancel()
    assert preview() is None and not bpy.data.pointclouds and session.state == "cancelled"
    bpy.ops.ed.redo()
    operators.tick()
    assert preview() is None

    settings = bpy.context.scene.pixworld
    settings.seed = 3
    bpy.ops.pixworld.reconstruct()
    finish(operators)
    assert preview() is None and [len(x.points) for x in bpy.data.pointclouds] == [2000]


def test_preview_is_refined_and_removed(tmp_path, extension, service, photos):
    in_blender(check_preview, tmp_path, extension, service, photos)


def check_by_photo(folder, extension, address, photos):
    import bpy

    operators, settings = set_up(extension, address)
    results, requests, scene = blender.module("results"), blender.module("requests"), bpy.context.scene
    jobs = importlib.import_module("blender_jobs")
    settings.photos, settings.seed, settings.by_photo = str(photos), 5, True

    def listed():
        """The lines of the list: the filter is asked as Blender does."""
        ours = SimpleNamespace(bitflag_filter_item=1)
        flags, _ = results.PixWorldResults.filter_items(ours, bpy.context, bpy.data, "objects")
        return [x for x, flag in zip(bpy.data.objects, flags) if flag]

    def means(thing):
        out = np.empty(3 * len(thing.data.points), np.float32)
        thing.data.attributes["position"].data.foreach_get("vector", out)
        return out.reshape(-1, 3)

    # an object for each photo that has splats and one for the rest, under one root
    bpy.ops.pixworld.reconstruct()
    finish(operators)
    holder = bpy.data.collections["PixWorld Scene Splats"]
    assert holder.name in scene.collection.children["PixWorld Scene"].children
    root = bpy.data.objects["PixWorld Scene"]
    parts = {x.name: x for x in holder.objects}
    assert list(parts) == ["a.jpg Splats", "c.png Splats", "No Photo Splats"]
    assert all(x.type == "POINTCLOUD" and x.parent == root for x in parts.values()) and len(bpy.data.pointclouds) == 3
    made = jobs.gaussians(2000, 5)["means"]
    x = made[:, 0]
    assert np.array_equal(means(parts["a.jpg Splats"]), made[x < -1 / 3])
    assert np.array_equal(means(parts["c.png Splats"]), made[x >= 1 / 3])
    assert np.array_equal(means(parts["No Photo Splats"]), made[(x >= -1 / 3) & (x < 1 / 3)])

    # one line of the list, whose eye hides all of them; each can be muted and deleted, and the result is still there
    assert listed() == [root] == [results.selected(scene)] and bpy.context.object == root
    assert requests.card_of(root)["settings"]["by_photo"] is True
    assert results._hidden_by(root) == holder
    holder.hide_viewport = True
    bpy.context.view_layer.update()
    assert not any(x.visible_get() for x in parts.values())
    holder.hide_viewport = False
    parts["c.png Splats"].hide_viewport = parts["c.png Splats"].hide_render = True
    bpy.context.view_layer.update()
    assert [x.visible_get() for x in parts.values()] == [True, False, True]
    bpy.ops.ed.undo_push(message="muted")
    bpy.ops.object.select_all(action="DESELECT")
    parts["a.jpg Splats"].select_set(True)
    bpy.ops.object.delete()
    bpy.ops.ed.undo_push(message="deleted")
    assert "a.jpg Splats" not in bpy.data.objects and [x.name for x in listed()] == ["PixWorld Scene"]
    bpy.ops.ed.undo()
    assert "a.jpg Splats" in bpy.data.objects and bpy.data.objects["c.png Splats"].hide_render
    bpy.ops.ed.redo()

    # again, from a file and with other settings; then each goes as a whole
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "saved.blend"))
    scene = bpy.context.scene
    scene.pixworld.by_photo, scene.pixworld.seed = False, 1
    bpy.ops.pixworld.run_again()
    finish(operators)
    assert scene.pixworld.by_photo and scene.pixworld.seed == 5
    assert [x.name for x in listed()] == ["PixWorld Scene", "PixWorld Scene.001"]
    again = bpy.data.collections["PixWorld Scene Splats.001"].objects
    assert sorted(len(x.data.points) for x in again) == sorted(
        [np.sum(x < -1 / 3), np.sum(x >= 1 / 3), np.sum(abs(x) < 1 / 3)]
    )
    assert results.selected(scene).name == "PixWorld Scene.001"
    bpy.ops.pixworld.remove_result()
    assert [x.name for x in listed()] == ["PixWorld Scene"] and len(bpy.data.collections) == 3
    scene.pixworld.result = bpy.data.objects.find("PixWorld Scene")
    bpy.ops.pixworld.remove_result()
    assert not bpy.data.objects and not bpy.data.collections and not bpy.data.images

    # a card that knows nothing of it made one object
    kept = requests.settings_of(scene.pixworld)
    del kept["by_photo"]
    requests.restore(scene.pixworld, kept)
    assert not scene.pixworld.by_photo
    bpy.ops.pixworld.reconstruct()
    finish(operators)
    (cloud,) = (x for x in bpy.data.objects if x.type == "POINTCLOUD")
    assert listed() == [cloud] and results._hidden_by(cloud) == cloud


def test_one_object_a_photo(tmp_path, extension, service, photos):
    in_blender(check_by_photo, tmp_path, extension, service, photos)


def check_by_photo_render(folder):
    import bpy

    from blender_addon import cameras, importer, rendering

    def picture(labels):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        scene, K = bpy.context.scene, np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
        photos = [importer.PhotoCamera(f"{i}.jpg", np.eye(4), K, 64, 48, "train") for i in range(3)]
        imported = importer.add_scene("Scene", made, photos, scene, by_photo=labels)
        rendering.match_training(scene)
        cameras.look_through(imported.cameras[0], scene)
        scene.render.image_settings.file_format, scene.render.filepath = "PNG", str(folder / "x.png")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(str(folder / "x.png"))
        return np.array(image.pixels[:]).reshape(48, 64, 4)[..., :3], imported

    made = importlib.import_module("blender_jobs").gaussians(600, 5)
    whole, _ = picture(None)
    labels = np.random.default_rng(0).integers(-1, 3, 600).astype(np.int32)  # mixed in depth
    parts, imported = picture(labels)
    assert whole.std() > 0.05 and np.abs(parts - whole).max() < 1.5 / 255, np.abs(parts - whole).max()
    assert imported.splats.name == "0.jpg Splats" and len(imported.splats.parent.children) == 7
    for wrong in (labels[1:], labels + 1, labels - 1):
        try:
            importer.add_scene("Wrong", made, [], bpy.context.scene, by_photo=wrong)
        except ValueError:
            assert "Wrong" not in bpy.data.collections
        else:
            raise AssertionError("nothing was refused")


def test_cycles_draws_objects_of_photos_as_one(tmp_path):
    in_blender(check_by_photo_render, tmp_path)


def check_connection(folder, extension, address, secured, keys, photos):
    import bpy
    import zmq

    from backend import protocol

    operators, settings = set_up(extension, "tcp://127.0.0.1:9")
    jobs, session = blender.module("jobs"), operators.session
    preferences = bpy.context.preferences.addons[blender.MODULE].preferences
    jobs.HEADLESS = False  # as in a window: no button without the handshake

    def until(words, seconds=15):
        deadline = time.monotonic() + seconds
        while words not in (jobs.trouble(bpy.context) or "ready"):
            assert time.monotonic() < deadline, jobs.trouble(bpy.context)
            operators.tick()
            time.sleep(0.01)

    until("press Start Backend (the play button), or run `backend serve --bind tcp://127.0.0.1:9`")
    assert not bpy.ops.pixworld.reconstruct.poll() and not bpy.ops.pixworld.generate.poll()
    began = time.monotonic()
    operators.tick()
    assert time.monotonic() - began < 0.05
    preferences.address = address
    until("ready")
    assert bpy.ops.pixworld.reconstruct.poll()

    # a backend that asks for keys
    preferences.address = secured
    until("keys")
    preferences.keys = str(folder / "absent.json")
    until("absent.json")
    preferences.keys = keys
    until("ready")

    # one that is loading, then of another version, then gone for a while with a job, then back
    context = zmq.Context()
    other = context.socket(zmq.ROUTER)
    preferences.keys, preferences.address = "", f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"
    about, silent, submitted = {"version": "0.0", "ready": False}, threading.Event(), []
    stop = threading.Event()

    def answer():
        while not stop.is_set():
            if silent.is_set() or not other.poll(50):
                time.sleep(0.02)
                continue
            who, *frames = other.recv_multipart()
            header, _ = protocol.decode(frames)
            if header["op"] == "hello":
                reply = {"kind": "hello", "request": header["request"], "device": "cpu", **about}
            elif header["op"] == "ping":
                reply = {"kind": "pong", "states": dict.fromkeys(header["jobs"], "running")}
            else:
                submitted.append(header)
                reply = {"kind": "progress", "job": header["job"], "stage": "refine", "step": 1, "steps": 9}
            other.send_multipart([who, *protocol.encode(reply)])

    thread = threading.Thread(target=answer)
    thread.start()
    until("is PixWorld 0.0 and this extension")
    about["version"] = blender.module("backend").__version__
    until("loading its model")
    about["ready"] = True
    until("ready")
    session.client.timeout_s = 1.0
    settings.photos = str(photos)
    bpy.ops.pixworld.reconstruct()
    deadline = time.monotonic() + 20

    def wait_for(done):
        while not done():
            assert time.monotonic() < deadline, (session.stage, session.error)
            operators.tick()
            time.sleep(0.01)

    wait_for(lambda: session.stage == "refine")
    silent.set()
    wait_for(lambda: "answer again" in session.stage)
    job = session.job
    silent.clear()
    wait_for(lambda: session.connected)
    assert session.job == job and len(submitted) == 1
    bpy.ops.pixworld.cancel()
    stop.set()
    thread.join()
    context.destroy(linger=0)


def test_connection(tmp_path, extension, service, photos):
    from backend.access import make_keys

    make_keys(tmp_path / "keys")
    process, secured = serve(f"keys=__import__('pathlib').Path({str(tmp_path / 'keys')!r})")
    try:
        keys = tmp_path / "keys" / "client.json"
        in_blender(check_connection, tmp_path, extension, service, secured, keys, photos)
    finally:
        process.terminate()
        process.wait(10)


def check_long_work(folder, extension, photos):
    """The work before a job goes on a piece at a time, and leaves nothing behind when it is stopped."""
    import bpy

    operators, _settings = set_up(extension, "tcp://127.0.0.1:9")
    session, jobs = operators.session, blender.module("jobs")
    jobs.HEADLESS = False
    left = []

    def work():
        try:
            for i in range(100):
                time.sleep(0.01)
                yield "count", i, 100
        finally:
            left.append(True)

    began = time.monotonic()
    jobs.prepare(work())
    assert time.monotonic() - began < 0.1 and session.busy and session.stage == "count" and session.step < 20
    before = session.step
    operators.tick()
    assert session.step > before and 0 < session.left_s < 10
    bpy.ops.pixworld.cancel()
    assert left and not session.busy and session.state == "cancelled"
    jobs.prepare(work())
    bpy.ops.ed.undo_push(message="a step")
    bpy.ops.ed.undo_push(message="another")
    bpy.ops.ed.undo()  # what the work holds on to may be gone
    assert len(left) == 2 and not session.busy

    def fails():
        yield "look", 0, 1
        raise ReferenceError("StructRNA of type Scene has been removed")

    with contextlib.suppress(ValueError):
        jobs.prepare(fails())
    assert session.state == "error" and "removed" in session.error and not session.busy


def test_work_before_a_job(tmp_path, extension, photos):
    in_blender(check_long_work, tmp_path, extension, photos)


def check_stop(folder, extension):
    """A backend that does not want to end holds nobody up, but is gone when the extension is."""
    import bpy

    operators, _settings = set_up(extension, "tcp://127.0.0.1:9")
    blender.module("local_backend").GRACE_S = 1.0
    script = folder / "python"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\ntouch {folder}/up\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    bpy.context.preferences.addons[blender.MODULE].preferences.python = str(script)
    bpy.ops.pixworld.start_backend()
    process, deadline = operators.local.process, time.monotonic() + 10
    while not (folder / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    assert bpy.ops.pixworld.stop_backend() == {"FINISHED"}
    assert "still ending" in refusal(bpy.ops.pixworld.start_backend)
    assert time.monotonic() - began < 0.5 and process.poll() is None and not operators.local.running
    bpy.ops.preferences.addon_disable(module=blender.MODULE)
    assert process.poll() is not None


def test_stopping_waits_for_nobody(tmp_path, extension):
    in_blender(check_stop, tmp_path, extension)


def check_remove(folder, extension):
    """Only what came with a result goes with it; what is the user's stays where it is."""
    import bpy
    from mathutils import Matrix

    set_up(extension, "tcp://127.0.0.1:9")
    importer, results, editing, proxy = map(blender.module, ("importer", "results", "editing", "proxy"))
    scene = bpy.context.scene
    made = importlib.import_module("blender_jobs").gaussians(50, 5)
    K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    photos = [importer.PhotoCamera(f"{i}.jpg", np.eye(4), K, 64, 48, "train") for i in range(3)]
    one, other = (importer.add_scene(name, made, photos, scene) for name in ("One", "Other"))
    root = one.splats.parent

    def thing(name, parent):
        out = bpy.data.objects.new(name, bpy.data.meshes.new(name))
        one.collection.objects.link(out)
        out.parent, out.location = parent, (1, 2, 3)
        return out

    holder = bpy.data.objects.new("Holder", None)
    scene.collection.objects.link(holder)
    holder.location, holder.rotation_euler = (3, 0, 1), (0.2, 0.1, 0)
    root.parent = other.splats.parent.parent = holder
    mesh = proxy.make("One Proxy", made["means"][:3], np.array([[0, 1, 2]], np.int32), one.splats)
    proxy.add_to(scene, mesh)
    box = editing.add_box("One Box", (-1, -1, -1), (1, 1, 1), Matrix.Identity(4))
    one.collection.objects.link(box)
    box.parent = root
    users = [thing("chair", root), thing("shadow", mesh), thing("lost", root), thing("beside", holder)]
    one.cameras[0].parent = users[0]  # ours goes, even from there
    other.splats.parent.parent = root  # a result that the user hangs on another
    own = bpy.data.collections.new("Own")
    scene.collection.children.link(own)
    own.objects.link(one.splats)  # alone in it
    bpy.context.view_layer.update()
    users[2].hide_viewport = True
    root.scale = (0.5, 0.5, 0.5)
    users[2].hide_viewport = False
    bpy.context.view_layer.update()
    users.append(other.splats)
    before = [np.array(x.matrix_world) for x in users]
    users[2].hide_viewport = True

    results.remove(one.splats)
    users[2].hide_viewport = False
    bpy.context.view_layer.update()
    for x, matrix in zip(users, before):
        assert np.allclose(x.matrix_world, matrix, atol=1e-5), x.name
    kept = {"Holder", "chair", "shadow", "lost", "beside", "Other", "Other Splats"}
    assert {x.name for x in bpy.data.objects} == kept | {x.name for x in other.cameras}
    assert {x.name for x in bpy.data.collections} == {"One", "Own", "Other", "Other Cameras"}
    results.remove(other.splats)
    assert {x.name for x in bpy.data.objects} == {"Holder", "chair", "shadow", "lost", "beside"}
    assert len(bpy.data.pointclouds) == 0 == len(bpy.data.cameras)


def test_removing_leaves_what_is_the_users(tmp_path, extension):
    in_blender(check_remove, tmp_path, extension)


def check_scenes(folder, extension, address, photos):
    """A result belongs to the scene that it was asked for in, whatever the window shows by then."""
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    operators, settings = set_up(extension, address)
    passes, session, first = blender.module("passes"), operators.session, bpy.context.scene
    settings.photos, settings.seed = str(photos), 5
    passes.add(first)
    bpy.ops.pixworld.reconstruct()
    second = bpy.data.scenes.new("Second")
    bpy.context.window.scene = second
    finish(operators)
    assert "PixWorld Scene" in first.collection.children and not second.objects and first.camera and not session.notes
    assert first.render.film_transparent and first.cycles.filter_width < 0.02  # the passes keep their alpha
    passes.remove(first)
    blender.module("rendering").match_training(first)
    assert not first.render.film_transparent

    # the scene is gone; what cannot be set up is said, and the result is there, as one step
    third = bpy.data.scenes.new("Third")
    bpy.context.window.scene = third
    third.pixworld.photos, third.pixworld.seed = str(photos), 5
    bpy.ops.pixworld.reconstruct()
    bpy.data.scenes.remove(third)
    addon_utils.disable("cycles")
    bpy.context.window.scene = bpy.data.scenes["Second"]
    bpy.ops.ed.undo_push(message="before")
    finish(operators)
    gone, not_set_up = session.notes
    assert "Third is no longer there" in gone and "Second" in gone
    assert "was not set up" in not_set_up and "enable Cycles" in not_set_up
    second = bpy.data.scenes["Second"]
    assert "PixWorld Scene.001" in second.collection.children and second.camera
    bpy.ops.ed.undo()
    assert not bpy.data.scenes["Second"].objects and "PixWorld Scene" in bpy.data.collections


def test_a_result_finds_its_scene(tmp_path, extension, service, photos):
    in_blender(check_scenes, tmp_path, extension, service, photos)


def check_drawing(folder, extension):
    """What panels say of a filter that the user has changed, and of a camera that splats are not made for."""
    from unittest.mock import MagicMock

    import bpy

    set_up(extension, "tcp://127.0.0.1:9")
    importer, editing = blender.module("importer"), blender.module("editing")
    display, editing_panel = blender.module("display"), blender.module("editing_panel")
    scene = bpy.context.scene
    imported = importer.add_scene("One", importlib.import_module("blender_jobs").gaussians(50, 5), [], scene)
    bpy.context.view_layer.objects.active = imported.splats
    edit = editing.add(imported.splats)

    def labels(draw):
        layout = MagicMock()
        draw(layout)
        return [x.kwargs["text"] for x in layout.mock_calls if x[0].endswith("label")]

    draw = editing_panel.EditPanel._edit
    assert not labels(lambda layout: draw(None, layout, edit))
    socket = next(x for x in edit.node_group.interface.items_tree if x.name == "Budget")
    socket.name = "Mine"
    assert "cannot be shown" in labels(lambda layout: draw(None, layout, edit))[0]
    assert "'Budget'" in refusal(lambda: bpy.ops.pixworld.decimate(budget=10))

    preferences = SimpleNamespace(system=SimpleNamespace(ui_scale=1))
    context = SimpleNamespace(scene=scene, region=SimpleNamespace(width=9000), preferences=preferences)

    def display_labels():
        return labels(lambda layout: display.DisplayPanel.draw(SimpleNamespace(layout=layout), context))

    card = {"task": "generate", "photos": [], "cameras": [{}], "settings": {"seed": 3, "prompt": "", "path": "orbit"}}
    about = blender.module("panels").about
    assert about(card)[1] == "Seed 3"  # the orbit has more cameras than the one that it begins at
    card["settings"]["path"] = "CAMERA"
    assert about(card)[1] == "Seed 3, 1 camera"

    mover = animated_camera(scene)
    assert not any("perspective" in x for x in display_labels())
    mover.data.type = "ORTHO"
    assert "mover is orthographic: renders show splats rightly in perspective only" in display_labels()

    eevee = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
    for engine, matched in ((eevee, eevee), ("BLENDER_WORKBENCH", "CYCLES"), ("CYCLES", "CYCLES")):
        scene.render.engine = engine
        assert bpy.ops.pixworld.match_training() == {"FINISHED"} and scene.render.engine == matched
    warned = []
    for aspect in (1, 1.5):
        scene.render.pixel_aspect_y, report = aspect, lambda kind, text: warned.append(text)
        display.AddPasses.act(SimpleNamespace(report=report), scene)
    assert len(warned) == (bpy.app.version < (5, 1, 0)) and all("multilayer EXR" in x for x in warned)
    bpy.context.window.scene = bpy.data.scenes.new("Empty")
    assert "no splats in this scene" in refusal(bpy.ops.pixworld.add_passes)


def test_panels_say_what_is_wrong(tmp_path, extension):
    in_blender(check_drawing, tmp_path, extension)


def check_quit(folder, extension):
    """Quit with a backend that was started here."""
    import bpy

    operators, _settings = set_up(extension, "tcp://127.0.0.1:9")
    script = folder / "python"
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    bpy.context.preferences.addons[blender.MODULE].preferences.python = str(script)
    bpy.ops.pixworld.start_backend()
    (folder / "pid").write_text(str(operators.local.process.pid))


def test_quitting_ends_the_backend(tmp_path, extension):
    in_blender(check_quit, tmp_path, extension)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


if __name__ == "__main__":
    blender.main(globals())
