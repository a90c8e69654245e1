"""The buttons of the PixWorld tab."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

from . import cameras, jobs, preferences, requests, results
from .backend.client import BackendError, Event
from .jobs import local, pump, run_task, session, tick

__all__ = ["Event", "local", "pump", "run_task", "session", "tick"]


def _work(task: str, scene: bpy.types.Scene, again: dict[str, Any] | None = None) -> Iterator[tuple[str, int, int]]:
    """Everything from the settings to the start of the job, in small pieces."""
    request = yield from requests.compose(task, scene, again)
    changed = [f"{name} has changed since this result was made." for name in request.changed]

    def on_result(event: Event) -> None:
        session.notes = changed + results.bring_in(request, about, event)

    run_task(task, request.fields, request.arrays, on_result)
    about = dict(session.about)  # who was asked


class _Ask:
    """A button that gives the backend a job made of the scene's settings."""

    task: str

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        trouble = jobs.trouble(context)
        if trouble:
            cls.poll_message_set(trouble)
        return not trouble

    def execute(self, context: bpy.types.Context) -> set[str]:
        return self._start(_work(self.task, context.scene))

    def _start(self, work: Iterator[tuple[str, int, int]]) -> set[str]:
        try:
            jobs.prepare(work)
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class Reconstruct(_Ask, bpy.types.Operator):
    """Rebuild the place of the photos as splats; they appear here when they are done"""

    bl_idname, bl_label = "pixworld.reconstruct", "Reconstruct"
    task = "reconstruct"


class Generate(_Ask, bpy.types.Operator):
    """Make a world from the prompt, the images or both, seen along the camera"""

    bl_idname, bl_label = "pixworld.generate", "Generate"
    task = "generate"


class RunAgain(_Ask, bpy.types.Operator):
    """Set everything as it was for the selected result, and do it again: the same cameras, seed and images"""

    bl_idname, bl_label = "pixworld.run_again", "Run Again"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        item = results.selected(context.scene)
        if item is None or requests.card_of(item) is None:
            cls.poll_message_set("Select a result in the list first")
            return False
        return super().poll(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        card = requests.card_of(results.selected(context.scene))
        requests.restore(context.scene.pixworld, card["settings"])
        return self._start(_work(card["task"], context.scene, card))


class RemoveResult(bpy.types.Operator):
    """Remove the selected result, with its cameras and their photos"""

    bl_idname, bl_label, bl_options = "pixworld.remove_result", "Remove Result", {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return results.selected(context.scene) is not None and context.mode == "OBJECT"

    def execute(self, context: bpy.types.Context) -> set[str]:
        results.remove(results.selected(context.scene))
        return {"FINISHED"}


class Cancel(bpy.types.Operator):
    """Stop the running job"""

    bl_idname, bl_label = "pixworld.cancel", "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.busy

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.cancel()
        results.clear_preview()
        return {"FINISHED"}


class ChoosePhotos(bpy.types.Operator):
    """Choose some photos of a folder instead of all"""

    bl_idname, bl_label = "pixworld.choose_photos", "Choose Photos"

    directory: bpy.props.StringProperty(subtype="DIR_PATH")
    files: bpy.props.CollectionProperty(type=bpy.types.OperatorFileListElement)
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.directory = context.scene.pixworld.photos
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.pixworld
        settings.photos = self.directory  # forgets what was chosen before
        for file in self.files:
            if file.name:
                settings.chosen.add().name = file.name
        return {"FINISHED"}


class StartBackend(bpy.types.Operator):
    """Start a backend on this computer with the Python of the add-on's preferences"""

    bl_idname, bl_label = "pixworld.start_backend", "Start Backend"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return not local.running

    def execute(self, context: bpy.types.Context) -> set[str]:
        wanted = preferences.get(context)
        try:
            keys = Path(bpy.path.abspath(wanted.keys)) if wanted.keys else None
            local.start(bpy.path.abspath(wanted.python), wanted.address, keys)
            session.error = ""
            session.connect(wanted.address, jobs.keys_of(wanted))
        except (ValueError, BackendError) as error:
            local.end()
            session.error, session.notes = str(error), []
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        jobs.watch()
        self.report({"INFO"}, f"Starting the backend; its log is {local.log}")
        return {"FINISHED"}


class StopBackend(bpy.types.Operator):
    """Stop the backend that was started here"""

    bl_idname, bl_label = "pixworld.stop_backend", "Stop Backend"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return local.running

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.close()
        local.end()
        return {"FINISHED"}


class TestBackend(bpy.types.Operator):
    """Ask the backend who it is"""

    bl_idname, bl_label = "pixworld.test_backend", "Test Connection"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return not session.busy

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            about = jobs.hello(context)
        except BackendError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        jobs.watch()
        self.report({"INFO"}, about)
        return {"FINISHED"}


class LookThrough(bpy.types.Operator):
    """Render through the selected photo camera, at the size of its photo"""

    bl_idname, bl_label, bl_options = "pixworld.look_through", "Use Photo Camera", {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.object is not None and context.object.type == "CAMERA" and "pixworld_size" in context.object

    def execute(self, context: bpy.types.Context) -> set[str]:
        cameras.look_through(context.object, context.scene)
        return {"FINISHED"}


CLASSES = (
    Reconstruct, Generate, RunAgain, RemoveResult, Cancel, ChoosePhotos, StartBackend, StopBackend, TestBackend,
    LookThrough,
)  # fmt: skip


@bpy.app.handlers.persistent
def _other_file(*_: object) -> None:
    """Another .blend was opened: what was asked for in the last one must not land in it."""
    session.cancel()


@bpy.app.handlers.persistent
def _undone(*_: object) -> None:
    """An undo replaces what the work before a job holds on to; a job that was sent goes on."""
    if session.work is not None:
        session.cancel()


HANDLERS = (
    (bpy.app.handlers.load_pre, _other_file),
    (bpy.app.handlers.undo_pre, _undone),
    (bpy.app.handlers.redo_pre, _undone),
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for handlers, handler in HANDLERS:
        handlers.append(handler)
    atexit.register(local.stop)


def unregister() -> None:
    jobs.shut_down()
    atexit.unregister(local.stop)
    for handlers, handler in HANDLERS:
        handlers.remove(handler)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
