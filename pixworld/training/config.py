"""What a training run is, apart from the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class TrainConfig:
    """One run. The rate rises for `warmup` steps, stays, and falls linearly over the last `decay` share of steps."""

    steps: Count = 5000
    batch: Count = 16  # scenes a step, over all ranks
    seed: Annotated[int, Meta(ge=0)] = 0
    optimiser: Literal["muon", "adamw"] = "muon"  # of the blocks' matrices; all else is AdamW's
    matrix_lr: Rate = 1.5e-3  # of Muon
    lr: Rate = 6e-4  # of AdamW
    weight_decay: Rate = 0.01
    warmup: Annotated[int, Meta(ge=0)] = 100
    decay: Share = 0.45
    final_lr: Share = 0.0  # the rate at the end, as a share of its peak
    ema: Share = 0.9995
    clip: Annotated[float, Meta(gt=0)] = 1.0  # largest gradient norm
    gradient_checkpointing: Literal["off", "blocks"] = "off"  # recompute each block in the backward pass
    compile: Literal["auto", "off", "on"] = "auto"  # torch.compile a block; auto is on a GPU only
    readers: Count = 1  # threads that read batches ahead, one each
    checkpoint_every: Count = 200
    sheet_every: Count = 500  # validation and a sample sheet
    keep: Count = 2  # checkpoints


# Preset name -> run; a preset without an entry uses the defaults.
RUNS: dict[str, TrainConfig] = {
    "pixworld-tiny": TrainConfig(ema=0.998),
    "pixworld-small": TrainConfig(ema=0.998),  # runs of a few thousand steps: a shorter average
    "geometry-critic-small": TrainConfig(ema=0.998),
    "pixworld-base": TrainConfig(
        steps=100_000, batch=32, optimiser="adamw", lr=2e-4, warmup=1000, gradient_checkpointing="blocks", readers=4,
        checkpoint_every=1000, sheet_every=5000,
    ),
    # AdamW 1e-4 -> 1e-5 linearly, EMA 0.9995, clip 1.0, about 200,000 steps on 32 GPUs as published; the batch is not
    # told: one scene a GPU is assumed.
    "pixworld-paper": TrainConfig(
        steps=200_000, batch=32, optimiser="adamw", lr=1e-4, warmup=1000, decay=1.0, final_lr=0.1,
        gradient_checkpointing="blocks", readers=4, checkpoint_every=1000, sheet_every=5000,
    ),
}  # fmt: skip
