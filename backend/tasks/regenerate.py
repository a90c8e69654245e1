"""Task "regenerate": what is in a box of a scene is generated anew; see pixworld/regenerate.py.

fields   prompt: text; may be empty
         options: whole numbers by name: steps, seed, size
         guidance: number
         previews: whether the Gaussians in the box are sent after a step
arrays   Gaussians; cameras in their frame; box f8 [4 4], which takes the cube [-1, 1]^3 to that frame
result   report: what was done, and how many Gaussians the box held before
arrays   Gaussians: those inside the box, which take the place of the old ones there
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.protocol import Arrays, Header
from backend.tasks.arrays import (
    gaussian_arrays,
    only,
    preview_arrays,
    read_array,
    read_cameras,
    read_field,
    read_gaussians,
    read_options,
)
from backend.worker import Reporter

if TYPE_CHECKING:
    from pixworld.gaussians import Gaussians


def regenerate(fields: Header, arrays: Arrays, device: str, report: Reporter) -> tuple[Header, Arrays]:
    import torch

    from pixworld.regenerate import RegenerateOptions
    from pixworld.regenerate import regenerate as run

    only(fields, {"prompt", "options", "guidance", "previews"})
    options = read_options(fields, {"steps", "seed", "size"})
    guidance, prompt = read_field(fields, "guidance", 1.0), read_field(fields, "prompt", "").strip()
    box = torch.from_numpy(read_array(arrays, "box", "<f8", (4, 4)).copy())
    cameras = [c.cameras for c in read_cameras(arrays)]

    def show(gaussians: Gaussians) -> None:
        if len(gaussians):
            report.preview(lambda: preview_arrays(gaussians))

    previews = show if read_field(fields, "previews", False) else None
    options = RegenerateOptions(prompt, guidance=guidance, device=device, **options)
    made = run(read_gaussians(arrays), cameras, box, options, report, previews)
    return {"report": made.report}, gaussian_arrays(made.gaussians)
