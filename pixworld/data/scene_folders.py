"""Scenes of real data sets, found in a store and read into posed frames.

| kind | what a scene is |
|---|---|
| transforms | a folder with a transforms.json (nerfstudio, DL3DV; lens distortion k1, k2, p1, p2 allowed) |
| colmap | a folder with an undistorted COLMAP model and images/ |
| realestate10k | CLIP.txt beside the folder CLIP, which holds TIMESTAMP.jpg |
| shard | KEY.json, KEY.0000.jpg, KEY.0000.depth.png, .., as scripts/prepare_scenes.py writes them |
| photo | any other image; its caption is KEY.txt, or `caption`, `text` or `prompt` in KEY.json |

DL3DV's transforms.json speaks of images/ at the video's size, while images_2, _4 or _8 are what is there; the smallest
that is large enough is read. A caption is caption.txt in the folder, or `caption` in the JSON.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pixworld.camera_files import colmap, realestate10k, transforms
from pixworld.camera_files.parts import number
from pixworld.data.frames import DEPTH_SUFFIX, Frame, image_size
from pixworld.data.stores import Folder, Store
from pixworld.photos import MASK_SUFFIX
from pixworld.views import InputError, NamedCamera

Kind = Literal["transforms", "colmap", "realestate10k", "shard", "photo"]

# Frames from one sampled frame to the next, least and most. RealEstate10K is video of 30 frames a second (8 frames then
# span 1.4 to 5.6 s); DL3DV keeps some 300 frames of a minute; COLMAP models are mostly of separate photos. A scene's
# JSON may say its own `stride`.
STRIDES: dict[str, tuple[int, int]] = {"transforms": (2, 8), "colmap": (1, 4), "realestate10k": (6, 24)}

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SMALLER = ("_8", "_4", "_2", "")  # suffixes of image folders, smallest images first
_MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "")
_DISTORTION = ("k1", "k2", "p1", "p2")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a scene is, before anything of it is read."""

    store: Store
    kind: Kind
    path: str  # of its folder, CLIP.txt, KEY.json or image

    @property
    def name(self) -> str:
        return f"{self.store.path.name}/{self.path}".rstrip("/")


@dataclass(frozen=True)
class Clip:
    """A scene's posed frames in path order, not yet read."""

    name: str
    frames: list[Frame]
    stride: tuple[int, int]
    caption: str = ""


def find_scenes(store: Store) -> Iterator[Entry]:
    """The scenes of a store, in the order of their names; nothing below a scene's folder is entered."""
    for folder, folders, files in store.walk():
        if "transforms.json" in files:
            folders.clear()
            yield Entry(store, "transforms", folder)
            continue
        if any(_is_model(store, _join(folder, model)) for model in _MODEL_FOLDERS if model or "images" in folders):
            folders.clear()
            yield Entry(store, "colmap", folder)
            continue
        keys = {name.split(".")[0] for name in files if name.count(".") >= 2 and is_image(name)}
        for name in files:
            stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
            if suffix == ".txt" and stem in folders:
                folders.remove(stem)
                yield Entry(store, "realestate10k", _join(folder, name))
            elif suffix == ".json" and stem in keys:
                yield Entry(store, "shard", _join(folder, name))


def find_photos(store: Store) -> Iterator[Entry]:
    """Every image of a store by itself."""
    for folder, _, files in store.walk():
        yield from (Entry(store, "photo", _join(folder, name)) for name in files if is_image(name))


def load_clip(entry: Entry, side: int) -> Clip:
    """The frames of a scene whose images are there; where there are several sizes, the smallest whose short side is at
    least `side` pixels. Raises InputError, OSError or ValueError."""
    clip = _LOADERS[entry.kind](entry, side)
    if not clip.frames:
        raise InputError("none of the images that its cameras name is there")
    return clip


