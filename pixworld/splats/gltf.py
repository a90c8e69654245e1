"""glTF 2.0 with KHR_gaussian_splatting (ratified 2026): `.glb`, or `.gltf` with a data URI or a `.bin` beside it.

A POINTS primitive with POSITION and attributes of the extension: ROTATION (xyzw), SCALE (linear), OPACITY (0..1) and
SH_DEGREE_l_COEF_n (the coefficients of splat PLY); COLOR_0 is there for viewers that only draw points. All are float32
but COLOR_0, so that a round trip loses nothing. The colour space is srgb_rec709_display.

glTF says +y is up, +z forward and -x right, so our axes (x right, y down, z forward) are turned by half a turn around
z, as splat-transform does; viewers show the scene upright. When reading, the transforms of the nodes are applied, and
scales below 0 are taken for logarithms, which drafts of the extension stored (until spring 2026).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from pixworld.files import atomic
from pixworld.gaussians import Gaussians, quat_to_matrix
from pixworld.sh import C0
from pixworld.splats.axes import LUF, flip, placed
from pixworld.splats.checks import check_expansion, open_splats, sound_gaussians
from pixworld.views import InputError

_NAME = "KHR_gaussian_splatting"
_GLB = struct.Struct("<4sII")  # magic, version, length of the file
_CHUNK = struct.Struct("<I4s")
_FLOAT, _UBYTE = 5126, 5121
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def _coefficients(degree: int) -> list[str]:
    return [f"{_NAME}:SH_DEGREE_{band}_COEF_{i}" for band in range(degree + 1) for i in range(2 * band + 1)]


def save_gltf(path: Path, gaussians: Gaussians, comments: Sequence[str] = ()) -> None:
    """Write an unbatched set of finite Gaussians as `.glb` or, with a data URI, as `.gltf`.

    Comments go to asset.extras. Raises InputError when the file cannot be written, or there is none or too many.
    """
    g = flip(gaussians.detach().to("cpu", torch.float32), LUF)
    if not len(g):
        raise InputError(f"{path} cannot be written: glTF has no way to hold 0 Gaussians; keep at least one.")
    colours = torch.cat([g.sh[:, 0] * C0 + 0.5, g.opacities[:, None]], dim=-1)
    attributes = {
        "POSITION": g.means,
        "COLOR_0": (colours.clamp(0, 1) * 255).round().to(torch.uint8),
        f"{_NAME}:ROTATION": g.quats[:, [1, 2, 3, 0]],
        f"{_NAME}:SCALE": g.scales,
        f"{_NAME}:OPACITY": g.opacities[:, None],
        **dict(zip(_coefficients(g.sh_degree), g.sh.unbind(1))),
    }
    views, accessors, pieces, size = [], [], [], 0
    for values in attributes.values():
        data = values.contiguous().numpy().tobytes()  # every length is a multiple of 4, as alignment asks
        bytes_only = values.dtype == torch.uint8
        views.append({"buffer": 0, "byteOffset": size, "byteLength": len(data), "target": 34962})
        accessors.append(
            {
                "bufferView": len(accessors),
                "componentType": _UBYTE if bytes_only else _FLOAT,
                "count": len(g),
                "type": {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]],
                **({"normalized": True} if bytes_only else {}),
            }
        )
        pieces.append(data)
        size += len(data)
    accessors[0] |= {"min": g.means.amin(0).tolist(), "max": g.means.amax(0).tolist()}
    primitive = {
        "mode": 0,
        "attributes": {name: i for i, name in enumerate(attributes)},
        "extensions": {
            _NAME: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "projection": "perspective",
                "sortingMethod": "cameraDistance",
            }
        },
    }
    document = {
        "asset": {"version": "2.0", "generator": "PixWorld", "extras": {"comments": list(comments)}},
        "extensionsUsed": [_NAME],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "splats", "mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": size}],
    }
    with atomic(path) as temp, open(temp, "wb") as file:
        if Path(path).suffix.lower() == ".gltf":
            data = base64.b64encode(b"".join(pieces)).decode()
            document["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{data}"
            file.write(json.dumps(document, allow_nan=False).encode())
            return
        text = json.dumps(document, allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        length = _GLB.size + 2 * _CHUNK.size + len(text) + size
        if length >= 1 << 32:
            raise InputError(f"{path} would take {length} bytes and .glb ends at 4 GiB; use --max-gaussians.")
        file.write(_GLB.pack(b"glTF", 2, length) + _CHUNK.pack(len(text), b"JSON") + text)
        file.write(_CHUNK.pack(size, b"BIN\0"))
        file.writelines(pieces)


def load_gltf(path: Path) -> Gaussians:
    """Read the splats of all nodes of a `.glb` or `.gltf` file. Raises InputError when it is not a sound one."""
    path = Path(path)
    with open_splats(path) as file:
        content = file.read()
    try:
        document, chunk = _split_glb(content) if content[:4] == b"glTF" else (json.loads(content), None)
        buffers = [_buffer(path, buffer, chunk) for buffer in document["buffers"]]
        primitives = [
            (primitive, matrix)
            for mesh, matrix in _placed_meshes(document)
            for primitive in mesh["primitives"]
            if _NAME in primitive.get("extensions", {})
        ]
        # many nodes may show one mesh
        total = sum(document["accessors"][p["attributes"]["POSITION"]]["count"] for p, _ in primitives)
        check_expansion(path, sum(map(len, buffers)), 56 * total)
        parts = [placed(_primitive(path, document, buffers, p), matrix) for p, matrix in primitives]
    except InputError:
        raise
    except (
        *(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError, struct.error),
        *(binascii.Error, OSError, MemoryError),
    ) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged or no glTF file ({reason}); export it again.") from None
    if not parts:
        raise InputError(f"{path} holds no {_NAME} primitive; export it as splats.")
    return flip(Gaussians.cat(parts), LUF)


def _split_glb(content: bytes) -> tuple[dict[str, Any], memoryview | None]:
    """The JSON and the binary chunk, where there is one."""
    _, version, length = _GLB.unpack_from(content)
    if version != 2 or length != len(content):
        raise ValueError(f"version {version}, {length} bytes declared, {len(content)} found")
    chunks, offset = {}, _GLB.size
    while offset < length:
        size, kind = _CHUNK.unpack_from(content, offset)
        offset += _CHUNK.size + size
        if offset > length:
            raise ValueError("a chunk reaches past the end")
        chunks.setdefault(kind, memoryview(content)[offset - size : offset])
    return json.loads(bytes(chunks[b"JSON"])), chunks.get(b"BIN\0")


def _buffer(path: Path, buffer: dict[str, Any], chunk: memoryview | None) -> bytes | memoryview:
    uri = buffer.get("uri")
    if uri is None:
        data = chunk
    elif uri.startswith("data:"):
        data = base64.b64decode(uri.partition(",")[2], validate=True)
    else:
        name = unquote(uri)
        if Path(name).name != name or ":" in name:
            raise InputError(f"{path} refers to {uri!r}; its buffers must be in the file or beside it.")
        with open_splats(path.with_name(name)) as file:
            if os.fstat(file.fileno()).st_size > buffer["byteLength"] + 3:
                raise ValueError(f"{name} is longer than declared")
            data = file.read()
    if data is None or len(data) < buffer["byteLength"]:
        raise ValueError("a buffer is shorter than declared")
    return data


def _placed_meshes(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Meshes of the scene with their matrices [4, 4] to the world."""
    nodes, scenes = document["nodes"], document.get("scenes")
    roots = scenes[document.get("scene", 0)]["nodes"] if scenes else range(len(nodes))
    todo = [(nodes[i], np.eye(4)) for i in roots]
    seen = 0
    while todo:
        node, parent = todo.pop()
        seen += 1
        if seen > len(nodes):
            raise ValueError("a node has two parents")
        world = parent @ _local_matrix(node)
        if "mesh" in node:
            yield document["meshes"][node["mesh"]], world
        todo += [(nodes[i], world) for i in node.get("children", [])]


