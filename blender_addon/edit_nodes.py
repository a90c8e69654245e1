"""The Geometry Nodes group of `editing.py`: what it takes in, and how it hides and colours Gaussians."""

from __future__ import annotations

from typing import Any, NamedTuple

import bpy

from .node_parts import BOOL, FLOAT, GEOMETRY, INT, OBJECT, STRING, VECTOR, Family, named, switch
from .nodes import Field, Graph, new_group

GROUP = "PixWorld Edit"
STAMP = "pixworld_edit"  # property of the group: a file that is appended may rename it
SH_BANDS = 15  # beyond the constant one, to degree 3
LUMA = (0.2126, 0.7152, 0.0722)
_WEIGHT = "pixworld_weight"  # lives only inside the node group


class Input(NamedTuple):
    """One input of the modifier."""

    name: str
    kind: str  # of its socket
    default: Any
    low: float | None
    high: float | None
    description: str


FAMILY = Family(GROUP)
_BIG = 1e9
INPUTS = (
    Input("Minimum Opacity", "NodeSocketFloat", 0.0, 0, 1, "Hide Gaussians that are more transparent"),
    Input("Smallest Size", "NodeSocketFloat", 0.0, 0, _BIG, "Hide Gaussians whose longest standard deviation is less"),
    Input("Largest Size", "NodeSocketFloat", 0.0, 0, _BIG, "Hide Gaussians that are longer; 0 is no limit"),
    Input("Minimum Confidence", "NodeSocketFloat", 0.0, 0, _BIG, "Hide what fewer photos show, where that is known"),
    Input("Box", "NodeSocketObject", None, None, None, "Crop by the cube from -1 to 1 of this object's own space"),
    Input("Remove Inside", "NodeSocketBool", False, None, None, "Hide what is inside the box instead of what is not"),
    Input("Budget", "NodeSocketInt", 0, 0, 2**31 - 1, "Keep at most so many, by opacity times area; 0 keeps all"),
    Input("Gain", "NodeSocketFloat", 1.0, 0, 100, "Brightness of the colours"),
    Input("Tint", "NodeSocketColor", (1.0, 1.0, 1.0, 1.0), None, None, "Multiplies the colours"),
    Input("Saturation", "NodeSocketFloat", 1.0, 0, 10, "0 is grey, 1 as it is"),
)
LIMITS = {  # input of the part "Hidden" -> that of the modifier
    "opacity": "Minimum Opacity", "smallest": "Smallest Size", "largest": "Largest Size",
    "confidence": "Minimum Confidence", "box": "Box", "remove_inside": "Remove Inside",
}  # fmt: skip


def group() -> bpy.types.NodeTree:
    """The node group, new."""
    with new_group(GROUP) as tree:
        _write(tree)
        tree[STAMP] = 1  # version
    return tree


def _write(tree: bpy.types.NodeTree) -> None:
    tree.is_modifier = True
    for in_out in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=in_out, socket_type="NodeSocketGeometry")
    for name, kind, default, low, high, description in INPUTS:
        socket = tree.interface.new_socket(name, in_out="INPUT", socket_type=kind, description=description)
        if default is not None:
            socket.default_value = default
        if low is not None:
            socket.min_value, socket.max_value = low, high
    g = Graph(tree)
    source = g.node("NodeGroupInput")
    given = {i.name: g.out(source, i.name) for i in INPUTS}

    limits = {key: given[name] for key, name in LIMITS.items()}
    points = _drop(g, g.out(source, "Geometry"), hidden(g, **limits)["hidden"])
    points = decimated(g, points=points, budget=given["Budget"])["points"]
    tone = {name.lower(): given[name] for name in ("Gain", "Tint", "Saturation")}
    g.node("NodeGroupOutput", recoloured(g, points=points, **tone)["points"])
    g.arrange()


@FAMILY.part("Cropped", box=OBJECT, remove_inside=BOOL)
def cropped(g: Graph, box: Field, remove_inside: Field) -> dict[str, Field]:
    """1 for points on the wrong side of the box. Without a box, or with a flat one, there is no wrong side."""
    info = g.node("GeometryNodeObjectInfo", box, transform_space="RELATIVE")
    size = g.out(info, "Scale")
    inverse = g.node("FunctionNodeInvertMatrix", g.out(info, "Transform"))
    local = g.field("FunctionNodeTransformPoint", g.field("GeometryNodeInputPosition"), g.out(inverse, "Matrix"))
    local = g.vector_math("ABSOLUTE", local)
    outside = local.x.max(local.y).max(local.z) > 1.0
    wrong = g.math("ABSOLUTE", outside - remove_inside)
    return {"wrong": wrong * (size.dot(size) > 0.0) * g.out(inverse, "Invertible")}


@FAMILY.part("Hidden", opacity=FLOAT, smallest=FLOAT, largest=FLOAT, confidence=FLOAT, box=OBJECT, remove_inside=BOOL)
def hidden(
    g: Graph, opacity: Field, smallest: Field, largest: Field, confidence: Field, box: Field, remove_inside: Field
) -> dict[str, Field]:
    """1 for points beyond one of the limits."""
    scale = named(g, "scale", "FLOAT_VECTOR")
    size = scale.x.max(scale.y).max(scale.z)
    known = g.node("GeometryNodeInputNamedAttribute", "confidence", data_type="FLOAT")
    doubtful = g.out(known, "Attribute") < confidence
    beyond = (
        (g.out(_base(g), "Alpha") < opacity)
        .max(size < smallest)
        .max((size > largest) * (largest > 0.0))
        .max(doubtful * g.out(known, "Exists"))
        .max(cropped(g, box=box, remove_inside=remove_inside)["wrong"])
    )
    return {"hidden": beyond}


