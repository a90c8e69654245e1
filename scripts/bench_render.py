"""What the CPU rasterizer costs: time, memory, start.

python scripts/bench_render.py

Three tables, for an otherwise idle machine. One image of 8.1 M Gaussians. Speed on pixel-aligned scenes (one Gaussian a
pixel, as networks predict them), against a loop over tiles in plain torch with autograd, in the same run: work is
counted in pairs (pixel, Gaussian whose box holds its centre) and in flop (by hand, 40 a pair forward and 75 backward),
given as a share of what sgemm reaches here. The loop is run twice: once its memory is there, it takes half as long. And
what a fresh process waits for its first image, without and with numba's cache.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pixworld  # noqa: F401, isort: skip. Before torch, whose threads it sets up

import torch

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.render import reference, render
from pixworld.render.cpu import compiling
from pixworld.sh import rgb_to_sh, sh_to_rgb

CASES = {"4 x 64 x 64, 16k": (4, 64, 64), "4 x 128 x 128, 65k": (4, 128, 128), "1 x 480 x 704, 338k": (1, 480, 704)}
COMPARED = list(CASES)[:2]  # with the naive loop, which takes minutes for the largest
TILE = 16  # pixels, of the naive loop, which 32 makes slower
FLOP_FORWARD, FLOP_BACKWARD = 40, 75  # a pair, counted by hand in blend_lanes and blend_lanes_backward
EPS2D, NEAR = 0.3, 0.01
FIRST_IMAGE = """
import time, torch
start = time.perf_counter()
from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.render import render
fields = torch.rand(9, 3), torch.rand(9, 4), torch.rand(9, 3), torch.rand(9), torch.rand(9, 1, 3)
leaves = Gaussians(*fields).map(lambda x: x.requires_grad_())
out = render(leaves, Cameras(torch.eye(4)[None], torch.eye(3)[None], 32, 32)).rgb
middle = time.perf_counter()
out.sum().backward()
print(middle - start, time.perf_counter() - start)
"""


def pixel_aligned(views: int, height: int, width: int) -> tuple[Gaussians, Cameras]:
    """One Gaussian a pixel of every view, on a bumpy wall seen from `views` places side by side."""
    generator = torch.Generator().manual_seed(0)
    c2w = torch.eye(4).repeat(views, 1, 1)
    c2w[:, 0, 3] = torch.linspace(-0.3, 0.3, views) if views > 1 else 0
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(views, 1, 1)
    cameras = Cameras(c2w, K, height, width)
    origins, directions = cameras.rays()
    depth = 2 + 0.5 * torch.sin(4 * directions[..., :1]) * torch.cos(3 * directions[..., 1:2])
    means = (origins + depth * directions).reshape(-1, 3)
    n = len(means)
    scales = (0.7 * depth / width).reshape(-1, 1) * torch.exp(0.3 * torch.randn(n, 3, generator=generator))
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1)
    opacities = torch.rand(n, generator=generator) * 0.6 + 0.3
    return Gaussians(means, quats, scales, opacities, rgb_to_sh(torch.rand(n, 3, generator=generator))), cameras


def projected(gaussians: Gaussians, cameras: Cameras, view: int) -> tuple[reference.Projected, list[torch.Tensor]]:
    """One view's Gaussians, and the boxes x0, y0, x1, y1 of the ellipses where α falls to 1/255, in whole pixels."""
    g, size = gaussians, (cameras.width, cameras.height)
    fields = (g.means, g.quats, g.scales, g.opacities, sh_to_rgb(g.sh, g.means))
    p = reference.project(*fields, cameras.w2c[view], cameras.K[view], *size, EPS2D, NEAR, False)
    with torch.no_grad():
        rx, ry = reach(p)
        low = [(p.x - rx).floor().clamp(0, size[0]), (p.y - ry).floor().clamp(0, size[1])]
        return p, [*low, (p.x + rx).ceil().clamp(0, size[0]), (p.y + ry).ceil().clamp(0, size[1])]


def reach(p: reference.Projected) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the ellipse where α falls to 1/255 extends from its centre to the side and down, in pixels."""
    a, b, c = p.conic.unbind(-1)
    squared = 2 * torch.log(255 * p.opacities).clamp_min(0) / (a * c - b * b)
    return (squared * c).sqrt(), (squared * a).sqrt()


def centres(gaussians: Gaussians, cameras: Cameras, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many columns and rows of pixels have their centres in each Gaussian's box: what the rasterizer works on."""
    p = projected(gaussians, cameras, view)[0]
    with torch.no_grad():
        sides = zip((p.x, p.y), reach(p), (cameras.width, cameras.height))
        return tuple((x + r + 0.5).floor().clamp(0, n) - (x - r + 0.5).floor().clamp(0, n) for x, r, n in sides)


