"""How fast splat files are read and written, beside copying as many bytes through numpy, and how large they are.

    python scripts/bench_files.py [--gaussians 1000000] [--folder DIR] [--repeats 7]

The copies that PLY is measured against: writing, `ndarray.tofile` of as many bytes to a temporary file that is fsynced
and renamed, which is how every file is written here; reading, `np.fromfile` of as many bytes and one copy of them, as a
file is read into arrays of one's own. Both are measured in turns with ours, which is fair where other programs run; the
ratio of the medians is printed, and the ratio of the least times. plyfile, the twin that the tests compare with, is
timed once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pixworld  # noqa: F401, isort: skip. Before torch, whose threads it sets up

import numpy as np
import torch
from plyfile import PlyData

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.splats import load_splats, save_splats
from pixworld.views import InputError


def random_scene(n: int) -> Gaussians:
    """Gaussians of SH degree 3 whose values are distributed roughly as in a reconstruction."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return Gaussians(
        means=normal(n, 3),
        quats=torch.nn.functional.normalize(normal(n, 4), dim=-1),
        scales=torch.exp(0.7 * normal(n, 3) - 5),
        opacities=torch.sigmoid(2 * normal(n)),
        sh=torch.cat([0.8 * normal(n, 1, 3), 0.05 * normal(n, 15, 3)], dim=1),
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(repeats: int, *works: Callable[[], object]) -> list[tuple[float, float]]:
    """(median, least) seconds of each, measured in turns after one round that warms up."""
    rounds = [[seconds(work) for work in works] for _ in range(repeats + 1)][1:]
    return [(statistics.median(times), min(times)) for times in zip(*rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="of the files; a temporary one by default")
    options = parser.parse_args()
    g = random_scene(options.gaussians)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        save_splats(folder / "a.ply", g)
        size = (folder / "a.ply").stat().st_size
        plain = np.random.default_rng(0).random(size // 4, dtype=np.float32)

        def numpy_write() -> None:
            with atomic(folder / "plain.bin") as temp:
                plain.tofile(temp)

        def numpy_read() -> np.ndarray:
            return np.fromfile(folder / "plain.bin", np.float32).copy()

        print(f"{len(g):,} Gaussians of SH degree 3, {size / 1e6:.0f} MB of PLY, load {os.getloadavg()[0]:.1f}")
        print("| PLY | numpy copy | ours | ratio of medians | ratio of least |\n|---|---|---|---|---|")
        pairs = {
            "write": (numpy_write, lambda: save_splats(folder / "a.ply", g)),
            "read": (numpy_read, lambda: load_splats(folder / "a.ply")),
        }
        for label, works in pairs.items():
            (copy, least_copy), (ours, least) = in_turns(options.repeats, *works)
            print(f"| {label} | {copy:.3f} s | {ours:.3f} s | {ours / copy:.2f} | {least / least_copy:.2f} |")
        slow_read = seconds(lambda: np.stack([x.copy() for x in columns(folder / "a.ply")], axis=1))
        print(f"plyfile: {slow_read:.2f} s to read the table alone\n")

        print("| format | write | read | bytes a Gaussian |\n|---|---|---|---|")
        for label, version in (("ply", 3), ("spz", 3), ("spz", 4), ("splat", 3), ("sog", 3), ("glb", 3), ("usdc", 3)):
            path = folder / f"b.{label}"
            try:
                write = seconds(lambda path=path, version=version: save_splats(path, g, spz_version=version))
            except InputError as error:
                print(f"| {label} | {error} | | |")
                continue
            read = seconds(lambda path=path: load_splats(path))
            shown = f"{label} v{version}" if label == "spz" else label
            print(f"| {shown} | {write:.2f} s | {read:.2f} s | {path.stat().st_size / len(g):.1f} |")


def columns(path: Path) -> list[np.ndarray]:
    data = PlyData.read(path)["vertex"].data
    return [data[name] for name in data.dtype.names]


if __name__ == "__main__":
    main()
