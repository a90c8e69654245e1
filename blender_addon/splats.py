"""Gaussians as a PointCloud with the attributes of Blender 5.3's native splats.

The one place that knows how Blender's versions differ in point clouds: 4.2 has no operator that makes them, 5.2 can
resize them, FLOAT4 attributes come with 5.2, a splat type of the datablock after it. All but the bounds of 5.0 is found
by asking for the feature.
"""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np
from mathutils import Matrix

from .harmonics import C0, rotate

FIELDS = ("means", "quats", "scales", "opacities", "sh")
ROOT = "pixworld_root"  # marks the Empty that a scene's splats and cameras are placed by
MADE = "pixworld_made"  # marks what else we add: collections, boxes, meshes; it goes when the splats are removed
NATIVE = "GAUSSIAN_SPLAT"  # the type of a native splat datablock
_VALUES = {  # attribute type -> name and width of its values
    "INT": ("value", 1), "FLOAT": ("value", 1), "FLOAT_VECTOR": ("vector", 3),
    "QUATERNION": ("value", 4), "FLOAT_COLOR": ("color", 4), "FLOAT4": ("vector", 4),
}  # fmt: skip


def attributes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """{attribute name: (Blender type, contiguous array [n] or [n c])} of Gaussians.

    `arrays` has means [n 3], quats [n 4] wxyz unit, scales [n 3] linear, opacities [n] in 0..1 and sh [n k 3]; other
    arrays [n] of numbers, such as a confidence, become attributes of their own name.
    `rotation_xyzw` repeats the rotation for the material, which cannot read a quaternion's w.
    """
    means, quats, scales, opacities, sh = (np.ascontiguousarray(arrays[name], np.float32) for name in FIELDS)
    base = np.concatenate([0.5 + C0 * sh[:, 0], opacities[:, None]], axis=1)
    out = {
        "position": ("FLOAT_VECTOR", means),
        "radius": ("FLOAT", 3 * scales.max(axis=1, initial=0)),
        "scale": ("FLOAT_VECTOR", scales),
        "rotation": ("QUATERNION", quats),
        "rotation_xyzw": ("FLOAT_COLOR", quats[:, [1, 2, 3, 0]]),
        "radiance:base": ("FLOAT4" if "FLOAT4" in _attribute_types() else "FLOAT_COLOR", base),
    }
    out |= {f"radiance:sh_{i}": ("FLOAT_VECTOR", band) for i, band in enumerate(_turned_over(sh[:, 1:]))}
    for name in arrays.keys() - set(FIELDS):
        whole = np.issubdtype(arrays[name].dtype, np.integer)
        kind, dtype = ("INT", np.int32) if whole else ("FLOAT", np.float32)
        out[name] = kind, np.ascontiguousarray(arrays[name], dtype)
    return out


def _turned_over(array: np.ndarray) -> np.ndarray:
    """[a b 3] -> [b a 3], contiguous; in blocks that stay in the processor's cache, twice as fast as in one go."""
    out = np.empty((array.shape[1], array.shape[0], 3), array.dtype)
    for i in range(0, max(array.shape[:2]), 1024):
        if array.shape[0] > array.shape[1]:
            out[:, i : i + 1024] = array[i : i + 1024].transpose(1, 0, 2)
        else:
            out[i : i + 1024] = array[:, i : i + 1024].transpose(1, 0, 2)
    return out


def _attribute_types() -> set[str]:
    return {item.identifier for item in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items}


# --- arrays -> Blender


def make(name: str, arrays: Mapping[str, np.ndarray], collection: bpy.types.Collection) -> bpy.types.Object:
    """Make a point cloud object of Gaussians (see `attributes`) in a collection. 1e6 points take about 0.1 s."""
    splats = bpy.data.objects.new(name, _cloud(name, arrays))
    collection.objects.link(splats)
    return splats


