"""The training loop, in the open: batch, losses, step, EMA, log, checkpoint.

Everything random is a function of (seed, step), and a checkpoint holds the rest (weights, EMA, optimiser moments), so a
resumed run continues bit for bit. One process or many: see `distributed.py`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pixworld.checkpoint import save_checkpoint
from pixworld.methods.base import Draws, Method
from pixworld.training import checkpoints
from pixworld.training.config import TrainConfig
from pixworld.training.distributed import Ranks, process_group, whole
from pixworld.training.memory import estimate, measure, memory_line, refuse_too_large, running_out_explained
from pixworld.training.optimisers import averaged, make_optimisers, schedule, set_rate, update_ema
from pixworld.training.prefetch import ahead
from pixworld.training.settings import load_settings, resolve, save_settings
from pixworld.training.setup import (
    build,
    compile_blocks,
    find_run,
    make_folder,
    open_data,
    outline,
    reader,
    validation_scenes,
)
from pixworld.training.tracking import Log, Speed, line
from pixworld.training.validation import validate
from pixworld.views import Views

SAY_EVERY = 50  # steps


def train(
    preset: str,
    data: str,
    out: Path,
    steps: int | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    init: Path | None = None,
) -> None:
    """Train a preset on a source of scenes; the EMA weights are always usable in OUT/weights.

    data: "procedural" (a bank is built in OUT/bank first), or what `open_source` opens. overrides: "field=value" of the
    run or the method. init: checkpoint folder whose weights it starts from. Stopped by SIGTERM or Ctrl-C, it saves and
    exits with 128 + the signal's number. Raises InputError.
    """
    out = Path(out)
    latest = find_run(out, resume)
    settings = resolve(preset, data, overrides, steps, load_settings(out) if resume else None)
    make_folder(out)
    run = settings.train
    with process_group() as ranks, running_out_explained(run, ranks):
        refuse_too_large(outline(settings), run, ranks)
        source = open_data(settings, out, ranks)
        model = build(settings, ranks, None if latest else init)
        optimisers = make_optimisers(model, run)
        ema = {name: x.detach().clone() for name, x in model.state_dict().items()}
        state = checkpoints.training_state(model, ema, optimisers)
        step = checkpoints.load(latest, state) if latest else 0
        if ranks.first and not latest:
            save_settings(out, settings)

        batch = reader(source, settings, ranks)
        cost = measure(model, run, batch, lambda i: step_draws(run, i), ranks)
        ranks.say(
            f"{preset}: {_millions(model)} M parameters, {len(source)} scenes, {ranks.world} x {ranks.device.type}, "
            f"steps {step} to {run.steps}, into {out}"
        )
        ranks.say(memory_line(estimate(model, run, cost, ranks), run, ranks))
        compile_blocks(model, run, ranks)

        speed = Speed(cost.flops, ranks)
        with Log(out, step, ranks) as log, _StopSignal() as stop:
            for views in ahead(lambda i: batch(i, run.batch // ranks.world), range(step, run.steps), run.readers):
                record = train_step(model, optimisers, views, run, step, ranks.rank)
                update_ema(ema, model, run.ema, step)
                step += 1
                record = ranks.mean(record | {"stop": float(stop.asked > 0)})  # all stop when one is asked to
                stopping, last = record.pop("stop") > 0, step == run.steps
                record |= speed.count(run.batch)

                pause = False
                if step % run.sheet_every == 0 or last:
                    with averaged(model, ema):
                        scores, sheet = validate(model, validation_scenes(source))
                    record |= scores
                    if sheet is not None:
                        log.sheet(step, sheet)
                    pause = True
                log.write(step, record)
                if step % SAY_EVERY == 0 or last:
                    ranks.say(line(step, run.steps, record))
                    pause = True
                if step % run.checkpoint_every == 0 or last or stopping:
                    checkpoints.save(out, step, state, run.keep, ranks)
                    save_weights(out / "weights", settings.method, ema, ranks)
                    pause = True
                if pause:
                    speed.restart()
                if stopping:
                    break
        ranks.say(source.report())
    if step < run.steps:
        ranks.say(f"stopped at step {step}; `--resume` continues")
        sys.exit(128 + (stop.asked or signal.SIGTERM))


def train_step(
    model: Method, optimisers: dict[str, list[Optimizer]], views: Views, run: TrainConfig, step: int, rank: int = 0
) -> dict[str, float]:
    """One step of every group; returns the loss terms and the gradient norms. A group whose gradient is not finite
    stays as it is."""
    draws = step_draws(run, step, rank)
    record = {}
    for group, parameters in model.optimised().items():
        name = "" if group == "model" else f"{group}_"
        set_rate(optimisers[group], schedule(step, run))
        terms = model.losses(views, group, draws)
        sum(terms.values()).backward()
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, run.clip))
        if torch.isfinite(norm):
            for optimiser in optimisers[group]:
                optimiser.step()
        model.zero_grad(set_to_none=True)
        record |= {name + k: v.item() for k, v in terms.items()} | {name + "grad_norm": norm.item()}
    return record


def step_draws(run: TrainConfig, step: int, rank: int = 0) -> Draws:
    """What a rank draws from in a step."""
    return Draws.seeded(run.seed * 1_000_003 + step, rank)


def save_weights(folder: Path, config: Any, ema: dict[str, Tensor], ranks: Ranks) -> None:
    """The averaged weights as a checkpoint that `load_checkpoint` and --init read."""
    weights = {name: whole(x) for name, x in ema.items()}
    if ranks.first:
        save_checkpoint(folder, config, weights)


def _millions(model: Method) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"


class _StopSignal:
    """Remembers SIGTERM and Ctrl-C, so that the loop can save first. `asked` is the signal's number, or 0."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> _StopSignal:
        self.before = [signal.signal(number, self._ask) for number in self.NUMBERS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self.NUMBERS, self.before, strict=True):
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        self.asked = number
