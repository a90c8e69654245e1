"""Splats in a real Blender: their data, how they look in renders and viewports, and the passes."""

import contextlib

import blender
import numpy as np
import pytest
import torch
from blender import FIELDS, gaussians_in_view, in_blender, psnr, render_frame

pytestmark = blender.needs_bpy

WIDTH, HEIGHT = 96, 72
K = np.array([[90.0, 0, 52], [0, 90, 30], [0, 0, 1]])


def ours(arrays, **options):
    """What pixworld.render shows of Gaussians from the identity camera."""
    from pixworld.cameras import Cameras
    from pixworld.gaussians import Gaussians
    from pixworld.render import render

    camera = Cameras(torch.eye(4)[None], torch.tensor(K)[None].float(), HEIGHT, WIDTH)
    return render(Gaussians(*(torch.from_numpy(arrays[name]) for name in FIELDS)), camera, **options)


def in_linear_light(arrays):
    """Gaussians with the colours that the identity camera sees, as linear light."""
    from blender_addon import harmonics

    encoded = harmonics.colours(arrays["sh"], arrays["means"])
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    return arrays | {"sh": ((linear - 0.5) / harmonics.C0)[:, None].astype(np.float32)}


def a_scene(arrays):
    """An empty file with the Gaussians and the identity camera, set up to match training."""
    import bpy

    from blender_addon import cameras, importer, rendering

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    photo = importer.PhotoCamera("camera", np.eye(4), K, WIDTH, HEIGHT, "train")
    imported = importer.add_scene("Scene", arrays, [photo], scene)
    rendering.match_training(scene)
    cameras.look_through(imported.cameras[0], scene)
    return scene, imported.splats


# --- spherical harmonics


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_are_those_of_pixworld(degree):
    from blender_addon import harmonics
    from pixworld.sh import rotate_sh, sh_to_rgb

    arrays = gaussians_in_view(200, degree)
    sh, directions = arrays["sh"], arrays["means"]
    seen = sh_to_rgb(torch.from_numpy(sh), torch.from_numpy(directions)).numpy()
    assert np.abs(harmonics.colours(sh, directions) - seen).max() < 1e-5
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    want = rotate_sh(torch.from_numpy(sh), torch.from_numpy(turn)).numpy()
    assert np.abs(harmonics.rotate(sh, turn) - want).max() < 1e-5


# --- data


def check_attributes(folder):
    import bpy

    from blender_addon import splats

    arrays = gaussians_in_view(500, degree=1, log_scale=-3.6)
    splats.make("splats", arrays, bpy.context.scene.collection)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "saved.blend"))
    loaded = bpy.data.objects["splats"]
    assert loaded.type == "POINTCLOUD" and not bpy.data.meshes.get("splats")

    def read(name, prop, width):
        values = np.empty(500 * width, np.float32)
        loaded.data.attributes[name].data.foreach_get(prop, values)
        return values.reshape(500, width)

    assert np.array_equal(read("position", "vector", 3), arrays["means"])
    assert np.array_equal(read("scale", "vector", 3), arrays["scales"])
    assert np.array_equal(read("rotation", "value", 4), arrays["quats"])
    assert np.array_equal(read("radius", "value", 1)[:, 0], 3 * arrays["scales"].max(1))
    base = read("radiance:base", "color" if bpy.app.version < (5, 2, 0) else "vector", 4)
    assert np.allclose(base[:, :3], 0.5 + 0.28209479 * arrays["sh"][:, 0], atol=1e-6)
    assert np.array_equal(base[:, 3], arrays["opacities"])
    for i in range(3):
        assert np.array_equal(read(f"radiance:sh_{i}", "vector", 3), arrays["sh"][:, i + 1])

    bpy.ops.wm.read_factory_settings()
    bpy.ops.object.mode_set(mode="EDIT")
    made = splats.make("splats", arrays, bpy.context.scene.collection)
    assert made.type == "POINTCLOUD" and len(made.data.points) == 500 and bpy.context.mode == "EDIT_MESH"
    wanted = {"position", "radius", "scale", "rotation", "radiance:base"}
    assert wanted <= set(made.data.attributes.keys()) and len(bpy.data.scenes) == 1

    mesh = bpy.data.meshes.new("mesh")
    mesh.vertices.add(500)
    splats._fill(mesh, splats.attributes(arrays))
    holder = bpy.data.objects.new("holder", mesh)
    bpy.context.scene.collection.objects.link(holder)
    cloud = splats._convert_by_nodes(holder)  # as Blender 4.2, which has no operator for it
    assert len(cloud.points) == 500 and wanted <= set(cloud.attributes.keys())

    before = {name: len(getattr(bpy.data, name)) for name in ("scenes", "objects", "meshes", "pointclouds")}
    if "resize" not in bpy.types.PointCloud.bl_rna.functions:
        splats._fill = None  # a conversion that fails
        with contextlib.suppress(TypeError):
            splats.make("splats", arrays, bpy.context.scene.collection)
        assert before == {name: len(getattr(bpy.data, name)) for name in before}, "something is left"


