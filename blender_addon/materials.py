"""The materials of splats: surfaces that show a colour with an opacity and neither take nor give other light."""

from __future__ import annotations

from collections.abc import Iterable

import bpy

from .nodes import Field, Graph

MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999

QUADS = "PixWorld Splats (render)"
ELLIPSOIDS = "PixWorld Splats (viewport)"
_STAMP, _VERSION = "pixworld_shading", 2


def ours(collection: Iterable[bpy.types.ID], name: str) -> bpy.types.ID | None:
    """The node group or material of this version that the file itself has, whatever its name has become."""
    return next((x for x in collection if is_ours(x, name) and x.library is None), None)


def is_ours(thing: bpy.types.ID, name: str) -> bool:
    """Whether a node group or material was made under this name, by this version: files bring those of others."""
    return thing.get(_STAMP) == f"{name} {_VERSION}"


def stamped() -> set[str]:
    """The names under which this version has made node groups and materials of the file, and still finds them."""
    marks = (x.get(_STAMP) for x in (*bpy.data.node_groups, *bpy.data.materials) if x.library is None)
    return {mark.removesuffix(f" {_VERSION}") for mark in marks if mark and mark.endswith(f" {_VERSION}")}


def discard_unused() -> None:
    """Remove those that nothing uses."""
    for collection in (bpy.data.node_groups, bpy.data.materials):
        while unused := [x for x in collection if _STAMP in x and not x.users and x.library is None]:
            bpy.data.batch_remove(unused)


def stamp(thing: bpy.types.ID, name: str) -> None:
    thing[_STAMP] = f"{name} {_VERSION}"


def new(name: str) -> tuple[bpy.types.Material, Graph]:
    """A material that is blended over what is behind it, and its node tree to write."""
    material = bpy.data.materials.new(name)
    stamp(material, name)
    material.use_nodes = True
    material.surface_render_method = "BLENDED"
    material.use_transparency_overlap = True
    material.cycles.emission_sampling = "NONE"  # a splat is no lamp
    return material, Graph(material.node_tree)


def glow(g: Graph, colour: Field, alpha: Field) -> None:
    """The surface shows `colour` with opacity `alpha`."""
    shader = g.node("ShaderNodeMixShader", alpha)
    g.feed(shader.inputs[1], g.field("ShaderNodeBsdfTransparent"))
    g.feed(shader.inputs[2], g.field("ShaderNodeEmission", colour, 1.0))
    g.node("ShaderNodeOutputMaterial", g.out(shader))
    g.arrange()


def attribute(g: Graph, name: str, output: str) -> Field:
    return g.field("ShaderNodeAttribute", attribute_name=name, output=output)


def quad_alpha(g: Graph) -> Field:
    """Opacity of a splat's quad where it is seen."""
    corner = attribute(g, "splat_corner", "Vector")
    return _cut(attribute(g, "splat_opacity_reach", "Vector").x * (-0.5 * corner.dot(corner)).exp())


def _cut(alpha: Field) -> Field:
    alpha = alpha.min(MAX_ALPHA)
    return alpha * (alpha > MIN_ALPHA)


def quads() -> bpy.types.Material:
    """Of the quads that shading.py makes for final renders."""
    material, g = new(QUADS)
    glow(g, attribute(g, "splat_colour", "Vector"), quad_alpha(g))
    return material


def ellipsoids() -> bpy.types.Material:
    """The Gaussian's largest value along the viewing ray, on the front of a ball that holds its 3 sigma."""
    material, g = new(ELLIPSOIDS)
    geometry = g.node("ShaderNodeNewGeometry")
    scale = attribute(g, "scale", "Vector")
    rotation = g.node("ShaderNodeAttribute", attribute_name="rotation_xyzw")  # no node reads w of a quaternion
    q, w = g.out(rotation, "Vector"), g.out(rotation, "Alpha")

    def to_gaussian(v: Field) -> Field:
        """World vector -> the frame in which the Gaussian is the unit ball."""
        v = g.field("ShaderNodeVectorTransform", v, vector_type="VECTOR", convert_from="WORLD", convert_to="OBJECT")
        t = 2.0 * q.cross(v)
        return (v - t * w + q.cross(t)) / scale

    offset = g.out(geometry, "Position") - g.field("ShaderNodePointInfo", output="Position")
    o, d = to_gaussian(offset), to_gaussian(g.out(geometry, "Incoming"))
    nearest = o - d * (o.dot(d) / d.dot(d))
    distance2 = nearest.dot(nearest)
    front = 1.0 - g.out(geometry, "Backfacing")
    alpha = attribute(g, "radiance:base", "Alpha") * (-0.5 * distance2).exp() * (distance2 < 9.0) * front
    glow(g, attribute(g, "splat_colour", "Vector"), _cut(alpha))
    return material
