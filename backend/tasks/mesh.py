"""Task "mesh": a triangle mesh of the surfaces that Gaussians show; see pixworld/mesh.py.

fields   options: whole numbers by name: resolution, voxels along the longest side
arrays   Gaussians; cameras in their frame, or none (0 of them, or left out) for views from all around
result   arrays: vertices f4 [n 3], faces i4 [m 3], counter-clockwise seen from outside
"""

from __future__ import annotations

from backend.protocol import Arrays, Header
from backend.tasks.arrays import only, read_cameras, read_gaussians, read_options
from backend.worker import Reporter


def mesh(fields: Header, arrays: Arrays, device: str, report: Reporter) -> tuple[Header, Arrays]:
    from pixworld.mesh import RESOLUTION, mesh_of
    from pixworld.reconstruct import choose_device

    only(fields, {"options"})
    resolution = read_options(fields, {"resolution"}).get("resolution", RESOLUTION)
    cameras = [c.cameras for c in read_cameras(arrays)] if "c2w" in arrays else []
    made = mesh_of(read_gaussians(arrays).to(choose_device(device)), cameras, report, resolution)
    return {}, {"vertices": made.vertices, "faces": made.faces}
