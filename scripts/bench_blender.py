"""How long Blender's window takes to draw splats: made, shown for the first time, redrawn, and redrawn while turning.

    blender --python scripts/bench_blender.py -- [NUMBER..]

The Gaussians are those of a wall of bumps of a size that covers it about eight times, at any number. It has to be a
Blender with a window; the size of the 3D viewport is printed, as most of the time goes into its pixels.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # blender_addon is no installed package

from blender_addon import gpu_splats, shading, splats, viewport

REDRAWS = 5


def wall(n: int) -> dict[str, np.ndarray]:
    """n Gaussians, four units wide and three high."""
    rng = np.random.default_rng(0)
    xz = rng.uniform((-2, -1.5), (2, 1.5), (n, 2))
    quats = rng.normal(size=(n, 4))
    size = np.sqrt(8 * 12 / n) / 3
    arrays = {
        "means": np.c_[xz[:, 0], 0.2 * np.sin(5 * xz[:, 0]) * np.cos(5 * xz[:, 1]), xz[:, 1]],
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": size * np.exp(rng.normal(0, 0.4, (n, 3))),
        "opacities": rng.uniform(0.2, 1, n),
        "sh": rng.normal(0, 0.8, (n, 1, 3)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def measure(n: int) -> Iterator[None]:
    """Print a row of the table. Yields where Blender has to come to itself."""
    window = bpy.context.window_manager.windows[0]
    area = next(x for x in window.screen.areas if x.type == "VIEW_3D")
    region = next(x for x in area.regions if x.type == "WINDOW")
    view = area.spaces.active.region_3d
    view.view_perspective, view.view_location, view.view_distance = "PERSP", (0, 0, 0), 5
    arrays = wall(n)
    start = time.perf_counter()
    thing = splats.make("wall", arrays, bpy.context.scene.collection)
    made = time.perf_counter() - start
    shading.shade(thing)
    viewport.adopt(thing, bpy.context.scene)
    start = time.perf_counter()
    gpu_splats.Cloud(splats.arrays_of(thing))
    uploaded = time.perf_counter() - start
    yield

    def redraw(angle: float) -> float:
        view.view_rotation = (np.cos(0.7 + angle), np.sin(0.7 + angle), 0, 0)
        start = time.perf_counter()
        with bpy.context.temp_override(window=window, area=area, region=region):
            bpy.ops.wm.redraw_timer(type="DRAW_WIN", iterations=1)
        return time.perf_counter() - start

    first = redraw(0)
    for _ in range(100):
        yield  # until the order has come
    still = np.median([redraw(0) for _ in range(REDRAWS)])
    turning = []
    for i in range(REDRAWS):
        turning.append(redraw(0.02 * i))
        yield
    bpy.data.objects.remove(thing)
    yield
    empty = np.median([redraw(0) for _ in range(REDRAWS)])
    row = (n, region.width, region.height, made, uploaded, first, still, np.median(turning), empty)
    print("| {:,} | {} x {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |".format(*row), flush=True)


def steps(numbers: list[int]) -> Iterator[None]:
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    viewport.register()
    yield
    print("| Gaussians | viewport | made s | uploaded s | first s | still s | turning s | without s |")
    for n in numbers:
        yield from measure(n)
    print(viewport.problem or "no problem")


def main() -> None:
    given = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    running = steps([int(word) for word in given] or [100_000, 500_000, 1_000_000])

    def tick() -> float | None:
        try:
            next(running)
            return 0.05
        except StopIteration:
            pass
        except Exception:
            traceback.print_exc()
        bpy.ops.wm.quit_blender()
        return None

    bpy.app.timers.register(tick, first_interval=1)


main()
