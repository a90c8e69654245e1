"""The edit of splats in a real Blender: filters, crop boxes, budgets, colours, how renders show them."""

import blender
import numpy as np
from blender import (
    FIELDS,
    assert_same,
    gaussians_in_cube,
    in_blender,
    moved_splats,
    psnr,
    refusal,
    render_frame,
    subset,
)

pytestmark = blender.needs_bpy


def check_filters(folder):
    """Each filter hides what it says; together, saved and loaded, they say the same; to apply keeps what is shown."""
    import bpy

    from blender_addon import editing, shading, splats

    arrays = gaussians_in_cube() | {"confidence": np.linspace(0, 1, 3000, dtype=np.float32)}
    _, cloud, own = moved_splats(arrays)
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
        assert "hide every Gaussian" in refusal(action, cloud)
    cloud.hide_set(True)
    assert "is hidden" in refusal(editing.shown, cloud)


def test_filters(tmp_path):
    in_blender(check_filters, tmp_path)


def check_apply_with_others(folder):
    """To apply takes in the edits that are on, and nothing else: other modifiers stay and act once."""
    import bpy

    from blender_addon import editing, shading, splats

    _, cloud, own = moved_splats(gaussians_in_cube())
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

    root, cloud, own = moved_splats(gaussians_in_cube())
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

    _, cloud, own = moved_splats(gaussians_in_cube())
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

    equal = gaussians_in_cube(20_000, degree=0)
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

    arrays = gaussians_in_cube()
    arrays["sh"] *= 0.1  # nowhere below black, where what is seen is no longer linear
    _, cloud, own = moved_splats(arrays)
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
    gaussians = gaussians_in_cube(4000)
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
    np.save(folder / "frame.npy", render_frame(scene, folder))


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
    reached = psnr(np.load(tmp_path / "frame.npy")[..., :3], ours)
    print(f"Cycles against pixworld.render, edited: {reached:.1f} dB")
    assert ours.mean() > 0.02 and reached > 50


if __name__ == "__main__":
    blender.main(globals())
