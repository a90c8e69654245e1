"""What comes back from the backend: scenes with their shot cards, the live preview, and the list of results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

import bpy
import numpy as np
from mathutils import Matrix

from . import cameras, export, importer, rendering, shading, splats, viewport
from .backend.client import Event
from .requests import CARD, WORLD, Request, backend_of, card_of

PREVIEW = "PixWorld Preview"
TITLES = {"reconstruct": "PixWorld Scene", "generate": "PixWorld World"}
GAUSSIANS = ("means", "quats", "scales", "opacities", "sh")


def bring_in(request: Request, about: Mapping[str, object], event: Event) -> list[str]:
    """Add a result to the scene that it was asked for in; returns what the user should know: images that were left
    out and why, what could not be set up.

    `about` is the backend's answer to "hello", for the shot card. Raises KeyError, ValueError or IndexError when the
    result is not one.
    """
    arrays, scene = event.arrays, bpy.data.scenes.get(request.scene)
    notes = []
    if scene is None:
        scene = bpy.context.scene
        notes.append(f"The scene {request.scene} is no longer there; the result is in {scene.name}.")
    sizes = arrays["sizes"]
    photos = [
        importer.PhotoCamera(
            name=photo["name"],
            c2w=arrays["c2w"][i],
            K=arrays["K"][i],
            width=int(sizes[i][1]),
            height=int(sizes[i][0]),
            split=photo["split"],
            photo=arrays[f"photo/{i}"].tobytes(),
        )
        for i, photo in enumerate(event.header["photos"])
    ]
    gaussians = {name: arrays[name] for name in GAUSSIANS}
    gaussians |= {name: arrays[name] for name in ("confidence",) if name in arrays}
    by_photo = arrays.get("photo")
    imported = importer.add_scene(TITLES[request.task], gaussians, photos, scene, request.world, by_photo)
    result = imported.splats if by_photo is None else imported.splats.parent  # any photo's splats may be deleted
    result[CARD] = json.dumps(request.card | {"backend": backend_of(about)})
    if scene.pixworld.match_training:
        try:
            rendering.match_training(scene)
        except ValueError as error:  # the result is there all the same
            notes.append(f"The render was not set up: {error}")
        if request.world is None and imported.cameras:
            cameras.look_through(imported.cameras[0], scene)
    show(scene.pixworld, result)
    report = event.header.get("report", {})
    left_out = [*report.get("skipped", []), *report.get("unregistered", [])]
    return notes + [f"{x['name']} was left out: {x['reason']}" for x in left_out]


# --- the preview

_may_be_there = False  # whether a preview has been shown, or an undo or a file may have brought one back


def show_preview(arrays: Mapping[str, np.ndarray]) -> None:
    """Show the Gaussians of a job so far, instead of those that were shown before."""
    global _may_be_there
    _may_be_there = True
    gaussians = {name: arrays[name] for name in GAUSSIANS}
    previews = _previews()
    if previews:
        splats.refill(previews[0], gaussians) or splats.replace(previews[0], gaussians)
        return
    preview = splats.make(PREVIEW, gaussians, bpy.context.scene.collection)
    preview.matrix_basis = Matrix(WORLD)
    preview.hide_select = preview.hide_render = True
    preview["pixworld_preview"] = True
    shading.shade(preview)
    viewport.adopt(preview, bpy.context.scene)


def clear_preview() -> None:
    """Remove the preview, if there can be one."""
    global _may_be_there
    if _may_be_there:
        _may_be_there = False
        for preview in _previews():
            data = preview.data
            bpy.data.objects.remove(preview)
            if not data.users:
                bpy.data.pointclouds.remove(data)


def _previews() -> list[bpy.types.Object]:
    return [x for x in bpy.data.objects if x.name.startswith(PREVIEW) and "pixworld_preview" in x]


@bpy.app.handlers.persistent
def _before_saving(*_: object) -> None:
    """A file holds no preview; the next one is made anew."""
    clear_preview()


@bpy.app.handlers.persistent
def _after_undo(*_: object) -> None:
    global _may_be_there
    _may_be_there = True


# --- the list


class PixWorldResults(bpy.types.UIList):
    """The objects of the scene that have a shot card: splats, or the root of those that are one object a photo."""

    bl_idname = "PIXWORLD_UL_results"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0) -> None:
        card = card_of(item) or {}
        row = layout.row(align=True)
        icon = "CAMERA_DATA" if card.get("task") == "reconstruct" else "WORLD"
        row.prop(item, "name", text="", emboss=False, icon=icon)
        row.prop(_hidden_by(item), "hide_viewport", text="", emboss=False)

    def filter_items(self, context, data, name) -> tuple[list[int], list[int]]:
        shown = {x.name for x in context.scene.objects if CARD in x}
        return [self.bitflag_filter_item if x.name in shown else 0 for x in getattr(data, name)], []


def selected(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The object of the selected line of the list, if there is one."""
    item = scene.objects.get(scene.pixworld.picked)
    return item if item is not None and CARD in item else None


