"""Where the images of a job come from: generators that yield (stage, step, steps), a step of some milliseconds each,
and return images. Files are read in a thread; what needs Blender is done between the frames of its window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import bpy
import numpy as np

from . import cameras, key_renders
from .png import png

Steps = tuple[str, int, int]  # stage, step, steps
T = TypeVar("T")

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}
MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
WAIT_S = 0.005  # for a thread, at one go


@dataclass(frozen=True)
class Source:
    """An image, or a movie that the backend takes frames of."""

    name: str  # a plain file name, unlike that of any other
    data: np.ndarray  # u1 [bytes] of the file
    origin: str  # the path of the file, or what it is called in Blender
    camera: cameras.Path | None = None  # of one frame, at the size of the image, where it is known


def collect(settings: bpy.types.PropertyGroup, scene: bpy.types.Scene) -> Generator[Steps, None, list[Source]]:
    """The images that the user has chosen; [] for the prompt only. Raises ValueError with a sentence for the user."""
    match settings.source:
        case "FOLDER":
            found = yield from _files(_chosen(settings.photos, [file.name for file in settings.chosen]))
        case "IMAGES":
            images = [x for x in bpy.data.images if x.type == "IMAGE" and x.source == "FILE" and x.pixworld_use]
            if not images:
                raise ValueError("No loaded image is ticked; load images into this file, or tick some.")
            found = yield from _loaded(images)
        case "BACKGROUNDS":
            found = yield from _backgrounds(scene, settings.images)
        case "CLIP":
            if settings.clip is None:
                raise ValueError("No movie clip is chosen; open one first.")
            found = yield from _files(_clip_files(settings.clip, settings.images))
        case "RENDER":
            found = yield from _rendered(scene, cameras.key_frames(scene, settings.images))
        case _:
            found = []
    return _with_names(found)


# --- files


def _chosen(folder: str, chosen: Sequence[str]) -> list[Path]:
    if not folder:
        raise ValueError("No photos are chosen; choose a folder of photos first.")
    path = Path(bpy.path.abspath(folder))
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; choose the folder with your photos.")
    names = sorted(x.name for x in path.iterdir() if x.suffix.lower() in PHOTO_SUFFIXES)
    if chosen:
        names = [name for name in names if name in set(chosen)]
    if not names:
        raise ValueError(f"{path} has 0 JPEG or PNG photos; choose the folder with your photos.")
    return [path / name for name in names]


def _clip_files(clip: bpy.types.MovieClip, images: int) -> list[Path]:
    """The file of a movie; of an image sequence as many files as wanted."""
    first = Path(bpy.path.abspath(clip.filepath, library=clip.library))
    if not first.is_file():
        raise ValueError(f"{first}, the file of the clip {clip.name}, is missing; find it again.")
    if clip.source == "MOVIE":
        return [first]
    digits = re.search(r"(\d+)(\D*)$", first.name)
    if digits is None:
        return [first]
    start, end = digits.span(1)
    number = re.compile(re.escape(first.name[:start]) + r"(\d+)" + re.escape(first.name[end:]) + "$")
    files = sorted((int(m[1]), x) for x in first.parent.iterdir() if (m := number.match(x.name)))
    files = [x for n, x in files if n >= int(digits[1])][: clip.frame_duration]
    return [files[i] for i in sorted({round(i) for i in np.linspace(0, len(files) - 1, images)})]


def _files(paths: Sequence[Path]) -> Generator[Steps, None, list[Source]]:
    found = []
    for i, path in enumerate(paths):
        yield "read photos", i, len(paths)
        found.append(Source(path.name, (yield from _read(path)), str(path)))
    return found


def _read(path: Path) -> Generator[Steps, None, np.ndarray]:
    try:
        return (yield from in_thread(lambda: np.fromfile(path, np.uint8)))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None


def in_thread(work: Callable[[], T]) -> Generator[Steps, None, T]:
    """Do what needs no Blender and may take long."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not wait([future], WAIT_S).done:
            yield "read photos", 0, 0
        return future.result()


