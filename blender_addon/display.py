"""The panel and the buttons of how splats are shown: in viewports, in renders, and as passes for compositing."""

from __future__ import annotations

from typing import ClassVar

import bpy

from . import passes, rendering, viewport
from .panels import paragraph


class MatchTraining(bpy.types.Operator):
    """Set up Cycles and colour management so that Render Image shows the splats exactly as they were trained"""

    bl_idname, bl_label, bl_options = "pixworld.match_training", "Match Training", {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.match_training(context.scene)
        viewport.redraw()
        return {"FINISHED"}


class SceneLinear(bpy.types.Operator):
    """Blend splats in linear light, so that they mix with lit objects; colours of single splats stay the same"""

    bl_idname, bl_label, bl_options = "pixworld.scene_linear", "Scene Linear", {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.scene_linear(context.scene)
        viewport.redraw()
        return {"FINISHED"}


class RestoreRender(bpy.types.Operator):
    """Give the render settings that PixWorld changed their earlier values"""

    bl_idname, bl_label, bl_options = "pixworld.restore_render", "Restore Settings", {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return rendering.is_changed(context.scene)

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.restore(context.scene)
        viewport.redraw()
        return {"FINISHED"}


class AddPasses(bpy.types.Operator):
    """Add view layers that render depth and normal of the splats, and a transparent background for their alpha"""

    bl_idname, bl_label, bl_options = "pixworld.add_passes", "Add Passes", {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            passes.add(context.scene)
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class RemovePasses(bpy.types.Operator):
    """Remove the view layers of depth and normal"""

    bl_idname, bl_label, bl_options = "pixworld.remove_passes", "Remove Passes", {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return passes.are_there(context.scene)

    def execute(self, context: bpy.types.Context) -> set[str]:
        passes.remove(context.scene)
        return {"FINISHED"}


class DisplayPanel(bpy.types.Panel):
    """How splats are shown and rendered."""

    bl_idname, bl_label, bl_parent_id = "PIXWORLD_PT_display", "Display and Render", "PIXWORLD_PT_main"
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "PixWorld"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.prop(context.scene, "pixworld_viewport")
        if viewport.problem:
            paragraph(layout, context, viewport.problem, "ERROR")
        column = layout.column(align=True)
        linear = rendering.is_linear(context.scene)
        column.label(text="Colours blend in linear light" if linear else "Colours as trained")
        row = column.row(align=True)
        row.operator("pixworld.match_training")
        row.operator("pixworld.scene_linear")
        column.operator("pixworld.restore_render", icon="LOOP_BACK")
        row = layout.row(align=True)
        row.operator("pixworld.add_passes", text="Remake Passes" if passes.are_there(context.scene) else "Add Passes")
        row.operator("pixworld.remove_passes", text="", icon="X")


CLASSES = (MatchTraining, SceneLinear, RestoreRender, AddPasses, RemovePasses, DisplayPanel)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
