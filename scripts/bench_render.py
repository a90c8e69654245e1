"""Speed of the CPU rasterizer, forward and backward, on pixel-aligned scenes, and its ratio to the dense torch twin.

python scripts/bench_render.py
"""

from __future__ import annotations

import time

import torch

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.sh import rgb_to_sh

CASES = {"4 x 64 x 64, 16k": (4, 64, 64), "4 x 128 x 128, 65k": (4, 128, 128), "1 x 480 x 704, 338k": (1, 480, 704)}


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


def measure(gaussians: Gaussians, cameras: Cameras, backend: str, repeats: int) -> tuple[float, float]:
    """Best wall milliseconds of forward, and of forward and backward together."""
    times = []
    for _ in range(repeats):
        leaves = gaussians.map(lambda x: x.detach().clone().requires_grad_())
        start = time.perf_counter()
        out = render(leaves, cameras, backend=backend)
        middle = time.perf_counter()
        (out.rgb.sum() + out.depth.sum()).backward()
        times.append((middle - start, time.perf_counter() - start))
    return min(t[0] for t in times) * 1e3, min(t[1] for t in times) * 1e3


def main() -> None:
    print(f"{torch.get_num_threads()} threads\n\n| case | forward, ms | forward + backward, ms |\n|---|---|---|")
    for name, shape in CASES.items():
        forward, both = measure(*pixel_aligned(*shape), "cpu", 10)
        print(f"| {name} | {forward:.1f} | {both:.1f} |", flush=True)
    small = pixel_aligned(1, 32, 32)
    ratio = measure(*small, "reference", 3)[1] / measure(*small, "cpu", 10)[1]
    print(f"\n1 x 32 x 32, 1k Gaussians: {ratio:.0f} times as fast as the dense torch twin")


if __name__ == "__main__":
    main()
