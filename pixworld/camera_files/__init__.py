"""Camera files, in and out: a module a format, with `load(path, size)` and `save(path, cameras, ...)`.

| kind | what it is | in | out | image names | image sizes | split |
|---|---|---|---|---|---|---|
| transforms | nerfstudio's transforms.json | yes | yes | yes | yes, or from the images | kept |
| colmap, colmap-text | folder of a COLMAP model | yes | yes, without points | yes | yes | lost |
| realestate10k | a clip's .txt | yes | yes | timestamps | no: from the images, or given | lost |
| flashworld | trajectory JSON | yes | yes | no: 0000.png, .. | yes, one for all | lost |

Only pinhole cameras without distortion are read: distorted photos must be undistorted first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pixworld.camera_files import colmap, flashworld, realestate10k, transforms
from pixworld.views import InputError, NamedCamera

Kind = Literal["transforms", "colmap", "colmap-text", "realestate10k", "flashworld"]

# Where programs leave a COLMAP model, seen from the folder that a user would name.
_MODEL_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0")


def load_cameras(path: Path, size: tuple[int, int] | None = None) -> list[NamedCamera]:
    """Read cameras from a file or folder of any kind that the module's table lists, told by its name and content.

    `size`, (height, width) in pixels, is that of the images where neither the file nor an image beside it says it.
    Raises InputError, which names the frame, on anything that is not an undistorted pinhole camera with a rigid pose.
    """
    path = Path(path)
    if path.is_dir():
        cameras = _load_folder(path, size)
    elif path.name in colmap.FILES:
        cameras = colmap.load(path.parent)
    elif path.suffix.lower() == ".txt" and path.is_file():
        cameras = realestate10k.load(path, size)
    else:
        content = _read_json(path)
        cameras = flashworld.load(path, content) if _is_flashworld(content) else transforms.load(path, content, size)
    twice = [name for name, count in Counter(camera.name for camera in cameras).items() if count > 1]
    if twice:
        raise InputError(f"{path} names the image {twice[0]} more than once; give every frame its own file name.")
    return cameras


def save_cameras(
    path: Path,
    cameras: Sequence[NamedCamera],
    extra: dict[str, Any] | None = None,
    images: str = ".",
    kind: Kind | None = None,
) -> None:
    """Write cameras. Without `kind` the path tells: .txt is RealEstate10K, no suffix a COLMAP folder, anything else
    transforms.json.

    `extra` holds further top-level keys of a JSON kind; `images` is the folder of the images, seen from that of a
    transforms.json. Raises InputError when the kind cannot hold these cameras or the path cannot be written to.
    """
    path = Path(path)
    kind = kind or {".txt": "realestate10k", "": "colmap"}.get(path.suffix.lower(), "transforms")
    if kind == "transforms":
        transforms.save(path, cameras, extra, images)
    elif kind == "flashworld":
        flashworld.save(path, cameras, extra)
    elif kind == "realestate10k":
        realestate10k.save(path, cameras)
    else:
        colmap.save(path, cameras, text=kind == "colmap-text")


def _load_folder(path: Path, size: tuple[int, int] | None) -> list[NamedCamera]:
    if (path / "transforms.json").is_file():
        return load_cameras(path / "transforms.json", size)
    for folder in (path / name for name in _MODEL_FOLDERS):
        if colmap.is_model(folder):
            return colmap.load(folder)
    raise InputError(f"The folder {path} holds no transforms.json and no COLMAP model; give a camera file.")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a transforms.json or another camera file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); give a transforms.json.") from error


def _is_flashworld(content: Any) -> bool:
    return isinstance(content, dict) and "frames" not in content and "cameras" in content
