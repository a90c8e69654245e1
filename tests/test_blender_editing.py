"""Editing in a real Blender: filters, crop boxes, colours, alignment, export, proxy meshes, what is in a box anew."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blender import MODULE, build, in_blender, install, main, module

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

pytestmark = pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="bpy is not installed")

FIELDS = ("means", "quats", "scales", "opacities", "sh")


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


def some_gaussians(n=3000, degree=2, seed=0):
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


def a_scene(arrays, shade=True):
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
    if shade:
        shading.shade(cloud)
    bpy.context.view_layer.update()
    return root, cloud, splats.arrays_of(cloud)


def assert_same(got, want, tolerance=0.0):
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert got[name].shape == values.shape, name
        assert np.abs(got[name] - values).max(initial=0) <= tolerance, name


def subset(arrays, which):
    return {name: array[which] for name, array in arrays.items()}


def fails(action, *args):
    """The sentence of a ValueError, or the error that an operator reports."""
    try:
        action(*args)
    except (ValueError, RuntimeError) as error:
        return str(error)
    raise AssertionError("nothing was refused")


# --- filters


def check_filters(folder):
    """Each filter hides what it says; together, saved and loaded, they say the same; to apply keeps what is shown."""
    import bpy

    from blender_addon import editing, shading, splats

    arrays = some_gaussians() | {"confidence": np.linspace(0, 1, 3000, dtype=np.float32)}
    _, cloud, own = a_scene(arrays)
    edit = editing.add(cloud)
    assert [m.node_group.name for m in cloud.modifiers] == ["PixWorld Edit", shading.GROUP]
    assert_same(editing.shown(cloud), own)

    longest = own["scales"].max(axis=1)
    off = {"minimum_opacity": 0.0, "smallest_size": 0.0, "largest_size": 0.0, "minimum_confidence": 0.0}
    masks = {
        "minimum_opacity": own["opacities"] >= np.float32(0.3),
        "smallest_size": longest >= np.float32(0.3),
        "largest_size": longest <= np.float32(0.3),
        "minimum_confidence": own["confidence"] >= np.float32(0.3),
    }
    for name, mask in masks.items():
        editing.set_values(edit, **off | {name: 0.3})
        assert 0 < mask.sum() < len(mask)
        assert_same(editing.shown(cloud), subset(own, mask))
        assert np.array_equal(editing.kept(cloud), np.flatnonzero(mask))

    editing.set_values(edit, **off | {"minimum_opacity": 0.3, "minimum_confidence": 0.3})
    mask = masks["minimum_opacity"] & masks["minimum_confidence"]
    assert "pixworld_index" not in cloud.data.attributes and cloud.modifiers[1].show_viewport
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "edited.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "edited.blend"))
    cloud = bpy.data.objects["Splats"]
    assert_same(editing.shown(cloud), subset(own, mask))

    assert editing.delete_hidden(cloud) == mask.sum() and len(editing.edits(cloud)) == 1
    assert_same(splats.arrays_of(cloud), subset(own, mask))
    editing.set_values(editing.edits(cloud)[0], minimum_opacity=0.6)
    shown = editing.shown(cloud)
    assert editing.apply(cloud) == len(shown["means"]) < mask.sum()
    assert_same(splats.arrays_of(cloud), shown)
    assert [m.node_group.name for m in cloud.modifiers] == [shading.GROUP]
    assert cloud.parent.name == "Root" and len(cloud.data.materials) == 1

    editing.set_values(editing.add(cloud), smallest_size=100.0)
    assert len(editing.kept(cloud)) == 0 == len(editing.shown(cloud)["means"])
    for action in (editing.apply, editing.delete_hidden):
        assert "hide every Gaussian" in fails(action, cloud)
    cloud.hide_set(True)
    assert "is hidden" in fails(editing.shown, cloud)


def test_filters(tmp_path):
    in_blender(check_filters, tmp_path)


def check_apply_with_others(folder):
    """To apply takes in the edits that are on, and nothing else: other modifiers stay and act once."""
    import bpy

    from blender_addon import editing, shading, splats

    _, cloud, own = a_scene(some_gaussians())
    tree = bpy.data.node_groups.new("Shift", "GeometryNodeTree")
    for in_out in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=in_out, socket_type="NodeSocketGeometry")
    source, shift, sink = map(tree.nodes.new, ("NodeGroupInput", "GeometryNodeSetPosition", "NodeGroupOutput"))
    shift.inputs["Offset"].default_value = (1, 0, 0)
    tree.links.new(source.outputs[0], shift.inputs[0])
    tree.links.new(shift.outputs[0], sink.inputs[0])
    cloud.modifiers.new("Shift", "NODES").node_group = tree
    cloud.modifiers.move(1, 0)
    on, off = editing.add(cloud), editing.add(cloud)
    editing.set_values(on, minimum_opacity=0.3)
    editing.set_values(off, minimum_opacity=0.9)
    off.show_viewport = False

    before = editing.shown(cloud)
    assert np.allclose(before["means"], own["means"][own["opacities"] >= np.float32(0.3)] + (1, 0, 0), atol=1e-5)
    editing.apply(cloud)
    assert_same(splats.arrays_of(cloud), subset(own, own["opacities"] >= np.float32(0.3)))
    assert_same(editing.shown(cloud), before)
    names = ["Shift", "PixWorld Edit", shading.GROUP]
    assert [m.node_group.name for m in cloud.modifiers] == names and not cloud.modifiers[1].show_viewport


def test_apply_with_other_modifiers(tmp_path):
    in_blender(check_apply_with_others, tmp_path)


def check_box(folder):
    """A box counts where it is: parented, stretched, turned, moved; when it is deleted, nothing is cropped."""
    import bpy
    from mathutils import Matrix

    from blender_addon import editing

    root, cloud, own = a_scene(some_gaussians())
    edit = editing.add(cloud)
    frame = cloud.matrix_world @ Matrix.Rotation(0.4, 4, "Z")
    box = editing.add_box("Box", (-1, -0.5, -1), (1.5, 1, 0.7), frame)
    holder = bpy.data.objects.new("Holder", None)
    for thing in (box, holder):
        bpy.context.scene.collection.objects.link(thing)
    holder.location = cloud.matrix_world.translation
    bpy.context.view_layer.update()
    editing.set_values(edit, box=box)

    def inside():
        bpy.context.view_layer.update()
        return editing.in_box(own["means"], np.array(cloud.matrix_world.inverted() @ box.matrix_world))

    placed = own["means"] @ np.array(Matrix.Rotation(-0.4, 3, "Z")).T
    expected = ((placed >= (-1, -0.5, -1)) & (placed <= (1.5, 1, 0.7))).all(axis=1)
    assert np.array_equal(inside(), expected) and 100 < expected.sum() < 2900
    assert_same(editing.shown(cloud), subset(own, inside()))
    box.parent, box.matrix_parent_inverse = holder, holder.matrix_world.inverted()
    holder.scale, holder.rotation_euler = (0.5, 1, 1.5), (0.3, 0, 0)  # shears the box
    counts = [int(expected.sum()), int(inside().sum())]
    assert_same(editing.shown(cloud), subset(own, inside()))
    editing.set_values(edit, remove_inside=True)
    assert_same(editing.shown(cloud), subset(own, ~inside()))
    holder.location.x += 0.4
    root.scale = (1.2, 1.2, 1.2)
    counts.append(int(inside().sum()))
    assert_same(editing.shown(cloud), subset(own, ~inside()))
    assert len(set(counts)) == 3, counts
    box.scale.x = 0  # flat
    bpy.context.view_layer.update()
    assert_same(editing.shown(cloud), own)
    bpy.data.objects.remove(box)
    assert_same(editing.shown(cloud), own)

    low, high = editing.extent(own["means"], own["opacities"])
    assert np.allclose(low, -2.04, atol=0.06) and np.allclose(high, 2.04, atol=0.06)


def test_box(tmp_path):
    in_blender(check_box, tmp_path)


def check_budget(folder):
    """At most so many, the most important within 1 %, always the same ones; equal ones thin out evenly."""
    from blender_addon import editing, splats

    _, cloud, own = a_scene(some_gaussians())
    edit = editing.add(cloud)
    importance = own["opacities"] * own["scales"].prod(axis=1) / own["scales"].min(axis=1)
    for budget in (1, 500, 2999):
        editing.set_values(edit, budget=budget)
        kept = editing.kept(cloud)
        assert len(kept) == budget and np.array_equal(editing.kept(cloud), kept)
        assert importance[kept].min() >= 0.98 * np.sort(importance)[-budget]
        assert_same(editing.shown(cloud), subset(own, kept))
    for budget in (0, 3000, 10_000):
        editing.set_values(edit, budget=budget)
        assert len(editing.kept(cloud)) == 3000
    editing.set_values(edit, budget=500, minimum_opacity=0.5)
    assert len(editing.kept(cloud)) == 500 and editing.shown(cloud)["opacities"].min() >= 0.5

    equal = some_gaussians(20_000, degree=0)
    equal["scales"][:], equal["opacities"][:] = 0.1, 0.7
    equal["means"] = np.sort(equal["means"], axis=0)
    splats.replace(cloud, equal)
    editing.set_values(edit, budget=5000, minimum_opacity=0.0)
    kept = editing.kept(cloud)
    assert 4900 <= len(kept) <= 5000
    assert np.allclose(np.histogram(kept, 4, (0, 20_000))[0], 1250, atol=150)


def test_budget(tmp_path):
    in_blender(check_budget, tmp_path)


def check_colours(folder):
    """A change of colour is linear, of what is seen from any side, and adds no bands."""
    from blender_addon import edit_nodes, editing, splats
    from blender_addon.harmonics import C0, colours

    arrays = some_gaussians()
    arrays["sh"] *= 0.1  # nowhere below black, where what is seen is no longer linear
    _, cloud, own = a_scene(arrays)
    edit = editing.add(cloud)
    tint = np.array((1, 0.5, 0.9))
    editing.set_values(edit, gain=1.2, saturation=0.4, tint=(*tint, 1))
    shown = editing.shown(cloud)
    assert_same(shown | {"sh": own["sh"]}, own)
    for direction in np.random.default_rng(0).normal(size=(5, 3)):
        before, after = (colours(a["sh"], np.tile(direction, (3000, 1))) for a in (own, shown))
        grey = before @ np.array(edit_nodes.LUMA)[:, None]
        wanted = 1.2 * tint * (grey + 0.4 * (before - grey))
        assert before.min() > 0 and np.abs(after - wanted).max() < 1e-5

    editing.apply(cloud)
    assert np.array_equal(splats.arrays_of(cloud)["sh"], shown["sh"])
    editing.set_values(editing.add(cloud), gain=0.0)
    assert np.allclose(0.5 + C0 * editing.shown(cloud)["sh"][:, 0], 0, atol=1e-6)


def test_colours(tmp_path):
    in_blender(check_colours, tmp_path)


def check_render(folder):
    """Save what Cycles shows of splats that are filtered and tinted, and what it should be of."""
    import bpy

    from blender_addon import cameras, editing, importer, rendering

    bpy.ops.wm.read_factory_settings(use_empty=True)  # no light, no grey world
    scene = bpy.context.scene
    K = np.array([[90.0, 0, 48], [0, 90, 36], [0, 0, 1]])
    photo = importer.PhotoCamera("a.jpg", np.eye(4), K, 96, 72, "train")
    gaussians = some_gaussians(4000)
    gaussians["means"] += (0, 0, 4)
    imported = importer.add_scene("Scene", gaussians, [photo], scene)
    cloud = imported.splats
    bpy.context.view_layer.update()
    edit = editing.add(cloud)
    box = editing.add_box("Box", (-1, -1, 2), (1.5, 1, 8), cloud.matrix_world)
    scene.collection.objects.link(box)
    editing.set_values(edit, minimum_opacity=0.4, largest_size=0.2, box=box, tint=(1, 0.7, 0.4, 1), budget=500)
    np.savez(folder / "shown.npz", **editing.shown(cloud))
    rendering.match_training(scene)
    cameras.look_through(imported.cameras[0], scene)
    render = scene.render
    render.threads_mode, render.threads = "FIXED", 1
    render.image_settings.file_format, render.image_settings.color_depth = "OPEN_EXR", "32"
    render.filepath = str(folder / "frame.exr")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(folder / "frame.exr"))
    values = np.empty(96 * 72 * 4, np.float32)
    image.pixels.foreach_get(values)
    np.save(folder / "frame.npy", values.reshape(72, 96, 4)[::-1, :, :3])


def test_render_shows_the_edits(tmp_path):
    import torch

    from pixworld.cameras import Cameras
    from pixworld.gaussians import Gaussians
    from pixworld.render import render

    in_blender(check_render, tmp_path)
    shown = np.load(tmp_path / "shown.npz")
    gaussians = Gaussians(*(torch.from_numpy(shown[name]) for name in FIELDS))
    assert 100 < len(gaussians) <= 500
    K = torch.tensor([[[90.0, 0, 48], [0, 90, 36], [0, 0, 1]]])
    ours = render(gaussians, Cameras(torch.eye(4)[None], K, 72, 96)).rgb[0].permute(1, 2, 0).numpy()
    psnr = -10 * np.log10(((ours - np.load(tmp_path / "frame.npy")) ** 2).mean())
    print(f"Cycles against pixworld.render, edited: {psnr:.1f} dB")
    assert ours.mean() > 0.02 and psnr > 50


# --- alignment


def test_floor_is_found():
    from blender_addon import alignment

    rng = np.random.default_rng(1)
    room = [
        np.c_[rng.uniform(-3, 3, (1500, 2)), rng.normal(0, 0.01, 1500)],  # the floor
        np.c_[rng.uniform(-3, 3, (2500, 2)), rng.normal(2.4, 0.01, 2500)],  # the ceiling has more points
        np.c_[rng.uniform(-0.8, 0.8, (1200, 2)), rng.normal(0.8, 0.005, 1200)],  # a table
        np.c_[np.full(2000, 3.0), rng.uniform(-3, 3, 2000), rng.uniform(0, 2.4, 2000)],  # a wall
        rng.uniform((-3, -3, -0.5), (3, 3, 2.4), (800, 3)),  # noise, some of it below
    ]
    points = np.concatenate(room)
    axis = np.array([1.0, 2.0, 0.0]) / np.sqrt(5)
    angle = np.radians(20)
    skew = np.array([[0, 0, axis[1]], [0, 0, -axis[0]], [-axis[1], axis[0], 0]])
    tilt = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    offset = np.array([0.3, -1, 5])
    plane = alignment.floor_of(points @ tilt.T + offset)
    assert np.degrees(np.arccos(plane.normal @ tilt[:, 2])) < 0.5
    assert alignment.floor_of(points @ tilt.T + offset).height == plane.height
    matrix = alignment.level(plane)
    levelled = (room[0] @ tilt.T + offset) @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.abs(levelled[:, 2]).mean() < 0.03
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3)) and np.linalg.det(matrix[:3, :3]) > 0

    with pytest.raises(ValueError, match="No floor was found"):
        alignment.floor_of(np.c_[np.zeros(500), rng.uniform(-3, 3, (500, 2))])
    with pytest.raises(ValueError, match="too few"):
        alignment.floor_of(points[:10])


def test_points_and_distances():
    from blender_addon import alignment

    points = np.array([[0, 0, 1], [2, 0, 1.5], [0, 3, 0.5]])
    for order in ([0, 1, 2], [2, 1, 0]):
        plane = alignment.plane_through(points[order])
        assert plane.normal[2] > 0 and np.allclose(points @ plane.normal, plane.height)
        moved = np.c_[points, np.ones(3)] @ alignment.level(plane).T
        assert np.allclose(moved[:, 2], 0)
    with pytest.raises(ValueError, match="in a line"):
        alignment.plane_through([[0, 0, 0], [1, 1, 1], [2, 2, 2]])

    a, b = np.array([1.0, 2, 3]), np.array([1.0, 2, 5])
    matrix = alignment.scale_between(a, b, 7)
    assert np.allclose(matrix @ [*a, 1], [*a, 1]) and np.allclose(matrix @ [*b, 1], [1, 2, 10, 1])
    with pytest.raises(ValueError, match="same place"):
        alignment.scale_between(a, a, 1)


# --- export


def check_export(folder):
    """A PLY of the splats as edited, in three kinds of axes; nothing of it when it cannot be written."""
    import bpy
    from mathutils import Matrix

    from blender_addon import editing, export

    root, cloud, own = a_scene(some_gaussians(degree=3))
    np.savez(folder / "own.npz", **own)
    edit = editing.add(cloud)
    cloud.matrix_basis = Matrix.Identity(4)
    bpy.context.view_layer.update()

    def save(name, frame):
        export.write_ply(folder / name, export.placed(editing.shown(cloud), export.frame_of(cloud, frame)))

    save("scene.ply", "SCENE")
    editing.set_values(edit, minimum_opacity=0.5)
    cloud.location = (1, 0, 0)
    bpy.context.view_layer.update()
    save("edited.ply", "SCENE")
    save("blender.ply", "BLENDER")
    save("world.ply", "WORLD")
    np.savez(folder / "frames.npz", world=np.array(cloud.matrix_world))
    root.scale = (1, 2, 1)
    bpy.context.view_layer.update()
    assert "not stretched" in fails(save, "stretched.ply", "WORLD")
    assert "cannot be written" in fails(save, "absent/scene.ply", "SCENE")
    assert sorted(x.name for x in folder.glob("*.ply")) == ["blender.ply", "edited.ply", "scene.ply", "world.ply"]
    assert not list(folder.glob(".*"))


def test_export(tmp_path):
    import torch

    from pixworld.gaussians import Gaussians, quat_to_matrix
    from pixworld.splats import load_splats, save_ply

    in_blender(check_export, tmp_path)
    own = Gaussians(*(torch.from_numpy(np.load(tmp_path / "own.npz")[name]) for name in FIELDS))
    save_ply(tmp_path / "ours.ply", own)
    assert (tmp_path / "scene.ply").read_bytes() == (tmp_path / "ours.ply").read_bytes()

    def assert_close(name, wanted):
        got = load_splats(tmp_path / name)
        assert len(got) == len(wanted)
        for field in ("means", "scales", "opacities", "sh"):
            torch.testing.assert_close(getattr(got, field), getattr(wanted, field), atol=3e-5, rtol=3e-5)
        torch.testing.assert_close(quat_to_matrix(got.quats), quat_to_matrix(wanted.quats), atol=3e-5, rtol=0)

    left = own.select(own.opacities >= 0.5)
    assert 1000 < len(left) < 2000
    assert_close("edited.ply", left.transform(1.0, torch.eye(3), torch.tensor([1.0, 0, 0])))
    world = torch.from_numpy(np.load(tmp_path / "frames.npz")["world"]).float()
    scale = float(torch.det(world[:3, :3])) ** (1 / 3)
    assert abs(scale - 0.7) < 1e-5
    placed = left.transform(scale, world[:3, :3] / scale, world[:3, 3])
    assert_close("blender.ply", placed)
    y_down = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert_close("world.ply", placed.transform(1.0, y_down, torch.zeros(3)))


# --- proxy, and what is in a box anew


def check_proxy(folder):
    """The mesh lies where the splats are, and renders only as a catcher of shadows."""
    import bpy

    from blender_addon import proxy

    root, cloud, _ = a_scene(some_gaussians(100))
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [2, 1, 3]], np.int32)
    made = proxy.make("Proxy", vertices, faces, cloud, ratio=0.5, collision=True)
    scene = bpy.context.scene
    assert "move them to a collection" in fails(proxy.add_to, scene, made)
    own = bpy.data.collections.new("Own")
    scene.collection.children.link(own)
    own.objects.link(cloud)
    scene.collection.objects.unlink(cloud)
    proxy.add_to(scene, made)
    bpy.context.view_layer.update()
    assert made.parent == root and np.allclose(made.matrix_world, cloud.matrix_world)
    assert [len(x) for x in (made.data.vertices, made.data.edges, made.data.polygons)] == [4, 5, 2]
    assert [tuple(p.vertices) for p in made.data.polygons] == [(0, 1, 2), (2, 1, 3)]
    assert made.is_shadow_catcher and not made.hide_render and made.display_type == "WIRE"
    assert [m.type for m in made.modifiers] == ["DECIMATE", "COLLISION"] and made.modifiers[0].ratio == 0.5

    picture, shadows = scene.view_layers
    assert shadows.name == proxy.SHADOWS and shadows.cycles.use_pass_shadow_catcher
    assert picture.layer_collection.children["Proxy"].indirect_only
    assert not picture.layer_collection.children["Own"].exclude
    assert shadows.layer_collection.children["Own"].exclude
    assert not shadows.layer_collection.children["Proxy"].indirect_only

    plain = proxy.make("Plain", vertices, faces, cloud, catcher=False)
    proxy.add_to(scene, plain)
    assert plain.hide_render and not plain.is_shadow_catcher and not plain.modifiers
    assert "No surface" in fails(proxy.make, "None", vertices, faces[:0], cloud)
    assert "same version" in fails(proxy.make, "Bad", vertices[:3], faces, cloud)


def test_proxy(tmp_path):
    in_blender(check_proxy, tmp_path)


def check_take_in(folder):
    """What is in the box is replaced; all else stays bit for bit, as it is stored."""
    import bpy

    from blender_addon import editing, regenerate

    _, cloud, own = a_scene(some_gaussians() | {"confidence": np.linspace(0, 1, 3000, dtype=np.float32)})
    box = editing.add_box("Box", (-1, -0.5, -1), (0.5, 1, 0.7), cloud.matrix_world)
    bpy.context.scene.collection.objects.link(box)
    bpy.context.view_layer.update()
    matrix = regenerate.box_of(cloud, box)
    inside = editing.in_box(own["means"], matrix)

    def stored(cloud):
        """Every attribute as it is stored: name -> [n c]."""
        out = {}
        for attribute in cloud.data.attributes:
            if attribute.name.startswith("."):  # Blender's own selection
                continue
            width = {"FLOAT": 1, "FLOAT_VECTOR": 3}.get(attribute.data_type, 4)
            values = np.empty(len(cloud.data.points) * width, np.float32)
            prop = {"FLOAT_VECTOR": "vector", "FLOAT4": "vector", "FLOAT_COLOR": "color"}.get(
                attribute.data_type, "value"
            )
            attribute.data.foreach_get(prop, values)
            out[attribute.name] = values.reshape(-1, width)
        return out

    before = stored(cloud)
    made = some_gaussians(800, degree=1, seed=1)
    fits = editing.in_box(made["means"], matrix)
    assert 0 < fits.sum() < 800
    assert regenerate.take_in(cloud, matrix, made) == []
    after, kept = stored(cloud), int((~inside).sum())
    assert before.keys() == after.keys() and len(cloud.data.points) == kept + fits.sum()
    for name, values in before.items():
        assert np.array_equal(after[name][:kept].view(np.int32), values[~inside].view(np.int32)), name
    assert np.array_equal(after["position"][kept:], made["means"][fits])
    assert np.array_equal(after["radiance:sh_2"][kept:], made["sh"][fits, 3])
    assert not after["radiance:sh_3"][kept:].any() and (after["confidence"][kept:] == 1).all()

    assert "nothing inside" in fails(regenerate.take_in, cloud, matrix, some_gaussians(0))
    other = a_scene(subset(made, fits))[1]  # all of it is in the box
    other.matrix_basis = cloud.matrix_basis
    bpy.context.view_layer.update()
    regenerate.take_in(cloud, matrix, made, [(other, matrix)])
    assert len(other.data.points) == 0 and len(cloud.data.points) == kept + fits.sum()
    assert len(editing.shown_together([other, cloud])["means"]) == kept + fits.sum()
    editing.set_values(editing.add(cloud), minimum_opacity=1.0)
    (note,) = regenerate.take_in(cloud, matrix, made)
    assert f"hide {fits.sum():,} of the {fits.sum():,} new splats" in note
    box.scale.x = 0
    bpy.context.view_layer.update()
    assert "is flat" in fails(regenerate.box_of, cloud, box)


def test_what_is_outside_the_box_stays(tmp_path):
    in_blender(check_take_in, tmp_path)


def check_views(folder):
    """The cameras go out in the space of the splats, whatever was done to the scene."""
    import bpy

    from blender_addon import importer, regenerate

    rng = np.random.default_rng(0)
    poses, lenses = [], []
    for _ in range(3):
        pose = np.eye(4)
        pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pose[:3, :3] *= np.linalg.det(pose[:3, :3])
        pose[:3, 3] = rng.normal(size=3)
        poses.append(pose)
        lenses.append(np.array([[110.0, 0, 70.5], [0, 120, 40], [0, 0, 1]]))
    photos = [importer.PhotoCamera(f"{i}.jpg", poses[i], lenses[i], 128, 96, "train") for i in range(3)]
    imported = importer.add_scene("Scene", some_gaussians(100), photos, bpy.context.scene)
    root = imported.splats.parent
    root.location, root.rotation_euler, root.scale = (1, 2, 3), (0.3, 0.5, -1), (0.5, 0.5, 0.5)
    bpy.context.view_layer.update()
    views = regenerate.views_of(imported.splats, bpy.context.scene)
    assert np.allclose(views["c2w"], poses, atol=1e-5) and np.allclose(views["K"], lenses, atol=1e-3)
    assert views["sizes"].tolist() == [[96, 128]] * 3 and views["sizes"].dtype == np.int32

    for camera in imported.cameras:
        bpy.data.objects.remove(camera)
    scene = bpy.context.scene
    assert scene.camera is not None  # the default one stands in
    render = scene.render
    views = regenerate.views_of(imported.splats, scene)
    assert views["sizes"].tolist() == [[render.resolution_y, render.resolution_x]]
    scene.camera = None
    assert len(regenerate.views_of(imported.splats, scene)["c2w"]) == 0
    root.scale = (1, 2, 1)
    bpy.context.view_layer.update()
    assert "stretched" in fails(regenerate.views_of, imported.splats, scene)


def test_cameras_in_the_space_of_the_splats(tmp_path):
    in_blender(check_views, tmp_path)


# --- the buttons


@pytest.fixture(scope="module")
def service():
    """A real backend with the tasks of editing_jobs.py; its address."""
    code = "from backend import server; server.serve('tcp://127.0.0.1:*', 'cpu', 'editing_jobs')"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[4].rstrip(";")
    process.terminate()
    process.wait(10)


def surfaces(n=6000):
    """Opaque Gaussians on a floor and on a ball above it, in axes with y down."""
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(n // 2, 3))
    floor = np.c_[rng.uniform(-2, 2, n // 2), np.full(n // 2, 1.0), rng.uniform(2, 6, n // 2)]
    arrays = some_gaussians(n, degree=1)
    arrays["means"][: n // 2] = 0.8 * ball / np.linalg.norm(ball, axis=1, keepdims=True) + (0, 0, 4)
    arrays["means"][n // 2 :] = floor
    arrays["scales"][:], arrays["opacities"][:] = 0.05, 0.95
    return arrays


def a_reconstruction(by_photo=None):
    """`surfaces` with three cameras, as the importer brings them in; selected and active."""
    import bpy

    importer = module("importer")
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
    editing, splats = module("editing"), module("splats")
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
        assert "No file name was given" in fails(lambda x: ops.export_splats(filepath=x), nameless)
    assert not (folder.parent / f"{folder.name}.ply").exists()
    assert "is not a folder" in fails(lambda: ops.export_splats(filepath=str(folder / "absent" / "kept.ply")))
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
    ops, editing, splats = bpy.ops.pixworld, module("editing"), module("splats")
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
    assert "select two" in fails(lambda: ops.set_distance(distance=1.0))
    assert "2 objects are selected" in (select(cloud, *marks[:2]) or fails(lambda: ops.align_floor(by="SELECTED")))

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

    bpy.ops.wm.read_factory_settings(use_empty=True)
    install(extension)
    bpy.context.preferences.addons[MODULE].preferences.address = service
    ops, jobs, editing, splats = bpy.ops.pixworld, module("jobs"), module("editing"), module("splats")
    cloud, root = a_reconstruction()
    ops.add_box()
    (edit,) = editing.edits(cloud)
    box = editing.value_of(edit, "Box")
    box.scale *= 0.5
    bpy.context.view_layer.update()

    def finish(state="done"):
        deadline = time.monotonic() + 60
        while jobs.session.state not in ("done", "error", "cancelled"):
            assert time.monotonic() < deadline, jobs.session.state
            jobs.tick()
            time.sleep(0.01)
        assert jobs.session.state == state, jobs.session.error

    kept = len(editing.kept(cloud))
    assert ops.export_splats(filepath=str(folder / "small.ply"), format="spz") == {"FINISHED"}
    finish()
    assert ops.export_splats(filepath=str(folder / "small"), format="ply") == {"FINISHED"}
    (folder / "kept.txt").write_text(str(kept))

    assert "is written" in jobs.session.notes[0]
    ops.remove_edit(name=edit.name)
    assert ops.add_proxy(resolution=64, collision=True) == {"FINISHED"}
    finish()
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
    matrix = module("regenerate").box_of(cloud, box)
    outside = ~editing.in_box(before["means"], matrix)
    how = {"box": box.name, "prompt": "a tree", "steps": 3, "seed": 4, "guidance": 2.0}
    card = {"task": "generate", "settings": {}, "photos": [], "cameras": []}
    cloud["pixworld_card"] = json.dumps(card)
    assert ops.regenerate(**how) == {"FINISHED"}
    assert "already" in fails(lambda: ops.regenerate(**how)) or not ops.regenerate.poll()
    finish()
    after, rest = splats.arrays_of(cloud), int(outside.sum())
    assert_same({name: array[:rest] for name, array in after.items()}, subset(before, outside))
    assert 200 < len(after["means"]) - rest < 400  # (1 / 1.2)³ of 500
    assert editing.in_box(after["means"][rest:], matrix).all()
    (change,) = module("requests").card_of(cloud)["regenerated"]
    assert (change["prompt"], change["options"], change["splats"]) == ("a tree", {"steps": 3, "seed": 4}, cloud.name)
    assert np.array_equal(change["box"], matrix)

    assert "No box was chosen" in fails(lambda: ops.regenerate(box="nothing"))
    ops.regenerate(**how | {"prompt": "fail"})
    finish("error")
    assert "no camera sees the box" in jobs.session.error
    ops.regenerate(**how)
    bpy.data.objects.remove(cloud)
    finish("error")
    assert "no longer there" in jobs.session.error


def check_parts(folder, extension, service):
    """With one object a photo, the buttons are about all of them while the root is active; filters are of one."""
    import bpy
    from mathutils import Matrix

    bpy.ops.wm.read_factory_settings(use_empty=True)
    install(extension)
    bpy.context.preferences.addons[MODULE].preferences.address = service
    ops, jobs, editing, splats = bpy.ops.pixworld, module("jobs"), module("editing"), module("splats")
    labels = np.full(6000, -1, np.int32)
    labels[:3000], labels[3000:5500] = 0, 2  # the ball, most of the floor; the rest of it is of no photo
    first, root = a_reconstruction(labels)
    parts = [bpy.data.objects[f"{name} Splats"] for name in ("0.jpg", "2.jpg", "No Photo")]
    ball, floor, rest = parts
    assert first == ball
    rest.location.x += 0.1  # not as the others
    select(root)

    def finish():
        deadline = time.monotonic() + 60
        while jobs.session.state not in ("done", "error", "cancelled"):
            assert time.monotonic() < deadline, jobs.session.state
            jobs.tick()
            time.sleep(0.01)
        assert jobs.session.state == "done", jobs.session.error

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
    finish()
    assert len(sent["mesh"]["means"]) == 5500 and any(x.type == "MESH" for x in root.children)

    # in a box that holds the whole ball and some of the floor
    box = editing.add_box("Box", (-0.9, -0.9, 3.1), (0.9, 1.2, 4.9), ball.matrix_world)
    bpy.context.scene.collection.objects.link(box)
    editing.set_values(edit, minimum_opacity=0.99)  # hides all of the floor that is shown
    bpy.context.view_layer.update()
    stored = [splats.arrays_of(x) for x in parts]
    shift = np.array([[0, 0, 0], [0, 0, 0], [0.1, 0, 0]])
    within = [editing.in_box(x["means"] + d, module("regenerate").box_of(ball, box)) for x, d in zip(stored, shift)]
    assert within[0].all() and within[1].any() and within[2].any()
    select(root)
    assert ops.regenerate(box="Box", steps=3, seed=4, guidance=2.0) == {"FINISHED"}
    finish()
    assert not jobs.session.notes
    assert len(sent["regenerate"]["means"]) == 3000
    assert 200 < len(ball.data.points) < 400  # all of them new
    for part, arrays, inside in list(zip(parts, stored, within))[1:]:
        assert_same(splats.arrays_of(part), subset(arrays, ~inside))


def test_buttons_are_about_all_parts(tmp_path, extension, service):
    from pixworld.splats import load_splats

    in_blender(check_parts, tmp_path, extension, service)
    assert len(load_splats(tmp_path / "all.ply")) == 3000 + 400 + 500
    assert len(load_splats(tmp_path / "shown.ply")) == 3000 + 400


def test_backend_buttons(tmp_path, extension, service):
    from pixworld.splats import load_splats

    in_blender(check_backend_buttons, tmp_path, extension, service)
    kept = int((tmp_path / "kept.txt").read_text())
    assert len(load_splats(tmp_path / "small.spz")) == len(load_splats(tmp_path / "small.ply")) == kept


if __name__ == "__main__":
    main(globals())