@FAMILY.part("Decimated", points=GEOMETRY, budget=INT)
def decimated(g: Graph, points: Field, budget: Field) -> dict[str, Field]:
    """At most `budget` points, those that matter most, by opacity times area. Equals are told apart by 1 % of noise, so
    that a cloud of equal points thins out evenly."""
    scale = named(g, "scale", "FLOAT_VECTOR")
    area = scale.x * scale.y * scale.z / scale.x.min(scale.y).min(scale.z).max(1e-12)
    importance = g.out(_base(g), "Alpha") * area
    noise = g.node("FunctionNodeRandomValue", data_type="FLOAT", into={"Min": 1.0, "Max": 1.01})
    count = g.field("GeometryNodeAttributeDomainSize", points, component="POINTCLOUD", output="Point Count")
    weighed = _store(g, points, _WEIGHT, importance * g.out(noise, "Value"), "FLOAT")  # noise goes by index: keep it
    weight = named(g, _WEIGHT, "FLOAT")
    best_first = g.field("GeometryNodeSortElements", weighed, into={"Sort Weight": -1.0 * weight})
    first_out = g.node("GeometryNodeSampleIndex", best_first, data_type="FLOAT", domain="POINT")
    for name, value in (("Value", weight), ("Index", budget)):
        g.feed(next(s for s in first_out.inputs if s.name == name and s.enabled), value)
    fewer = _drop(g, weighed, 1.0 - (weight > g.out(first_out)))
    fewer = g.field("GeometryNodeRemoveAttribute", fewer, into={"Name": _WEIGHT})
    return {"points": switch(g, (budget > 0.5) * (count > budget), points, fewer)}


TONE = {"gain": FLOAT, "tint": VECTOR, "saturation": FLOAT}


@FAMILY.part("Toned", colour=VECTOR, **TONE)
def toned(g: Graph, colour: Field, gain: Field, tint: Field, saturation: Field) -> dict[str, Field]:
    """The colour after a linear change, which goes into every band alike, so that the colour seen from anywhere changes
    in the same way."""
    grey = g.field("ShaderNodeVectorMath", colour, LUMA, operation="DOT_PRODUCT", output="Value")
    grey = g.vector(grey, grey, grey)
    return {"colour": (grey + (colour - grey) * saturation) * tint * gain}


@FAMILY.part("Toned Band", points=GEOMETRY, name=STRING, **TONE)
def toned_band(g: Graph, points: Field, name: Field, **tone: Field) -> dict[str, Field]:
    """The points with the change in the SH band that the attribute of this name holds, if there is one."""
    band = g.node("GeometryNodeInputNamedAttribute", name, data_type="FLOAT_VECTOR")
    there = g.node("GeometryNodeSampleIndex", points, data_type="BOOLEAN", domain="POINT")
    g.feed(next(s for s in there.inputs if s.name == "Value" and s.enabled), g.out(band, "Exists"))
    changed = toned(g, colour=g.out(band, "Attribute"), **tone)["colour"]
    return {"points": switch(g, g.out(there), points, _store(g, points, name, changed, "FLOAT_VECTOR"))}


@FAMILY.part("Recoloured", points=GEOMETRY, **TONE)
def recoloured(g: Graph, points: Field, gain: Field, tint: Field, saturation: Field) -> dict[str, Field]:
    """The points with all their colours changed."""
    tone = {"gain": gain, "tint": tint, "saturation": saturation}
    rgba = _base(g)
    colour = g.vector(*(g.out(rgba, name) for name in ("Red", "Green", "Blue")))
    colour = toned(g, colour=colour, **tone)["colour"]
    base = g.node("FunctionNodeCombineColor", colour.x, colour.y, colour.z, g.out(rgba, "Alpha"))
    changed = _store(g, points, "radiance:base", g.out(base), "FLOAT_COLOR")
    for i in range(SH_BANDS):
        changed = toned_band(g, points=changed, name=f"radiance:sh_{i}", **tone)["points"]
    white = g.vector_math("SUBTRACT", tint, (1.0, 1.0, 1.0))
    off = g.math("ABSOLUTE", gain - 1.0) + g.math("ABSOLUTE", saturation - 1.0) + white.dot(white)
    return {"points": switch(g, off > 1e-6, points, changed)}


def _base(g: Graph) -> bpy.types.Node:
    """The base colour and the opacity, apart."""
    base = g.field("GeometryNodeInputNamedAttribute", "radiance:base", data_type="FLOAT_COLOR", output="Attribute")
    return g.node("FunctionNodeSeparateColor", base)


def _store(g: Graph, points: Field, name: str | Field, value: Field, kind: str) -> Field:
    into = {"Name": name, "Value": value}
    return g.field("GeometryNodeStoreNamedAttribute", points, into=into, data_type=kind, domain="POINT")


def _drop(g: Graph, points: Field, selection: Field) -> Field:
    return g.field("GeometryNodeDeleteGeometry", points, into={"Selection": selection}, domain="POINT")
