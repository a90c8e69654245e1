"""What a step costs, measured on one or two scenes before a run: arithmetic and memory; and running out, explained."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pixworld.methods.base import Method
from pixworld.training.config import TrainConfig
from pixworld.training.distributed import Ranks, blocks, local
from pixworld.training.optimisers import muon_matrices
from pixworld.views import InputError, Views

PROBES = 4  # steps measured; they differ in what is drawn: numbers of views, image shape, noisy views or none


@dataclass(frozen=True)
class Cost:
    """Of the scenes of a step."""

    flops: float  # of matrix products, attention and convolutions, forward and backward, a scene
    scene_bytes: int  # saved for the backward pass, a scene
    fixed_bytes: int  # and beside the scenes: the weights' bf16 copies


def recompute_blocks(model: Method) -> None:
    """Gradient checkpointing (Chen et al. 2016): a block keeps its inputs only, and is run again when its gradient is
    due."""
    for block in blocks(model):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def measure(
    model: Method, batch: Callable[[int, int], Views], generator: Callable[[int], torch.Generator], ranks: Ranks
) -> Cost:
    """Cost of the method's steps, from the first ones on a scene or two a rank; leaves no gradients.

    batch(step, scenes) and generator(step) are those of the run.
    """

    def probe(step: int, scenes: int) -> dict[str, float]:
        flops, saved = _probe(model, batch(step, scenes), generator(step))
        return ranks.mean({"flops": flops, "saved": float(saved)})  # alike in all ranks, which must choose alike

    single = [probe(step, 1) for step in range(PROBES)]
    dearest = max(range(PROBES), key=lambda step: single[step]["saved"])
    one, two = int(single[dearest]["saved"]), int(probe(dearest, 2)["saved"])
    return Cost(sum(x["flops"] for x in single) / PROBES, two - one, max(0, 2 * one - two))


def _probe(model: Method, views: Views, generator: torch.Generator) -> tuple[float, int]:
    """FLOPs of a step on these views, and bytes saved for its backward pass, of all groups together."""
    own = {_storage(p) for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if _storage(x) not in own:
            saved[_storage(x)] = local(x).untyped_storage().nbytes()
        return x

    with FlopCounterMode(display=False) as counter:
        for group in model.optimised():
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                loss = sum(model.losses(views, group, generator).values())
            loss.backward()
            model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()), sum(saved.values())


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
    """Bytes that a rank of this machine may fill: all of its GPU, or its share of the main memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _bytes(n: int) -> str:
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"


def memory_line(parts: dict[str, int], run: TrainConfig, ranks: Ranks) -> str:
    """The estimate as a sentence, with advice where it does not fit."""
    total, there = sum(parts.values()), available(ranks.device)
    listed = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    line = f"memory: about {_bytes(total)} of {_bytes(there)} a device ({listed})"
    return line if total < there else f"{line}; that is too much: {_advice(run)}"


@contextmanager
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
