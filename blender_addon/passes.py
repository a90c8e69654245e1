"""Alpha, depth and normal of splats for compositing, in Cycles and EEVEE.

Each is the image of a view layer whose material override shows a number as a colour, blended as the colours are: its
red, green and blue are Σ w value and its alpha is Σ w, w the weights with which the splats make up the picture. Other
objects take part with weight 1, and hide what is behind them.

    PixWorld Depth   Σ w z in all three channels; divided by alpha, the expected z along the view axis, scene units
    PixWorld Normal  Σ w (n + 1) / 2, n the shortest axis of a Gaussian, turned towards the camera, world space, unit
    alpha            that of the scene's own layers, as their background is transparent now

Save them as EXR of 32 bits: a view transform other than Raw, or 8 bits, would change numbers as it changes colours.
"""

from __future__ import annotations

import bpy

from . import rendering
from .materials import attribute, glow, new, ours, quad_alpha
from .nodes import Field, Graph

DEPTH, NORMAL = rendering.PASSES


def add(scene: bpy.types.Scene) -> None:
    """Add the two view layers; each is one more render of the scene. `rendering.restore` makes the background solid.

    Raises ValueError where the scene's engine ignores what a view layer says of materials.
    """
    if scene.render.engine == "BLENDER_EEVEE_NEXT":  # as EEVEE is called before Blender 5.0
        raise ValueError("EEVEE cannot render these passes before Blender 5.0; choose Cycles as render engine.")
    rendering.change(scene, {"render.film_transparent": True})
    for name, value in ((DEPTH, _depth), (NORMAL, _normal)):
        layer = scene.view_layers.get(name) or scene.view_layers.new(name)
        _show_alike(layer.layer_collection, scene.view_layers[0].layer_collection)
        layer.material_override = ours(bpy.data.materials, name) or _material(name, value)


def _show_alike(part: bpy.types.LayerCollection, other: bpy.types.LayerCollection) -> None:
    """Leave out of a view layer what another leaves out; a new one has everything."""
    for child, same in zip(part.children, other.children):
        child.exclude, child.holdout, child.indirect_only = same.exclude, same.holdout, same.indirect_only
        _show_alike(child, same)


def are_there(scene: bpy.types.Scene) -> bool:
    return any(layer.name in rendering.PASSES for layer in scene.view_layers)


def remove(scene: bpy.types.Scene) -> None:
    """Take the two view layers away."""
    for layer in [x for x in scene.view_layers if x.name in rendering.PASSES]:
        scene.view_layers.remove(layer)


def _material(name: str, value: object) -> bpy.types.Material:
    material, g = new(name)
    # Splats are what carries a reach, the second component; everything else is solid.
    is_splat = attribute(g, "splat_opacity_reach", "Vector").y > 0.0
    glow(g, value(g, is_splat), quad_alpha(g) + (1.0 - is_splat))
    return material


def _depth(g: Graph, is_splat: Field) -> Field:
    """The z of the surface; a splat's quad lies at the z of its middle."""
    z = g.field("ShaderNodeCameraData", output="View Z Depth")
    return g.vector(z, z, z)


def _normal(g: Graph, is_splat: Field) -> Field:
    own = attribute(g, "splat_normal", "Vector")
    settings = {"vector_type": "VECTOR", "convert_from": "OBJECT", "convert_to": "WORLD"}
    own = g.field("ShaderNodeVectorTransform", own, **settings).normalized()
    surface = g.field("ShaderNodeNewGeometry", output="Normal")
    normal = surface + (own - surface) * is_splat
    return normal * 0.5 + (0.5, 0.5, 0.5)
