"""The PixWorld tab of the 3D view's sidebar."""

from __future__ import annotations

import textwrap

import bpy

from . import operators


class PixWorldPanel(bpy.types.Panel):
    bl_idname, bl_label = "PIXWORLD_PT_main", "PixWorld"
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "PixWorld"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings, session = self.layout, context.scene.pixworld, operators.session
        self._connection(layout)

        column = layout.column()
        column.enabled = session.job is None
        row = column.row(align=True)
        row.prop(settings, "photos", text="")
        row.operator("pixworld.choose_photos", text="", icon="FILE_IMAGE")
        if settings.chosen:
            column.label(text=f"{len(settings.chosen)} chosen photos")
        grid = column.grid_flow(columns=2, align=True)
        for name in ("views", "size", "refine", "seed"):
            grid.prop(settings, name)
        column.prop(settings, "match_training")

        if session.job is None:
            layout.operator("pixworld.reconstruct", icon="CAMERA_DATA")
        else:
            layout.progress(text=_progress(session), factor=session.fraction)
            layout.operator("pixworld.cancel", icon="CANCEL")
        if session.error:
            box = layout.box().column(align=True)
            box.alert = True
            width = max(20, int(context.region.width / (9 * context.preferences.system.ui_scale)))
            for i, line in enumerate(textwrap.wrap(session.error, width)):
                box.label(text=line, icon="ERROR" if i == 0 else "NONE")
        elif session.state in ("done", "cancelled"):
            layout.label(text={"done": "Done", "cancelled": "Cancelled"}[session.state])

        column = layout.column(align=True)
        column.operator("pixworld.look_through", icon="OUTLINER_OB_CAMERA")
        column.operator("pixworld.match_training", icon="SCENE")

    def _connection(self, layout: bpy.types.UILayout) -> None:
        session, local = operators.session, operators.local
        row = layout.row(align=True)
        if session.connected:
            row.label(text=session.backend or "Connected", icon="LINKED")
        elif local.running:
            row.label(text="Backend is starting", icon="TIME")
        else:
            row.label(text="Not connected", icon="UNLINKED")
        row.operator("pixworld.test_backend", text="", icon="FILE_REFRESH")
        if local.running:
            row.operator("pixworld.stop_backend", text="", icon="PAUSE")
        else:
            row.operator("pixworld.start_backend", text="", icon="PLAY")


def _progress(session: operators.Session) -> str:
    if session.stage == "queued":
        return f"queued, {session.step} ahead"
    return f"{session.stage} {session.step} of {session.steps}" if session.steps else session.stage
