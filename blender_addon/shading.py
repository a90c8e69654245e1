"""How splats look: exact quads in final renders, ellipsoids in the viewport. Everything is nodes, so that a saved
.blend needs neither this extension nor any script.

Final render: a Geometry Nodes modifier turns each Gaussian into a quad that faces the active camera, spanned by the
same projected covariance, low-pass and cut-off as `pixworld.render`, its colour the SH seen from there. It follows
the camera of each frame. Viewport: the point cloud itself, its balls shaded by the Gaussian's largest value along the
ray (base colour only), sorted from the active camera; where viewport.py draws instead, unsorted points for it to read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import bpy

from .harmonics import bands
from .materials import ELLIPSOIDS, MIN_ALPHA, QUADS, ellipsoids, is_ours, ours, quads, stamp
from .nodes import Field, Graph, set_input, write_group
from .rendering import LINEAR
from .splats import is_native

NEAR = 0.01  # nearest z that is drawn, scene units
LOW_PASS = 0.3  # variance added to the projection, px²

GROUP = "PixWorld Splats"
_BALLS = "Balls in Viewport"


def shade(splats: bpy.types.Object) -> None:
    """Give a point cloud object of `splats.make` its materials and its modifier; Blender's own splats need none."""
    if is_native(splats):
        return
    splats.data.materials.clear()
    splats.data.materials.append(ours(bpy.data.materials, ELLIPSOIDS) or ellipsoids())
    modifier = splats.modifiers.new(GROUP, "NODES")
    modifier.node_group = ours(bpy.data.node_groups, GROUP) or _modifier()


def modifier_of(splats: bpy.types.Object) -> bpy.types.Modifier | None:
    """The modifier that `shade` gave an object."""
    groups = (m for m in splats.modifiers if m.type == "NODES" and m.node_group)
    return next((m for m in groups if is_ours(m.node_group, GROUP)), None)


def show_balls(splats: bpy.types.Object, shown: bool) -> None:
    """Show the points as shaded balls in viewports, or leave them bare; renders stay as they are."""
    modifier = modifier_of(splats)
    if modifier is not None:
        with contextlib.suppress(ValueError):  # the user has renamed it
            set_input(modifier, _BALLS, shown)


# --- final render


def _modifier() -> bpy.types.NodeTree:
    tree = bpy.data.node_groups.new(GROUP, "GeometryNodeTree")
    stamp(tree, GROUP)
    tree.is_modifier = True
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket(_BALLS, in_out="INPUT", socket_type="NodeSocketBool").default_value = True
    g = Graph(tree)
    inputs = g.node("NodeGroupInput")
    bare = g.out(inputs, "Geometry")

    # The camera, in the object's frame. Blender's camera looks along -z with y up.
    camera = g.node("GeometryNodeObjectInfo", transform_space="RELATIVE")
    g.feed(camera.inputs["Object"], g.field("GeometryNodeInputActiveCamera", output="Active Camera"))
    to_camera = g.field("FunctionNodeInvertMatrix", g.out(camera, "Transform"), output="Matrix")
    position = g.field("GeometryNodeInputPosition")
    local = g.field("FunctionNodeTransformPoint", position, to_camera)

    # Both branches draw from far to near in index order, which is how EEVEE blends.
    points = g.field("GeometryNodeSortElements", bare, into={"Sort Weight": local.z})

    base = g.node("GeometryNodeInputNamedAttribute", "radiance:base", data_type="FLOAT_COLOR")
    rgba = g.node("FunctionNodeSeparateColor", g.out(base))
    colour = g.vector(*(g.out(rgba, name) for name in ("Red", "Green", "Blue")))
    opacity = g.out(rgba, "Alpha")
    quads = _quads(g, points, position, local, camera, to_camera, colour, opacity)
    balls = _store(g, points, "splat_colour", _in_light(g, colour.max((0.0, 0.0, 0.0))))
    balls = g.field("GeometryNodeSetMaterial", balls, into={"Material": ours(bpy.data.materials, ELLIPSOIDS)})
    shown = _switch(g, g.out(inputs, _BALLS), bare, balls)
    g.node("NodeGroupOutput", _switch(g, g.field("GeometryNodeIsViewport"), quads, shown))
    g.arrange()
    return tree


def _switch(g: Graph, condition: Field, false: Field, true: Field) -> Field:
    switch = g.node("GeometryNodeSwitch", input_type="GEOMETRY")
    for name, value in (("Switch", condition), ("False", false), ("True", true)):
        g.feed(next(s for s in switch.inputs if s.name == name and s.enabled), value)
    return g.out(switch)


