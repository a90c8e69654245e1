"""Where images come from in a real Blender: the file, backgrounds of cameras, clips, renders of the scene."""

from pathlib import Path

import blender
import numpy as np
from blender import animated_camera, finish, in_blender, refusal, set_up

pytestmark = blender.needs_bpy


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


if __name__ == "__main__":
    blender.main(globals())