def naive(gaussians: Gaussians, cameras: Cameras) -> torch.Tensor:
    """The loop: for every view and tile, the Gaussians whose boxes touch it are blended by torch. Returns [v 5 h w]."""
    images = []
    for view in range(len(cameras)):
        p, (x0, y0, x1, y1) = projected(gaussians, cameras, view)
        rows = []
        for top in range(0, cameras.height, TILE):
            row = []
            for left in range(0, cameras.width, TILE):
                size = min(TILE, cameras.height - top), min(TILE, cameras.width - left)
                touched = (x0 < left + size[1]) & (x1 > left) & (y0 < top + size[0]) & (y1 > top)
                row.append(reference.blend(reference.Projected(*(x[touched] for x in p)), top, left, *size))
            rows.append(torch.cat(row, dim=-1))
        images.append(torch.cat(rows, dim=-2))
    return torch.stack(images)


def fast(gaussians: Gaussians, cameras: Cameras) -> torch.Tensor:
    """The same, by the rasterizer."""
    out = render(gaussians, cameras, eps2d=EPS2D, near=NEAR, backend="cpu")
    return torch.cat([out.rgb, (out.depth * out.alpha)[:, None], out.alpha[:, None]], dim=1)


def measure(function, gaussians: Gaussians, cameras: Cameras, repeats: int) -> tuple[float, float, float]:
    """Wall milliseconds: the best of forward, and of forward and backward together; and of both the first time."""
    times = []
    for _ in range(repeats):
        leaves = gaussians.map(lambda x: x.detach().clone().requires_grad_())
        start = time.perf_counter()
        out = function(leaves, cameras)
        middle = time.perf_counter()
        out.sum().backward()
        times.append((middle - start, time.perf_counter() - start))
    return min(t[0] for t in times) * 1e3, min(t[1] for t in times) * 1e3, times[0][1] * 1e3


def sgemm_peak() -> float:
    """Flop per second of torch's float32 matrix product, the best of ten."""
    a, times = torch.rand(2048, 2048), []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * len(a) ** 3 / min(times)


def speed_table() -> None:
    scene = pixel_aligned(2, 64, 64)
    difference = (fast(*scene) - naive(*scene)).abs()
    assert (difference < 1e-3).float().mean() > 0.99, "the two do not render the same"
    peak = sgemm_peak()
    print(f"\n{torch.get_num_threads()} threads, sgemm {peak / 1e9:.0f} GFLOP/s\n")
    print("| case | forward, ms | + backward, ms | naive torch, first and again, ms | ratios | pairs | of sgemm |")
    print("|---|---|---|---|---|---|---|")
    for name, shape in CASES.items():
        scene = pixel_aligned(*shape)
        forward, both, _ = measure(fast, *scene, 20)
        _, again, first = measure(naive, *scene, 2) if name in COMPARED else (math.nan,) * 3
        pairs = 0
        for view in range(shape[0]):
            width, height = centres(*scene, view)
            pairs += int((width * height).sum(dtype=torch.float64))
        flop = pairs * (FLOP_FORWARD + FLOP_BACKWARD)
        against = (
            f"{first:.0f}, {again:.0f} | {first / both:.0f}x, {again / both:.0f}x" if name in COMPARED else "not run | "
        )
        cells = f"{forward:.1f} | {both:.1f} | {against} | {pairs / 1e6:.1f} M"
        print(f"| {name} | {cells} | {flop / (both / 1e3) / peak:.1%} |", flush=True)


def status_bytes(key: str) -> int:
    """A memory figure of this process from Linux, such as VmRSS or VmHWM."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def large_table() -> None:
    gaussians, cameras = pixel_aligned(24, 480, 704)
    cameras = cameras.select([12])
    print("| one image of 480 x 704, forward | seconds | peak memory a Gaussian |\n|---|---|---|")
    for degree in (0, 3):
        scene = gaussians.with_sh_degree(degree)
        render(scene.select(slice(1000)), cameras)
        compiling.wait()
        best, used = math.inf, 0
        for _ in range(3):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before, start = status_bytes("VmRSS"), time.perf_counter()
            with torch.no_grad():
                render(scene, cameras)
            best, used = min(best, time.perf_counter() - start), max(used, status_bytes("VmHWM") - before)
        print(
            f"| {len(scene) / 1e6:.1f} M Gaussians, SH {degree} | {best:.2f} | {used / len(scene):.0f} bytes |",
            flush=True,
        )


def start_table() -> None:
    print("\n| a fresh process, after `import torch` | first image, s | and its gradient, s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
        for name, repeats in (("nothing compiled yet", 1), ("cached", 5)):
            runs = []
            for _ in range(repeats):
                out = subprocess.run(
                    [sys.executable, "-c", FIRST_IMAGE], env=environment, capture_output=True, check=True
                )
                runs.append([float(x) for x in out.stdout.split()])
            first, both = min(runs)
            print(f"| {name} | {first:.2f} | {both:.2f} |", flush=True)


if __name__ == "__main__":
    large_table()  # first: memory that others have used and freed would count as its own
    speed_table()
    start_table()
