"""The buttons that make something of the splats: a file, a mesh, or anew what is in a box."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from . import editing, export, jobs, proxy, regenerate, requests, splats
from .backend.client import BackendError, Event
from .on_splats import OnBackend, OnSplats, active_parts, all_parts

# --- files


class Export(OnSplats, bpy.types.Operator):
    """Save the splats as edited; every format but PLY is written by the backend"""

    bl_idname, bl_label = "pixworld.export_splats", "Export Splats"
    changes_them, of_all = False, True

    filepath: StringProperty(subtype="FILE_PATH")
    format: EnumProperty(
        name="Format",
        items=[
            ("ply", "PLY", "What every splat tool reads; nothing is lost"),
            ("spz", "SPZ", "Small, almost nothing is lost"),
            ("splat", "SPLAT", "Small; no view dependence"),
            ("sog", "SOG", "Smallest, for the web"),
            ("glb", "glTF", "KHR_gaussian_splatting"),
            ("usd", "USD", "ParticleField3DGaussianSplat"),
        ],
    )
    frame: EnumProperty(
        name="Axes",
        items=[
            ("SCENE", "As Reconstructed", "The scene's own axes, as in the files of the backend"),
            ("WORLD", "World, Upright", "Placed as in Blender, in the axes of splat files (y down)"),
            ("BLENDER", "World, Z Up", "Placed and with the axes as in Blender"),
        ],
    )
    check_existing: BoolProperty(default=True, options={"HIDDEN"})  # the file browser warns
    filter_glob: StringProperty(default=";".join(f"*.{x}" for x in export.FORMATS), options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if not self.filepath:
            parts = active_parts(context)
            name = parts[0].name if len(parts) == 1 else export.root_of(parts[0]).name
            self.filepath = bpy.path.clean_name(name) + f".{self.format}"
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, context: bpy.types.Context) -> bool:
        wanted = self._path() or self.filepath
        changed, self.filepath = wanted != self.filepath, wanted
        return changed

    def _path(self) -> str:
        """The chosen file with the suffix of the format; "" while it has no name."""
        folder, name = os.path.split(self.filepath)
        stem, dot, suffix = name.rpartition(".")
        name = stem if dot and suffix.lower() in export.FORMATS else name
        return os.path.join(folder, f"{name}.{self.format}") if name else ""

    def execute(self, context: bpy.types.Context) -> set[str]:
        parts, wanted = active_parts(context), self._path()
        path = Path(bpy.path.abspath(wanted))
        try:
            if not wanted:
                raise ValueError("No file name was given; type one.")
            if not path.parent.is_dir():
                raise ValueError(f"{path.parent} is not a folder; choose one that exists.")
            arrays, matrix = editing.shown_together(parts), export.frame_of(parts[0], self.frame)
            if not len(arrays["means"]):
                raise ValueError("The filters hide every Gaussian; loosen them first.")
            if self.format != "ply":
                if trouble := jobs.trouble(context):
                    raise ValueError(trouble)
                placed = export.placed(arrays, matrix)
                gaussians = {name: placed[name] for name in splats.FIELDS}

                def take_in(event: Event) -> None:
                    export.write(path, [event.arrays["file"]])
                    jobs.session.notes = [f"{path} is written."]

                _run("export", {"format": self.format}, gaussians, take_in)
                return {"FINISHED"}
            self._writer = _Writer(path, arrays, matrix)
        except (ValueError, BackendError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if bpy.app.background:
            self._writer.join()
            return self._told()
        self._timer = context.window_manager.event_timer_add(0.1, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self._writer.is_alive():
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        return self._told()

    def _told(self) -> set[str]:
        if self._writer.error:
            self.report({"ERROR"}, self._writer.error)
            return {"CANCELLED"}
        self.report({"INFO"}, f"{self._writer.path} has {self._writer.count:,} Gaussians")
        return {"FINISHED"}


class _Writer(threading.Thread):
    """Writes a PLY beside Blender's main thread: a million Gaussians take seconds. Blender waits for it on quitting."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], matrix: np.ndarray) -> None:
        super().__init__(name="PixWorld export")
        self.path, self.count, self.error = path, len(arrays["means"]), ""
        self._arrays, self._matrix = arrays, matrix
        self.start()

    def run(self) -> None:
        try:
            export.write_ply(self.path, export.placed(self._arrays, self._matrix))
        except Exception as error:  # out of memory, say: what is not there must not be called written
            self.error = str(error) or repr(error)


# --- what the backend does


def _run(task: str, fields: dict, arrays: dict[str, np.ndarray], take_in: Callable[[Event], None]) -> None:
    """Start a job; when its result cannot be taken in, the panel says why. Raises ValueError or BackendError."""

    def on_result(event: Event) -> None:
        try:
            take_in(event)
        except ValueError as error:
            jobs.session.fail(str(error))

    jobs.run_task(task, fields, arrays, on_result)