def is_image(name: str) -> bool:
    """Whether a file name is that of an image, not of a mask or of depth."""
    name = name.lower()
    return name.endswith(IMAGE_SUFFIXES) and not name.endswith((MASK_SUFFIX, DEPTH_SUFFIX))


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts frame_10 behind frame_9."""
    return [(0, int(x)) if x.isdecimal() else (1, x) for x in re.split(r"(\d+)", name) if x]


def _load_transforms(entry: Entry, side: int) -> Clip:
    store, path = entry.store, _join(entry.path, "transforms.json")
    content = _json(store, path)
    images = _Images(store, side)
    found = [(images.find(_join(entry.path, _posix(raw.get("file_path")))), raw) for raw in _frames(content)]
    found = [(image, raw) for image, raw in found if image is not None]
    if not found:
        return Clip(entry.name, [], (1, 1))
    size = None if "w" in {**content, **found[0][1]} else image_size(store, found[0][0])
    straight = _without_distortion(content) | {"frames": [_without_distortion(raw) for _, raw in found]}
    cameras = transforms.load(store.path / path, straight, size)
    frames = []
    for (image, raw), camera in zip(found, cameras, strict=True):
        exact = raw.get("depth_file_path")
        depth = images.depth_of(image) or (None if exact is None else _join(entry.path, _posix(exact)))
        frames.append(Frame(store, image, camera.cameras, depth, _distortion(content | raw)))
    frames.sort(key=lambda frame: natural(frame.image))
    caption = _text(store, _join(entry.path, "caption.txt")) or str(content.get("caption", ""))
    return Clip(entry.name, frames, _stride(content), caption)


def _load_colmap(entry: Entry, side: int) -> Clip:
    store = entry.store
    model = next(x for x in (_join(entry.path, m) for m in _MODEL_FOLDERS) if _is_model(store, x))
    if isinstance(store, Folder):
        cameras = colmap.load(store.path / model)
    else:
        with _copied(store, [_join(model, x) for x in store.files(model) if x in colmap.FILES]) as copy:
            cameras = colmap.load(copy)
    frames = _named_frames(store, _join(entry.path, "images"), cameras, side)
    return Clip(entry.name, frames, STRIDES["colmap"], _text(store, _join(entry.path, "caption.txt")))


def _load_realestate10k(entry: Entry, side: int) -> Clip:
    store, folder = entry.store, str(PurePosixPath(entry.path).with_suffix(""))
    images = [x for x in store.files(folder) if is_image(x)]
    if not images:
        return Clip(entry.name, [], (1, 1))
    size = image_size(store, _join(folder, images[0]))  # all frames of a clip share it
    with _copied(store, [entry.path]) as copy:  # beside its frames, every line would have a header read
        cameras = realestate10k.load(copy / PurePosixPath(entry.path).name, size)
    frames = _named_frames(store, folder, cameras, side)
    return Clip(entry.name, frames, STRIDES["realestate10k"], _text(store, _join(folder, "caption.txt")))


def _load_shard(entry: Entry, side: int) -> Clip:
    store, content = entry.store, _json(entry.store, entry.path)
    folder = _posix(PurePosixPath(entry.path).parent)
    images = _Images(store, side)
    cameras = transforms.load(store.path / entry.path, content, None)
    found = [images.find(_join(folder, _posix(raw["file_path"]))) for raw in content["frames"]]
    frames = [
        Frame(store, image, camera.cameras, images.depth_of(image))
        for image, camera in zip(found, cameras, strict=True)
        if image is not None
    ]
    return Clip(entry.name, frames, _stride(content), str(content.get("caption", "")))


def _load_photo(entry: Entry, _side: int) -> Clip:
    store, key = entry.store, str(PurePosixPath(entry.path).with_suffix(""))
    caption, depth = "", None
    try:  # not looked up in a listing: there may be a million files beside it
        caption = store.read(key + ".txt").decode("utf-8", "replace").strip()
    except OSError:
        with suppress(OSError):
            content = _json(store, key + ".json")
            caption = next((content[x] for x in ("caption", "text", "prompt") if isinstance(content.get(x), str)), "")
    with suppress(OSError):
        store.read(key + DEPTH_SUFFIX)
        depth = key + DEPTH_SUFFIX
    return Clip(entry.name, [Frame(store, entry.path, None, depth)], (1, 1), caption)


_LOADERS = {
    "transforms": _load_transforms,
    "colmap": _load_colmap,
    "realestate10k": _load_realestate10k,
    "shard": _load_shard,
    "photo": _load_photo,
}


class _Images:
    """Looks image files up: with any suffix, and in folders of smaller copies."""

    def __init__(self, store: Store, side: int):
        self.store, self.side = store, side
        self._listings: dict[str, set[str]] = {}
        self._by_stem: dict[str, dict[str, str]] = {}
        self._chosen: dict[str, str] = {}

    def find(self, path: str) -> str | None:
        """The name in the store of the image that a camera file calls `path`; None where there is none."""
        folder, stem = _posix(PurePosixPath(path).parent), _stem(PurePosixPath(path).name)
        if folder not in self._chosen:
            self._chosen[folder] = self._choose(folder, stem)
        name = self._images(self._chosen[folder]).get(stem)
        return None if name is None else _join(self._chosen[folder], name)

    def depth_of(self, image: str) -> str | None:
        folder, name = _posix(PurePosixPath(image).parent), _stem(PurePosixPath(image).name) + DEPTH_SUFFIX
        return _join(folder, name) if name in self._files(folder) else None

    def _choose(self, folder: str, stem: str) -> str:
        """Of a folder and those of its smaller copies the one to read from."""
        there = [folder + suffix for suffix in _SMALLER if folder and stem in self._images(folder + suffix)]
        for copy in there[:-1]:
            if min(image_size(self.store, _join(copy, self._images(copy)[stem]))) >= self.side:
                return copy
        return there[-1] if there else folder

    def _images(self, folder: str) -> dict[str, str]:
        if folder not in self._by_stem:
            self._by_stem[folder] = {_stem(x): x for x in self._files(folder) if is_image(x)}
        return self._by_stem[folder]

    def _files(self, folder: str) -> set[str]:
        if folder not in self._listings:
            self._listings[folder] = set(self.store.files(folder))
        return self._listings[folder]


def _named_frames(store: Store, folder: str, cameras: list[NamedCamera], side: int) -> list[Frame]:
    """The frames of cameras that go by the names of images in a folder, in the order of the names."""
    images = _Images(store, side)
    found = [(images.find(_join(folder, camera.name)), camera.cameras) for camera in cameras]
    frames = [Frame(store, image, camera, images.depth_of(image)) for image, camera in found if image is not None]
    return sorted(frames, key=lambda frame: natural(frame.image))


def _is_model(store: Store, folder: str) -> bool:
    files = set(store.files(folder))
    return any({f"cameras.{x}", f"images.{x}"} <= files for x in ("bin", "txt"))


@contextmanager
def _copied(store: Store, names: list[str]) -> Iterator[Path]:
    """A temporary folder with copies of files, for readers that want files."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, PurePosixPath(name).name).write_bytes(store.read(name))
        yield Path(folder)


