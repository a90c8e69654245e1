"""Edits that can be taken back: one Geometry Nodes modifier hides Gaussians and colours them, before the modifier that
draws them. *Apply* writes what it shows into the data; *delete* drops what it hides.

Sizes are in the splats' own units, so that an edited scene stays the same when its root is scaled. A box is any object,
and what counts is the cube [-1, 1]^3 of its own space: an Empty shown as a cube of size 1, or Blender's default cube.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from . import export, shading, splats
from .edit_nodes import GROUP, INPUTS, STAMP, group
from .nodes import input_of, set_input

_INDEX = "pixworld_index"  # lives only while `kept` looks
_NOTHING_LEFT = "The edits hide every Gaussian; loosen them first."


# --- the modifier


def add(obj: bpy.types.Object) -> bpy.types.Modifier:
    """Add an edit to a splat object, after the edits that it has and before what draws them."""
    modifier = obj.modifiers.new(GROUP, "NODES")
    modifier.node_group = next((x for x in bpy.data.node_groups if STAMP in x and x.library is None), None) or group()
    drawing = shading.modifier_of(obj)
    if drawing is not None:
        obj.modifiers.move(len(obj.modifiers) - 1, obj.modifiers.find(drawing.name))
    return modifier


def edits(obj: bpy.types.Object) -> list[bpy.types.Modifier]:
    """The edits of an object, in their order."""
    return [m for m in obj.modifiers if m.type == "NODES" and m.node_group and STAMP in m.node_group]


def value_of(modifier: bpy.types.Modifier, name: str) -> Any:
    """The value of a modifier's input."""
    owner, path = input_of(modifier, name)
    return owner.value if path == "value" else owner[path[2:-2]]


def set_values(modifier: bpy.types.Modifier, **values: Any) -> None:
    """Set inputs of a modifier; the keys are their names in lower case with underscores."""
    names = {i.name.lower().replace(" ", "_"): i.name for i in INPUTS}
    for key, value in values.items():
        set_input(modifier, names[key], value)


# --- what the edits show, as arrays


