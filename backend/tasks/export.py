"""Task "export": Gaussians in, the bytes of a splat file out. Their axes are ours: x right, y down, z forward.

fields   format: "ply", "spz", "splat", "sog", "glb" or "usd"
arrays   Gaussians
result   arrays: file u1 [bytes]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from backend.protocol import Arrays, Header, ProtocolError
from backend.tasks.arrays import only, read_field, read_gaussians
from backend.worker import Reporter

SUFFIXES = ("ply", "spz", "splat", "sog", "glb", "usd")


def export(fields: Header, arrays: Arrays, device: str, report: Reporter) -> tuple[Header, Arrays]:
    from pixworld.splats import save_splats

    only(fields, {"format"})
    suffix = read_field(fields, "format", "")
    if suffix not in SUFFIXES:
        raise ProtocolError("BAD_FIELD", f"there is no format {suffix!r}; there is {', '.join(SUFFIXES)}")
    gaussians = read_gaussians(arrays)
    report("export", 0, 1)
    with tempfile.TemporaryDirectory(prefix="pixworld-") as folder:
        path = Path(folder, f"scene.{suffix}")
        save_splats(path, gaussians, ["made by pixworld"])
        file = np.fromfile(path, np.uint8)
    report("export", 1, 1)
    return {}, {"file": file}