def test_attributes_survive_saving(tmp_path):
    in_blender(check_attributes, tmp_path)


def check_data(folder):
    import bpy
    from mathutils import Matrix

    from blender_addon import shading, splats
    from pixworld.gaussians import Gaussians

    def close(got, want, tolerance=1e-6):
        assert got.keys() == want.keys()
        for name in want:
            assert np.abs(got[name] - want[name]).max() <= tolerance, name

    more = {"confidence": np.linspace(0, 1, 400, dtype=np.float32), "photo": np.arange(400) % 3}
    arrays = gaussians_in_view(400) | more
    _, cloud = a_scene(arrays)
    assert splats.is_splats(cloud) and not splats.is_splats(cloud.parent) and not splats.is_splats(None)
    close(splats.arrays_of(cloud), arrays)
    bounds = np.array(cloud.bound_box)
    reach = 3 * arrays["scales"].max(1, keepdims=True)
    assert np.allclose(bounds.min(0), (arrays["means"] - reach).min(0), atol=1e-5)
    assert np.allclose(bounds.max(0), (arrays["means"] + reach).max(0), atol=1e-5)

    # a duplicate has its own life, a transform survives saving, and undo brings the old Gaussians back
    copy = cloud.copy()
    bpy.context.scene.collection.objects.link(copy)
    cloud["note"] = "kept"
    cloud.matrix_basis = matrix = Matrix.LocRotScale((1, 2, 3), Matrix.Rotation(0.7, 3, (1, 2, -1)), (2, 2, 2))
    cloud.name, materials, parent = "Splats", list(cloud.data.materials), cloud.parent
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "saved.blend"))
    cloud, copy = bpy.data.objects["Splats"], bpy.data.objects["Scene Splats.001"]
    materials, parent = list(cloud.data.materials), cloud.parent
    bpy.ops.ed.undo_push(message="before")
    splats.apply_transform(cloud)
    bpy.ops.ed.undo_push(message="apply")
    turned = Gaussians(*(torch.from_numpy(arrays[name]) for name in FIELDS)).transform(
        2.0, torch.from_numpy(np.array(matrix)[:3, :3] / 2), torch.tensor((1.0, 2, 3))
    )
    applied = splats.arrays_of(cloud)
    for name in FIELDS:
        got, want = applied[name], getattr(turned, name).numpy()
        if name == "quats":
            got = got * np.sign((got * want).sum(1, keepdims=True))
        assert np.abs(got - want).max() < 2e-5, name
    assert np.array_equal(applied["photo"], arrays["photo"]) and cloud.matrix_basis == Matrix.Identity(4)
    assert cloud["note"] == "kept" and cloud.parent == parent and list(cloud.data.materials) == materials
    assert shading.modifier_of(cloud) is not None
    close(splats.arrays_of(copy), arrays)
    bpy.ops.ed.undo()
    close(splats.arrays_of(bpy.data.objects["Splats"]), arrays)

    cloud = bpy.data.objects["Splats"]
    for scale in ((1, 2, 1), (-1, 1, 1)):
        cloud.matrix_basis = Matrix.LocRotScale(None, None, scale)
        try:
            splats.apply_transform(cloud)
        except ValueError as error:
            assert "stretched" in str(error)
        else:
            raise AssertionError("stretched splats are not Gaussians of the same kind")

    few = {name: values[:7] for name, values in arrays.items()}
    splats.replace(cloud, few)
    close(splats.arrays_of(cloud), few)
    assert len(bpy.data.objects["Scene Splats.001"].data.points) == 400