def _json(store: Store, name: str) -> dict[str, Any]:
    try:
        content = json.loads(store.read(name))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} is not a JSON object")
    return content


def _frames(content: dict[str, Any]) -> list[dict[str, Any]]:
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(x, dict) for x in frames):
        raise InputError("its transforms.json has no list of `frames`")
    return frames


def _without_distortion(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _DISTORTION}


def _distortion(values: dict[str, Any]) -> tuple[float, float, float, float]:
    return tuple(number(values, key, 0.0) for key in _DISTORTION)


def _stride(content: dict[str, Any]) -> tuple[int, int]:
    stride = content.get("stride", STRIDES["transforms"])
    if not (isinstance(stride, list | tuple) and len(stride) == 2 and all(isinstance(x, int) for x in stride)):
        raise InputError(f"its stride is {stride}; give the least and the most, such as [2, 8]")
    if not 1 <= stride[0] <= stride[1]:
        raise InputError(f"its stride is {stride}; give the least and the most, such as [2, 8]")
    return stride[0], stride[1]


def _text(store: Store, name: str) -> str:
    """What a text file says, or nothing where there is none."""
    if PurePosixPath(name).name not in store.files(_posix(PurePosixPath(name).parent)):
        return ""
    return store.read(name).decode("utf-8", "replace").strip()


def _stem(name: str) -> str:
    return PurePosixPath(name).stem if name.lower().endswith(IMAGE_SUFFIXES) else name


def _posix(path: Any) -> str:
    """A relative path as stores name it: no leading ./, no backslashes; "" for the folder itself."""
    name = PurePosixPath(str(path or "").replace("\\", "/")).as_posix()
    return "" if name == "." else name


def _join(folder: str, name: str) -> str:
    return _posix(PurePosixPath(folder, name))
