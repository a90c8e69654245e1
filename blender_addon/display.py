"""The panel and the buttons of how splats are shown: in viewports, in renders, and as passes for compositing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import bpy

from . import cameras, passes, rendering, splats, viewport
from .key_renders import EEVEE
from .panels import paragraph


class _OnScene:
    """Something that is done to the scene; a ValueError is shown to the user."""

    bl_options: ClassVar = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            self.act(context.scene)
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        viewport.redraw()
        return {"FINISHED"}


class MatchTraining(_OnScene, bpy.types.Operator):
    """Set up Cycles or EEVEE, and colour management, so that Render Image shows the splats as they were trained"""

    bl_idname, bl_label = "pixworld.match_training", "Match Training"

    def act(self, scene: bpy.types.Scene) -> None:
        known = scene.render.engine in ("CYCLES", EEVEE)
        rendering.match_training(scene, scene.render.engine if known else "CYCLES")


class SceneLinear(_OnScene, bpy.types.Operator):
    """Blend splats in linear light, so that they mix with lit objects; colours of single splats stay the same"""

    bl_idname, bl_label = "pixworld.scene_linear", "Scene Linear"

    def act(self, scene: bpy.types.Scene) -> None:
        rendering.scene_linear(scene)


class RestoreRender(_OnScene, bpy.types.Operator):
    """Give the render settings that PixWorld changed their earlier values"""

    bl_idname, bl_label = "pixworld.restore_render", "Restore Settings"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return rendering.is_changed(context.scene)

    def act(self, scene: bpy.types.Scene) -> None:
        rendering.restore(scene)


class AddPasses(_OnScene, bpy.types.Operator):
    """Add view layers that render depth and normal of the splats, and a transparent background for their alpha"""

    bl_idname, bl_label = "pixworld.add_passes", "Add Passes"

    def act(self, scene: bpy.types.Scene) -> None:
        if not any(splats.is_splats(x) for thing in scene.objects for x in (thing, *_instanced(thing))):
            raise ValueError("There are no splats in this scene; reconstruct, generate or link some first.")
        passes.add(scene)
        if bpy.app.version < (5, 1, 0) and scene.render.pixel_aspect_x != scene.render.pixel_aspect_y:
            self.report(
                {"WARNING"},
                "Before version 5.1, Blender cannot write a multilayer EXR of a pixel aspect that is not 1; save the "
                "passes as separate files, or set the aspect to 1.",
            )


def _instanced(thing: bpy.types.Object) -> Iterable[bpy.types.Object]:
    """The objects of the collection that an Empty shows."""
    return thing.instance_collection.all_objects if thing.instance_collection else ()


class RemovePasses(_OnScene, bpy.types.Operator):
    """Remove the view layers of depth and normal"""

    bl_idname, bl_label = "pixworld.remove_passes", "Remove Passes"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return passes.are_there(context.scene)

    def act(self, scene: bpy.types.Scene) -> None:
        passes.remove(scene)


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
        camera = context.scene.camera
        if camera is not None and camera.type == "CAMERA" and camera.data.type in cameras.KINDS:
            kind = cameras.KINDS[camera.data.type]
            text = f"{camera.name} is {kind}: renders show splats rightly in perspective only"
            paragraph(layout, context, text, "ERROR")
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
