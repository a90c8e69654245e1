"""Splats in the 3D viewports, as renders show them: gpu_splats.py draws them after the scene, behind and in front of
whatever else is there, and Blender shows only the bounds of their point clouds.

Renders and saved files know nothing of it: while a file is saved, its point clouds show their own balls again, so that
it looks right where this extension is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import bpy
import gpu
import numpy as np
from bpy.app.handlers import persistent
from gpu.types import GPUOffScreen, GPUTexture

from . import gpu_splats, rendering, shading, splats

_POLL_S = 0.02  # between two looks at the thread that sorts

problem = ""  # why this computer cannot draw; the point clouds show themselves then

_handle: object | None = None
_worker: ThreadPoolExecutor | None = None
_clouds: dict[int, gpu_splats.Cloud] = {}  # by session_uid of the object
_stale: set[int] = set()  # of those, objects that may have changed since
_canvas: dict[int, GPUOffScreen] = {}  # by viewport


def is_on(scene: bpy.types.Scene) -> bool:
    """Whether splats are drawn by us in the scene's viewports; never without a window."""
    return _handle is not None and not problem and bool(getattr(scene, "pixworld_viewport", False))


def adopt(thing: bpy.types.Object, scene: bpy.types.Scene) -> None:
    """Show a new splat object as the scene shows its others."""
    if is_on(scene):
        show_as_bounds(thing, True)


def show_as_bounds(thing: bpy.types.Object, bounds: bool) -> None:
    """Leave drawing to us, or show the point cloud as shaded balls. Final renders are the same either way."""
    shading.show_balls(thing, not bounds)
    thing.display_type = "BOUNDS" if bounds else "TEXTURED"


def _shaded(scene: bpy.types.Scene) -> Iterator[bpy.types.Object]:
    """The scene's splats that we shade; Blender's own draw themselves."""
    return (thing for thing in scene.objects if splats.is_splats(thing) and shading.modifier_of(thing) is not None)


def refresh(scene: bpy.types.Scene) -> None:
    """Bring the point clouds of a scene into line with its setting."""
    for thing in _shaded(scene):
        show_as_bounds(thing, is_on(scene))


# --- drawing


def _draw() -> None:
    """The draw handler of every 3D viewport."""
    global problem
    context = bpy.context
    if not is_on(context.scene):
        return
    try:
        _draw_in(context)
    except Exception as error:  # a card or driver that cannot; anything raised here would come at every redraw
        problem = f"This computer cannot draw splats in the viewport ({error}); they are shown as balls."
        print(f"PixWorld: {problem}")
        _soon(_refresh_all)


def _draw_in(context: bpy.types.Context) -> None:
    space, region = context.space_data, context.region_data
    size = context.region.width, context.region.height
    view, projection = np.array(region.view_matrix), np.array(region.window_matrix)
    number = context.region.as_pointer()
    depsgraph = context.evaluated_depsgraph_get()
    shown = [x for x in _shaded(context.scene) if x.visible_get(view_layer=context.view_layer, viewport=space)]
    if not shown:
        return
    if any(x.display_type != "BOUNDS" for x in shown):  # of another file or scene, and new here
        _soon(_refresh_all)
    # Between clouds, the one whose middle is farther comes first.
    found = [(_cloud_of(thing, depsgraph), view @ np.array(thing.matrix_world)) for thing in shown]
    found = [(c, m) for c, m in found if len(c) and np.linalg.det(m[:3, :3])]  # not those scaled to nothing
    found.sort(key=lambda x: (x[1] @ np.r_[x[0].middle, 1])[2])

    depth = _scene_depth(size) if _has_others(context) else None
    linear = rendering.is_linear(context.scene)
    canvas = _canvas_for(number, size)
    coming = False
    with canvas.bind():
        gpu.state.active_framebuffer_get().clear(color=(0, 0, 0, 0))
        for cloud, matrix in found:
            coming |= cloud.prepare(number, matrix, _worker)
            cloud.draw(number, matrix, projection, size, linear, depth)
    gpu_splats.lay_over(canvas.texture_color, linear)
    if coming:
        _soon(_redraw_when_sorted, _POLL_S)


def _soon(timer: Callable[[], float | None], seconds: float = 0) -> None:
    """Call a timer that is not waiting already."""
    if not bpy.app.timers.is_registered(timer):
        bpy.app.timers.register(timer, first_interval=seconds, persistent=True)


