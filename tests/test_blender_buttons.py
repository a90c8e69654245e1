"""The buttons of editing in a real Blender, on splats as the importer brings them in: filters, placing, export, proxy
meshes, what is in a box anew."""

import json

import blender
import numpy as np
import pytest
from blender import assert_same, finish, gaussians_in_cube, in_blender, install, refusal, set_up, subset

pytestmark = blender.needs_bpy


@pytest.fixture(scope="module")
def editing_service():
    """A real backend with the tasks of editing_jobs.py; its address."""
    with blender.serve("editing_jobs") as address:
        yield address


def surfaces(n=6000):
    """Opaque Gaussians on a floor and on a ball above it, in axes with y down."""
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(n // 2, 3))
    floor = np.c_[rng.uniform(-2, 2, n // 2), np.full(n // 2, 1.0), rng.uniform(2, 6, n // 2)]
    arrays = gaussians_in_cube(n, degree=1)
    arrays["means"][: n // 2] = 0.8 * ball / np.linalg.norm(ball, axis=1, keepdims=True) + (0, 0, 4)
    arrays["means"][n // 2 :] = floor
    arrays["scales"][:], arrays["opacities"][:] = 0.05, 0.95
    return arrays


def a_reconstruction(by_photo=None):
    """`surfaces` with three cameras, as the importer brings them in; selected and active."""
    import bpy

    importer = blender.module("importer")
    c2w = np.tile(np.eye(4), (3, 1, 1))
    c2w[:, 0, 3] = (-0.5, 0, 0.5)
    K = np.array([[80.0, 0, 48], [0, 80, 36], [0, 0, 1]])
    photos = [importer.PhotoCamera(f"{i}.jpg", c2w[i], K, 96, 72, "train") for i in range(3)]
    imported = importer.add_scene("Scene", surfaces(), photos, bpy.context.scene, by_photo=by_photo)
    select(imported.splats)
    bpy.context.view_layer.update()
    return imported.splats, imported.splats.parent


def select(*objects):
    """Select these objects; the first is active."""
    import bpy

    bpy.ops.object.select_all(action="DESELECT")
    for x in objects:
        x.select_set(True)
    bpy.context.view_layer.objects.active = objects[0]


def an_empty(place):
    import bpy

    empty = bpy.data.objects.new("Mark", None)
    bpy.context.scene.collection.objects.link(empty)
    empty.location = place
    bpy.context.view_layer.update()
    return empty


def check_filter_buttons(folder, extension):
    """Crop, apply, decimate on a scene as it is imported; export as PLY."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    install(extension)
    ops = bpy.ops.pixworld
    assert not ops.add_edit.poll()
    cloud, root = a_reconstruction()
    editing, splats = blender.module("editing"), blender.module("splats")
    own = splats.arrays_of(cloud)

    assert ops.add_box() == {"FINISHED"}
    (edit,) = editing.edits(cloud)
    box = editing.value_of(edit, "Box")
    assert box.parent == root and len(editing.kept(cloud)) > 0.85 * len(own["means"])
    box.scale *= 0.5
    bpy.context.view_layer.update()
    select(box)  # the buttons still mean the splats
    assert ops.apply_edits() == {"FINISHED"} and not editing.edits(cloud)
    left = splats.arrays_of(cloud)
    inside = editing.in_box(own["means"], np.array(cloud.matrix_world.inverted() @ box.matrix_world))
    assert_same(left, subset(own, inside))
    cube = an_empty((1, 2, 3))
    select(cloud, cube, an_empty((2, 4, 4)))
    ops.add_box(fit="SELECTED")
    fitted = editing.value_of(editing.edits(cloud)[-1], "Box")
    bpy.context.view_layer.update()
    assert np.allclose(fitted.matrix_world.translation, (1.5, 3, 3.5), atol=1e-5)
    ops.remove_edit(name=editing.edits(cloud)[-1].name)
    assert len(editing.kept(cloud)) == len(left["means"])
    ops.decimate(budget=100)
    assert len(editing.kept(cloud)) <= 100 < len(cloud.data.points)
    ops.decimate(budget=50, apply=True)
    assert len(cloud.data.points) <= 50

    # a file; the suffix follows the format
    assert ops.export_splats(filepath=str(folder / "kept.spz")) == {"FINISHED"}
    assert (folder / "kept.ply").stat().st_size > len(cloud.data.points) * 4 * 20
    for nameless in ("", f"{folder}/", f"{folder}/.ply"):
        assert "No file name was given" in refusal(lambda x: ops.export_splats(filepath=x), nameless)
    assert not (folder.parent / f"{folder.name}.ply").exists()
    assert "is not a folder" in refusal(lambda: ops.export_splats(filepath=str(folder / "absent" / "kept.ply")))
    bpy.ops.ed.undo_push(message="test")
    edits = len(editing.edits(cloud))
    ops.add_edit()
    bpy.ops.ed.undo_push(message="test")
    bpy.ops.ed.undo()
    assert len(editing.edits(bpy.data.objects["Scene Splats"])) == edits

    # what another file owns is not changed here, where nothing would be saved; but it can be exported
    library = folder / "library.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(library))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    install(extension)
    with bpy.data.libraries.load(str(library), link=True) as (there, wanted):
        wanted.collections = [name for name in there.collections if name == "Scene"]
    bpy.context.scene.collection.children.link(wanted.collections[0])
    bpy.context.view_layer.update()
    select(bpy.data.objects["Scene Splats"])
    assert not ops.add_edit.poll() and not ops.apply_splat_transform.poll()
    assert ops.export_splats(filepath=str(folder / "linked.ply")) == {"FINISHED"}


def test_filter_buttons(tmp_path, extension):
    in_blender(check_filter_buttons, tmp_path, extension)


def check_placing_buttons(folder, extension):
    """The floor found and given by three points, a known distance, Apply Transform; the cameras come along."""
    import bpy
    from mathutils import Matrix

    bpy.ops.wm.read_factory_settings(use_empty=True)
    install(extension)
    ops, editing, splats = bpy.ops.pixworld, blender.module("editing"), blender.module("splats")
    cloud, root = a_reconstruction()
    camera = next(x for x in root.children_recursive if x.type == "CAMERA")
    to_camera = camera.matrix_world.inverted() @ cloud.matrix_world

    def floor_heights():
        bpy.context.view_layer.update()
        assert np.allclose(camera.matrix_world.inverted() @ cloud.matrix_world, to_camera, atol=1e-5)
        means = splats.arrays_of(cloud)["means"][3000:]
        return (means @ np.array(cloud.matrix_world)[:3, :3].T + np.array(cloud.matrix_world)[:3, 3])[:, 2]

    root.matrix_world = Matrix.Rotation(0.3, 4, "X") @ Matrix.Translation((0, 0, 2)) @ root.matrix_world
    assert np.ptp(floor_heights()) > 0.5
    assert ops.align_floor() == {"FINISHED"}
    assert np.abs(floor_heights()).max() < 0.01
    root.matrix_world = Matrix.Rotation(0.2, 4, "Y") @ root.matrix_world
    bpy.context.view_layer.update()
    corners = [cloud.matrix_world @ Matrix.Translation(p).translation for p in ((-2, 1, 2), (2, 1, 2), (0, 1, 6))]
    marks = [an_empty(place) for place in corners]
    select(cloud, *marks)
    assert ops.align_floor(by="SELECTED") == {"FINISHED"}
    assert np.abs(floor_heights()).max() < 1e-4
    assert all(abs(mark.matrix_world.translation.z) < 1e-5 for mark in marks)

    # a known distance: two marks, then one and the cursor
    select(cloud, *marks[:2])
    assert ops.set_distance(distance=2.0) == {"FINISHED"}
    bpy.context.view_layer.update()
    assert abs(root.matrix_world.median_scale - 0.5) < 1e-5
    assert abs((marks[0].matrix_world.translation - marks[1].matrix_world.translation).length - 2) < 1e-5
    select(cloud, marks[0])
    cursor = bpy.context.scene.cursor
    cursor.location = marks[0].matrix_world.translation + (marks[1].location - marks[0].location)
    ops.set_distance(distance=6.0)
    bpy.context.view_layer.update()
    assert abs(root.matrix_world.median_scale - 1.5) < 1e-5
    assert abs((cursor.location - marks[0].matrix_world.translation).length - 6) < 1e-4
    floor_heights()  # the cameras came along
    select(cloud, *marks)
    assert "select two" in refusal(lambda: ops.set_distance(distance=1.0))
    assert "2 objects are selected" in (select(cloud, *marks[:2]) or refusal(lambda: ops.align_floor(by="SELECTED")))

    # its own transform into the data: it looks the same, and the filter means the same
    select(cloud)
    ops.add_edit()
    cloud.scale, cloud.location, cloud.rotation_euler = (2, 2, 2), (1, 2, 3), (0.1, 0.2, 0.3)
    editing.set_values(editing.edits(cloud)[0], smallest_size=0.04)
    bpy.context.view_layer.update()
    matrix, before = np.array(cloud.matrix_world), splats.arrays_of(cloud)
    assert ops.apply_splat_transform() == {"FINISHED"}
    after = splats.arrays_of(cloud)
    assert np.allclose(cloud.matrix_basis, np.eye(4)) and np.allclose(after["scales"], 2 * before["scales"])
    assert abs(editing.value_of(editing.edits(cloud)[0], "Smallest Size") - 0.08) < 1e-6
    moved = before["means"] @ matrix[:3, :3].T + matrix[:3, 3]
    now = np.array(cloud.matrix_world)
    assert np.allclose(after["means"] @ now[:3, :3].T + now[:3, 3], moved, atol=1e-4)
    assert not np.allclose(after["sh"][:, 1:], before["sh"][:, 1:], atol=0.01)


def test_placing_buttons(tmp_path, extension):
    in_blender(check_placing_buttons, tmp_path, extension)


def check_backend_buttons(folder, extension, service):
    """Export, proxy mesh and re-generate through a live service."""
    import bpy

    set_up(extension, service)
    ops, jobs = bpy.ops.pixworld, blender.module("jobs")
    editing, splats = blender.module("editing"), blender.module("splats")
    cloud, root = a_reconstruction()
    ops.add_box()
    (edit,) = editing.edits(cloud)
    box = editing.value_of(edit, "Box")
    box.scale *= 0.5
    bpy.context.view_layer.update()

    kept = len(editing.kept(cloud))
    assert ops.export_splats(filepath=str(folder / "small.ply"), format="spz") == {"FINISHED"}
    finish(jobs, seconds=60)
    assert ops.export_splats(filepath=str(folder / "small"), format="ply") == {"FINISHED"}
    (folder / "kept.txt").write_text(str(kept))

    assert "is written" in jobs.session.notes[0]
    ops.remove_edit(name=edit.name)
    assert ops.add_proxy(resolution=64, collision=True) == {"FINISHED"}
    finish(jobs, seconds=60)
    assert not jobs.session.notes
    (made,) = (x for x in root.children_recursive if x.type == "MESH")
    bpy.context.view_layer.update()
    assert made.is_shadow_catcher and len(made.data.polygons) > 500
    vertices = np.array([v.co for v in made.data.vertices])
    off = np.minimum(
        np.abs(np.linalg.norm(vertices - (0, 0, 4), axis=1) - 0.8), np.abs(vertices[:, 1] - 1.0)
    )  # from the ball and the floor
    assert np.allclose(made.matrix_world, cloud.matrix_world) and np.median(off) < 0.1, np.median(off)

    before = splats.arrays_of(cloud)
    matrix = blender.module("regenerate").box_of(cloud, box)
    outside = ~editing.in_box(before["means"], matrix)
    how = {"box": box.name, "prompt": "a tree", "steps": 3, "seed": 4, "guidance": 2.0}
    card = {"task": "generate", "settings": {}, "photos": [], "cameras": []}
    cloud["pixworld_card"] = json.dumps(card)
    assert ops.regenerate(**how) == {"FINISHED"}
    assert "already" in refusal(lambda: ops.regenerate(**how)) or not ops.regenerate.poll()
    finish(jobs, seconds=60)
    after, rest = splats.arrays_of(cloud), int(outside.sum())
    assert_same({name: array[:rest] for name, array in after.items()}, subset(before, outside))
    assert 200 < len(after["means"]) - rest < 400  # (1 / 1.2)³ of 500
    assert editing.in_box(after["means"][rest:], matrix).all()
    (change,) = blender.module("requests").card_of(cloud)["regenerated"]
    assert (change["prompt"], change["options"]) == ("a tree", {"steps": 3, "seed": 4})
    assert change["boxes"].keys() == {cloud.name} and np.array_equal(change["boxes"][cloud.name], matrix)
    assert change["backend"]["version"] == jobs.session.about["version"]

    assert "No box was chosen" in refusal(lambda: ops.regenerate(box="nothing"))
    ops.regenerate(**how | {"prompt": "fail"})
    finish(jobs, "error", seconds=60)
    assert "no camera sees the box" in jobs.session.error
    ops.regenerate(**how)
    bpy.data.objects.remove(cloud)
    finish(jobs, "error", seconds=60)
    assert "no longer there" in jobs.session.error


def test_backend_buttons(tmp_path, extension, editing_service):
    from pixworld.splats import load_splats

    in_blender(check_backend_buttons, tmp_path, extension, editing_service)
    kept = int((tmp_path / "kept.txt").read_text())
    assert len(load_splats(tmp_path / "small.spz")) == len(load_splats(tmp_path / "small.ply")) == kept


def check_parts(folder, extension, service):
    """With one object a photo, the buttons are about all of them while the root is active; filters are of one."""
    import bpy
    from mathutils import Matrix

    set_up(extension, service)
    ops, jobs = bpy.ops.pixworld, blender.module("jobs")
    editing, splats = blender.module("editing"), blender.module("splats")
    labels = np.full(6000, -1, np.int32)
    labels[:3000], labels[3000:5500] = 0, 2  # the ball, most of the floor; the rest of it is of no photo
    first, root = a_reconstruction(labels)
    parts = [bpy.data.objects[f"{name} Splats"] for name in ("0.jpg", "2.jpg", "No Photo")]
    ball, floor, rest = parts
    assert first == ball
    rest.location.x += 0.1  # not as the others
    select(root)

    sent, run_task = {}, jobs.run_task

    def spy(task, fields, arrays, on_result):
        sent[task] = arrays
        run_task(task, fields, arrays, on_result)

    jobs.run_task = spy
    assert not ops.add_edit.poll() and not ops.decimate.poll() and not ops.apply_splat_transform.poll()
    select(floor)
    ops.add_edit()
    (edit,) = editing.edits(floor)
    editing.set_values(edit, budget=400)
    select(root)
    assert ops.export_splats(filepath=str(folder / "all.ply")) == {"FINISHED"}
    rest.hide_viewport = True
    assert ops.export_splats(filepath=str(folder / "shown.ply")) == {"FINISHED"}

    # the floor is found, though the first part is a ball
    editing.set_values(edit, budget=0)
    root.matrix_world = Matrix.Rotation(0.2, 4, "X") @ root.matrix_world
    bpy.context.view_layer.update()
    assert ops.align_floor() == {"FINISHED"}
    bpy.context.view_layer.update()
    means = splats.arrays_of(floor)["means"]
    heights = (means @ np.array(floor.matrix_world)[:3, :3].T + np.array(floor.matrix_world)[:3, 3])[:, 2]
    assert np.abs(heights).max() < 0.01

    root.location.z += 1  # while a part is hidden
    bpy.context.view_layer.update()
    assert ops.add_proxy(resolution=64, catcher=False) == {"FINISHED"}
    finish(jobs, seconds=60)
    assert len(sent["mesh"]["means"]) == 5500 and any(x.type == "MESH" for x in root.children)

    # in a box that holds the whole ball and some of the floor
    box = editing.add_box("Box", (-0.9, -0.9, 3.1), (0.9, 1.2, 4.9), ball.matrix_world)
    bpy.context.scene.collection.objects.link(box)
    editing.set_values(edit, minimum_opacity=0.99)  # hides all of the floor that is shown
    bpy.context.view_layer.update()
    stored = [splats.arrays_of(x) for x in parts]
    shift = np.array([[0, 0, 0], [0, 0, 0], [0.1, 0, 0]])
    matrix = blender.module("regenerate").box_of(ball, box)
    within = [editing.in_box(x["means"] + d, matrix) for x, d in zip(stored, shift)]
    assert within[0].all() and within[1].any() and within[2].any()
    select(root)
    assert ops.regenerate(box="Box", steps=3, seed=4, guidance=2.0) == {"FINISHED"}
    finish(jobs, seconds=60)
    assert not jobs.session.notes
    assert len(sent["regenerate"]["means"]) == 3000
    assert 200 < len(ball.data.points) < 400  # all of them new
    for part, arrays, inside in list(zip(parts, stored, within))[1:]:
        assert_same(splats.arrays_of(part), subset(arrays, ~inside))


def test_buttons_are_about_all_parts(tmp_path, extension, editing_service):
    from pixworld.splats import load_splats

    in_blender(check_parts, tmp_path, extension, editing_service)
    assert len(load_splats(tmp_path / "all.ply")) == 3000 + 400 + 500
    assert len(load_splats(tmp_path / "shown.ply")) == 3000 + 400


if __name__ == "__main__":
    blender.main(globals())
