"""`backend train --dry-run`: what a run would be, and cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from pixworld.training.distributed import process_group
from pixworld.training.loop import step_draws, train_step
from pixworld.training.memory import available, estimate, measure, memory_line, refuse_too_large, running_out_explained
from pixworld.training.optimisers import make_optimisers
from pixworld.training.settings import flat, resolve
from pixworld.training.setup import VALIDATION_SCENES, build, compile_blocks, open_data, outline, reader
from pixworld.training.tracking import peak_flops
from pixworld.views import InputError

TIMED_STEPS = 2


def dry_run(preset: str, data: str, steps: int | None = None, overrides: Sequence[str] = ()) -> None:
    """Print the resolved configuration, the sizes of the model's parts, the memory and, where it fits, the time that a
    run needs, from steps on its data (for "procedural", a few scenes made for it). Raises InputError."""
    settings = resolve(preset, data, overrides, steps)
    run = settings.train
    with process_group() as ranks, running_out_explained(run, ranks), tempfile.TemporaryDirectory() as folder:
        empty = outline(settings)
        if ranks.first:
            Console().print(_table("configuration", ("field", "value"), flat(run) | flat(settings.method)))
            Console().print(_table("parameters", ("part", "millions"), part_sizes(empty)))
        try:
            refuse_too_large(empty, run, ranks)
        except InputError as error:
            ranks.say(f"{error}; the step is not timed")
            return

        source = open_data(settings, Path(folder), ranks, VALIDATION_SCENES + 4)
        batch = reader(source, settings, ranks)
        model = build(settings, ranks)
        optimisers = make_optimisers(model, run)
        cost = measure(model, run, batch, lambda i: step_draws(run, i), ranks)
        parts = estimate(model, run, cost, ranks)
        ranks.say(memory_line(parts, run, ranks))
        if sum(parts.values()) > available(ranks.device):
            ranks.say("the step is not timed")
            return
        compile_blocks(model, run, ranks)
        seconds = []
        for i in range(TIMED_STEPS):
            views = batch(i, run.batch // ranks.world)
            began = time.perf_counter()
            train_step(model, optimisers, views, run, i)
            seconds.append(time.perf_counter() - began)
        step = sum(seconds) / len(seconds)
        rate = run.batch / step
        ranks.say(
            f"step: about {step:.2f} s, {rate:.3g} samples/s, {rate * cost.flops / 1e12:.3g} TFLOP/s "
            f"(MFU {rate * cost.flops / peak_flops(ranks.device) / ranks.world:.1%}); {run.steps} steps: about "
            f"{_duration(run.steps * step)}, validation and checkpoints beside"
        )


def part_sizes(model: nn.Module) -> dict[str, str]:
    """Millions of parameters a part of the model."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    counts |= {name: p.numel() for name, p in model.named_parameters(recurse=False)}
    counts["total"] = sum(counts.values())
    return {name: f"{n / 1e6:.2f}" for name, n in counts.items() if n}


def _table(title: str, columns: tuple[str, str], rows: dict[str, object]) -> Table:
    table = Table(*columns, title=title)
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds > 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} seconds"
