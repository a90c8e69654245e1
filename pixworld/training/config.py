"""What a training run is, apart from the method."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """One run. The rate rises for `warmup` steps, stays, and falls linearly to 0 over the last `decay` share."""

    steps: int = 5000
    batch: int = 16  # scenes a step
    seed: int = 0
    matrix_lr: float = 1.5e-3  # Muon, for the blocks' matrices
    lr: float = 6e-4  # AdamW, for everything else
    weight_decay: float = 0.01
    warmup: int = 100
    decay: float = 0.45
    ema: float = 0.998
    clip: float = 1.0  # largest gradient norm
    checkpoint_every: int = 200
    sheet_every: int = 500
    keep: int = 2  # checkpoints


# Preset name -> run; a preset without an entry uses the defaults.
RUNS: dict[str, TrainConfig] = {"pixworld-small": TrainConfig()}
