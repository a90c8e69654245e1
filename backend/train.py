"""`backend train`: training runs, on one device or, through torchrun, on many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def train(
    preset: str,
    data: str,
    out: Path,
    steps: int | None = None,
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    overrides: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set")] = (),
    init: Path | None = None,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train a model; checkpoints, log and sample sheets go to the run's folder.

    On several devices: torchrun --nproc-per-node N -m backend train ..

    Args:
        preset: name of the model and its recipe, for example pixworld-small
        data: "procedural", or what to train on: a bank, scene folders, shards; commas join several
        out: folder of the run
        steps: how many steps in all; the preset's own number without it
        resume: continue the run in OUT
        overrides: field=value of the run or the method, for example batch=8 recipe.generative=0.2
        init: start from the weights in this checkpoint folder, as far as they fit
        dry_run: only print the configuration, sizes, memory and expected step time; OUT is left alone
    """
    assignments = [assignment for group in overrides for assignment in group]
    if dry_run:
        from pixworld.training.dry_run import dry_run as describe

        describe(preset, data, steps, assignments)
        return
    from pixworld.training.loop import train as run

    run(preset, data, out, steps, resume, assignments, init)
