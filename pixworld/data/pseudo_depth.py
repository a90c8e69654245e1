"""Depth of real frames by an estimator, cached beside them as NAME.depth.png (16 bits, with its unit).

    from pixworld.data.pseudo_depth import cache_depth
    cache_depth(Path("dl3dv"), estimate)

`estimate(views)` gives z-depth [v h w] of some frames of a scene, 0 where it is not sure, in the units of the scene's
cameras, which it may look at: estimators of relative depth must be aligned to them. The paper uses Depth Anything 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.data.frames import DEPTH_SUFFIX, Frame, decode, image_size, write_depth
from pixworld.data.scene_folders import find_photos, find_scenes, load_clip
from pixworld.data.stores import Folder
from pixworld.files import atomic
from pixworld.views import InputError, Views

Estimate = Callable[[Views], Tensor]


def cache_depth(folder: Path, estimate: Estimate, size: int = 504, views: int = 16) -> list[str]:
    """Fill the cache of a folder of scene folders or photos; returns a sentence for each that could not be read.

    Frames are shown as they are in their files, i.e. with lens distortion, but upright and with a short side of at most
    `size` pixels; `views` of a scene at once, which share a size. What is there already stays, so the same call goes on
    after a stop; remove *.depth.png to start anew. Raises InputError when the folder holds no scenes or cannot be
    written to.
    """
    store = Folder(Path(folder))
    entries = list(find_scenes(store)) or list(find_photos(store))
    if not entries:
        raise InputError(f"{folder} holds no scenes and no photos; give a folder of scene folders")
    skipped = []
    with Progress() as progress:
        for entry in progress.track(entries, description="estimating depth"):
            try:
                frames = [x for x in load_clip(entry, size).frames if x.depth is None]
                for shape, alike in groupby(frames, lambda x: image_size(x.store, x.image)):
                    alike = list(alike)
                    for start in range(0, len(alike), views):
                        _estimate(alike[start : start + views], shape, estimate, size)
            except (InputError, OSError, ValueError, SyntaxError) as error:  # PIL raises SyntaxError on broken PNGs
                skipped.append(f"{entry.name}: {error}")
    return skipped


@torch.no_grad()
def _estimate(frames: list[Frame], shape: tuple[int, int], estimate: Estimate, size: int) -> None:
    scale = min(1.0, size / min(shape))
    shape = round(shape[0] * scale), round(shape[1] * scale)
    # the depth of a pixel is cached, wherever the lens has put it
    decoded = [decode(replace(frame, distortion=(0.0,) * 4), shape) for frame in frames]
    c2w = torch.stack([torch.eye(4) if frame.camera is None else frame.camera.c2w[0] for frame in frames])
    images, K, _ = (torch.stack(x) for x in zip(*decoded, strict=True))
    depth = estimate(Views(images, Cameras(c2w, K, *shape))).float().cpu()
    assert depth.shape == (len(frames), *shape), f"depth {tuple(depth.shape)} for {len(frames)} frames of {shape}"
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
    for frame, z in zip(frames, depth, strict=True):
        image = frame.store.path / frame.image
        with atomic(image.with_name(image.stem + DEPTH_SUFFIX)) as temp:
            temp.write_bytes(write_depth(z))