def _hidden_by(item: bpy.types.Object) -> bpy.types.ID:
    """What hides the splats of a result: itself or, where it is their root, the collection of their objects."""
    holders = {x for child in item.children for x in child.users_collection if importer.BY_PHOTO in x}
    return next(iter(holders), item)


def line_of(settings: bpy.types.PropertyGroup) -> int:
    return bpy.data.objects.find(settings.picked)


def pick(settings: bpy.types.PropertyGroup, line: int) -> None:
    show(settings, bpy.data.objects[line])


def show(settings: bpy.types.PropertyGroup, item: bpy.types.Object) -> None:
    """Make a result the one of the list, and the selected and active object."""
    settings.picked = item.name
    if bpy.context.mode != "OBJECT":
        return
    others = bpy.context.selected_objects
    with contextlib.suppress(RuntimeError):  # it is not in this view layer
        item.select_set(True)
        for other in others:
            other.select_set(other == item)
        bpy.context.view_layer.objects.active = item


def remove(item: bpy.types.Object) -> None:
    """Remove a result with all that came with it: its root, the cameras with their photos, and what is left empty.

    Objects of the user's stay where they are, whatever they hang on, and so do other results.
    """
    bpy.context.view_layer.update()
    root = export.root_of(item)
    inside = {item, *(_parts(root) if splats.ROOT in root else ())}
    for thing in inside:
        for child in thing.children:
            if child not in inside:
                place = export.world_of(child)
                child.parent = None
                child.matrix_world = place
    data = {x.data for x in inside if x.data is not None}
    images = {b.image for x in inside if x.type == "CAMERA" for b in x.data.background_images if b.image}
    collections = {collection for x in inside for collection in x.users_collection}
    collections |= {child for x in collections if splats.MADE in x for child in x.children_recursive}
    bpy.data.batch_remove(inside)
    bpy.data.batch_remove([x for x in data if not x.users])
    bpy.data.batch_remove([x for x in images if not x.users])
    ours = [x for x in collections if splats.MADE in x]
    for collection in sorted(ours, key=lambda x: len(x.children_recursive)):
        if not collection.objects and not collection.children:
            bpy.data.collections.remove(collection)


def _parts(thing: bpy.types.Object) -> Iterator[bpy.types.Object]:
    """A root, and what we made below it; other roots begin results of their own."""
    if splats.ROOT in thing or splats.MADE in thing or splats.is_splats(thing) or "pixworld_size" in thing:
        yield thing
    for child in thing.children:
        if splats.ROOT not in child:
            yield from _parts(child)


HANDLERS = (
    (bpy.app.handlers.save_pre, _before_saving), (bpy.app.handlers.load_post, _after_undo),
    (bpy.app.handlers.undo_post, _after_undo), (bpy.app.handlers.redo_post, _after_undo),
)  # fmt: skip


def register() -> None:
    bpy.utils.register_class(PixWorldResults)
    for handlers, handler in HANDLERS:
        handlers.append(handler)


def unregister() -> None:
    for handlers, handler in HANDLERS:
        handlers.remove(handler)
    bpy.utils.unregister_class(PixWorldResults)
