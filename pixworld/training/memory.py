"""What a step costs, measured on one or two scenes before a run: arithmetic and memory; and running out, explained."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from pixworld.methods.base import Draws, Method
from pixworld.training.config import TrainConfig
from pixworld.training.distributed import Ranks, blocks, local
from pixworld.training.optimisers import muon_matrices
from pixworld.views import InputError, Views

PROBES = 4  # steps measured; they differ in what is drawn: numbers of views, image shape, noisy views or none


@dataclass(frozen=True)
class Cost:
    """Of the scenes of a step."""

    flops: float  # of matrix products, attention and convolutions, forward and backward, a scene of the run's batch;
    # recomputation is not among them, as MFU has it (Chowdhery et al. 2022)
    scene_bytes: int  # saved for the backward pass, a scene
    fixed_bytes: int  # and beside the scenes: the weights' bf16 copies


def recompute_blocks(model: Method) -> None:
    """Gradient checkpointing (Chen et al. 2016): a block keeps its inputs only, and is run again when its gradient is
    due."""
    for block in blocks(model):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def measure(
    model: Method,
    run: TrainConfig,
    batch: Callable[[int, int], Views],
    draws: Callable[[int], Draws],
    ranks: Ranks,
) -> Cost:
    """Cost of the method's steps, from the first ones on two scenes or three a rank; leaves no gradients. What is taken
    on one or two scenes of a batch alone (PixWorldRecipe.judged) thus counts as fixed.

    batch(step, scenes) and draws(step) are those of the run.
    """

    def probe(step: int, scenes: int) -> dict[str, float]:
        flops, recomputed, saved = _probe(model, batch(step, scenes), draws(step))
        flops -= recomputed if run.gradient_checkpointing == "blocks" else 0
        return ranks.mean({"flops": flops, "saved": float(saved)})  # alike in all ranks, which must choose alike

    two = [probe(step, 2) for step in range(PROBES)]
    three = [probe(step, 3) for step in range(PROBES)]
    flops = sum(x["flops"] for x in two) / PROBES, sum(x["flops"] for x in three) / PROBES
    dearest = max(range(PROBES), key=lambda step: three[step]["saved"])
    saved = int(two[dearest]["saved"]), int(three[dearest]["saved"])
    each, fixed = flops[1] - flops[0], max(0.0, 3 * flops[0] - 2 * flops[1])
    each += fixed / max(1, run.batch // ranks.world)
    return Cost(each, saved[1] - saved[0], max(0, 3 * saved[0] - 2 * saved[1]))


def _probe(model: Method, views: Views, draws: Draws) -> tuple[float, float, int]:
    """Of a step of all groups on these views: FLOPs; those of the blocks' forward pass, which recomputation takes
    again; bytes saved for the backward pass."""
    own = {_storage(p) for p in model.parameters()}
    saved: dict[int, int] = {}
    forward = 0.0

    def pack(x: Tensor) -> Tensor:
        if _storage(x) not in own:
            saved[_storage(x)] = local(x).untyped_storage().nbytes()
        return x

    def enter(*_: object) -> None:
        nonlocal forward
        forward -= counter.get_total_flops()

    def leave(*_: object) -> None:
        nonlocal forward
        forward += counter.get_total_flops()

    with contextlib.ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))
        stack.enter_context(set_checkpoint_early_stop(False))  # so that all of a block is computed again
        for block in blocks(model):
            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        for group in model.optimised():
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                loss = sum(model.losses(views, group, draws).values())
            loss.backward()
            model.zero_grad(set_to_none=True)
        return float(counter.get_total_flops()), forward, sum(saved.values())


def _storage(x: Tensor) -> int:
    return local(x).untyped_storage().data_ptr()


def estimate(model: Method, run: TrainConfig, cost: Cost, ranks: Ranks) -> dict[str, int]:
    """Bytes in each rank, by what they hold."""
    held = sum(p.numel() * p.element_size() for p in model.parameters()) // ranks.world
    once = sum(p.numel() * p.element_size() for p in muon_matrices(model, run)) // ranks.world
    return {
        "weights": held,
        "gradients": held,
        "moments": 2 * held - once,  # Muon has one, AdamW two
        "average": held,
        "activations": cost.fixed_bytes + cost.scene_bytes * run.batch // ranks.world,
    }


def available(device: torch.device) -> int:
    """Bytes that a rank may fill: what is free on its GPU, or its share of the main memory that is, and what it
    holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    pages = os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, StopIteration):  # Linux tells what is free as well
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
        held = int(Path("/proc/self/statm").read_text().split()[1])
        pages = free // os.sysconf("SC_PAGE_SIZE") + held
    return pages * os.sysconf("SC_PAGE_SIZE") // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def refuse_too_large(model: Method, run: TrainConfig, ranks: Ranks) -> None:
    """Raise InputError where weights, gradients, moments and average do not fit; the model may be on meta."""
    parts = estimate(model, run, Cost(0.0, 0, 0), ranks)
    total, there = sum(parts.values()), available(ranks.device)
    if total > there:
        raise InputError(
            f"weights, gradients, moments and average take {_bytes(total)}, and a device has {_bytes(there)}; train on "
            "more devices with torchrun, or --set a smaller model"
        )


def _bytes(n: int) -> str:
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"


def memory_line(parts: dict[str, int], run: TrainConfig, ranks: Ranks) -> str:
    """The estimate as a sentence, with advice where it does not fit."""
    total, there = sum(parts.values()), available(ranks.device)
    listed = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    line = f"memory: about {_bytes(total)} of {_bytes(there)} a device ({listed})"
    return line if total < there else f"{line}; that is too much: {_advice(run)}"


@contextlib.contextmanager
def running_out_explained(run: TrainConfig, ranks: Ranks) -> Iterator[None]:
    """Memory that runs out becomes an InputError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "can't allocate memory" not in str(error):  # how torch says it on a CPU
            raise
        raise InputError(f"the memory of {ranks.device} ran out at batch {run.batch}; {_advice(run)}") from error


def _advice(run: TrainConfig) -> str:
    ways = [f"--set batch={max(1, run.batch // 2)}"] if run.batch > 1 else []
    if run.gradient_checkpointing == "off":
        ways.append("--set gradient_checkpointing=blocks")
    return f"try {', '.join([*ways, 'or more devices with torchrun'])}"