def _quads(
    g: Graph,
    points: Field,
    position: Field,
    local: Field,
    camera: bpy.types.Node,
    to_camera: Field,
    colour: Field,
    opacity: Field,
) -> Field:
    """A mesh of one quad a point. `local` is the position in the frame of the camera (an Object Info node); `colour`
    and `opacity` are those of radiance:base.

    In the plane at distance 1 from the camera a Gaussian projects to the covariance [X Y][X Y]ᵀ of two rows; its
    Cholesky factor [a 0; b c] spans the quad, which is put back at the distance of the Gaussian.
    """
    z = -1.0 * local.z
    x, y = local.x / z, local.y / z
    lens = _part(g, "Lens", _intrinsics)
    width, height, fx, fy, cx, cy = (lens[name] for name in ("width", "height", "fx", "fy", "cx", "cy"))

    reach = g.math("MULTIPLY", g.math("LOGARITHM", opacity * 255.0, 2.718281828459045).max(0.0), 2.0).sqrt()

    # The Jacobian is taken no farther out than 15 % of the image beyond its borders.
    u = x.max(-1.0 * (cx + 0.15 * width) / fx).min((1.15 * width - cx) / fx)
    v = y.max((cy - 1.15 * height) / fy).min((cy + 0.15 * height) / fy)
    scale = _named(g, "scale", "FLOAT_VECTOR")
    rotation = _named(g, "rotation", "QUATERNION")
    columns = []
    for axis in range(3):
        unit = tuple(float(i == axis) for i in range(3))
        spread = g.field("FunctionNodeRotateVector", unit, rotation) * (scale.x, scale.y, scale.z)[axis]
        seen = g.field("FunctionNodeTransformDirection", spread, to_camera)
        columns.append(((seen.x + seen.z * u) / z, (seen.y + seen.z * v) / z))
    X, Y = (g.vector(*row) for row in zip(*columns))
    a = (X.dot(X) + LOW_PASS / (fx * fx)).sqrt()
    b = X.dot(Y) / a
    c = (Y.dot(Y) + LOW_PASS / (fy * fy) - b * b).max(0.0).sqrt()
    height_y = (b * b + c * c).sqrt()

    # Leave out what is too near, too faint, or outside the image.
    col, row = fx * x + cx, cy - fy * y
    wide, high = reach * a * fx, reach * height_y * fy
    drawn = (
        (z > NEAR) * (opacity > MIN_ALPHA) * (col + wide > 0.0) * (row + high > 0.0)
        * (col - wide < width) * (row - high < height)
    )  # fmt: skip
    points = g.field(
        "GeometryNodeDeleteGeometry", points, into={"Selection": g.math("SUBTRACT", 1.0, drawn)}, domain="POINT"
    )

    def from_camera(dx: Field | float, dy: Field) -> Field:
        return g.field("FunctionNodeTransformDirection", g.vector(dx, dy, 0.0), g.out(camera, "Transform"))

    towards = (position - g.out(camera, "Location")).normalized()
    for name, value in (
        ("splat_u", from_camera(a * z, b * z)),
        ("splat_v", from_camera(0.0, c * z)),
        ("splat_colour", _in_light(g, _part(g, "Colour", _seen_colour, colour=colour, d=towards)["seen"])),
        ("splat_normal", _normal(g, scale, rotation, towards)),
        ("splat_opacity_reach", g.vector(opacity, reach, 0.0)),
    ):
        points = _store(g, points, name, value)

    # One corner grid, instanced with size zero at each point, then spread along the two axes of its point.
    quad = g.field("GeometryNodeMeshGrid", 2.0, 2.0, 2, 2, output="Mesh")
    quad = _store(g, quad, "splat_corner", position)
    mesh = g.field("GeometryNodeInstanceOnPoints", points, into={"Instance": quad, "Scale": (0.0, 0.0, 0.0)})
    mesh = g.field("GeometryNodeRealizeInstances", mesh)
    corner = _named(g, "splat_corner", "FLOAT_VECTOR") * _named(g, "splat_opacity_reach", "FLOAT_VECTOR").y
    offset = _named(g, "splat_u", "FLOAT_VECTOR") * corner.x + _named(g, "splat_v", "FLOAT_VECTOR") * corner.y
    mesh = g.field("GeometryNodeSetPosition", mesh, into={"Offset": offset})
    mesh = _store(g, mesh, "splat_corner", corner)
    material = ours(bpy.data.materials, QUADS) or quads()
    return g.field("GeometryNodeSetMaterial", mesh, into={"Material": material})


