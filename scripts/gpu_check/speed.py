"""How long does a rasterizer take, and how long must it, by the bytes it moves and the operations it does?"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gpu_check.scenes import Scene, aligned_scene
from gpu_check.tiles import count, tile_loop
from pixworld.sh import sh_to_rgb

# Floating-point operations for a pixel and a Gaussian whose box holds it, counted by hand in the kernels: σ 11, e^-σ 8,
# α and the tests 4, blending 4 planes and the transmittance 10, forward; backward that again, and 35 for the moments.
FORWARD_FLOP, BACKWARD_FLOP = 33, 68


def rasterizer_arguments(scene: Scene, device: str, grad: bool = False) -> list[Tensor]:
    """What rasterize() takes, in float32 leaves, with a scene axis; colours from the lowest SH band."""
    gaussians, cameras = scene
    lead = (1,) * (3 - gaussians.means.ndim)
    g = gaussians.map(lambda x: x.reshape(*lead, *x.shape))
    colours = sh_to_rgb(g.with_sh_degree(0).sh, g.means)[:, None]
    tensors = (g.means, g.quats, g.scales, g.opacities, colours)
    leaves = [x.detach().to(device, torch.float32, copy=True).requires_grad_(grad) for x in tensors]
    return leaves + [x.reshape(*lead, *x.shape).to(device, torch.float32) for x in (cameras.w2c, cameras.K)]


def median_ms(work: Callable[[], object], device: str, repeats: int) -> float:
    """Median wall milliseconds of work(), all that it queues on the device included."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3 if device == "cuda" else 1):
        work()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def ceilings(device: str) -> dict[str, float]:
    """Bytes a second of a copy (read plus written) and float32 operations a second of a matrix product."""
    large, side = (2**30, 8192) if device == "cuda" else (2**27, 2048)
    source = torch.rand(large // 4, device=device)
    target = torch.empty_like(source)
    a, b = torch.randn(2, side, side, device=device)
    torch.backends.cuda.matmul.allow_tf32 = False
    copy = median_ms(lambda: target.copy_(source), device, 10)
    product = median_ms(lambda: a @ b, device, 5)
    return {"bytes_per_s": 2 * large / copy * 1e3, "flop_per_s": 2 * side**3 / product * 1e3}


def measure(
    rasterize: Callable, scene: Scene, device: str, rates: dict, pairs: int, repeats: int, backward=True
) -> dict:
    """Milliseconds of a rasterizer, forward and with backward, and the least that the bytes and the operations allow.

    Bytes: every input read once and every output written once, in both passes (14 floats a Gaussian, 5 a pixel, and
    their gradients). Operations: of all pixels in the boxes, though what lies behind opaque Gaussians is left out.
    """
    leaves = rasterizer_arguments(scene, device, grad=backward)
    options = {"width": scene[1].width, "height": scene[1].height, "eps2d": 0.3, "near": 0.01, "antialiased": False}
    upstream = torch.rand_like(rasterize(*leaves, **options))

    def forward():
        with torch.no_grad():
            return rasterize(*leaves, **options)

    def both():
        return torch.autograd.grad(rasterize(*leaves, **options), leaves[:5], upstream)

    gaussians, values = leaves[3].numel(), upstream.numel()
    passes = {"forward": (forward, 56 * gaussians + 4 * values, FORWARD_FLOP)}
    if backward:
        passes["both"] = (both, 3 * (56 * gaussians + 4 * values), FORWARD_FLOP + BACKWARD_FLOP)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row = {}
    for key, (work, moved, flop) in passes.items():
        row[f"{key}_ms"] = median_ms(work, device, repeats)
        row[f"{key}_floor_bytes_ms"] = moved / rates["bytes_per_s"] * 1e3
        row[f"{key}_floor_flop_ms"] = flop * pairs / rates["flop_per_s"] * 1e3
    if device == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    return row


def speed(device: str) -> dict:
    """Rows of measure() for the rasterizer of the device, and for its twin on the CPU."""
    scenes = {f"4 x {side} x {side}": lambda side=side: aligned_scene(4, side, side) for side in (32, 64, 128)}
    if device == "cuda":
        scenes |= {
            "16 scenes, 4 x 64 x 64": lambda: aligned_scene(4, 64, 64, scenes=16),
            "1 x 480 x 704": lambda: aligned_scene(1, 480, 704),
            "8 x 480 x 704": lambda: aligned_scene(8, 480, 704),
            "24 x 480 x 704, one view of them": lambda: one_view(aligned_scene(24, 480, 704)),
        }
    kernels = device == "cuda" and importlib.util.find_spec("numba") is not None
    twin = rasterizer("cpu") if kernels else tile_loop
    rates, cpu_rates = ceilings(device), ceilings("cpu")
    rows = []
    for name, make in scenes.items():
        scene = make()
        on_device = tuple(x.to(device) for x in scene)
        visible, pairs, tiles = count(rasterizer_arguments(on_device, device), on_device[1].width, on_device[1].height)
        row = {
            "case": name,
            "gaussians": scene[0].opacities.numel(),
            "visible": visible,
            "pairs": pairs,
            "tiles": tiles,
        }
        row |= measure(rasterizer(device), on_device, device, rates, pairs, 20 if device == "cuda" else 5)
        if kernels:
            few = row["gaussians"] < 3e6
            row["twin"] = measure(twin, scene, "cpu", cpu_rates, pairs, 3 if few else 1, backward=few)
        elif not rows:  # the loop takes seconds even here
            row["twin"] = measure(twin, scene, "cpu", cpu_rates, pairs, 1)
        rows.append(row)
    twin_name = "numba on the CPU" if kernels else "torch loop over tiles on the CPU"
    return {"ceilings": rates, "cpu_ceilings": cpu_rates, "twin": twin_name, "rows": rows}


def one_view(scene: Scene) -> Scene:
    return scene[0], scene[1].select([len(scene[1]) // 2])


def rasterizer(backend: str) -> Callable:
    """rasterize() of pixworld.render.cpu, which needs numba, or of .cuda."""
    return importlib.import_module(f"pixworld.render.{backend}").rasterize


def speed_table(measured: dict, device: str) -> str:
    """Floors are of the widest pass that was measured, forward and backward where there is a backward."""
    rates = measured["ceilings"]
    columns = (
        "case", "Gaussians", "pairs, M", "forward, ms", "forward + backward, ms", "floor by bytes, ms",
        "by operations, ms", "times the floor", "twin, ms", "times as fast as the twin",
    )  # fmt: skip
    lines = [
        f"{device}: {rates['bytes_per_s'] / 1e9:.0f} GB/s copied, {rates['flop_per_s'] / 1e12:.2f} TFLOP/s sgemm; "
        f"twin: {measured['twin']}\n",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in measured["rows"]:
        floors = (row["both_floor_bytes_ms"], row["both_floor_flop_ms"])
        twin = row.get("twin", {})
        key = "both_ms" if "both_ms" in twin else "forward_ms"
        cells = [
            row["case"], f"{row['gaussians']:,}", f"{row['pairs'] / 1e6:.1f}", f"{row['forward_ms']:.2f}",
            f"{row['both_ms']:.2f}", f"{floors[0]:.3f}", f"{floors[1]:.3f}", f"{row['both_ms'] / max(floors):.1f}",
            f"{twin[key]:.0f}{'' if key == 'both_ms' else ' (forward)'}" if twin else "",
            f"{twin[key] / row[key]:.0f}" if twin else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
