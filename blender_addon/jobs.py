"""The job of this Blender: the timer that looks after it, and how operators start one."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from . import preferences, results, shading
from .backend.client import BackendError, Event, Keys
from .local_backend import LocalBackend
from .materials import discard_unused
from .session import Session

session = Session()
local = LocalBackend()

HEADLESS = bpy.app.background  # no window, and no timer that fires
BUSY_S, IDLE_S = 0.1, 0.5  # between two looks at the backend
PIECE_S = 0.03  # of the work before a job, at one go; Blender's window waits for so long
PART_S = 0.001  # of the shading that its result will need: one node group

_on_result: Callable[[Event], None] | None = None  # of the present job
_task = ""  # of the present job, or of the one that has just ended
_scene = ""  # the name of the one that the present job was asked for in
_where: tuple[str, str] | None = None  # the address and the keys that the connection is made with
_shown: tuple = ()  # what the panels said when they were drawn last


def run_task(
    task: str, fields: dict[str, Any], arrays: dict[str, np.ndarray], on_result: Callable[[Event], None]
) -> None:
    """Start a job of the backend, from any operator; progress and Cancel are those of the PixWorld panel.

    `on_result` gets the result in the main thread, unless it is cancelled or another .blend is opened before; what it
    adds to the file is one undo step. Previews are asked for by `fields`, and are shown as they come. Raises ValueError
    or BackendError with a sentence for the user.
    """
    global _on_result, _scene, _task
    if session.job is not None:
        raise ValueError("A job is running already; wait for it or cancel it.")
    if session.about is None or HEADLESS:
        hello(bpy.context)
    session.start(task, fields, arrays)
    _on_result, _scene, _task = functools.partial(_bring_in, task, on_result), bpy.context.scene.name, task
    watch()


def prepare(work: Iterator[tuple[str, int, int]]) -> None:
    """Do what comes before a job a piece at a time, so that the window stays alive: `work` yields (stage, step, steps)
    and calls `run_task` at its end. Without a window it is all done at once. Raises ValueError."""
    global _scene
    if session.busy:
        raise ValueError("A job is running already; wait for it or cancel it.")
    _scene = bpy.context.scene.name
    session.prepare(work)
    watch()
    session.advance(float("inf") if HEADLESS else PIECE_S)


def trouble(context: bpy.types.Context) -> str:
    """Why no job can be started now, in one sentence; "" when one can. A Blender without a window, where no timer runs,
    asks the backend when it is given a job."""
    if session.busy:
        return "A job is running already; wait for it or cancel it."
    if HEADLESS:
        return ""
    if session.about is None and not session.refusal and not (session.client and session.client.refused):
        if local.running:
            return "The backend is starting."
        address = preferences.get(context).address
        start = "press Start Backend (the play button)"
        return f"No backend answers at {address}; {start}, or run `backend serve --bind {address}` there."
    return session.trouble


def pump() -> None:
    """See what the backend has done, and bring in what it made. Called by the timer; tests call it themselves."""
    global _task
    before = session.error
    ended = local.failure()
    if ended:
        session.fail(ended)
    with contextlib.suppress(ValueError):  # session.error says it
        session.advance(PIECE_S)
    event = session.pump()
    try:
        if session.job is not None and _task in results.TITLES:
            shading.make_ready(PART_S)
        if event is not None and event.kind == "result":
            _on_result(event)
        elif event is not None:
            results.show_preview(event.arrays)
    except ValueError as error:
        session.fail(f"The result cannot be used: {error}")
    except Exception as error:  # whatever it is, the timer must live on
        traceback.print_exception(error)
        session.fail(f"The backend's result cannot be read ({error!r}); use the same version of both.")
    if session.job is None:
        results.clear_preview()
        if _task:
            _task = ""
            discard_unused()  # what was made ready for a result that did not come
    if session.error and session.error != before:
        local.read_log()
        _pop_up(session.error)


def tick() -> float | None:
    """The timer: runs as long as there is a connection or a process to watch."""
    if not bpy.app.is_job_running("RENDER"):  # nothing may change under a render; what comes is kept until it ends
        with in_window():
            if not session.busy:
                _stay_connected()
            pump()
    _redraw()
    if HEADLESS and session.client is None and local.process is None:
        return None
    return BUSY_S if session.busy else IDLE_S


def in_window() -> contextlib.AbstractContextManager:
    """A window as context, of those that show the scene of the job if any does: a timer has none of its own, which
    operators and undo want."""
    windows = list(bpy.context.window_manager.windows)
    window = next((x for x in windows if x.scene.name == _scene), windows[0] if windows else None)
    return contextlib.nullcontext() if window is None else bpy.context.temp_override(window=window)


def watch() -> None:
    """Look after the backend from now on. The panel asks for it, too: who never opens it has no timer."""
    if not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=BUSY_S, persistent=True)


def hello(context: bpy.types.Context) -> str:
    """Ask the backend of the preferences who it is. Raises BackendError."""
    wanted = preferences.get(context)
    return session.hello(wanted.address, keys_of(wanted))


def keys_of(wanted: preferences.PixWorldPreferences) -> Keys | None:
    """The keys of the preferences, if any. Raises BackendError when their file cannot be used."""
    if not wanted.keys:
        return None
    return Keys.read(Path(bpy.path.abspath(wanted.keys)))


def shut_down() -> None:
    """Leave no timer, socket or process."""
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)
    session.close()
    local.stop()


def _stay_connected() -> None:
    """Connect to where the preferences say, and again when they change; what is wrong with it is the panel's to say.
    A Blender without a window connects by itself to the process that it started only."""
    global _where
    wanted = preferences.get(bpy.context)
    where = wanted.address, wanted.keys
    if where != _where and not HEADLESS:
        session.close()
    _where = where
    if session.may_connect and (local.running or not HEADLESS):
        try:
            session.connect(wanted.address, keys_of(wanted))
        except BackendError as error:
            session.refuse(str(error))


def _bring_in(task: str, on_result: Callable[[Event], None], event: Event) -> None:
    results.clear_preview()
    on_result(event)
    if task != "export":
        bpy.ops.ed.undo_push(message=f"PixWorld {task.title()}")


def _redraw() -> None:
    """Draw what tells of the backend again, when there is something new to say."""
    global _shown
    now = session.state, session.stage, session.step, session.steps, session.error, session.trouble, local.running
    if now == _shown:
        return
    _shown = now
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            for region in area.regions:
                if (area.type, region.type) in (("VIEW_3D", "UI"), ("PREFERENCES", "WINDOW")):
                    region.tag_redraw()


def _pop_up(message: str) -> None:
    if HEADLESS:
        return
    with in_window():
        manager = bpy.context.window_manager
        manager.popup_menu(lambda menu, _: menu.layout.label(text=message), title="PixWorld", icon="ERROR")