def test_data_survives_what_users_do(tmp_path):
    in_blender(check_data, tmp_path)


# --- final renders


def check_make_ready(folder):
    import bpy

    from blender_addon import materials, node_parts, shading, splats

    bpy.ops.wm.read_factory_settings(use_empty=True)
    for i in range(300):
        bpy.data.node_groups.new(f"the user's {i}", "GeometryNodeTree")
    counts = [0]
    while len(counts) < 20 and (len(counts) < 2 or counts[-1] > counts[-2]):
        shading.make_ready(0)
        counts.append(len(materials.stamped()))
    made = counts[-1]
    assert counts == [*range(made + 1), made], "not one part at a time"
    assert made == len(shading.parts.FAMILY.makers) + 3
    groups = set(bpy.data.node_groups)
    ellipses = [x for x in groups if materials.is_ours(x, "PixWorld Splats: Ellipse")]
    assert ellipses[0].users == 1
    materials.discard_unused()
    assert len(bpy.data.node_groups) == 300 and not materials.stamped()

    cloud = splats.make("splats", gaussians_in_view(50), bpy.context.scene.collection)
    shading.shade(cloud)
    groups = set(bpy.data.node_groups)
    shading.make_ready(1)
    materials.discard_unused()
    assert set(bpy.data.node_groups) == groups and len(materials.stamped()) == made

    # The user has renamed an input of a part, and a part cannot be written.
    family = node_parts.Family("Test")

    @family.part("Twice", value=node_parts.FLOAT)
    def twice(g, value):
        return {"twice": value + value}

    first = family.makers["Test: Twice"]()
    assert family.makers["Test: Twice"]() is first
    first.interface.items_tree["value"].name = "other"
    second = family.makers["Test: Twice"]()
    assert second is not first and family.makers["Test: Twice"]() is second

    @family.part("Broken")
    def broken(g):
        raise KeyError("broken")

    before = set(bpy.data.node_groups)
    with contextlib.suppress(KeyError):
        family.makers["Test: Broken"]()
    assert set(bpy.data.node_groups) == before


def test_shading_is_made_ready_part_by_part(tmp_path):
    in_blender(check_make_ready, tmp_path)


