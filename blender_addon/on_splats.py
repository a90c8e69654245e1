"""What the buttons of "Edit Splats" have in common: the splats that they are about, and how they fail."""

from __future__ import annotations

import bpy
import numpy as np

from . import export, jobs, splats
from .backend.client import BackendError

UNDO = {"REGISTER", "UNDO"}


def all_parts(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The active object if it is splats, or all those of its scene when a camera, a box or the root is active: one
    object or, by photo, several."""
    obj = context.object
    if obj is None or splats.is_splats(obj):
        return [] if obj is None else [obj]
    found = [x for x in export.root_of(obj).children_recursive if splats.is_splats(x)]
    return [x for x in found if export.root_of(x) == export.root_of(found[0])]  # of one scene


def active_parts(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The splats that the buttons are about: of `all_parts`, those that are hidden do not count beside others."""
    parts = all_parts(context)
    return [x for x in parts if x.visible_get()] or parts


def active_splats(context: bpy.types.Context) -> bpy.types.Object | None:
    """The first of the `active_parts`."""
    return next(iter(active_parts(context)), None)


class OnSplats:
    """Something that is done to the active splats; a ValueError or BackendError is shown to the user."""

    changes_them = True
    of_all = False  # whether it is done to all objects of a scene with one for each photo

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        parts = active_parts(context)
        if not parts or context.mode != "OBJECT":
            cls.poll_message_set("Select splats, in Object Mode")
            return False
        if len(parts) > 1 and not cls.of_all:
            cls.poll_message_set("This scene has splats in an object for each photo; select one of them")
            return False
        if cls.changes_them and not all(x.is_editable and x.data.is_editable for x in all_parts(context)):
            cls.poll_message_set(
                "These splats are linked from another file, which would lose the change; "
                "make them local first (Object > Relations > Make Local > All)"
            )
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            said = self.act(context, active_splats(context))
        except (ValueError, BackendError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if said:
            self.report({"INFO"}, said)
        return {"FINISHED"}


class OnBackend(OnSplats):
    """Something that the backend does with the active splats."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        trouble = jobs.trouble(context)
        if trouble:
            cls.poll_message_set(trouble)
        return not trouble and super().poll(context)


def to_world(obj: bpy.types.Object, points: np.ndarray) -> np.ndarray:
    """Points [n 3] of an object's space in the world."""
    matrix = np.array(obj.matrix_world)
    return points @ matrix[:3, :3].T + matrix[:3, 3]
