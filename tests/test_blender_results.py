"""Results in a real Blender: the preview before them, their scene, one object a photo, how they are removed."""

from types import SimpleNamespace

import blender
import blender_jobs
import numpy as np
from blender import NOBODY, finish, in_blender, pump_until, set_up

pytestmark = blender.needs_bpy


def check_preview(folder, extension, address, photos):
    import bpy

    operators, settings = set_up(extension, address)
    session, results = operators.session, blender.module("results")
    settings.photos, settings.seed = str(photos), 2  # goes on until it is cancelled

    def preview():
        return bpy.data.objects.get(results.PREVIEW)

    def count():
        return len(preview().data.points) if preview() else 0

    bpy.ops.pixworld.reconstruct()
    pump_until(operators, preview)
    first = count()
    pump_until(operators, lambda: count() > first)  # it is refined
    assert len([x for x in bpy.data.objects if x.name.startswith(results.PREVIEW)]) == 1
    data, points = preview().data, preview().data.points
    arrays = blender_jobs.gaussians(len(points), 5)
    results.show_preview(arrays)  # as many: in place
    assert preview().data == data and np.allclose(points[7].co, arrays["means"][7])
    assert session.left_s is None or session.left_s >= 0

    # saving leaves it out, an undo brings no second one, and cancelling removes it
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"), copy=True)
    with bpy.data.libraries.load(str(folder / "saved.blend")) as (saved, _):
        assert results.PREVIEW not in saved.objects
    pump_until(operators, preview)
    bpy.ops.ed.undo_push(message="with a preview")
    bpy.ops.ed.undo_push(message="another step")
    bpy.ops.ed.undo()
    pump_until(operators, lambda: count() > 0)
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


def check_by_photo(folder, extension, address, photos):
    import bpy

    operators, settings = set_up(extension, address)
    results, requests, scene = blender.module("results"), blender.module("requests"), bpy.context.scene
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
    made = blender_jobs.gaussians(2000, 5)["means"]
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

    made = blender_jobs.gaussians(600, 5)
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


def check_remove(folder, extension):
    """Only what came with a result goes with it; what is the user's stays where it is."""
    import bpy
    from mathutils import Matrix

    set_up(extension, NOBODY)
    importer, results, editing, proxy = map(blender.module, ("importer", "results", "editing", "proxy"))
    scene = bpy.context.scene
    made = blender_jobs.gaussians(50, 5)
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


if __name__ == "__main__":
    blender.main(globals())
