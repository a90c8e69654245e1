"""What a preset costs: one inference and one training step, time, memory, and FLOP against what matmul reaches here.

python scripts/bench_model.py pixworld-paper --views 4 --train-blocks 4

The weights are random: cost does not depend on them. A peer in the same run is the matrix product alone, whose FLOP/s
stand for the floor; MFU is the share of it that the network reaches (FLOP counted by torch on the same pass).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace

import pixworld  # noqa: F401, isort: skip. Before torch, whose threads it sets up

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from pixworld.cameras import Cameras
from pixworld.methods import PRESETS
from pixworld.methods.base import Draws
from pixworld.views import Task, Views


def main(
    preset: tyro.conf.Positional[str] = "pixworld-paper",
    /,
    views: int = 4,
    train_blocks: int = 0,
    batch: int = 1,
    device: str = "cpu",
) -> None:
    """Print a table.

    Args:
        preset: name of the model
        views: clean views that the inference sees
        train_blocks: also run one training step of a model cut to so many blocks; 0 leaves it out
        batch: scenes of the training step
        device: cpu or cuda
    """
    config = PRESETS[preset]()
    # Critics whose weights do not ship are left out of the training step, as are text encoders.
    config = replace(config, recipe=replace(config.recipe, perceptual_weight=0.0, geometry_weight=0.0, text_drop=1.0))
    height = config.size
    width = round(height * 4 / 3 / config.patch) * config.patch
    peak = matmul_rate(device)
    print(f"{preset}, {height} x {width} px, {device}; matrix product in bf16: {peak / 1e12:.2f} TFLOP/s\n")
    print("| | parameters | s | TFLOP | MFU | peak memory, GB |")
    print("|---|---|---|---|---|---|")

    with torch.device(device):
        model = config.build().eval()
    shot = scene(views, height, width, device)
    task = Task(replace(shot, images=shot.images[0], cameras=shot.cameras[0], depth=None, text=None))
    # Inference in bf16, weights included, as on a GPU; the head's outputs and everything after stay fp32.
    model.to(torch.bfloat16)
    row(f"inference, {views} views", model, lambda: model.infer(task, lambda *_: None), peak, device)
    del model
    if train_blocks:
        with torch.device(device):
            model = replace(config, depth=train_blocks).build()
        frames = scene(
            max(config.recipe.generated_views) + config.recipe.generative_novel[1], height, width, device, batch
        )
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            sum(model.losses(frames, "model", Draws.seeded(0)).values()).backward()
            optimiser.step()

        row(f"training step, {train_blocks} blocks, {batch} scenes", model, step, peak, device)


def row(name: str, model: torch.nn.Module, work: Callable[[], object], peak: float, device: str) -> None:
    cuda = device != "cpu"
    with FlopCounterMode(display=False) as counter:  # the first run warms up too
        work()
    flop = counter.get_total_flops()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    memory = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    count = sum(p.numel() for p in model.parameters())
    print(
        f"| {name} | {count / 1e6:,.1f} M | {seconds:.1f} | {flop / 1e12:.2f} | {flop / seconds / peak:.0%} "
        f"| {memory / 1e9:.1f} |",
        flush=True,
    )


def matmul_rate(device: str, n: int = 4096) -> float:
    """FLOP/s of the bf16 matrix product, the best of five."""
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        began = time.monotonic()
        b = a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.monotonic() - began))
    assert b.isfinite().all()
    return best


def scene(views: int, height: int, width: int, device: str, batch: int = 1) -> Views:
    """Noise seen by cameras on a line; depth 4 everywhere."""
    c2w = torch.eye(4).repeat(batch, views, 1, 1)
    c2w[..., 0, 3] = torch.linspace(-0.5, 0.5, views)
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(batch, views, 1, 1)
    images = torch.rand(batch, views, 3, height, width, generator=torch.Generator().manual_seed(0))
    depth = torch.full((batch, views, height, width), 4.0)
    return Views(images, Cameras(c2w, K, height, width), depth, text=("",) * batch).to(device)


if __name__ == "__main__":
    tyro.cli(main)