def _part(g: Graph, name: str, write: Callable[..., dict[str, Field]], **inputs: Field) -> dict[str, Field]:
    """The outputs of a node group of this file, which the file may have already."""
    name = f"{GROUP}: {name}"
    tree = ours(bpy.data.node_groups, name)
    if tree is None:
        tree = write_group(name, write, **inputs)
        stamp(tree, name)
    return g.group(tree, **inputs)


def _seen_colour(g: Graph, colour: Field, d: Field) -> dict[str, Field]:
    """max(0, 0.5 + SH) along d, in the object's frame; the attribute radiance:base holds 0.5 + the constant band.
    Attributes that a scene lacks read as zero."""
    for i, weight in enumerate(bands(d.x, d.y, d.z)):
        colour = colour + _named(g, f"radiance:sh_{i}", "FLOAT_VECTOR") * weight
    return {"seen": colour.max((0.0, 0.0, 0.0))}


def _in_light(g: Graph, colour: Field) -> Field:
    return _part(g, "Light", _lit, colour=colour)["lit"]


def _lit(g: Graph, colour: Field) -> dict[str, Field]:
    """The colour as it is, or where the scene blends in linear light as that."""
    linear = _driven(g, LINEAR, f'["{LINEAR}"]', missing=0.0)

    def decoded(c: Field) -> Field:
        curve = g.math("POWER", (c + 0.055) / 1.055, 2.4)
        return c + linear * (c / 12.92 + (c > 0.04045) * (curve - c / 12.92) - c)

    return {"lit": g.vector(decoded(colour.x), decoded(colour.y), decoded(colour.z))}


def _normal(g: Graph, scale: Field, rotation: Field, towards: Field) -> Field:
    """The shortest axis, turned against the viewing direction `towards`, in the object's frame."""
    by_x = (scale.x < scale.y) * (scale.x < scale.z)
    by_y = (1.0 - by_x) * (scale.y < scale.z)
    axis = g.field("FunctionNodeRotateVector", g.vector(by_x, by_y, 1.0 - by_x - by_y), rotation)
    return axis * (1.0 - 2.0 * (axis.dot(towards) > 0.0))


def _driven(g: Graph, name: str, path: str, missing: float | None = None) -> Field:
    """A value that follows a property of the scene that is shown; `missing` where the scene has none."""
    node = g.node("ShaderNodeValue")
    node.name = node.label = name
    driver = node.outputs[0].driver_add("default_value").driver
    driver.type = "SUM"
    variable = driver.variables.new()
    variable.type = "CONTEXT_PROP"
    target = variable.targets[0]
    target.context_property = "ACTIVE_SCENE"
    target.data_path = path
    if missing is not None:
        target.use_fallback_value, target.fallback_value = True, missing
    return g.out(node)


def _intrinsics(g: Graph) -> dict[str, Field]:
    """width, height, fx, fy, cx, cy of the scene's camera in pixels, by drivers that follow camera and scene.
    The same formulas as in cameras.py."""

    percent = _driven(g, "resolution_percentage", "render.resolution_percentage") / 100.0
    # Blender drops the fraction of a pixel
    width, height = (
        g.math("FLOOR", _driven(g, f"resolution_{a}", f"render.resolution_{a}") * percent + 1e-4) for a in "xy"
    )
    aspect_x, aspect_y = (_driven(g, f"aspect_{a}", f"render.pixel_aspect_{a}") for a in "xy")
    lens, shift_x, shift_y, fit, sensor_width, sensor_height = (
        _driven(g, name, f"camera.data.{name}", missing=1.0)  # else a driver stays broken once there is no camera
        for name in ("lens", "shift_x", "shift_y", "sensor_fit", "sensor_width", "sensor_height")
    )
    # sensor_fit: 0 auto (the larger side, always with sensor_width), 1 horizontal, 2 vertical
    wide, tall = width * aspect_x, height * aspect_y
    by_height = (fit > 1.5).max((fit < 0.5) * (tall > wide))
    side = wide + by_height * (tall - wide)
    sensor = sensor_width + (fit > 1.5) * (sensor_height - sensor_width)
    focal = lens / sensor * side
    fx, fy = focal / aspect_x, focal / aspect_y
    cx = width * 0.5 - shift_x * side / aspect_x
    cy = height * 0.5 + shift_y * side / aspect_y
    return {"width": width, "height": height, "fx": fx, "fy": fy, "cx": cx, "cy": cy}


def _named(g: Graph, name: str, kind: str) -> Field:
    return g.field("GeometryNodeInputNamedAttribute", name, data_type=kind, output="Attribute")


def _store(g: Graph, geometry: Field, name: str, value: Field) -> Field:
    into = {"Name": name, "Value": value}
    return g.field("GeometryNodeStoreNamedAttribute", geometry, into=into, data_type="FLOAT_VECTOR", domain="POINT")
