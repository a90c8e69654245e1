"""Renders of the scene at key frames, by EEVEE: in a window as Blender's own render job, which does not hold it up."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import bpy

from . import cameras

EEVEE = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
_NOT_THE_VIEW = ("use_border", "use_sequencer", "use_multiview")  # a part of it, a film in its place, two of it


class KeyRenders:
    """A folder of renders, and render settings that are put back in the end."""

    def __init__(self, scene: bpy.types.Scene) -> None:
        self._scene = scene
        self._left = contextlib.ExitStack()

    def __enter__(self) -> KeyRenders:
        self._folder = Path(self._left.enter_context(tempfile.TemporaryDirectory(prefix="pixworld-")))
        render = self._scene.render
        image = render.image_settings
        # put back in the opposite order: the media type (from Blender 5.0) decides on the formats, those on the depths
        self._keep(bpy.context.preferences.view, "render_display_type")
        self._keep(render, "engine", "use_file_extension", "filepath", *_NOT_THE_VIEW)
        self._keep(image, "color_depth", "color_mode", "file_format")
        if hasattr(image, "media_type"):
            self._keep(image, "media_type")
            image.media_type = "IMAGE"
        image.file_format, image.color_mode, image.color_depth = "PNG", "RGB", "8"
        render.engine, render.use_file_extension = EEVEE, True
        for name in _NOT_THE_VIEW:
            setattr(render, name, False)
        bpy.context.preferences.view.render_display_type = "NONE"
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def render(self, frame: int) -> Generator[tuple[str, int, int], None, Path]:
        """The file of a render at a frame. Raises ValueError when the user stops it."""
        scene, file = self._scene, self._folder / f"{frame}.png"
        with cameras.at_frame(scene, frame):
            scene.render.filepath = str(file)
            if bpy.app.background:
                bpy.ops.render.render(write_still=True, scene=scene.name)
            else:
                bpy.ops.render.render("INVOKE_DEFAULT", write_still=True, scene=scene.name)
                while bpy.app.is_job_running("RENDER"):
                    yield "render the scene", 0, 0
        if not file.is_file():
            raise ValueError("The render of the scene was stopped, or failed; see Blender's console.")
        return file

    def _keep(self, settings: Any, *names: str) -> None:
        for name in names:
            self._left.callback(setattr, settings, name, getattr(settings, name))
