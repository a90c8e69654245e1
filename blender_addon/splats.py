"""Gaussians as a PointCloud with the attributes of Blender 5.3's native splats."""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np

C0 = 0.28209479177387814  # constant SH band
_NAMES = {"FLOAT": "value", "FLOAT_VECTOR": "vector", "QUATERNION": "value", "FLOAT_COLOR": "color", "FLOAT4": "vector"}


def attributes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """{attribute name: (Blender type, float32 array [n] or [n c])} of Gaussians.

    `arrays` has means [n 3], quats [n 4] wxyz unit, scales [n 3] linear, opacities [n] in 0..1 and sh [n k 3].
    `rotation_xyzw` repeats the rotation for the material, which cannot read a quaternion's w.
    """
    means, quats, scales, opacities, sh = (
        np.ascontiguousarray(arrays[name], np.float32) for name in ("means", "quats", "scales", "opacities", "sh")
    )
    base = np.concatenate([0.5 + C0 * sh[:, 0], opacities[:, None]], axis=1)
    out = {
        "position": ("FLOAT_VECTOR", means),
        "radius": ("FLOAT", 3 * scales.max(axis=1)),
        "scale": ("FLOAT_VECTOR", scales),
        "rotation": ("QUATERNION", quats),
        "rotation_xyzw": ("FLOAT_COLOR", np.roll(quats, -1, axis=1)),
        "radiance:base": ("FLOAT4" if bpy.app.version >= (5, 2, 0) else "FLOAT_COLOR", base),
    }
    return out | {f"radiance:sh_{i}": ("FLOAT_VECTOR", sh[:, i + 1]) for i in range(sh.shape[1] - 1)}


def make(name: str, arrays: Mapping[str, np.ndarray], collection: bpy.types.Collection) -> bpy.types.Object:
    """Make a point cloud object of Gaussians (see `attributes`) in a collection. 1e6 points take about 0.1 s.

    The mesh that becomes the cloud is filled first: Blender 5.0 keeps the bounds of the moment of conversion.
    """
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(arrays["means"]))
    for key, (kind, values) in attributes(arrays).items():
        attribute = mesh.attributes.get(key) or mesh.attributes.new(key, kind, "POINT")
        attribute.data.foreach_set(_NAMES[kind], np.ascontiguousarray(values, np.float32).ravel())
    splats = bpy.data.objects.new(name, mesh)
    collection.objects.link(splats)
    with bpy.context.temp_override(
        active_object=splats, object=splats, selected_objects=[splats], selected_editable_objects=[splats]
    ):
        targets = bpy.ops.object.convert.get_rna_type().properties["target"].enum_items
        if "POINTCLOUD" not in targets or not bpy.ops.object.convert.poll():  # as in Edit Mode
            return _convert_by_nodes(splats)
        bpy.ops.object.convert(target="POINTCLOUD")
    bpy.data.meshes.remove(mesh)
    return splats


def _convert_by_nodes(splats: bpy.types.Object) -> bpy.types.Object:
    """Where the operator cannot (Blender before 4.4, Edit Mode), Geometry Nodes convert; the object is replaced."""
    name, mesh, (collection,) = splats.name, splats.data, splats.users_collection
    mesh.attributes["radius"].name = "gs_radius"  # Mesh to Points overwrites "radius"
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    for in_out in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=in_out, socket_type="NodeSocketGeometry")
    source, points, radius, sink = (
        tree.nodes.new(kind)
        for kind in ("NodeGroupInput", "GeometryNodeMeshToPoints", "GeometryNodeInputNamedAttribute", "NodeGroupOutput")
    )
    radius.inputs["Name"].default_value = "gs_radius"
    tree.links.new(source.outputs[0], points.inputs["Mesh"])
    tree.links.new(radius.outputs[0], points.inputs["Radius"])
    tree.links.new(points.outputs[0], sink.inputs[0])
    splats.modifiers.new(name, "NODES").node_group = tree

    instances = bpy.context.evaluated_depsgraph_get().object_instances
    cloud = next(
        i.object.data.copy() for i in instances if i.object.type == "POINTCLOUD" and i.object.original == splats
    )
    bpy.data.objects.remove(splats)
    bpy.data.meshes.remove(mesh)
    bpy.data.node_groups.remove(tree)
    cloud.attributes.remove(cloud.attributes["gs_radius"])
    cloud.name = name
    splats = bpy.data.objects.new(name, cloud)
    collection.objects.link(splats)
    return splats