def replace(splats: bpy.types.Object, arrays: Mapping[str, np.ndarray]) -> None:
    """Give an object other Gaussians. All else stays: its place, parent, modifiers, materials and properties.

    They are a new datablock, because Blender 5.0 never corrects the bounds of an old one. Other objects that share the
    old one keep it.
    """
    old = splats.data
    new = _cloud(old.name, arrays)
    for material in old.materials:
        new.materials.append(material)
    for key, value in old.items():
        new[key] = value
    splats.data = new
    if old.users == 0:
        name = old.name
        bpy.data.pointclouds.remove(old)
        new.name = name


def refill(splats: bpy.types.Object, arrays: Mapping[str, np.ndarray]) -> bool:
    """`replace` in place, for previews: no datablock comes or goes, so Blender evaluates nothing else anew. Blender 5.0
    keeps the old bounds. False, and nothing done, where their number or bands differ."""
    filled, data = attributes(arrays), splats.data
    if len(filled["position"][1]) != len(data.points) or filled.keys() - data.attributes.keys():
        return False
    _fill(data, filled)
    data.update_tag()
    return True


def _cloud(name: str, arrays: Mapping[str, np.ndarray]) -> bpy.types.PointCloud:
    """A PointCloud datablock of Gaussians."""
    filled = attributes(arrays)
    count = len(filled["position"][1])
    if not count or "resize" in bpy.types.PointCloud.bl_rna.functions:
        cloud = bpy.data.pointclouds.new(name)
        if count:
            cloud.resize(count)
        _fill(cloud, filled)
    else:
        cloud = _convert(name, filled)
    _set_native(cloud)
    return cloud


def _fill(data: bpy.types.Mesh | bpy.types.PointCloud, filled: Mapping[str, tuple[str, np.ndarray]]) -> None:
    for key, (kind, values) in filled.items():
        attribute = data.attributes.get(key) or data.attributes.new(key, kind, "POINT")
        attribute.data.foreach_set(_VALUES[kind][0], values.ravel())


def _convert(name: str, filled: Mapping[str, tuple[str, np.ndarray]]) -> bpy.types.PointCloud:
    """Through a mesh, filled first: Blender 5.0 keeps the bounds that a point cloud had when it was converted."""
    mesh = bpy.data.meshes.new(name)
    holder = bpy.data.objects.new(name, mesh)
    apart = bpy.data.scenes.new(".PixWorld")  # in the user's, all that is shaded there would be evaluated too
    try:
        mesh.vertices.add(len(filled["position"][1]))
        _fill(mesh, filled)
        apart.collection.objects.link(holder)
        only = {"active_object": holder, "object": holder}
        only |= {"selected_objects": [holder], "selected_editable_objects": [holder]}
        with bpy.context.temp_override(scene=apart, view_layer=apart.view_layers[0], **only):
            targets = bpy.ops.object.convert.get_rna_type().properties["target"].enum_items
            if "POINTCLOUD" in targets and bpy.ops.object.convert.poll():
                bpy.ops.object.convert(target="POINTCLOUD")
                cloud = holder.data
            else:  # Blender 4.2
                cloud = _convert_by_nodes(holder)
    finally:
        bpy.data.objects.remove(holder)
        bpy.data.scenes.remove(apart)
        bpy.data.meshes.remove(mesh)
    cloud.name = name
    return cloud


def _convert_by_nodes(holder: bpy.types.Object) -> bpy.types.PointCloud:
    """The point cloud that Geometry Nodes make of a filled mesh."""
    holder.data.attributes["radius"].name = "gs_radius"  # Mesh to Points overwrites "radius"
    tree = bpy.data.node_groups.new(holder.name, "GeometryNodeTree")
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
    holder.modifiers.new(holder.name, "NODES").node_group = tree
    instances = bpy.context.evaluated_depsgraph_get().object_instances
    cloud = next(
        i.object.data.copy() for i in instances if i.object.type == "POINTCLOUD" and i.object.original == holder
    )
    bpy.data.node_groups.remove(tree)
    cloud.attributes.remove(cloud.attributes["gs_radius"])
    cloud.materials.clear()
    return cloud


# --- Blender's own splats, from 5.3 on