def _local_matrix(node: dict[str, Any]) -> np.ndarray:
    if node.keys().isdisjoint(("matrix", "translation", "rotation", "scale")):
        return np.eye(4)
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    matrix = np.eye(4)
    rotation = quat_to_matrix(torch.tensor([w, x, y, z], dtype=torch.float64)).numpy()
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _primitive(path: Path, document: dict[str, Any], buffers: list, primitive: dict[str, Any]) -> Gaussians:
    """The Gaussians of one primitive, in the axes of its node."""
    settings = primitive["extensions"][_NAME]
    if settings.get("kernel", "ellipse") != "ellipse" or settings.get("colorSpace") == "lin_rec709_display":
        kinds = settings.get("kernel"), settings.get("colorSpace")
        raise InputError(f"{path} has splats of kernel and colour space {kinds}; ellipse in sRGB can be read.")
    attributes = primitive["attributes"]
    degree = max((d for d in range(4) if not attributes.keys().isdisjoint(_coefficients(d)[d * d :])), default=0)
    wanted = ["POSITION", *(f"{_NAME}:{x}" for x in ("ROTATION", "SCALE", "OPACITY")), *_coefficients(degree)]
    if missing := [name for name in wanted if name not in attributes]:
        raise InputError(f"{path} lacks {missing[0]} (compressed splats cannot be read); export it uncompressed.")
    means, quats, scales, opacities, *sh = (_accessor(document, buffers, attributes[name]) for name in wanted)
    if len({len(x) for x in (means, quats, scales, opacities, *sh)}) != 1:
        raise ValueError("attributes differ in count")
    if scales.min(initial=0) < 0:
        scales = np.exp(scales)
    quats = quats[:, [3, 0, 1, 2]]
    return sound_gaussians(path, means.copy(), quats, scales.copy(), opacities[:, 0], np.stack(sh, axis=1))


def _accessor(document: dict[str, Any], buffers: list, index: int) -> np.ndarray:
    """The values [count, width] of an accessor as float32."""
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    if "sparse" in accessor or "extensions" in view:
        raise ValueError("sparse and compressed accessors cannot be read")
    dtype, width = np.dtype(_COMPONENTS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
    start, offset = view.get("byteOffset", 0), accessor.get("byteOffset", 0)
    if min(start, offset, accessor["count"], view["byteLength"]) < 0:
        raise ValueError("an accessor has a negative offset or size")
    data = memoryview(buffers[view["buffer"]])[start : start + view["byteLength"]]
    strides = (view.get("byteStride", width * dtype.itemsize), dtype.itemsize)
    if strides[0] < width * dtype.itemsize:
        raise ValueError("the elements of an accessor overlap")
    # numpy refuses a shape and strides that reach past the end of the data
    values = np.ndarray((accessor["count"], width), dtype, data, offset, strides).astype(np.float32)
    if accessor.get("normalized"):
        values = np.maximum(values / np.iinfo(dtype).max, -1)
    return values
