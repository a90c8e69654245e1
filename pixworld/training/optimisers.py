"""Optimisers, the learning rate's course and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer

from pixworld.methods.base import Method
from pixworld.training.config import TrainConfig
from pixworld.training.distributed import blocks


def make_optimisers(model: Method, run: TrainConfig) -> dict[str, list[Optimizer]]:
    """For each group of the method: Muon (Jordan et al. 2024) for the matrices inside blocks, AdamW for the rest.

    All moments are there at once, as zeros, so that a checkpoint can be loaded into them.
    """
    of_muon = {id(p) for p in muon_matrices(model, run)}
    out: dict[str, list[Optimizer]] = {}
    for group, parameters in model.optimised().items():
        trained = [p for p in parameters if p.requires_grad]
        matrices = [p for p in trained if id(p) in of_muon]
        others = [p for p in trained if id(p) not in of_muon]
        out[group] = [AdamW(others, lr=run.lr, betas=(0.9, 0.95), weight_decay=run.weight_decay, fused=True)]
        if matrices:
            kind = {"weight_decay": run.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
            out[group].append(Muon(matrices, lr=run.matrix_lr, **kind))
        for optimiser in out[group]:
            _allocate(optimiser)
    return out


def muon_matrices(model: Method, run: TrainConfig) -> list[Parameter]:
    """What Muon optimises: the blocks' matrices, without those that read the time."""
    if run.optimiser != "muon":
        return []
    named = [pair for block in blocks(model) for pair in block.named_parameters()]
    return [p for name, p in named if p.ndim == 2 and p.requires_grad and "modulation" not in name]


def set_rate(optimisers: list[Optimizer], factor: float) -> None:
    """Learning rates: `factor` times their peaks."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor


def schedule(step: int, run: TrainConfig) -> float:
    """Learning-rate factor: warm-up, plateau, linear decay to `final_lr`."""
    rise = (step + 1) / run.warmup if run.warmup else 1.0
    fall = min(1.0, (run.steps - step) / max(1.0, run.decay * run.steps))
    return min(1.0, rise) * (run.final_lr + (1 - run.final_lr) * fall)


@torch.no_grad()
def update_ema(ema: dict[str, Tensor], model: Method, decay: float, step: int) -> None:
    """ema <- decay ema + (1 - decay) weights; the decay is shorter in the first steps, so that the start fades."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        ema[name].lerp_(value, 1 - decay) if value.is_floating_point() else ema[name].copy_(value)


@contextmanager
def averaged(model: Method, ema: dict[str, Tensor]) -> Iterator[None]:
    """The model with its averaged weights, for the length of the block."""
    _swap(model, ema)
    try:
        yield
    finally:
        _swap(model, ema)


@torch.no_grad()
def _swap(model: Method, ema: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        weights = value.clone()
        value.copy_(ema[name])
        ema[name].copy_(weights)


def _allocate(optimiser: Optimizer) -> None:
    """Let torch make its state, by a step that moves nothing: no gradient, no rate."""
    for group in optimiser.param_groups:
        group["peak"], group["lr"] = group["lr"], 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for state in optimiser.state.values():
        if "step" in state:
            state["step"].zero_()
