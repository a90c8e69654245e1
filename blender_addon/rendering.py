"""How a scene renders splats: as they were trained, or in linear light beside other things; and back again.

The first change of a setting keeps what the user had in the scene, for `restore`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import bpy

LINEAR = "pixworld_linear"  # property of a scene that the nodes of shading.py read: 1 where colours become linear
PASSES = ("PixWorld Depth", "PixWorld Normal")  # the view layers of passes.py, which want a transparent film
_BEFORE = "pixworld_render_before"

_EVERY_LAYER = {  # fewer layers end in black; without a minimum, Russian roulette ends them at random
    "cycles.transparent_max_bounces": 1024,
    "cycles.min_transparent_bounces": 1024,
}
_AS_IS = {
    "view_settings.view_transform": "Raw",
    "view_settings.look": "None",
    "view_settings.exposure": 0.0,
    "view_settings.gamma": 1.0,
    "view_settings.use_curve_mapping": False,
}
_PIXEL_CENTRES = {
    "render.filter_size": 0.0,
    "eevee.taa_render_samples": 1,
    "cycles.samples": 1,
    "cycles.use_adaptive_sampling": False,
    "cycles.use_denoising": False,
    "cycles.pixel_filter_type": "BOX",
    "cycles.filter_width": 0.01,
}


def match_training(scene: bpy.types.Scene, engine: str = "CYCLES") -> None:
    """Render what the splats were trained to show: colours as they are, each pixel sampled once at its centre. Where
    there are passes, the film stays as it is. Raises ValueError as `change`."""
    film = {} if any(x.name in PASSES for x in scene.view_layers) else {"render.film_transparent": False}
    change(scene, {"render.engine": engine} | _AS_IS | film | _PIXEL_CENTRES | _EVERY_LAYER)
    scene[LINEAR] = 0
    _read_again(scene)


def scene_linear(scene: bpy.types.Scene) -> None:
    """Blend splats in linear light, with lit objects; engine, samples and film stay as they are.

    Each splat keeps its colour, but half-transparent layers mix to other tones than in training.
    """
    change(scene, _AS_IS | {"view_settings.view_transform": "Standard"} | _EVERY_LAYER)
    scene[LINEAR] = 1
    _read_again(scene)


def is_linear(scene: bpy.types.Scene) -> bool:
    return bool(scene.get(LINEAR, 0))


def change(scene: bpy.types.Scene, settings: dict[str, Any]) -> None:
    """Set properties, given by their paths from the scene, and remember what they were before the first change.

    Raises ValueError with a sentence where this Blender lacks one: Cycles may be off, a studio's views may be others.
    """
    before = json.loads(scene.get(_BEFORE, "{}"))
    try:
        for path, value in settings.items():
            before.setdefault(path, scene.path_resolve(path))
            _set(scene, path, value)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"{path} cannot be set to {value!r} here; enable Cycles, use Blender's own colour management, or set up "
            "the render yourself."
        ) from None
    finally:
        scene[_BEFORE] = json.dumps(before)


def is_changed(scene: bpy.types.Scene) -> bool:
    return _BEFORE in scene


def restore(scene: bpy.types.Scene) -> None:
    """Give every changed setting its earlier value; one that is there no more, an engine say, is left as it is."""
    for path, value in json.loads(scene.get(_BEFORE, "{}")).items():
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            _set(scene, path, value)
    for key in (_BEFORE, LINEAR):
        if key in scene:
            del scene[key]
    _read_again(scene)


def _read_again(scene: bpy.types.Scene) -> None:
    """Have the nodes look at the scene: by themselves they do not see a property that comes or goes."""
    scene.update_tag()
    for tree in bpy.data.node_groups:
        if LINEAR in tree.nodes:
            tree.update_tag()


def _set(scene: bpy.types.Scene, path: str, value: Any) -> None:
    owner, _, name = path.rpartition(".")
    setattr(scene.path_resolve(owner), name, value)