def _still(name: str) -> bpy.types.Object:
    """The splats that a job was about; not a reference, which an undo would break."""
    obj = bpy.data.objects.get(name)
    if not splats.is_splats(obj):
        raise ValueError(f"The splats {name} are no longer there.")
    return obj


class AddProxy(OnBackend, bpy.types.Operator):
    """Make a mesh of the splats' surface, for shadows and collisions"""

    bl_idname, bl_label = "pixworld.add_proxy", "Make Proxy Mesh"
    changes_them, of_all = False, True

    resolution: IntProperty(name="Resolution", description="Cells along the longest side", default=192, min=16, max=384)
    ratio: FloatProperty(
        name="Keep", description="Share of the triangles that Decimate leaves", default=1, min=0.01, max=1
    )
    catcher: BoolProperty(
        name="Shadow Catcher",
        description="Render the shadows on it in Cycles, as the pass Shadow Catcher of a view layer without splats: "
        "multiply the picture with it",
        default=True,
    )
    collision: BoolProperty(name="Collision", description="Let cloth, particles and soft bodies hit it", default=False)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> None:
        if self.catcher:
            proxy.check(context.scene)
        shown = editing.shown_together(active_parts(context))
        arrays = {name: shown[name] for name in splats.FIELDS} | regenerate.views_of(obj, context.scene)
        name, scene = obj.name, context.scene.name
        how = {"ratio": self.ratio, "catcher": self.catcher, "collision": self.collision}

        def take_in(event: Event) -> None:
            vertices, faces = event.arrays["vertices"], event.arrays["faces"]
            made = proxy.make(f"{name} {proxy.NAME}", vertices, faces, _still(name), **how)
            proxy.add_to(bpy.data.scenes.get(scene, bpy.context.scene), made)

        _run("mesh", {"options": {"resolution": self.resolution}}, arrays, take_in)


class Regenerate(OnBackend, bpy.types.Operator):
    """Generate what is inside the box anew, to fit what is outside it and shown"""

    bl_idname, bl_label = "pixworld.regenerate", "Re-generate in Box"
    of_all = True

    box: StringProperty(name="Box", description="An object: the cube from -1 to 1 of its own space counts")
    prompt: StringProperty(name="Prompt", description="What to generate; may be empty")
    steps: IntProperty(name="Steps", description="Denoising steps", default=20, min=1, max=1000)
    guidance: FloatProperty(
        name="Guidance", description="How closely the prompt is followed", default=1, min=0, max=100, soft_max=10
    )
    size: IntProperty(
        name="Size", description="Short side at which is generated; 0 is that of the model", default=0, min=0, max=4096
    )
    seed: IntProperty(name="Seed", description="The same seed gives the same result", default=0, min=0)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        try:
            used = [editing.value_of(m, "Box") for x in active_parts(context) for m in editing.edits(x)]
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        box = next((x for x in used if x is not None), None)
        if box is not None:
            self.box = box.name
        for name in ("prompt", "steps", "guidance", "seed"):
            setattr(self, name, getattr(context.scene.pixworld, name))
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.prop_search(self, "box", context.scene, "objects")
        for name in ("prompt", "steps", "guidance", "size", "seed"):
            self.layout.prop(self, name)

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> None:
        if self.box not in context.scene.objects:
            raise ValueError("No box was chosen; add a crop box, place it, and choose it here.")
        boxes = {x.name: regenerate.box_of(x, context.scene.objects[self.box]) for x in all_parts(context)}
        arrays = regenerate.arrays_for(active_parts(context), context.scene)
        if not len(arrays["c2w"]):
            raise ValueError("These splats have no cameras; make a perspective camera that sees the box active.")
        name = obj.name
        options = {"steps": self.steps, "seed": self.seed} | ({"size": self.size} if self.size else {})
        fields = {
            "prompt": self.prompt,
            "guidance": self.guidance,
            "options": options,
            "previews": False,
        }

        def take_in(event: Event) -> None:
            others = [(bpy.data.objects.get(other), box) for other, box in boxes.items() if other != name]
            found = [(x, box) for x, box in others if splats.is_splats(x)]
            jobs.session.notes = regenerate.take_in(_still(name), boxes[name], event.arrays, found)
            how = {key: fields[key] for key in ("prompt", "guidance", "options")}
            how |= {"boxes": {part: box.tolist() for part, box in boxes.items()}}
            requests.record(_still(name), how, jobs.session.about or {})

        _run("regenerate", fields, arrays | {"box": boxes[name]}, take_in)


CLASSES = (Export, AddProxy, Regenerate)
