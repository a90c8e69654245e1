"""Banks of procedural scenes on disk: built once before training, opened memory-mapped by it.

    python -m pixworld.data.bank OUT --scenes 8000 --seed 1 [--textures DIR] [--workers 2] [--device cuda]

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
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from einops import rearrange
from PIL import Image
from rich.progress import Progress

from pixworld.cameras import Cameras
from pixworld.data import shards
from pixworld.data.shards import ARRAYS, save, write_json
from pixworld.data.textures import library, mipmaps
from pixworld.views import InputError, Views


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
    device: str = "cpu",
) -> None:
    """Build a bank of `scenes` scenes; another seed gives other scenes throughout. Stopped, it resumes by shards.

    On "cpu" the workers trace; on "cuda" they only propose, and the GPU traces: the same scenes, rounded otherwise.
    Raises InputError when the folder exists, an unfinished bank in it has other settings, `textures` has no photos, or
    there is no GPU.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another folder, or remove it first")
    if scenes < 1 or workers < 1:
        raise InputError("a bank needs at least one scene and one worker; give --scenes and --workers above zero")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA device here; leave --device out to trace on the CPU")
    settings = {"scenes": scenes, "seed": seed, "height": height, "width": width, "views": views, "device": device}
    settings["textures"] = None if textures is None else Path(textures).name
    partial = folder.with_name(folder.name + ".partial")
    record = partial / "meta.json"
    if not record.exists():
        texels = mipmaps(library(textures))
        try:
            partial.mkdir(parents=True, exist_ok=True)
            save(partial / "texels.npy", texels)
            write_json(record, settings)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    elif json.loads(record.read_text()) != settings:
        raise InputError(
            f"{partial} holds an unfinished bank with other settings; remove it, or give the same settings"
        )
    starts = [s for s in range(0, scenes, shards.SHARD) if not (partial / f"{s:08d}.json").exists()]
    began, made = time.perf_counter(), 0
    with Progress() as progress:
        task = progress.add_task(
            f"tracing {scenes} scenes", total=scenes, completed=max(0, scenes - shards.SHARD * len(starts))
        )
        for count in _made(partial, settings, starts, workers):
            made += count
            rate = made / (time.perf_counter() - began)
            progress.update(task, advance=count, description=f"tracing {scenes} scenes, {rate:.1f} scenes/s")
    seconds = time.perf_counter() - began
    _merge(partial, folder, settings)
    print(f"{folder}: {made} scenes in {seconds:.0f} s = {made / seconds:.1f} scenes/s with {workers} workers")


def _made(partial: Path, settings: dict, starts: list[int], workers: int) -> Iterator[int]:
    """Make the shards on the device of the settings, and tell the scenes of each."""
    if settings["device"] == "cpu":
        yield from shards.on_cpu(partial, settings, starts, workers)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from shards.on_device(partial, settings, starts, pool, torch.device(settings["device"]))


def _merge(partial: Path, folder: Path, meta: dict) -> None:
    """Join the shards into one bank, which appears under its name when it is whole."""
    starts = range(0, meta["scenes"], shards.SHARD)
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
    write_json(whole / "captions.json", captions)
    write_json(whole / "meta.json", meta)
    os.replace(whole, folder)
    shutil.rmtree(partial)


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


def main(
    out: tyro.conf.Positional[Path],
    scenes: int,
    seed: int,
    textures: Path | None = None,
    workers: int = 2,
    height: int = 64,
    width: int = 96,
    views: int = 8,
    device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Build a bank of procedural scenes, and a contact sheet of its first ones.

    Args:
        out: the folder to make.
        scenes: how many scenes.
        seed: banks of different seeds share no scene.
        textures: a folder of jpg photos to put on surfaces, besides the synthetic textures.
        workers: processes.
        height: of the images, pixels.
        width: of the images, pixels.
        views: frames a scene.
        device: cuda traces on a GPU what the workers propose.
    """
    try:
        build_bank(out, scenes, seed, height, width, views, workers, textures=textures, device=device)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    contact_sheet(Bank(out), out / "sheet.png")


if __name__ == "__main__":
    tyro.cli(main)
