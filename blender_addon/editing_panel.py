"""Edit Splats, in the PixWorld tab."""

from __future__ import annotations

import bpy

from . import editing, export
from .edit_nodes import INPUTS
from .nodes import input_of
from .on_splats import active_parts, active_splats


class EditPanel(bpy.types.Panel):
    bl_idname, bl_label, bl_options = "PIXWORLD_PT_edit", "Edit Splats", {"DEFAULT_CLOSED"}
    bl_parent_id = "PIXWORLD_PT_main"
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "PixWorld"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return active_splats(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, parts = self.layout, active_parts(context)
        count = sum(len(x.data.points) for x in parts)
        title = parts[0].name if len(parts) == 1 else f"{export.root_of(parts[0]).name}, {len(parts)} objects"
        layout.label(text=f"{title}: {count:,} Gaussians", icon="POINTCLOUD_DATA")
        edits = editing.edits(parts[0]) if len(parts) == 1 else []
        for modifier in edits:
            self._edit(layout.box(), modifier)
        row = layout.row(align=True)
        row.operator("pixworld.add_edit", icon="FILTER")
        row.operator_menu_enum("pixworld.add_box", "fit", icon="CUBE")
        if edits:
            row = layout.row(align=True)
            row.operator("pixworld.apply_edits", icon="CHECKMARK")
            row.operator("pixworld.delete_hidden", icon="TRASH")
        layout.operator("pixworld.decimate", icon="MOD_DECIM")

        column = layout.column(align=True)
        row = column.row(align=True)
        row.operator_menu_enum("pixworld.align_floor", "by", icon="ORIENTATION_NORMAL")
        row.operator("pixworld.set_distance", icon="DRIVER_DISTANCE")
        column.operator("pixworld.apply_splat_transform", icon="OBJECT_ORIGIN")
        column = layout.column(align=True)
        column.operator("pixworld.regenerate", icon="SHADERFX")
        column.operator("pixworld.add_proxy", icon="MESH_DATA")
        column.operator("pixworld.export_splats", icon="EXPORT")

    def _edit(self, layout: bpy.types.UILayout, modifier: bpy.types.Modifier) -> None:
        row = layout.row(align=True)
        row.prop(modifier, "name", text="")
        row.prop(modifier, "show_viewport", text="")
        row.prop(modifier, "show_render", text="")
        row.operator("pixworld.remove_edit", text="", icon="X").name = modifier.name
        column = layout.column(align=True)
        try:
            inputs = [(wanted, *input_of(modifier, wanted.name)) for wanted in INPUTS]
        except ValueError:
            column.label(text="It cannot be shown: an input of its nodes was renamed", icon="ERROR")
            return
        for wanted, owner, path in inputs:
            if wanted.kind == "NodeSocketObject" and owner is modifier:
                column.prop_search(owner, path, bpy.data, "objects", text=wanted.name)
            else:
                column.prop(owner, path, text=wanted.name)


def register() -> None:
    bpy.utils.register_class(EditPanel)


def unregister() -> None:
    bpy.utils.unregister_class(EditPanel)
