"""A mesh in place of the splats for what needs a surface: shadows that others cast on them, and collisions.

Cycles cannot show a shadow catcher through splats, which lie on both sides of it. So the shadows are a view layer of
their own, PixWorld Shadows, without splats: its pass "Shadow Catcher", multiplied with the picture in the compositor,
puts them on the splats. In the other layers the mesh takes part in light only (indirect), unseen by the camera.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import numpy as np

from .splats import MADE, is_splats

NAME = "Proxy"
SHADOWS = "PixWorld Shadows"


def make(
    name: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    splats: bpy.types.Object,
    *,
    ratio: float = 1.0,
    catcher: bool = True,
    collision: bool = False,
) -> bpy.types.Object:
    """Add a mesh (vertices [n 3] in the space of the splats, triangles [m 3]) as a child of the splats' parent, in a
    new collection that you link to a scene.

    It is seen as wires in the viewport. In renders it only catches shadows, if asked to, and is hidden otherwise.
    `ratio` is the share of triangles that a Decimate modifier leaves. Raises ValueError for a mesh of no triangles.
    """
    if not len(faces):
        raise ValueError("No surface was found in these splats; use a lower resolution or cameras that see more.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError("The backend's mesh has triangles of vertices that it lacks; use the same version of both.")
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(vertices, np.float32).ravel())
    mesh.loops.add(3 * len(faces))
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces, np.int32).ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))
    mesh.update(calc_edges=True)
    mesh.validate()
    obj = bpy.data.objects.new(name, mesh)
    collection = bpy.data.collections.new(name)
    collection.objects.link(obj)
    obj[MADE] = collection[MADE] = True
    obj.parent = splats.parent
    obj.matrix_parent_inverse = splats.matrix_parent_inverse.copy()
    obj.matrix_basis = splats.matrix_basis.copy()
    obj.display_type = "WIRE"
    obj.is_shadow_catcher = catcher
    obj.hide_render = not catcher
    if ratio < 1:
        obj.modifiers.new("Decimate", "DECIMATE").ratio = ratio
    if collision:
        obj.modifiers.new("Collision", "COLLISION")
    return obj


def check(scene: bpy.types.Scene) -> None:
    """Raises ValueError when splats are in the scene's own collection, which no view layer can leave out."""
    if any(is_splats(x) for x in scene.collection.objects):
        raise ValueError(
            "Splats are in the Scene Collection itself; move them to a collection, so that a layer can omit them."
        )


def add_to(scene: bpy.types.Scene, proxy: bpy.types.Object) -> None:
    """Link a proxy's collection to a scene; if it catches shadows, in a view layer of their own, see `check`."""
    if proxy.is_shadow_catcher:
        check(scene)
    (collection,) = proxy.users_collection
    scene.collection.children.link(collection)
    if not proxy.is_shadow_catcher:
        return
    shadows = scene.view_layers.get(SHADOWS) or scene.view_layers.new(SHADOWS)
    shadows.cycles.use_pass_shadow_catcher = True
    for layer in scene.view_layers:
        for part in _parts(layer.layer_collection):
            if layer == shadows and any(is_splats(x) for x in part.collection.objects):
                part.exclude = True
            elif part.collection == collection:
                part.indirect_only = layer != shadows


def _parts(layer: bpy.types.LayerCollection) -> Iterator[bpy.types.LayerCollection]:
    for part in layer.children:
        yield part
        yield from _parts(part)