# --- images of this file


def _loaded(images: Sequence[bpy.types.Image]) -> Generator[Steps, None, list[Source]]:
    found = []
    for i, image in enumerate(images):
        yield "read images", i, len(images)
        found.append(Source(image.name, (yield from _image(image)), image.name))
    return found


def _image(image: bpy.types.Image) -> Generator[Steps, None, np.ndarray]:
    """The file of an image where that is a JPEG or PNG and says what the image shows; else its pixels as a PNG."""
    path = Path(bpy.path.abspath(image.filepath, library=image.library)) if image.filepath else None
    data = np.zeros(0, np.uint8)
    if image.packed_file and not image.is_dirty:
        data = np.frombuffer(image.packed_file.data, np.uint8)
    elif path and path.is_file() and not image.is_dirty:
        data = yield from _read(path)
    if _suffix(data):
        return data
    width, height = image.size
    if not width * height:
        raise ValueError(f"The image {image.name} has no pixels; its file may be missing: find it again or untick it.")
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(height, width, image.channels)[::-1]
    linear = image.is_float
    return (yield from in_thread(lambda: png(pixels, linear)))


# --- cameras of this file


def _backgrounds(scene: bpy.types.Scene, images: int) -> Generator[Steps, None, list[Source]]:
    """Still images with the cameras that they are behind of; else frames of the first camera's clip."""
    chosen = [x for x in bpy.context.selected_objects if x.type == "CAMERA" and x.data.background_images]
    chosen = chosen or [cameras.active(scene)]
    behind = [(camera, x) for camera in chosen for x in camera.data.background_images]
    still = [(camera, x) for camera, x in behind if x.source == "IMAGE" and x.image]
    clips = [x.clip for _, x in behind if x.source == "MOVIE_CLIP" and x.clip]
    if clips and not still:
        return (yield from _files(_clip_files(clips[0], images)))
    if not still:
        raise ValueError(f"The camera {chosen[0].name} has no background image; add one, or choose another source.")
    found = []
    for i, (camera, background) in enumerate(still):
        yield "read images", i, len(still)
        image = background.image
        view = cameras.behind(camera, background, scene)
        found.append(Source(image.name, (yield from _image(image)), image.name, view))
    return found


def _rendered(scene: bpy.types.Scene, frames: Sequence[int]) -> Generator[Steps, None, list[Source]]:
    """The scene in EEVEE at every frame, with the camera of then."""
    found = []
    with key_renders.KeyRenders(scene) as renders:
        for i, frame in enumerate(frames):
            yield "render the scene", i, len(frames)
            view = cameras.path_of(None, scene, [frame])
            file = yield from renders.render(frame)
            data = yield from _read(file)
            found.append(Source(f"frame_{frame:04d}.png", data, f"frame {frame} of {scene.name}", view))
    return found


# --- names


def _suffix(data: np.ndarray) -> str:
    """What the first bytes of a JPEG or PNG file call for; "" for any other."""
    return next((suffix for magic, suffix in MAGIC.items() if data[:4].tobytes().startswith(magic)), "")


def _with_names(found: Sequence[Source]) -> list[Source]:
    """The same with plain file names, no two alike, of the suffix of what is in them (a movie keeps its own)."""
    out: list[Source] = []
    taken: set[str] = set()
    for source in found:
        stem, dot, ending = re.sub(r"[/\\:\0]", "_", source.name).lstrip(".").rpartition(".")
        ending, suffix = (dot + ending).lower(), _suffix(source.data)
        if suffix and ending not in PHOTO_SUFFIXES:
            stem, dot, ending = stem + dot + ending.lstrip("."), "", suffix
        else:
            ending = source.name[-len(ending) :]
        name, n = f"{stem or 'image'}{ending}", 1
        while name.lower() in taken:
            name, n = f"{stem}_{n}{ending}", n + 1
        taken.add(name.lower())
        out.append(replace(source, name=name))
    return out
