"""Proxy meshes in a real Blender."""

import blender
import numpy as np
from blender import gaussians_in_cube, in_blender, moved_splats, refusal

pytestmark = blender.needs_bpy


def check_proxy(folder):
    """The mesh lies where the splats are, and renders only as a catcher of shadows."""
    import bpy

    from blender_addon import proxy

    root, cloud, _ = moved_splats(gaussians_in_cube(100))
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [2, 1, 3]], np.int32)
    made = proxy.make("Proxy", vertices, faces, cloud, ratio=0.5, collision=True)
    scene = bpy.context.scene
    assert "move them to a collection" in refusal(proxy.add_to, scene, made)
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
    assert "No surface" in refusal(proxy.make, "None", vertices, faces[:0], cloud)
    assert "same version" in refusal(proxy.make, "Bad", vertices[:3], faces, cloud)


def test_proxy(tmp_path):
    in_blender(check_proxy, tmp_path)


if __name__ == "__main__":
    blender.main(globals())
