"""Ranks: one process a device. Everything is the same command on a CPU, a GPU, several, and several nodes.

backend train ..                                            one process, no process group at all
torchrun --nproc-per-node 8 -m backend train ..             eight, FSDP2 over NCCL (gloo on CPUs)
torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:PORT --rdzv-backend c10d -m backend train ..
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Ranks:
    """Who this process is among `world` ones, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each value over the ranks."""
        if self.world == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.world).tolist(), strict=True))

    def say(self, text: str) -> None:
        """Print, once for all ranks."""
        if self.first:
            print(text, flush=True)


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the group that torchrun's environment variables tell of; without them, or alone in it, there is none. Inside
    another such block it is that one's."""
    rank, world, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    ours = world > 1 and not dist.is_initialized()
    if ours:
        # A day: the others wait while the first rank builds a bank.
        kind = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(kind, timeout=timedelta(days=1))
    yield Ranks(rank, world, device)
    if ours:  # not after an error: the other ranks may be waiting in a collective; torchrun ends them
        dist.destroy_process_group()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the module lists called "blocks": what is sharded, recomputed and compiled as one piece."""
    lists = (m for name, m in model.named_modules() if name.split(".")[-1] == "blocks" and isinstance(m, nn.ModuleList))
    return [block for blocks in lists for block in blocks]


def place(model: nn.Module, ranks: Ranks) -> None:
    """Move a model, alike in all ranks, to its device; with several ranks each keeps a share of every tensor (FSDP2:
    Zhao et al. 2023), and gathers a block while it works on it."""
    if ranks.world == 1:
        model.to(ranks.device)
        return
    # It fears in-place arithmetic on a block's output; our models have none.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for module in [*blocks(model), model]:
        fully_shard(module, mesh=mesh)
    for name in ("losses", "infer", "validate"):  # what is called on a method, besides forward()
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def whole(x: Tensor) -> Tensor:
    """A tensor in full, from all ranks' shares (a collective)."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: Tensor) -> Tensor:
    """This rank's share of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x
