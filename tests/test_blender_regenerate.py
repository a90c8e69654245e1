"""What is in a box anew in a real Blender: what goes out and what comes in."""

import blender
import numpy as np
from blender import gaussians_in_cube, in_blender, moved_splats, refusal, subset

pytestmark = blender.needs_bpy


def check_take_in(folder):
    """What is in the box is replaced; all else stays bit for bit, as it is stored."""
    import bpy

    from blender_addon import editing, regenerate

    _, cloud, own = moved_splats(gaussians_in_cube() | {"confidence": np.linspace(0, 1, 3000, dtype=np.float32)})
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
    made = gaussians_in_cube(800, degree=1, seed=1)
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

    assert "nothing inside" in refusal(regenerate.take_in, cloud, matrix, gaussians_in_cube(0))
    other = moved_splats(subset(made, fits))[1]  # all of it is in the box
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
    assert "is flat" in refusal(regenerate.box_of, cloud, box)


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
    imported = importer.add_scene("Scene", gaussians_in_cube(100), photos, bpy.context.scene)
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
    assert "stretched" in refusal(regenerate.views_of, imported.splats, scene)


def test_cameras_in_the_space_of_the_splats(tmp_path):
    in_blender(check_views, tmp_path)


if __name__ == "__main__":
    blender.main(globals())
