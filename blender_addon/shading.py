"""How splats look: exact quads in final renders, ellipsoids in the viewport. Everything is nodes, so that a saved
.blend needs neither this extension nor any script.

Final render: a Geometry Nodes modifier turns each Gaussian into a quad that faces the active camera, spanned by the
same projected covariance, low-pass and cut-off as `pixworld.render`, its colour the SH seen from there. It follows
the camera of each frame. Viewport: the point cloud itself, its balls shaded by the Gaussian's largest value along the
ray (base colour only), sorted from the active camera; where viewport.py draws instead, unsorted points for it to read.
"""

from __future__ import annotations

import contextlib
import time

import bpy

from . import splat_nodes as parts
from .materials import ELLIPSOIDS, QUADS, ellipsoids, is_ours, ours, quads, stamp, stamped
from .node_parts import named, switch
from .nodes import Field, Graph, new_group, set_input
from .splat_nodes import GROUP
from .splats import has_native, is_native

_BALLS = "Balls in Viewport"


def shade(splats: bpy.types.Object) -> None:
    """Give a point cloud object of `splats.make` its materials and its modifier; Blender's own splats need none."""
    if is_native(splats):
        return
    splats.data.materials.clear()
    splats.data.materials.append(_ball_material())
    modifier = splats.modifiers.new(GROUP, "NODES")
    modifier.node_group = _group()


def make_ready(seconds: float) -> None:
    """Make what `shade` needs and the file lacks: one part, and more until the time is up (a part takes up to 0.03 s).

    Called again and again while a result is awaited, so that it stops the window for as short as its points need.
    """
    end, there = time.perf_counter() + seconds, stamped()
    if GROUP in there or has_native():
        return
    makers = parts.FAMILY.makers | {ELLIPSOIDS: _ball_material, QUADS: _quad_material, GROUP: _group}
    for make in (make for name, make in makers.items() if name not in there):
        make()
        if time.perf_counter() >= end:
            return


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


def _ball_material() -> bpy.types.Material:
    return ours(bpy.data.materials, ELLIPSOIDS) or ellipsoids()


def _quad_material() -> bpy.types.Material:
    return ours(bpy.data.materials, QUADS) or quads()


def _group() -> bpy.types.NodeTree:
    return ours(bpy.data.node_groups, GROUP) or _modifier()


def _modifier() -> bpy.types.NodeTree:
    with new_group(GROUP) as tree:
        _write(tree)
        stamp(tree, GROUP)
    return tree


def _write(tree: bpy.types.NodeTree) -> None:
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
    balls = _store(g, points, "splat_colour", parts.lit(g, colour=colour.max((0.0, 0.0, 0.0)))["lit"])
    balls = g.field("GeometryNodeSetMaterial", balls, into={"Material": _ball_material()})
    shown = switch(g, g.out(inputs, _BALLS), bare, balls)
    g.node("NodeGroupOutput", switch(g, g.field("GeometryNodeIsViewport"), quads, shown))
    g.arrange()


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

    In the plane at distance 1 from the camera a Gaussian projects to an ellipse, which the quad spans at the distance
    of the Gaussian.
    """
    z = -1.0 * local.z
    shape = parts.ellipse(g, local=local, to_camera=to_camera)
    a, b, c = (shape[name] for name in "abc")
    reach = g.math("MULTIPLY", g.math("LOGARITHM", opacity * 255.0, 2.718281828459045).max(0.0), 2.0).sqrt()
    drawn = parts.drawn(g, local=local, opacity=opacity, reach=reach, a=a, b=b, c=c)["drawn"]
    points = g.field(
        "GeometryNodeDeleteGeometry", points, into={"Selection": g.math("SUBTRACT", 1.0, drawn)}, domain="POINT"
    )

    def from_camera(dx: Field | float, dy: Field) -> Field:
        return g.field("FunctionNodeTransformDirection", g.vector(dx, dy, 0.0), g.out(camera, "Transform"))

    towards = (position - g.out(camera, "Location")).normalized()
    seen = parts.seen_colour(g, colour=colour, d=towards)["seen"]
    for name, value in (
        ("splat_u", from_camera(a * z, b * z)),
        ("splat_v", from_camera(0.0, c * z)),
        ("splat_colour", parts.lit(g, colour=seen)["lit"]),
        ("splat_normal", parts.normal(g, towards=towards)["normal"]),
        ("splat_opacity_reach", g.vector(opacity, reach, 0.0)),
    ):
        points = _store(g, points, name, value)

    # One corner grid, instanced with size zero at each point, then spread along the two axes of its point.
    quad = g.field("GeometryNodeMeshGrid", 2.0, 2.0, 2, 2, output="Mesh")
    quad = _store(g, quad, "splat_corner", position)
    mesh = g.field("GeometryNodeInstanceOnPoints", points, into={"Instance": quad, "Scale": (0.0, 0.0, 0.0)})
    mesh = g.field("GeometryNodeRealizeInstances", mesh)
    corner = named(g, "splat_corner", "FLOAT_VECTOR") * named(g, "splat_opacity_reach", "FLOAT_VECTOR").y
    offset = named(g, "splat_u", "FLOAT_VECTOR") * corner.x + named(g, "splat_v", "FLOAT_VECTOR") * corner.y
    mesh = g.field("GeometryNodeSetPosition", mesh, into={"Offset": offset})
    mesh = _store(g, mesh, "splat_corner", corner)
    return g.field("GeometryNodeSetMaterial", mesh, into={"Material": _quad_material()})


def _store(g: Graph, geometry: Field, name: str, value: Field) -> Field:
    into = {"Name": name, "Value": value}
    return g.field("GeometryNodeStoreNamedAttribute", geometry, into=into, data_type="FLOAT_VECTOR", domain="POINT")
