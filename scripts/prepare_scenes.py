"""Scene folders -> WebDataset shards of small JPEG frames with cameras and depth, for training.

    python scripts/prepare_scenes.py IN OUT [--size 384] [--shard-mb 256] [--workers 1]

IN is what `backend train --data` takes, but for banks: scene folders (nerfstudio, DL3DV, COLMAP, RealEstate10K),
shards or photos. A scene is KEY.json (a transforms.json that names the others), KEY.0000.jpg, KEY.0000.depth.png, ..;
a photo is KEY.jpg and KEY.txt. Lens distortion is taken out. Stopped, the same command goes on behind the last whole
shard.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pixworld  # noqa: F401, isort: skip. Before torch, whose threads it sets up

import torch
import tyro
from PIL import ExifTags, Image
from rich.progress import Progress

from pixworld.camera_files.parts import FLIP
from pixworld.data.frames import DEPTH_SUFFIX, Decoded, Frame, decode, image_size, write_depth
from pixworld.data.scene_folders import Entry, load_clip
from pixworld.data.sources import find_entries
from pixworld.data.stores import Tar
from pixworld.files import atomic, tensor_to_image, write_json
from pixworld.views import InputError

Member = tuple[str, bytes]  # of a tar file
QUALITY = 92  # of the JPEGs


def prepare(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    /,
    size: int = 384,
    shard_mb: int = 256,
    workers: int = 1,
) -> None:
    """Convert scenes into shards that training reads.

    Args:
        source: a folder of scene folders, shards or photos
        out: folder for the shards
        size: short side of the frames in pixels; smaller ones stay as they are
        shard_mb: size at which a shard is full; a scene is never divided
        workers: processes that read and resize
    """
    settings = {"source": source.resolve().name, "size": size}
    record = out / "prepare.json"
    if not record.is_file():
        write_json(record, settings)
    elif json.loads(record.read_text()) != settings:
        raise InputError(f"{out} holds shards made from other settings ({record}); choose another folder.")
    shards = sorted(out.glob("shard-*.tar"))
    done = {name.split(".")[0] for shard in shards for name in Tar(shard).members}
    entries, skipped = find_entries(source)
    waiting = [entry for entry in entries if key_of(entry) not in done]
    began, written = time.perf_counter(), 0
    with Progress() as progress:
        task = progress.add_task("converting", total=len(entries), completed=len(entries) - len(waiting))

        def scenes() -> Iterator[list[Member]]:
            for members, reason in converted(waiting, size, workers):
                progress.advance(task)
                if reason is None:
                    yield members
                else:
                    skipped.append(reason)

        coming = scenes()
        for number in itertools.count(len(shards)):
            first = next(coming, None)
            if first is None:
                break
            path = out / f"shard-{number:05d}.tar"
            written += write_shard(path, itertools.chain([first], coming), shard_mb * 10**6)
    for sentence in skipped:
        print(sentence, file=sys.stderr)
    print(
        f"{out}: {len(entries)} scenes in {number} shards, {len(skipped)} skipped; {written / 1e6:.0f} MB in "
        f"{time.perf_counter() - began:.0f} s"
    )


def write_shard(path: Path, scenes: Iterable[list[Member]], limit: int) -> int:
    """Write scenes until the shard holds `limit` bytes; returns how many it holds."""
    filled = 0
    with atomic(path) as temp, tarfile.open(temp, "w") as tar:
        for members in scenes:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                filled += len(data)
            if filled >= limit:
                break
    return filled


def converted(entries: list[Entry], size: int, workers: int) -> Iterator[tuple[list[Member], str | None]]:
    """The files of each scene, or why there are none, in order."""
    if workers == 1:
        yield from map(convert, entries, itertools.repeat(size))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for some in batched(entries, 4 * workers):  # so that no more than these wait in memory
            yield from pool.map(convert, some, itertools.repeat(size))


def batched(entries: list[Entry], count: int) -> Iterator[list[Entry]]:
    return (entries[i : i + count] for i in range(0, len(entries), count))


def convert(entry: Entry, size: int) -> tuple[list[Member], str | None]:
    """The files of a scene, or why it cannot be used."""
    try:
        clip = load_clip(entry, size)
        key = key_of(entry)
        if entry.kind == "photo":
            decoded = shrink(clip.frames[0], size)
            return [*image_members(key, decoded), (f"{key}.txt", clip.caption.encode())], None
        members, frames = [], []
        for i, frame in enumerate(clip.frames):
            decoded = shrink(frame, size)
            members += image_members(f"{key}.{i:04d}", decoded)
            height, width = decoded.image.shape[1:]
            fx, fy, cx, cy = (decoded.K[at].item() for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
            frames.append(
                {
                    "file_path": f"{key}.{i:04d}.jpg",
                    "w": width,
                    "h": height,
                    "fl_x": fx,
                    "fl_y": fy,
                    "cx": cx,
                    "cy": cy,
                    "transform_matrix": (frame.camera.c2w[0].double().numpy() @ FLIP).tolist(),
                }
            )
        cameras = {"name": clip.name, "caption": clip.caption, "stride": clip.stride, "frames": frames}
        return [(f"{key}.json", json.dumps(cameras).encode()), *members], None
    except Exception as error:  # the decoders raise many kinds on broken files
        return [], f"skipped {entry.name}: {error}"


def shrink(frame: Frame, size: int) -> Decoded:
    """A whole frame with a short side of at most `size` pixels."""
    height, width = image_size(frame.store, frame.image)
    scale = min(1.0, size / min(height, width))
    return decode(frame, (round(height * scale), round(width * scale)))


def image_members(key: str, decoded: Decoded) -> list[Member]:
    """A JPEG that says its focal length in EXIF, and the depth where there is any."""
    exif, out = Image.Exif(), io.BytesIO()
    long_side = max(decoded.image.shape[1:])
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = round(
        36 * decoded.K[0, 0].item() / long_side
    )
    Image.fromarray(tensor_to_image(decoded.image)).save(out, "JPEG", quality=QUALITY, exif=exif)
    depth = [(key + DEPTH_SUFFIX, write_depth(decoded.depth))] if (decoded.depth > 0).any() else []
    return [(f"{key}.jpg", out.getvalue()), *depth]


def key_of(entry: Entry) -> str:
    """A name without dots and slashes (WebDataset's key), the same in every run and of one scene only."""
    words = re.sub(r"\W+", "_", entry.path).strip("_")[-80:]
    return f"{words}-{hashlib.sha256(entry.name.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        tyro.cli(prepare)
    except InputError as error:
        sys.exit(f"error: {error}")