def check_colours(folder):
    """What Cycles shows in either mode, and that settings come back."""
    import bpy

    from blender_addon import cameras, rendering

    scene, _cloud = a_scene(gaussians_in_view())
    rendering.restore(scene)
    scene.view_settings.view_transform, scene.cycles.transparent_max_bounces = "AgX", 7
    rendering.scene_linear(scene)
    assert scene.view_settings.view_transform == "Standard" and rendering.is_linear(scene)
    rendering.match_training(scene)
    assert scene.view_settings.view_transform == "Raw" and not rendering.is_linear(scene)
    matched = render_frame(scene, folder)
    rendering.restore(scene)
    assert (scene.view_settings.view_transform, scene.cycles.transparent_max_bounces) == ("AgX", 7)
    assert scene.cycles.samples == 4096 and not rendering.is_changed(scene)

    rendering.match_training(scene)
    rendering.scene_linear(scene)
    linear = render_frame(scene, folder)

    # another scene of the file shows the same splats through its own camera, at its own size and in its own mode
    other = bpy.data.scenes.new("other")
    for thing in scene.collection.children:
        other.collection.children.link(thing)
    camera = cameras.make("wide", np.eye(4), K @ np.diag([0.5, 0.5, 1]), WIDTH // 2, HEIGHT // 2, other.collection)
    camera.parent = scene.camera.parent
    rendering.match_training(other)
    cameras.look_through(camera, other)
    np.savez(folder / "out.npz", matched=matched, linear=linear, other=render_frame(other, folder))


def test_colour_modes_and_scenes(tmp_path):
    from pixworld.cameras import Cameras
    from pixworld.gaussians import Gaussians
    from pixworld.render import render

    in_blender(check_colours, tmp_path)
    images = np.load(tmp_path / "out.npz")
    arrays = gaussians_in_view()
    assert psnr(images["matched"][..., :3], ours(arrays).rgb[0].permute(1, 2, 0).numpy()) > 50

    assert psnr(images["linear"][..., :3], ours(in_linear_light(arrays)).rgb[0].permute(1, 2, 0).numpy()) > 50

    small = torch.tensor(K @ np.diag([0.5, 0.5, 1])).float()
    small = Cameras(torch.eye(4)[None], small[None], HEIGHT // 2, WIDTH // 2)
    want = render(Gaussians(*(torch.from_numpy(arrays[name]) for name in FIELDS)), small).rgb[0]
    assert psnr(images["other"][..., :3], want.permute(1, 2, 0).numpy()) > 45


def check_balls(folder):
    """The balls of the viewport follow the colour mode at once, and back."""
    import bpy

    from blender_addon import rendering

    scene, cloud = a_scene(gaussians_in_view())

    def shown():
        data = cloud.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.attributes["splat_colour"].data
        values = np.empty((len(data), 3), np.float32)
        data.foreach_get("vector", values.reshape(-1))
        return values

    trained = shown()
    rendering.scene_linear(scene)
    want = np.where(trained > 0.04045, ((trained + 0.055) / 1.055) ** 2.4, trained / 12.92)
    assert np.abs(want - trained).max() > 0.1 and np.abs(shown() - want).max() < 1e-4
    rendering.restore(scene)
    assert np.array_equal(shown(), trained)


def test_balls_follow_the_colour_mode(tmp_path):
    in_blender(check_balls, tmp_path)


def check_passes(folder):
    import bpy

    from blender_addon import passes, rendering

    scene, _cloud = a_scene(gaussians_in_view())
    aside = bpy.data.collections.new("Aside")
    scene.collection.children.link(aside)
    scene.view_layers[0].layer_collection.children["Aside"].exclude = True
    passes.add(scene)
    assert all(layer.layer_collection.children["Aside"].exclude for layer in scene.view_layers)
    out = {}
    for layer in scene.view_layers:
        for other in scene.view_layers:
            other.use = other == layer
        out[layer.name] = render_frame(scene, folder)
    passes.remove(scene)
    assert len(scene.view_layers) == 1
    rendering.restore(scene)
    assert not scene.render.film_transparent
    np.savez(folder / "out.npz", **out)
    assert bpy.data.materials["PixWorld Depth"]


def test_passes(tmp_path):
    in_blender(check_passes, tmp_path)
    images = np.load(tmp_path / "out.npz")
    want = ours(gaussians_in_view(), normals=True)
    alpha, depth = want.alpha[0].numpy(), want.depth[0].numpy()
    normal = want.normal[0].permute(1, 2, 0).numpy()
    dense = alpha > 0.5
    assert dense.mean() > 0.5
    assert psnr(images["ViewLayer"][..., 3], alpha) > 50
    shown = images["PixWorld Depth"][..., 0] / np.maximum(images["PixWorld Depth"][..., 3], 1e-6)
    assert np.quantile((np.abs(shown - depth) / depth.clip(1e-3))[dense], 0.99) < 0.01
    shown = 2 * images["PixWorld Normal"][..., :3] / np.maximum(images["PixWorld Normal"][..., 3:], 1e-6) - 1
    shown = shown[..., [0, 2, 1]] * (1, -1, 1)  # from Blender's world, z up, to the camera's
    cosine = (shown * normal).sum(-1) / np.linalg.norm(shown, axis=-1).clip(1e-6)
    assert np.median(cosine[dense]) > 0.999


# --- the graphics card

READY = "the graphics card draws"


def check_card(folder):
    """EEVEE and the viewport's shader; the first render, of an empty scene, tells whether anything can be drawn."""
    import bpy

    from blender_addon import gpu_splats, rendering, splats, viewport

    eevee = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine, scene.render.resolution_x, scene.render.resolution_y = eevee, 16, 16
    scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(scene.camera)
    bpy.ops.render.render()
    print(READY)

    scene, cloud = a_scene(gaussians_in_view())
    camera = scene.camera
    viewport.show_as_bounds(cloud, True)  # changes nothing in a render
    rendering.match_training(scene, eevee)
    out = {"eevee": render_frame(scene, folder)}

    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    bare = cloud.evaluated_get(depsgraph).data
    on_card = gpu_splats.Cloud(splats.read(bare))
    assert on_card.shows(bare) and np.array_equal(on_card.arrays["means"], splats.arrays_of(cloud)["means"])
    viewport.show_as_bounds(cloud, False)
    projection = np.array(camera.calc_matrix_camera(depsgraph, x=WIDTH, y=HEIGHT))
    view, matrix = np.linalg.inv(np.array(camera.matrix_world, float)), np.array(cloud.matrix_world, float)
    clouds = [(on_card, matrix)]
    out["viewport"] = gpu_splats.picture(clouds, view, projection, (WIDTH, HEIGHT))
    out["linear"] = gpu_splats.picture(clouds, view, projection, (WIDTH, HEIGHT), linear=True)
    np.savez(folder / "out.npz", **out)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    try:
        in_blender(check_card, folder)
    except AssertionError as error:
        if READY in str(error):
            raise
        pytest.skip("Blender has no OpenGL to draw with here")
    return np.load(folder / "out.npz")


@pytest.mark.parametrize(("where", "least"), [("eevee", 38), ("viewport", 45), ("linear", 45)])
def test_what_the_card_draws(drawn, where, least):
    arrays = gaussians_in_view()
    want = ours(in_linear_light(arrays) if where == "linear" else arrays).rgb[0].permute(1, 2, 0).numpy()
    reached = psnr(drawn[where][..., :3], want)
    print(f"{where}: {reached:.1f} dB")
    assert reached > least


def check_viewport(folder):
    """Without a window nothing of the viewport's is there, and a file is saved with what shows without it."""
    import bpy

    from blender_addon import viewport

    def ours_left():
        return [name for name, handler in viewport._HANDLERS.items() if handler in getattr(bpy.app.handlers, name)]

    viewport.register()
    scene, cloud = a_scene(gaussians_in_view(50))
    assert scene.pixworld_viewport and not viewport.is_on(scene) and cloud.display_type == "TEXTURED"
    assert not ours_left() and not bpy.app.timers.is_registered(viewport._refresh_all)
    viewport.unregister()
    assert not hasattr(scene, "pixworld_viewport")

    # as in a window, but for the drawing
    viewport.register()
    viewport._handle = object()
    viewport.refresh(scene)
    assert viewport.is_on(scene) and cloud.display_type == "BOUNDS"
    viewport._before_save()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"))
    viewport._after_save()
    assert cloud.display_type == "BOUNDS"
    scene.pixworld_viewport = False
    assert cloud.display_type == "TEXTURED"
    viewport._handle = None
    viewport.unregister()
    bpy.ops.wm.open_mainfile(filepath=str(folder / "saved.blend"))
    assert bpy.data.objects["Scene Splats"].display_type == "TEXTURED"


def test_viewport_leaves_files_and_blender_as_they_were(tmp_path):
    in_blender(check_viewport, tmp_path)


if __name__ == "__main__":
    blender.main(globals())
