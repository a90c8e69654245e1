"""Gaussians, cameras, photos and options of a message, read with suspicion and written.

Gaussians   means f4 [n 3], quats f4 [n 4] (wxyz), scales f4 [n 3] (linear), opacities f4 [n] (0..1), sh f4 [n k 3]
cameras     c2w f8 [v 4 4] camera to world, OpenCV axes; K f8 [v 3 3] in pixels, the centre of the top-left pixel is
            (0.5, 0.5); sizes i4 [v 2] height and width in pixels
photos      photo/0, photo/1, ..  u1 [bytes]  image files (JPEG or PNG)
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.protocol import Arrays, Header, ProtocolError

if TYPE_CHECKING:
    from pixworld.cameras import Cameras
    from pixworld.gaussians import Gaussians
    from pixworld.views import NamedCamera, Photo

GAUSSIANS = ("means", "quats", "scales", "opacities", "sh")
CAMERAS = ("c2w", "K", "sizes")
MAX_PREVIEW = 30_000  # Gaussians


# --- fields


def only(given: Header, known: Collection[str], what: str = "field") -> None:
    """Refuse names that are not known."""
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ProtocolError("BAD_FIELD", f"there is no {what} {unknown[0]!r}")


def read_options(fields: Header, known: Collection[str]) -> dict[str, int]:
    """The field `options`: whole numbers by name, of the known ones."""
    options = fields.get("options", {})
    if not isinstance(options, dict) or any(type(value) is not int for value in options.values()):
        raise ProtocolError("BAD_FIELD", "field 'options' must map names to whole numbers")
    only(options, known, "option")
    return options


def read_field(fields: Header, key: str, default: Any) -> Any:
    """A field of the type of its default; where that is a float, whole numbers will do."""
    value = fields.get(key, default)
    if type(value) is not type(default) and not (type(default) is float and type(value) is int):
        raise ProtocolError("BAD_FIELD", f"field {key!r} must be {_TYPES[type(default)]}")
    return type(default)(value)


_TYPES = {str: "text", float: "a number", bool: "true or false"}


def file_names(fields: Header, key: str) -> list[str]:
    """Plain, distinct file names: the worker writes files of these names into a folder of its own."""
    names = fields.get(key)
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise ProtocolError("BAD_FIELD", f"field {key!r} must be a list of distinct file names")
    for name in names:
        if (
            not isinstance(name, str)
            or not 0 < len(name.encode()) <= 200
            or name[0] == "."
            or set(name) & set("/\\:\0")
        ):
            raise ProtocolError("BAD_FIELD", f"field {key!r} holds {name!r}, which is not a plain file name")
    return names


# --- photos


def read_photos(names: Sequence[str], arrays: Arrays) -> tuple[list[Photo], list[tuple[str, str]]]:
    """The photos of the message, by name, and why others (name, reason) cannot be read."""
    from pixworld.photos import load_photos

    with tempfile.TemporaryDirectory(prefix="pixworld-") as folder:
        paths = [Path(folder, name) for name in names]
        for i, path in enumerate(paths):
            path.write_bytes(read_array(arrays, f"photo/{i}", "|u1", (None,)).data)
        return load_photos(paths)


def jpeg(image: np.ndarray) -> np.ndarray:
    """The bytes u1 [n] of an image u1 [h w 3] as a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return np.frombuffer(buffer.getvalue(), np.uint8)


# --- cameras


def read_cameras(arrays: Arrays, names: Sequence[str] | None = None) -> list[NamedCamera]:
    """The cameras of the message, as many as there are names; without names all of them, called "0", "1", .."""
    import torch

    from pixworld.cameras import Cameras
    from pixworld.views import NamedCamera

    n = None if names is None else len(names)
    c2w = read_array(arrays, "c2w", "<f8", (n, 4, 4))
    K, sizes = read_array(arrays, "K", "<f8", (len(c2w), 3, 3)), read_array(arrays, "sizes", "<i4", (len(c2w), 2))
    names = names or [str(i) for i in range(len(c2w))]
    for i, name in enumerate(names):
        rotation = c2w[i, :3, :3]
        rigid = (
            np.isfinite(c2w[i]).all()
            and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3
            and np.linalg.det(rotation) > 0
            and np.array_equal(c2w[i, 3], [0, 0, 0, 1])
        )
        (fx, skew, _cx), (zero, fy, _cy), last = K[i]
        pinhole = np.isfinite(K[i]).all() and min(fx, fy) > 0 and skew == zero == 0 and np.array_equal(last, [0, 0, 1])
        if not (rigid and pinhole and sizes[i].min() > 0):
            raise ProtocolError("BAD_CAMERA", f"camera {i} ({name}) is not a rigid pose of a pinhole camera")
    return [
        NamedCamera(
            name, Cameras(torch.tensor(c2w[i : i + 1]).float(), torch.tensor(K[i : i + 1]).float(), *sizes[i].tolist())
        )
        for i, name in enumerate(names)
    ]


def camera_arrays(cameras: Sequence[Cameras]) -> Arrays:
    """Arrays of single cameras."""
    return {
        "c2w": np.stack([c.c2w[0].double().cpu().numpy() for c in cameras]),
        "K": np.stack([c.K[0].double().cpu().numpy() for c in cameras]),
        "sizes": np.array([(c.height, c.width) for c in cameras], dtype=np.int32),
    }


# --- Gaussians


def read_gaussians(arrays: Arrays) -> Gaussians:
    """The Gaussians of the message, on the CPU. Raises ProtocolError for shapes, InputError for values."""
    from pixworld.splats.checks import sound_gaussians
    from pixworld.views import InputError

    means = read_array(arrays, "means", "<f4", (None, 3))
    n, bands = len(means), arrays["sh"].shape[1] if "sh" in arrays and arrays["sh"].ndim == 3 else 0
    if bands not in (1, 4, 9, 16):
        raise ProtocolError("BAD_ARRAY", "array 'sh' must be <f4 of shape [n, k, 3], where k is 1, 4, 9 or 16")
    tails = {"quats": (4,), "scales": (3,), "opacities": (), "sh": (bands, 3)}
    rest = [read_array(arrays, name, "<f4", (n, *tail)) for name, tail in tails.items()]
    if not n:
        raise InputError("there are no splats in this scene; choose one that has some.")
    return sound_gaussians(Path("this scene"), *(x.copy() for x in (means, *rest)))  # a message is read-only


def gaussian_arrays(gaussians: Gaussians) -> Arrays:
    return {name: getattr(gaussians, name).detach().float().cpu().numpy() for name in GAUSSIANS}


def preview_arrays(gaussians: Gaussians) -> Arrays:
    """At most MAX_PREVIEW of the Gaussians, drawn at random, the same ones every time; each then stands for several,
    and is enlarged to cover as much as they do, so that surfaces stay closed."""
    import torch

    n = len(gaussians)
    if n <= MAX_PREVIEW:
        return gaussian_arrays(gaussians)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:MAX_PREVIEW]
    arrays = gaussian_arrays(gaussians.select(drawn.to(gaussians.means.device)))
    return arrays | {"scales": arrays["scales"] * np.float32((n / MAX_PREVIEW) ** 0.5)}


def read_array(arrays: Arrays, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    array = arrays.get(name)
    fits = array is not None and array.dtype.str == dtype and len(array.shape) == len(shape)
    if not fits or any(want not in (None, have) for want, have in zip(shape, array.shape)):
        shown = ", ".join("n" if side is None else str(side) for side in shape)
        raise ProtocolError("BAD_ARRAY", f"array {name!r} must be {dtype} of shape [{shown}]")
    return array
