"""The buttons, and the timer that brings results in."""

import atexit
from pathlib import Path

import bpy

from . import cameras, importer, preferences, shading
from .backend.client import BackendError, Event
from .session import LocalBackend, Session, read_photos

session = Session()
local = LocalBackend()

BUSY_S, IDLE_S = 0.1, 0.5  # between two looks at the backend


def pump() -> None:
    """See what the backend has done, and bring a finished scene in. Called by the timer; tests call it themselves."""
    before = session.error
    if local.running and session.client is None:
        session.connect(local.address)
    ended = local.failure()
    if ended:
        session.fail(ended)
    event = session.pump()
    if event is not None:
        try:
            _bring_in(event)
        except (KeyError, ValueError, IndexError) as error:
            session.fail(f"The backend's result cannot be read ({error!r}); use the same version of both.")
    if session.error and session.error != before:
        _pop_up(session.error)


def tick() -> float | None:
    """The timer: runs as long as there is a connection or a process to watch."""
    if not bpy.app.is_job_running("RENDER"):  # nothing may change under a render; what comes is kept until it ends
        pump()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()
    if session.client is None and local.process is None:
        return None
    return BUSY_S if session.job else IDLE_S


def _watch() -> None:
    if not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=BUSY_S, persistent=True)


def _bring_in(event: Event) -> None:
    arrays, scene = event.arrays, bpy.context.scene
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
    gaussians = {name: arrays[name] for name in ("means", "quats", "scales", "opacities", "sh")}
    imported = importer.add_scene("PixWorld Scene", gaussians, photos, scene)
    if scene.pixworld.match_training:
        shading.match_training(scene)
        cameras.look_through(imported.cameras[0], scene)
    bpy.ops.ed.undo_push(message="PixWorld Reconstruct")


def _pop_up(message: str) -> None:
    if bpy.app.background:
        return
    manager = bpy.context.window_manager
    with bpy.context.temp_override(window=manager.windows[0]):  # a timer has no window of its own
        manager.popup_menu(lambda menu, _: menu.layout.label(text=message), title="PixWorld", icon="ERROR")


class Reconstruct(bpy.types.Operator):
    """Send the photos to the backend; the scene appears here when it is done"""

    bl_idname, bl_label = "pixworld.reconstruct", "Reconstruct from Photos"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.job is None

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.pixworld
        try:
            folder = Path(bpy.path.abspath(settings.photos)) if settings.photos else Path()
            if not settings.photos:
                raise ValueError("No photos are chosen; choose a folder of photos first.")
            names, arrays = read_photos(folder, [file.name for file in settings.chosen])
            options = {name: getattr(settings, name) for name in ("views", "size", "refine", "seed")}
            address = preferences.get(context).address
            session.start(address, "reconstruct", {"names": names, "options": options}, arrays)
        except (ValueError, BackendError) as error:
            session.fail(str(error))
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        _watch()
        return {"FINISHED"}


class Cancel(bpy.types.Operator):
    """Stop the running job"""

    bl_idname, bl_label = "pixworld.cancel", "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.job is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.cancel()
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
            local.start(bpy.path.abspath(wanted.python), wanted.address)
            session.connect(wanted.address)
        except (ValueError, BackendError) as error:
            local.stop()
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        _watch()
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
        local.stop()
        return {"FINISHED"}


class TestBackend(bpy.types.Operator):
    """Ask the backend who it is"""

    bl_idname, bl_label = "pixworld.test_backend", "Test Connection"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.job is None

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            about = session.hello(preferences.get(context).address)
        except BackendError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        _watch()
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


class MatchTraining(bpy.types.Operator):
    """Set up Cycles and colour management so that Render Image shows the splats exactly as they were trained"""

    bl_idname, bl_label, bl_options = "pixworld.match_training", "Set Up Render", {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        shading.match_training(context.scene)
        return {"FINISHED"}


CLASSES = (
    Reconstruct, Cancel, ChoosePhotos, StartBackend, StopBackend, TestBackend, LookThrough, MatchTraining,
)  # fmt: skip


@bpy.app.handlers.persistent
def _other_file(*_: object) -> None:
    """Another .blend was opened: what was asked for in the last one must not land in it."""
    session.cancel()


def shut_down() -> None:
    """Leave no timer, socket or process."""
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)
    session.close()
    local.stop()


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.app.handlers.load_post.append(_other_file)
    atexit.register(local.stop)


def unregister() -> None:
    shut_down()
    atexit.unregister(local.stop)
    bpy.app.handlers.load_post.remove(_other_file)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