def _cloud_of(thing: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> gpu_splats.Cloud:
    """What the object shows after its modifiers, uploaded again only where that changed."""
    uid = thing.session_uid
    cloud = _clouds.get(uid)
    if cloud is None or uid in _stale:
        data = thing.evaluated_get(depsgraph).data
        if cloud is None or not cloud.shows(data):
            cloud = _clouds[uid] = gpu_splats.Cloud(splats.read(data))
        _stale.discard(uid)
    return cloud


def _has_others(context: bpy.types.Context) -> bool:
    """Whether something may hide splats."""
    solid = {"MESH", "CURVE", "CURVES", "SURFACE", "META", "FONT", "POINTCLOUD", "VOLUME", "GREASEPENCIL", "GPENCIL"}
    others = (x for x in context.view_layer.objects if x.type in solid and not splats.is_splats(x))
    empties = (x for x in context.view_layer.objects if x.instance_type == "COLLECTION")
    return any(x.visible_get() for x in others) or any(x.visible_get() for x in empties)


def _scene_depth(size: tuple[int, int]) -> GPUTexture:
    """Window depths of what the viewport shows so far."""
    depths = gpu.state.active_framebuffer_get().read_depth(0, 0, *size)
    depths.dimensions = size[0] * size[1]
    return GPUTexture(size, format="R32F", data=depths)


def _canvas_for(number: int, size: tuple[int, int]) -> GPUOffScreen:
    canvas = _canvas.get(number)
    if canvas is None or (canvas.width, canvas.height) != size:
        if canvas is not None:
            canvas.free()
        canvas = _canvas[number] = GPUOffScreen(*size, format="RGBA16F")
    return canvas


def _redraw_when_sorted() -> float | None:
    """Timer: redraw once the thread has something new."""
    pending = [seen.coming for cloud in _clouds.values() for seen in cloud.seen.values() if seen.coming is not None]
    if any(future.done() for future in pending):
        redraw()
        return None  # the redraw registers it again if more is to come
    return _POLL_S if pending else None


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


# --- following the file


@persistent
def _changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    for update in depsgraph.updates:
        if update.is_updated_geometry and isinstance(update.id, bpy.types.Object):
            _stale.add(update.id.original.session_uid)


@persistent
def _all_changed(*_: object) -> None:
    """After undo, redo and opening: objects may be others, with the old numbers."""
    _stale.update(_clouds)
    here = {thing.session_uid for thing in bpy.data.objects}
    for uid in _clouds.keys() - here:
        del _clouds[uid]


@persistent
def _opened(*_: object) -> None:
    _clouds.clear()
    _stale.clear()
    _refresh_all()


@persistent
def _before_save(*_: object) -> None:
    for thing in (x for scene in bpy.data.scenes if is_on(scene) for x in _shaded(scene)):
        show_as_bounds(thing, False)


@persistent
def _after_save(*_: object) -> None:
    _refresh_all()


def _refresh_all() -> None:
    for scene in bpy.data.scenes:
        refresh(scene)


_HANDLERS = {
    "depsgraph_update_post": _changed, "frame_change_post": _changed, "undo_post": _all_changed,
    "redo_post": _all_changed, "load_post": _opened, "save_pre": _before_save, "save_post": _after_save,
    "save_post_fail": _after_save,
}  # fmt: skip


def register() -> None:
    global _handle, _worker
    bpy.types.Scene.pixworld_viewport = bpy.props.BoolProperty(
        name="Splats in Viewport",
        description="Draw splats in 3D viewports as renders show them",
        default=True,
        update=lambda scene, _context: refresh(scene),
    )
    if bpy.app.background:  # nothing to draw in; and bpy 4.2 and 4.5 crash at exit on timers and handlers of drawing
        return
    _worker = ThreadPoolExecutor(1, "pixworld-sort")
    _handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_VIEW")
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)
    _soon(_refresh_all)  # now, an extension sees no file


def unregister() -> None:
    global _handle, _worker, problem
    del bpy.types.Scene.pixworld_viewport
    if _handle is None:
        return
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = None
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    for timer in (_redraw_when_sorted, _refresh_all):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    _worker.shutdown(cancel_futures=True)
    _worker, problem = None, ""
    _clouds.clear()
    _stale.clear()
    _canvas.clear()
    gpu_splats.forget()
    _refresh_all()  # no longer on: back to balls
