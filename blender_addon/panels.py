"""The PixWorld tab of the 3D view's sidebar."""

from __future__ import annotations

import textwrap
from typing import ClassVar

import bpy

from . import jobs, requests, results
from .jobs import local, session


class _InTab:
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "PixWorld"


class PixWorldPanel(_InTab, bpy.types.Panel):
    """Source, prompt, camera, the two buttons, and how the job goes."""

    bl_idname, bl_label = "PIXWORLD_PT_main", "PixWorld"

    def draw(self, context: bpy.types.Context) -> None:
        jobs.watch()
        layout, settings = self.layout, context.scene.pixworld
        _backend_row(layout)

        column = layout.column()
        column.enabled = not session.busy
        column.prop(settings, "source")
        _draw_source(column, settings)
        column.separator()
        column.prop(settings, "prompt", icon="TEXT", text="", placeholder="Prompt")
        column.prop(settings, "path")
        grid = column.grid_flow(columns=2, align=True)
        for name in ("key_views", "steps", "seed", "previews"):
            grid.prop(settings, name)

        if session.busy:
            layout.progress(text=progress(), factor=session.fraction)
            layout.operator("pixworld.cancel", icon="CANCEL")
        else:
            row = layout.row(align=True)
            row.scale_y = 1.4
            row.operator("pixworld.reconstruct", icon="CAMERA_DATA")
            row.operator("pixworld.generate", icon="WORLD")
        _draw_end(layout, context)


class OptionsPanel(_InTab, bpy.types.Panel):
    """What seldom needs a change."""

    bl_idname, bl_label, bl_parent_id = "PIXWORLD_PT_options", "Options", "PIXWORLD_PT_main"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.pixworld
        layout.enabled = not session.busy
        for title, names in (
            ("Reconstruct", ("views", "size", "refine", "by_photo")),
            ("Generate", ("guidance", "view_size")),
        ):
            column = layout.column(align=True)
            column.label(text=title)
            for name in names:
                column.prop(settings, name)
        layout.prop(settings, "match_training")
        layout.operator("pixworld.look_through", icon="OUTLINER_OB_CAMERA")


class ResultsPanel(_InTab, bpy.types.Panel):
    """The results in this scene, and what made the selected one."""

    bl_idname, bl_label, bl_parent_id = "PIXWORLD_PT_results", "Results", "PIXWORLD_PT_main"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.pixworld
        layout.template_list("PIXWORLD_UL_results", "", bpy.data, "objects", settings, "result", rows=3)
        item = results.selected(context.scene)
        card = None if item is None else requests.card_of(item)
        if card is not None:
            column = layout.column(align=True)
            column.scale_y = 0.8
            for line in about(card):
                column.label(text=line)
        row = layout.row(align=True)
        row.operator("pixworld.run_again", icon="FILE_REFRESH")
        row.operator("pixworld.remove_result", icon="X", text="")


def draw_connection(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What the backend says of itself, or what is wrong with it."""
    jobs.watch()
    text = session.trouble if session.busy else jobs.trouble(context)
    paragraph(layout, context, text or session.backend, "ERROR" if text else "LINKED")
    if local.last_lines:
        _log(layout, context)


def _backend_row(layout: bpy.types.UILayout) -> None:
    row = layout.row(align=True)
    if session.backend:
        row.label(text=session.backend, icon="LINKED")
    elif local.running:
        row.label(text="Backend is starting", icon="TIME")
    else:
        row.label(text="Not connected", icon="UNLINKED")
    row.operator("pixworld.test_backend", text="", icon="FILE_REFRESH")
    if local.running:
        row.operator("pixworld.stop_backend", text="", icon="PAUSE")
    else:
        row.operator("pixworld.start_backend", text="", icon="PLAY")


def _draw_source(column: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    match settings.source:
        case "FOLDER":
            row = column.row(align=True)
            row.prop(settings, "photos", text="")
            row.operator("pixworld.choose_photos", text="", icon="FILE_IMAGE")
            if settings.chosen:
                column.label(text=f"{_counted(len(settings.chosen), 'photo')} chosen")
        case "IMAGES":
            column.template_list("PIXWORLD_UL_images", "", bpy.data, "images", settings, "image", rows=3)
        case "CLIP":
            column.template_ID(settings, "clip", open="clip.open")
            if settings.clip is not None and settings.clip.source == "SEQUENCE":
                column.prop(settings, "images")
        case "RENDER":
            column.prop(settings, "images")


def _draw_end(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """How the last job ended, or why none can begin."""
    trouble = "" if session.busy else jobs.trouble(context)
    if session.error:
        paragraph(layout.box(), context, session.error, "ERROR", alert=True)
        if local.last_lines:
            _log(layout, context)
    elif trouble:
        paragraph(layout, context, trouble, "INFO")
    elif session.state in ("done", "cancelled"):
        layout.label(text={"done": "Done", "cancelled": "Cancelled"}[session.state])
    for note in session.notes:
        paragraph(layout, context, note, "INFO")


def _log(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    box = layout.box()
    paragraph(box, context, f"Log: {local.log}", "TEXT")
    for line in local.last_lines:
        paragraph(box, context, line, "NONE")


def paragraph(
    layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str, alert: bool = False
) -> None:
    """Text in as many lines as the region's width asks for."""
    column = layout.column(align=True)
    column.alert, column.scale_y = alert, 0.8
    width = max(20, int(context.region.width / (9 * context.preferences.system.ui_scale)))
    for i, line in enumerate(textwrap.wrap(text, width)):
        column.label(text=line, icon=icon if i == 0 else "NONE" if icon == "NONE" else "BLANK1")


def progress() -> str:
    """The stage of the job, how far it is, and when it will end."""
    if session.stage == "queued":
        return f"queued, {session.step} ahead"
    text = f"{session.stage} {session.step} of {session.steps}" if session.steps else session.stage
    return text if session.left_s is None else f"{text}, {duration(session.left_s)} left"


def duration(seconds: float) -> str:
    """A rough time: "8 s", "3 min", "2 h"."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def _counted(number: int, noun: str, several: str = "") -> str:
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def about(card: dict) -> list[str]:
    """A shot card in some lines."""
    settings, backend = card["settings"], card.get("backend", {})
    made = "Reconstructed" if card["task"] == "reconstruct" else "Generated"
    listed = [("photos", "image")]
    if settings.get("path") == "CAMERA":  # a built-in path begins at one camera, and goes on in the backend
        listed.append(("cameras", "camera"))
    counts = [_counted(len(card[name]), noun) for name, noun in listed if card[name]]
    lines = [f"{made} {card.get('made', '')}", ", ".join([f"Seed {settings['seed']}", *counts])]
    if card["task"] == "generate" and settings["prompt"]:
        lines.insert(0, settings["prompt"])
    if card.get("regenerated"):
        lines.append(f"{_counted(len(card['regenerated']), 'box', 'boxes')} generated anew since")
    return [*lines, f"{backend.get('checkpoint')} {backend.get('hash') or ''} on {backend.get('device')}"]


CLASSES = (PixWorldPanel, OptionsPanel, ResultsPanel)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
