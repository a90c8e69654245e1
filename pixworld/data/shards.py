"""The making of a bank, shard by shard: on CPU workers, or proposed by them and traced on a device."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import repeat, zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pixworld.data import trace_torch
from pixworld.data.builder import weighted
from pixworld.data.checks import sensible, worth_seeing
from pixworld.data.procedural import KINDS, propose
from pixworld.data.trace import trace
from pixworld.data.world import Scene, pixel_intrinsics

SHARD = 50  # scenes a shard
ARRAYS = {"images": np.uint8, "depth": np.float16, "c2w": np.float32, "K": np.float32}
ATTEMPTS = 400  # proposals of a scene; a few are enough


def candidate(
    seed: int, index: int, attempt: int, images: int, height: int, width: int, views: int
) -> tuple[int, Scene]:
    """The first proposal of scene `index` of bank `seed`, from number `attempt` on, whose cameras can be used; and its
    number. All proposals of a scene are of one kind; images is the size of the texture library."""
    kind = weighted(np.random.default_rng([seed, index]), KINDS)
    for number in range(attempt, ATTEMPTS):
        # from 1: a trailing 0 would give the generator above again
        scene = propose(kind, np.random.default_rng([seed, index, number + 1]), views, height / width, images)
        if sensible(scene, height // 3, width // 3):
            return number, scene
    raise AssertionError(f"no sensible {kind} in {ATTEMPTS} proposals of scene {index} of seed {seed}")


def make_scene(
    seed: int, index: int, texels: UInt8[np.ndarray, "k t 3"], height: int, width: int, views: int
) -> tuple[Scene, UInt8[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w"]]:
    """Scene `index` of bank `seed`, its images and depths, on the CPU."""
    attempt = -1
    while True:
        attempt, scene = candidate(seed, index, attempt + 1, len(texels), height, width, views)
        images, depth = trace(scene, texels, height, width)
        if worth_seeing(images):
            return scene, images, depth


def on_cpu(partial: Path, settings: dict, starts: list[int], workers: int) -> Iterator[int]:
    """Make the shards that begin at `starts`, in this process or in several, and tell the scenes of each."""
    if workers == 1:
        yield from (_shard(partial, settings, start) for start in starts)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_shard, repeat(partial), repeat(settings), starts)


def _shard(partial: Path, settings: dict, start: int) -> int:
    texels = np.load(partial / "texels.npy")
    size = settings["height"], settings["width"], settings["views"]
    return _write(partial, start, [make_scene(settings["seed"], k, texels, *size) for k in _indices(settings, start)])


def on_device(partial: Path, settings: dict, starts: list[int], pool: Executor, device: torch.device) -> Iterator[int]:
    """Make the shards that begin at `starts`, and tell the scenes of each. The pool's workers propose and check, one
    shard ahead; this process traces, all rays of a scene at once on the device."""
    texels = torch.from_numpy(np.load(partial / "texels.npy")).to(device)
    height, width, views = settings["height"], settings["width"], settings["views"]

    def ask(index: int, attempt: int) -> Future:
        return pool.submit(candidate, settings["seed"], index, attempt, len(texels), height, width, views)

    def asked(start: int | None) -> dict[int, Future]:
        return {} if start is None else {index: ask(index, 0) for index in _indices(settings, start)}

    ahead = asked(starts[0]) if starts else {}
    for start, following in zip_longest(starts, starts[1:]):
        current, ahead = ahead, asked(following)
        made = []
        for index, answer in current.items():
            while True:
                attempt, scene = answer.result()
                images, depth = trace_torch.trace(scene, texels, height, width)
                images = images.cpu().numpy()
                if worth_seeing(images):
                    break
                answer = ask(index, attempt + 1)
            made.append((scene, images, depth.cpu().numpy()))
        yield _write(partial, start, made)


def _indices(settings: dict, start: int) -> range:
    return range(start, min(start + SHARD, settings["scenes"]))


def _write(partial: Path, start: int, made: list[tuple[Scene, np.ndarray, np.ndarray]]) -> int:
    """Write scenes with their images and depths as one shard; its captions come last and mark it complete."""
    columns: dict[str, list] = {name: [] for name in ARRAYS}
    for scene, images, depth in made:
        K = pixel_intrinsics(scene, *depth.shape[1:])
        for name, value in {"images": images, "depth": depth, "c2w": scene.c2w, "K": K}.items():
            columns[name].append(value)
    for name, values in columns.items():
        save(partial / f"{start:08d}.{name}.npy", np.stack(values).astype(ARRAYS[name]))
    write_json(partial / f"{start:08d}.json", [scene.caption for scene, *_ in made])
    return len(made)


def save(path: Path, array: np.ndarray) -> None:
    with (temporary := path.with_suffix(".tmp")).open("wb") as file:
        np.save(file, array)
    temporary.rename(path)


def write_json(path: Path, value: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.rename(path)
