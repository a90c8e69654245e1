"""What the buttons of "Edit Splats" have in common: the splats that they are about, and how they fail."""

from __future__ import annotations

import bpy
import numpy as np

from . import export, jobs, splats
from .backend.client import BackendError

UNDO = {"REGISTER", "UNDO"}


def active_splats(context: bpy.types.Context) -> bpy.types.Object | None:
    """The splats that the buttons are about: the active object, or those of its scene when a camera, a box or the root
    is active."""
    obj = context.object
    if obj is None or splats.is_splats(obj):
        return obj
    return next((x for x in export.root_of(obj).children_recursive if splats.is_splats(x)), None)


class OnSplats:
    """Something that is done to the active splats; a ValueError or BackendError is shown to the user."""

    changes_them = True

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = active_splats(context)
        if obj is None or context.mode != "OBJECT":
            cls.poll_message_set("Select splats, in Object Mode")
            return False
        if cls.changes_them and not (obj.is_editable and obj.data.is_editable):
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