def shown(obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """The Gaussians as edited, in object space (arrays as in `splats.attributes`): all modifiers but the drawing one.

    Raises ValueError when the object is not in the present view layer or not visible in it.
    """
    return _shown(obj, [shading.modifier_of(obj)])[0]


def shown_together(parts: Sequence[bpy.types.Object]) -> dict[str, np.ndarray]:
    """What several objects show, as one set in the space of the first. Raises ValueError as `shown`, and for an object
    that is stretched against the first."""
    return together(parts, [shown(x) for x in parts])


def together(parts: Sequence[bpy.types.Object], arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Gaussians of several objects, each in its own space, as one set in the space of the first. Those of objects that
    are placed alike stay as they are, bit for bit."""
    if any(not x.matrix_world.determinant() for x in parts):
        raise ValueError(f"{parts[0].name} is scaled to nothing; give it and its parents a scale.")
    to_first = parts[0].matrix_world.inverted()
    return joined(*(export.placed(a, np.array(to_first @ x.matrix_world)) for x, a in zip(parts, arrays)))


def _shown(
    obj: bpy.types.Object, without: Sequence[bpy.types.Modifier | None]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The Gaussians that an object shows without some modifiers, and the base colours as stored."""
    with _Without(obj, without) as evaluated:
        if "radiance:base" in evaluated.data.attributes:
            return splats.read(evaluated.data), _base(evaluated.data)
    return {name: array[:0] for name, array in splats.arrays_of(obj).items()}, np.empty((0, 4), np.float32)


def kept(obj: bpy.types.Object) -> np.ndarray:
    """Indices [m] of the object's own Gaussians that the edits leave, ascending. Raises ValueError as `shown`."""
    attribute = obj.data.attributes.new(_INDEX, "INT", "POINT")
    attribute.data.foreach_set("value", np.arange(len(attribute.data), dtype=np.int32))
    try:
        with _Without(obj, _others(obj)) as evaluated:
            left = evaluated.data.attributes.get(_INDEX)  # none where nothing is left
            indices = np.empty(len(left.data) if left else 0, np.int32)
            if left:
                left.data.foreach_get("value", indices)
    finally:
        obj.data.attributes.remove(obj.data.attributes[_INDEX])
    return np.sort(indices)


def apply(obj: bpy.types.Object) -> int:
    """Write what the edits show into the data and drop them; how many Gaussians are left. Edits that are switched off
    stay, and so do other modifiers. One that would leave none is refused (ValueError)."""
    arrays, base = _shown(obj, _others(obj))
    if not len(base):
        raise ValueError(_NOTHING_LEFT)
    _replace(obj, arrays, base)
    for modifier in edits(obj):
        if modifier.show_viewport:
            obj.modifiers.remove(modifier)
    return len(arrays["means"])


def delete_hidden(obj: bpy.types.Object) -> int:
    """Drop the Gaussians that the edits hide, and keep the edits; how many are left. ValueError as `apply`."""
    indices = kept(obj)
    if not len(indices):
        raise ValueError(_NOTHING_LEFT)
    keep(obj, indices)
    return len(indices)


def keep(obj: bpy.types.Object, indices: np.ndarray, added: Mapping[str, np.ndarray] | None = None) -> None:
    """Keep these Gaussians of an object, bit for bit and in this order, and put others behind them."""
    arrays = {name: array[indices] for name, array in splats.arrays_of(obj).items()}
    _replace(obj, arrays if added is None else joined(arrays, added), _base(obj.data)[indices])


def _replace(obj: bpy.types.Object, arrays: Mapping[str, np.ndarray], base: np.ndarray) -> None:
    """Replace the Gaussians; the first of them get their base colours as stored, because as SH coefficients and back
    dark ones lose their last bit."""
    splats.replace(obj, arrays)
    whole = _base(obj.data)
    whole[: len(base)] = base
    attribute = obj.data.attributes["radiance:base"]
    attribute.data.foreach_set(_prop(attribute), whole.ravel())


def joined(first: Mapping[str, np.ndarray], *others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sets of Gaussians as one, with the SH degree and the further attributes of the first; what the others lack of
    them is 1 (they are as sure as can be)."""
    alike = [_like(first, x) for x in others]
    return {name: np.concatenate([array, *(x[name] for x in alike)]) for name, array in first.items()}


def _like(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The second set with the SH degree and the further attributes of the first."""
    k, n = first["sh"].shape[1], len(second["means"])
    sh = np.zeros((n, k, 3), np.float32)
    bands = min(k, second["sh"].shape[1])
    sh[:, :bands] = second["sh"][:, :bands]
    lacking = {name: np.ones(n, array.dtype) for name, array in first.items() if name not in splats.FIELDS}
    return lacking | dict(second) | {"sh": sh}


def _base(cloud: bpy.types.PointCloud) -> np.ndarray:
    """Colour and opacity [n 4] as stored."""
    attribute = cloud.attributes["radiance:base"]
    values = np.empty((len(attribute.data), 4), np.float32)
    attribute.data.foreach_get(_prop(attribute), values.reshape(-1))
    return values


def _prop(attribute: bpy.types.Attribute) -> str:
    return "color" if attribute.data_type == "FLOAT_COLOR" else "vector"


def _others(obj: bpy.types.Object) -> list[bpy.types.Modifier]:
    """The modifiers of an object that are no edits."""
    ours = {m.name for m in edits(obj)}
    return [m for m in obj.modifiers if m.name not in ours]


class _Without:
    """The evaluated object without some of its modifiers."""

    def __init__(self, obj: bpy.types.Object, modifiers: Sequence[bpy.types.Modifier | None]) -> None:
        self.obj, self.muted = obj, [m for m in modifiers if m is not None and m.show_viewport]

    def __enter__(self) -> bpy.types.Object:
        if not self.obj.visible_get():
            raise ValueError(f"{self.obj.name} is hidden or not in this view layer; show it first.")
        for modifier in self.muted:
            modifier.show_viewport = False
        return self.obj.evaluated_get(bpy.context.evaluated_depsgraph_get())

    def __exit__(self, *_: object) -> None:
        for modifier in self.muted:
            modifier.show_viewport = True


# --- boxes


def add_box(name: str, low: Sequence[float], high: Sequence[float], frame: Matrix) -> bpy.types.Object:
    """Make an Empty whose cube spans `low` to `high` in a frame (a matrix to the world); link it yourself."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    box = bpy.data.objects.new(name, None)
    box[splats.MADE] = True
    box.empty_display_type, box.empty_display_size = "CUBE", 1.0
    half = np.maximum((high - low) / 2, 1e-6)
    box.matrix_world = frame @ Matrix.LocRotScale((low + high) / 2, None, half)
    return box


def extent(means: np.ndarray, opacities: np.ndarray, share: float = 0.98) -> tuple[np.ndarray, np.ndarray]:
    """Corners [3] of the box that holds a share of the opaque Gaussians on each axis, so that no stray one counts; with
    a little room, so that a flat floor is in it."""
    solid = means[opacities >= min(0.5, float(np.median(opacities)))]
    low, high = np.quantile(solid, ((1 - share) / 2, (1 + share) / 2), axis=0)
    room = 0.02 * (high - low).max()
    return low - room, high + room


def in_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Which points [n 3] are in the box [4 4] (it takes the cube to the frame of the points); bool [n]."""
    inverse = np.linalg.inv(box)
    return np.abs(points @ inverse[:3, :3].T + inverse[:3, 3]).max(axis=1, initial=0) <= 1
