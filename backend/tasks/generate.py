"""Task "generate": a prompt, images or both in, a scene out. See pixworld/generate.py for where images and views are.

fields   names: file names of the images; may be empty
         prompt: text; may be empty where there are images
         trajectory: "orbit", "arc", "dolly", "spiral", or "" to follow the cameras, or else the way of the images
         options: whole numbers by name: views, size, steps, seed
         guidance: number
         camera_names: names of the cameras; one named like an image is that image's, the others are generated along
         previews: whether the Gaussians of a step are sent, in the frame of the result
arrays   photos, in the order of names; cameras
result   photos: [{name, split}] of the views, images first; split is "given" or "generated"
         report: what report.json holds
arrays   Gaussians; cameras of `photos`, in their frame; photos: JPEG files at the size of their cameras
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from backend.protocol import Arrays, Header, ProtocolError
from backend.tasks.arrays import (
    camera_arrays,
    file_names,
    gaussian_arrays,
    jpeg,
    only,
    preview_arrays,
    read_cameras,
    read_field,
    read_options,
    read_photos,
)
from backend.worker import Reporter

if TYPE_CHECKING:
    from pixworld.views import Preview

FIELDS = {"names", "prompt", "trajectory", "options", "guidance", "camera_names", "previews"}


def generate(fields: Header, arrays: Arrays, device: str, report: Reporter) -> tuple[Header, Arrays]:
    from pixworld.files import tensor_to_image
    from pixworld.generate import GenerateOptions
    from pixworld.generate import generate as run
    from pixworld.trajectories import TRAJECTORIES
    from pixworld.views import InputError

    only(fields, FIELDS)
    options = read_options(fields, {"views", "size", "steps", "seed"})
    prompt, trajectory = read_field(fields, "prompt", "").strip(), read_field(fields, "trajectory", "")
    if trajectory not in ("", *TRAJECTORIES):
        raise ProtocolError("BAD_FIELD", f"there is no trajectory {trajectory!r}; there is {', '.join(TRAJECTORIES)}")
    previews = read_field(fields, "previews", False)
    options = GenerateOptions(
        prompt, trajectory or None, guidance=read_field(fields, "guidance", 1.0), device=device, **options
    )
    names = file_names(fields, "names")
    named = read_cameras(arrays, file_names(fields, "camera_names")) if "camera_names" in fields else None
    if not names and not prompt:
        raise ProtocolError("NO_INPUT", "there is nothing to generate from; write a prompt or choose images")
    photos, skipped = read_photos(names, arrays) if names else ([], [])
    if skipped:
        raise InputError(f"{skipped[0][0]} cannot be used: {skipped[0][1]}.")
    order = {name: i for i, name in enumerate(names)}
    photos.sort(key=lambda p: order.get(p.name, order.get(Path(p.name).stem, len(names))))  # the first one leads

    def show(preview: Preview) -> None:
        report.preview(lambda: preview_arrays(preview.gaussians))

    made = run(photos, named or None, options, report, show if previews else None)
    views = made.scene.views
    out = gaussian_arrays(made.scene.gaussians) | camera_arrays([views.cameras.select([i]) for i in range(len(views))])
    out |= {f"photo/{i}": jpeg(tensor_to_image(image)) for i, image in enumerate(views.images)}
    given = [{"name": photo.name, "split": "given"} for photo in photos]
    new = (f"generated_{i:02d}.jpg" for i in itertools.count())
    new = (name for name in new if name not in {photo.name for photo in photos})  # an image may be an earlier result
    others = [{"name": name, "split": "generated"} for name in itertools.islice(new, len(views) - made.given)]
    return {"photos": given + others, "report": made.report}, out
