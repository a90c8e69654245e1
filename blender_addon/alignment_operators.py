"""The buttons that place and size a scene."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import EnumProperty, FloatProperty
from mathutils import Matrix, Vector

from . import alignment, editing, export, splats
from .on_splats import UNDO, OnSplats, active_parts, active_splats, to_world


class AlignFloor(OnSplats, bpy.types.Operator):
    """Turn and lift the scene so that its floor is at height 0"""

    bl_idname, bl_label, bl_options = "pixworld.align_floor", "Align Floor", UNDO
    of_all = True

    by: EnumProperty(
        name="Floor",
        items=[
            ("SPLATS", "Find It", "The plane that many opaque splats lie on and few lie below"),
            ("SELECTED", "Three Objects", "The plane through the origins of three selected objects"),
        ],
    )

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> str:
        if self.by == "SELECTED":
            marks = markers(context, obj)
            if len(marks) != 3:
                raise ValueError(
                    f"{len(marks)} objects are selected; select three that lie on the floor, such as Empties."
                )
            plane = alignment.plane_through([x.matrix_world.translation for x in marks])
        else:
            marks, arrays = [], editing.shown_together(active_parts(context))
            plane = alignment.floor_of(to_world(obj, arrays["means"][arrays["opacities"] >= 0.5]))
        move_scene(obj, alignment.level(plane), marks)
        context.view_layer.update()
        return f"The floor was tilted by {np.degrees(np.arccos(min(1.0, plane.normal[2]))):.1f}°"


class SetDistance(OnSplats, bpy.types.Operator):
    """Scale the scene so that two selected objects, or one and the 3D cursor, are at a known distance"""

    bl_idname, bl_label, bl_options = "pixworld.set_distance", "Set Distance", UNDO
    of_all = True

    distance: FloatProperty(name="Distance", description="Real distance", default=1, min=1e-6, unit="LENGTH")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        try:
            a, b, _ = self._ends(context, active_splats(context))
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.distance = (a - b).length
        return context.window_manager.invoke_props_dialog(self)

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> str:
        a, b, marks = self._ends(context, obj)
        matrix = alignment.scale_between(a, b, self.distance)
        move_scene(obj, matrix, marks)
        if len(marks) == 1:
            context.scene.cursor.location = Matrix(matrix) @ context.scene.cursor.location
        context.view_layer.update()
        return f"The scene was scaled by {matrix[0, 0]:.4g}"

    def _ends(self, context: bpy.types.Context, obj: bpy.types.Object) -> tuple[Vector, Vector, list[bpy.types.Object]]:
        marks = markers(context, obj)
        if len(marks) not in (1, 2):
            raise ValueError(
                f"{len(marks)} objects are selected; select two, Empties for example, at the ends of what you "
                "have measured, or one, and place the 3D cursor at the other end."
            )
        points = [x.matrix_world.translation for x in marks]
        return points[0], points[1] if len(points) == 2 else context.scene.cursor.location.copy(), marks


class ApplyTransform(OnSplats, bpy.types.Operator):
    """Move the location, rotation and scale of the splats into their data, view dependence included"""

    bl_idname, bl_label, bl_options = "pixworld.apply_splat_transform", "Apply Transform", UNDO

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> None:
        scale = obj.matrix_basis.median_scale
        splats.apply_transform(obj)
        for modifier in editing.edits(obj):  # sizes are in the units of the data
            sizes = {name: editing.value_of(modifier, name) * scale for name in ("Smallest Size", "Largest Size")}
            editing.set_values(modifier, smallest_size=sizes["Smallest Size"], largest_size=sizes["Largest Size"])
        context.view_layer.update()


def markers(context: bpy.types.Context, obj: bpy.types.Object) -> list[bpy.types.Object]:
    """The selected objects that mark places: all but splats, the root and its parents."""
    root = export.root_of(obj)
    holders = {root}
    while root.parent is not None:
        root = root.parent
        holders.add(root)
    return [x for x in context.selected_objects if x not in holders and not splats.is_splats(x)]


def move_scene(obj: bpy.types.Object, matrix: np.ndarray, marks: list[bpy.types.Object]) -> None:
    """Apply a similarity of the world to a scene by its root, and to the places of markers that are no part of it."""
    root = export.root_of(obj)
    for mark in marks:
        if export.root_of(mark) is not root:
            mark.matrix_world.translation = Matrix(matrix) @ mark.matrix_world.translation
    root.matrix_world = Matrix(matrix) @ root.matrix_world


CLASSES = (AlignFloor, SetDistance, ApplyTransform)
