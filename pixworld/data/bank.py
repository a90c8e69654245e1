"""Banks of procedural scenes on disk: built once before training, opened memory-mapped by it.

    python -m pixworld.data.bank OUT --scenes 8000 --seed 1 [--textures DIR] [--workers 2]

A bank is a folder: meta.json, images.npy [n v h w 3] uint8, depth.npy [n v h w] float16, c2w.npy, K.npy and
captions.json. While it is being built, shards lie in OUT.partial; the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
import tyro
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from rich.progress import Progress

from pixworld.cameras import Cameras
from pixworld.data.procedural import KINDS, Scene, library, propose
from pixworld.data.trace import inside, mipmaps, pixel_intrinsics, probe, trace
from pixworld.views import InputError, Views

SHARD = 50  # scenes a shard
ARRAYS = {"images": np.uint8, "depth": np.float16, "c2w": np.float32, "K": np.float32}


class Bank:
    """The scenes of a bank folder, read from disk as they are asked for."""

    def __init__(self, folder: Path | str):
        folder = Path(folder)
        try:
            self.meta = json.loads((folder / "meta.json").read_text())
            self.captions: list[str] = json.loads((folder / "captions.json").read_text())
            self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
            if {len(x) for x in (self.captions, *self.arrays.values())} != {self.meta["scenes"]}:
                raise ValueError("its files disagree on the number of scenes")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} is not a bank of scenes ({error}); build one with: python -m pixworld.data.bank {folder} "
                "--scenes 8000 --seed 1"
            ) from error

    def __len__(self) -> int:
        return len(self.captions)

    def views(self, i: int) -> Views:
        """The views of scene i in path order, unbatched; depth is z, 0 for the sky."""
        images, depth, c2w, K = (torch.from_numpy(np.array(self.arrays[name][i])) for name in ARRAYS)
        height, width = images.shape[1:3]
        cameras = Cameras(c2w, K, height, width)
        return Views(images.movedim(-1, 1) / 255, cameras, depth=depth.float(), text=(self.captions[i],))


def build_bank(
    folder: Path,
    scenes: int,
    seed: int,
    height: int = 64,
    width: int = 96,
    views: int = 8,
    workers: int = 2,
    textures: Path | None = None,
) -> None:
    """Build a bank of `scenes` scenes; another seed gives other scenes throughout. Stopped, it resumes by shards.

    Raises InputError when the folder exists, an unfinished bank in it has other settings, or `textures` has no photos.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another folder, or remove it first")
    if scenes < 1 or workers < 1:
        raise InputError("a bank needs at least one scene and one worker; give --scenes and --workers above zero")
    settings = {"scenes": scenes, "seed": seed, "height": height, "width": width, "views": views}
    settings["textures"] = None if textures is None else Path(textures).name
    partial = folder.with_name(folder.name + ".partial")
    record = partial / "meta.json"
    if not record.exists():
        texels = mipmaps(library(textures))
        try:
            partial.mkdir(parents=True, exist_ok=True)
            _save(partial / "texels.npy", texels)
            _write(record, settings)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    elif json.loads(record.read_text()) != settings:
        raise InputError(
            f"{partial} holds an unfinished bank with other settings; remove it, or give the same settings"
        )
    starts = [s for s in range(0, scenes, SHARD) if not (partial / f"{s:08d}.json").exists()]
    began, made = time.perf_counter(), 0
    with Progress() as progress:
        task = progress.add_task(
            f"tracing {scenes} scenes", total=scenes, completed=max(0, scenes - SHARD * len(starts))
        )
        for count in _shards(partial, settings, starts, workers):
            made += count
            rate = made / (time.perf_counter() - began)
            progress.update(task, advance=count, description=f"tracing {scenes} scenes, {rate:.1f} scenes/s")
    seconds = time.perf_counter() - began
    _merge(partial, folder, settings)
    print(f"{folder}: {made} scenes in {seconds:.0f} s = {made / seconds:.1f} scenes/s with {workers} workers")


def _shards(partial: Path, settings: dict, starts: list[int], workers: int) -> Iterator[int]:
    """Make the shards, in this process or in several, and tell the scenes of each as it is done."""
    if workers == 1:
        yield from (_shard(partial, settings, start) for start in starts)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_shard, repeat(partial), repeat(settings), starts)


def _shard(partial: Path, settings: dict, start: int) -> int:
    """Trace scenes start .. start + SHARD into one shard; its captions are written last and mark it complete."""
    texels = np.load(partial / "texels.npy")
    height, width, views = settings["height"], settings["width"], settings["views"]
    columns: dict[str, list] = {name: [] for name in ARRAYS}
    captions = []
    for index in range(start, min(start + SHARD, settings["scenes"])):
        scene, images, depth = make_scene(settings["seed"], index, texels, height, width, views)
        row = {"images": images, "depth": depth, "c2w": scene.c2w, "K": pixel_intrinsics(scene, height, width)}
        for name, value in row.items():
            columns[name].append(value)
        captions.append(scene.caption)
    for name, values in columns.items():
        _save(partial / f"{start:08d}.{name}.npy", np.stack(values).astype(ARRAYS[name]))
    _write(partial / f"{start:08d}.json", captions)
    return len(captions)


