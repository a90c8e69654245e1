"""Seconds in which a million Gaussians become a PointCloud, in Blender without a window, and how many times as long
that is as numpy takes to copy as many bytes.

    .venv/bin/python scripts/bench_import.py [NUMBER]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import bpy  # first: it makes its own modules importable
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # blender_addon is no installed package

from blender_addon import splats

REPEATS = 4


def gaussians(n: int, degree: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    quats = rng.normal(size=(n, 4))
    arrays = {
        "means": rng.normal(size=(n, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": rng.uniform(0.01, 0.02, (n, 3)),
        "opacities": rng.uniform(size=n),
        "sh": rng.normal(size=(n, (degree + 1) ** 2, 3)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def main(n: int) -> None:
    print(f"Blender {bpy.app.version_string}, {n:,} Gaussians, best of {REPEATS}")
    print("| SH degree | wall s | CPU s | times numpy's copy |")
    print("|---|---|---|---|")
    for degree in (0, 3):
        arrays = gaussians(n, degree)
        wall, cpu, copied = [], [], []
        for _ in range(REPEATS):
            start = time.perf_counter()
            for array in arrays.values():
                array.copy()
            copied.append(time.perf_counter() - start)
            start, used = time.perf_counter(), time.process_time()
            made = splats.make("splats", arrays, bpy.context.scene.collection)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
            bpy.data.pointclouds.remove(made.data)
        print(f"| {degree} | {min(wall):.3f} | {min(cpu):.3f} | {min(wall) / min(copied):.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