def has_native() -> bool:
    """Whether Blender knows such a type and lets a script set it."""
    prop = bpy.types.PointCloud.bl_rna.properties.get("type")
    return prop is not None and not prop.is_readonly and NATIVE in {item.identifier for item in prop.enum_items}


def _set_native(cloud: bpy.types.PointCloud) -> None:
    """Tell Blender that these points are splats."""
    if has_native():
        cloud.type = NATIVE


def is_native(splats: bpy.types.Object) -> bool:
    """Whether Blender itself draws the object as splats, in every engine, without our shading."""
    return getattr(splats.data, "type", None) == NATIVE


# --- Blender -> arrays


def is_splats(thing: bpy.types.Object | None) -> bool:
    """Whether an object is a point cloud with the attributes of splats."""
    if thing is None or thing.type != "POINTCLOUD":
        return False
    return {"scale", "rotation", "radiance:base"} <= set(thing.data.attributes.keys())


def arrays_of(splats: bpy.types.Object) -> dict[str, np.ndarray]:
    """The Gaussians of an object's own data, before modifiers and in its own space (see `attributes`)."""
    return read(splats.data)


def read(cloud: bpy.types.PointCloud, bands: int = 15) -> dict[str, np.ndarray]:
    """The Gaussians of a PointCloud, evaluated or not, with no more than so many SH bands above the constant one."""
    found = cloud.attributes

    def values(name: str) -> np.ndarray:
        kind = found[name].data_type
        key, width = _VALUES[kind]
        out = np.empty((len(found[name].data), width), np.int32 if kind == "INT" else np.float32)
        found[name].data.foreach_get(key, out.reshape(-1))
        return out if width > 1 else out[:, 0]

    if "radiance:base" not in found:  # modifiers that leave no point leave no attribute
        shapes = {"means": (0, 3), "quats": (0, 4), "scales": (0, 3), "opacities": (0,), "sh": (0, 1, 3)}
        return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    base = values("radiance:base")
    k = 1 + sum(f"radiance:sh_{i}" in found for i in range(bands))
    sh = np.empty((k, len(base), 3), np.float32)
    sh[0] = (base[:, :3] - 0.5) / C0
    for i in range(1, k):
        sh[i] = values(f"radiance:sh_{i - 1}")
    out = {
        "means": values("position"), "quats": values("rotation"), "scales": values("scale"),
        "opacities": base[:, 3].copy(), "sh": _turned_over(sh),
    }  # fmt: skip
    ours = {"position", "radius", "scale", "rotation", "rotation_xyzw"}
    others = [
        x.name for x in found if x.domain == "POINT" and x.data_type in ("INT", "FLOAT") and x.name not in ours
    ]  # names first: reading an attribute may move the collection
    return out | {name: values(name) for name in others if not name.startswith((".", "splat_"))}


# --- transforms


def transformed(arrays: Mapping[str, np.ndarray], matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Gaussians moved by a matrix [4 4] of one scale, a rotation and a translation; their view dependence turns too.

    Raises ValueError for any other matrix.
    """
    linear = np.asarray(matrix, float)[:3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    if not scale > 0 or not np.allclose(linear.T @ linear, scale**2 * np.eye(3), atol=1e-4 * scale**2):
        raise ValueError("Splats can be turned, moved and scaled alike on every axis, not stretched or mirrored.")
    rotation = linear / scale
    quats = np.asarray(arrays["quats"])
    w, x, y, z = Matrix(rotation).to_quaternion()
    product = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    moved = {
        "means": arrays["means"] @ linear.T + np.asarray(matrix, float)[:3, 3],
        "quats": quats @ product.T,
        "scales": arrays["scales"] * scale,
        "sh": rotate(np.asarray(arrays["sh"]), rotation),
    }
    return dict(arrays) | {name: value.astype(np.float32) for name, value in moved.items()}


def apply_transform(splats: bpy.types.Object) -> None:
    """Move the object's own location, rotation and scale into its Gaussians. Raises ValueError as `transformed`."""
    replace(splats, transformed(arrays_of(splats), np.array(splats.matrix_basis)))
    splats.matrix_basis = Matrix.Identity(4)