def _merge(partial: Path, folder: Path, meta: dict) -> None:
    """Join the shards into one bank, which appears under its name when it is whole."""
    starts = range(0, meta["scenes"], SHARD)
    whole = folder.with_name(folder.name + ".merging")
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for name, dtype in ARRAYS.items():
        first = np.load(partial / f"{0:08d}.{name}.npy", mmap_mode="r")
        out = np.lib.format.open_memmap(whole / f"{name}.npy", "w+", dtype, (meta["scenes"], *first.shape[1:]))
        for start in starts:
            part = np.load(partial / f"{start:08d}.{name}.npy")
            out[start : start + len(part)] = part
        out.flush()
    captions = [text for start in starts for text in json.loads((partial / f"{start:08d}.json").read_text())]
    _write(whole / "captions.json", captions)
    _write(whole / "meta.json", meta)
    os.replace(whole, folder)
    shutil.rmtree(partial)


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.rename(path)


def _write(path: Path, value: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.rename(path)


def contact_sheet(bank: Bank, path: Path, scenes: int = 24, columns: int = 2) -> None:
    """A PNG to look at: five views along the path and the last one's inverse depth, a scene a row."""
    strips = []
    for i in range(min(len(bank), scenes)):
        images, depth = bank.arrays["images"][i], bank.arrays["depth"][i, -1].astype(float)
        near = np.where(depth > 0, np.median(depth[depth > 0]) / np.maximum(depth, 1e-6), 0)
        near = (255 * np.clip(near / 2.5, 0, 1)).astype(np.uint8)[..., None].repeat(3, -1)
        strips.append(np.concatenate([*images[np.linspace(0, len(images) - 1, 5).astype(int)], near], axis=1))
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    sheet = rearrange(np.stack(strips), "(c r) h w k -> (r h) (c w) k", c=columns)
    Image.fromarray(sheet).save(path)


def make_scene(
    seed: int, index: int, texels: UInt8[np.ndarray, "k t 3"], height: int, width: int, views: int
) -> tuple[Scene, UInt8[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w"]]:
    """Scene `index` of bank `seed`, its images and depths: proposals of one kind, until its cameras see something."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    for _ in range(400):
        scene = propose(kind, rng, views, height / width, len(texels))
        if sensible(scene, height // 3, width // 3):
            images, depth = trace(scene, texels, height, width)
            if worth_seeing(images):
                return scene, images, depth
    raise AssertionError(f"no sensible {kind} in 400 proposals of scene {index} of seed {seed}")


def sensible(scene: Scene, height: int, width: int) -> bool:
    """Whether the cameras of a scene can be used, judged by a small depth image of each."""
    eyes = scene.c2w[:, :3, 3]
    if inside(scene.world, eyes, 0.15).any():
        return False
    depth, primitive = probe(scene, height, width)
    known = depth > 0
    if known.mean((1, 2)).min() < 0.35:  # mostly sky
        return False
    middle = np.median(depth[known])
    if (known & (depth < 0.2 * middle)).mean((1, 2)).max() > 0.12 or depth[known].min() < 0.04 * middle:  # blocked
        return False
    first, end = scene.subject
    if not end and min(len(np.unique(view)) for view in primitive) < 4:  # a bare wall
        return False
    if end and ((primitive >= first) & (primitive < end)).mean((1, 2)).min() < 0.05:
        return False
    moved = np.linalg.norm(eyes - eyes[0], axis=1).max() > 0.1 * middle
    return bool(moved and overlap(scene, depth).min() > scene.overlap)


def overlap(scene: Scene, depth: Float[np.ndarray, "v h w"]) -> Float[np.ndarray, " v-1"]:
    """The share of each view's known pixels that the next view sees, unoccluded (z within 5 %)."""
    views, height, width = depth.shape
    K = pixel_intrinsics(scene, height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    local = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K[0]).T
    shares = []
    for a, b in zip(range(views - 1), range(1, views)):
        known = depth[a] > 0
        points = (local * depth[a][..., None])[known] @ scene.c2w[a, :3, :3].T + scene.c2w[a, :3, 3]
        seen = (points - scene.c2w[b, :3, 3]) @ scene.c2w[b, :3, :3] @ K[b].T
        z = seen[:, 2]
        u, v = seen[:, :2].T / np.maximum(z, 1e-9)
        into = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        there = depth[b][v[into].astype(int), u[into].astype(int)]
        shares.append((abs(there - z[into]) < 0.05 * z[into]).sum() / max(known.sum(), 1))
    return np.array(shares)


def worth_seeing(frames: UInt8[np.ndarray, "v h w 3"]) -> bool:
    """Whether every view has contrast and is neither black nor burnt out."""
    mean, spread = frames.mean((1, 2, 3)), frames.mean(-1).std((1, 2))
    return bool(spread.min() > 12 and mean.min() > 25 and mean.max() < 230)


def main(
    out: tyro.conf.Positional[Path], scenes: int, seed: int, textures: Path | None = None, workers: int = 2
) -> None:
    """Build a bank of procedural scenes, and a contact sheet of its first ones.

    Args:
        out: the folder to make.
        scenes: how many scenes.
        seed: banks of different seeds share no scene.
        textures: a folder of jpg photos to put on surfaces, besides the synthetic textures.
        workers: processes.
    """
    try:
        build_bank(out, scenes, seed, workers=workers, textures=textures)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    contact_sheet(Bank(out), out / "sheet.png")


if __name__ == "__main__":
    tyro.cli(main)
