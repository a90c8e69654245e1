"""The Generate button in a real Blender: key views along a camera, the shot card, the same once more."""

import json
import os

import blender
import numpy as np
from blender import animated_camera, finish, in_blender, refusal, set_up

pytestmark = blender.needs_bpy


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


if __name__ == "__main__":
    blender.main(globals())
