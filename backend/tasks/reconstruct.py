"""Task "reconstruct": photos in, a scene out.

fields   names: file names of the photos
         options: whole numbers of OPTIONS by name (see options.py)
         camera_names: names of the photos that the cameras belong to; leave it out to find the cameras
         previews: whether Gaussians are sent while they are refined, in the frame of the result
         by_photo: whether the result says which photo shows each Gaussian most
arrays   photos, in the order of names; cameras
result   photos: [{name, split}] of the photos that have a camera; split is "train" or "holdout"
         report: what report.json holds
arrays   Gaussians; cameras of `photos`, in their frame; photos: JPEG files, undistorted, at the size of their cameras;
         confidence f4 [n]: in how many photos a Gaussian has a share, 1 or less for what may be anywhere;
         with by_photo, photo i4 [n]: an index of `photos`, never of a "holdout", or -1 where none shows the Gaussian
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backend.folders import posed_cameras, with_skipped
from backend.options import OPTIONS, make_options
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
    from pixworld.attribution import Shown
    from pixworld.reconstruct import Reconstruction
    from pixworld.refine import Progress


def reconstruct(fields: Header, arrays: Arrays, device: str, report: Reporter) -> tuple[Header, Arrays]:
    from pixworld.files import tensor_to_image
    from pixworld.reconstruct import reconstruct as run

    only(fields, {"names", "options", "camera_names", "previews", "by_photo"})
    options = read_options(fields, OPTIONS.keys() - {"steps", "sh_degree"})
    previews, by_photo = read_field(fields, "previews", False), read_field(fields, "by_photo", False)
    named = read_cameras(arrays, file_names(fields, "camera_names")) if "camera_names" in fields else None
    names = file_names(fields, "names")
    if not names:
        raise ProtocolError("NO_INPUT", "no photos were sent; choose some")
    photos, skipped = read_photos(names, arrays)

    def show(progress: Progress) -> None:
        report.preview(lambda: preview_arrays(progress.gaussians()))

    options = make_options(**options, device=device)
    result = with_skipped(run(photos, named, options, report, on_refine=show if previews else None), skipped)
    cameras = posed_cameras(result)
    out = gaussian_arrays(result.scene.gaussians) | camera_arrays([c.cameras for c in cameras])
    out |= {f"photo/{i}": jpeg(tensor_to_image(p.views.images[0])) for i, p in enumerate(result.photos)}
    shown = _shown(result, exact=by_photo, device=device, report=report)
    out["confidence"] = shown.photos.cpu().numpy()
    if by_photo:
        made = [i for i, photo in enumerate(result.photos) if photo.name not in result.holdout]
        out["photo"] = np.array([*made, -1], np.int32)[shown.most.cpu().numpy()]  # -1 is the last
    return {"photos": [{"name": c.name, "split": c.split} for c in cameras], "report": result.report}, out


def _shown(result: Reconstruction, exact: bool, device: str, report: Reporter) -> Shown:
    """By the photos that made the Gaussians, at half their size where a count is all that is asked for."""
    from pixworld.attribution import shown
    from pixworld.reconstruct import choose_device
    from pixworld.refine import half

    report("attribute", 0, 1)
    photos = [photo.views for photo in result.photos if photo.name not in result.holdout]
    photos = photos if exact else [half(photo) for photo in photos]
    found = shown(result.scene.gaussians.to(choose_device(device)), photos)
    report("attribute", 1, 1)
    return found
