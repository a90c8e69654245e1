"""The training loop, in the open: batch, losses, step, EMA, log, checkpoint.

Everything random is a function of (seed, step), and a checkpoint holds the rest (weights, EMA, optimiser moments), so a
resumed run continues bit for bit.
"""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixworld.checkpoint import save_checkpoint
from pixworld.data.bank import Bank, build_bank
from pixworld.data.sampling import training_batch
from pixworld.evaluation import no_hints, novel_views, point_hints, sample_sheet
from pixworld.files import atomic, save_image
from pixworld.methods import PRESETS
from pixworld.methods.base import Method
from pixworld.training.config import RUNS, TrainConfig
from pixworld.views import InputError

PROCEDURAL_SCENES = 4000  # built by `--data procedural` when no bank is there yet
VALIDATION_SCENES = 32  # at the end of the bank, never trained on


def train(preset: str, data: str, out: Path, steps: int | None = None, resume: bool = False) -> None:
    """Train a preset on a bank of scenes; the EMA weights are always usable in OUT/weights.

    data: "procedural" (a bank is built in OUT/bank first) or the folder of a bank. Raises InputError.
    """
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    config, run = PRESETS[preset](), RUNS.get(preset, TrainConfig())
    if steps is not None:
        run = replace(run, steps=steps)
    out = Path(out)
    latest = _latest(out)
    if latest and not resume:
        raise InputError(f"{out} already holds a run; add --resume to continue it, or choose another --out")
    if resume and not latest:
        raise InputError(f"{out} holds no checkpoint to resume from; leave --resume out to start there")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from None
    bank = _open_bank(data, out)
    if len(bank) <= VALIDATION_SCENES:
        raise InputError(f"the bank has {len(bank)} scenes; training needs more than {VALIDATION_SCENES}")

    torch.manual_seed(run.seed)
    model = config.build()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimisers = make_optimisers(model, run)
    step = _load(latest, model, ema, optimisers) if latest else 0
    print(f"{preset}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(bank)} scenes, "
          f"steps {step} to {run.steps}, into {out}", flush=True)  # fmt: skip

    stop = _StopSignal()
    started, seen = time.monotonic(), 0
    with (out / "log.jsonl").open("a") as log:
        while step < run.steps and not stop.asked:
            terms, norm = train_step(model, optimisers, bank, run, step)
            update_ema(ema, model, run.ema, step)
            step, seen = step + 1, seen + run.batch
            record = {"step": step, **terms, "grad_norm": norm, "samples_per_s": seen / (time.monotonic() - started)}
            if step % run.sheet_every == 0 or step == run.steps:
                record |= _validate(model, ema, bank, out / "sheets" / f"{step:06d}.png")
            log.write(json.dumps({k: float(f"{v:.5g}") for k, v in record.items()}) + "\n")
            log.flush()
            if step % 50 == 0 or step == run.steps:
                _say(record)
            if step % run.checkpoint_every == 0 or step == run.steps or stop.asked:
                _save(out, step, config, model, ema, optimisers, run.keep)
    if stop.asked:
        print(f"stopped at step {step}; `--resume` continues", flush=True)
        sys.exit(128 + stop.asked)


def train_step(
    model: Method, optimisers: list[torch.optim.Optimizer], bank: Bank, run: TrainConfig, step: int
) -> tuple[dict[str, float], float]:
    """One step; returns the loss terms and the gradient norm. A step whose gradient is not finite changes nothing."""
    device = next(model.parameters()).device
    views = training_batch(bank, run.batch, run.seed, step, scenes=len(bank) - VALIDATION_SCENES).to(device)
    generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * schedule(step, run)
    terms = model.losses(views, "model", generator)
    sum(terms.values()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
    if torch.isfinite(norm):
        for optimiser in optimisers:
            optimiser.step()
    return {k: v.item() for k, v in terms.items()}, norm.item()


def schedule(step: int, run: TrainConfig) -> float:
    """Learning-rate factor: warm-up, plateau, linear decay to 0."""
    rise = (step + 1) / run.warmup if run.warmup else 1.0
    fall = (run.steps - step) / max(1.0, run.decay * run.steps)
    return min(1.0, rise, fall)


def make_optimisers(model: Method, run: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside blocks, AdamW for the rest."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        is_matrix = p.ndim == 2 and name.startswith("blocks.") and "modulation" not in name
        (matrices if is_matrix else others).append(p)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=run.lr, betas=(0.9, 0.95), weight_decay=run.weight_decay, fused=True)
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(matrices, lr=run.matrix_lr, weight_decay=run.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return optimisers


@torch.no_grad()
def update_ema(ema: dict[str, Tensor], model: Method, decay: float, step: int) -> None:
    """ema <- decay ema + (1 - decay) weights; the decay is shorter in the first steps, so that the start fades."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        ema[name].lerp_(value, 1 - decay) if value.is_floating_point() else ema[name].copy_(value)


def _validate(model: Method, ema: dict[str, Tensor], bank: Bank, sheet: Path) -> dict[str, float]:
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(ema)
    scenes = [bank.views(i) for i in range(len(bank) - VALIDATION_SCENES, len(bank))]
    scores = {}
    for name, context in (("4", (0, 2, 5, 7)), ("2", (0, 7))):
        for kind, hints in (("", no_hints), ("_points", point_hints(100))):
            result = novel_views(model, scenes, context, hints)
            scores |= {f"psnr_{name}{kind}": result["psnr"], f"gain_{name}{kind}": result["psnr"] - result["nearest"]}
    save_image(sheet, sample_sheet(model, scenes[:4]))
    model.load_state_dict(weights)
    return scores


def _open_bank(data: str, out: Path) -> Bank:
    if data != "procedural":
        return Bank(Path(data))
    folder = out / "bank"
    if not (folder / "meta.json").exists():
        print(f"building a bank of {PROCEDURAL_SCENES} procedural scenes in {folder}", flush=True)
        build_bank(folder, scenes=PROCEDURAL_SCENES, seed=1)
    return Bank(folder)


def _latest(out: Path) -> Path | None:
    """The newest checkpoint of a run."""
    folders = sorted((out / "checkpoints").glob("step-*.pt"))
    return folders[-1] if folders else None


def _save(out: Path, step: int, config: Any, model: Method, ema: dict, optimisers: list, keep: int) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "ema": ema,
        "optimisers": [o.state_dict() for o in optimisers],
    }
    with atomic(out / "checkpoints" / f"step-{step:07d}.pt") as temp:
        torch.save(state, temp)
    save_checkpoint(out / "weights", config, ema)
    for old in sorted((out / "checkpoints").glob("step-*.pt"))[:-keep]:
        old.unlink()


def _load(path: Path, model: Method, ema: dict, optimisers: list) -> int:
    try:
        state = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
        model.load_state_dict(state["model"])
    except (RuntimeError, KeyError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be resumed from ({reason}); it may be of another preset or incomplete"
        ) from None
    for name, value in state["ema"].items():
        ema[name].copy_(value)
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return state["step"]


def _say(record: dict[str, Any]) -> None:
    width = shutil.get_terminal_size((140, 24)).columns
    print(" ".join(f"{k}={v:.4g}" for k, v in record.items())[:width], flush=True)


class _StopSignal:
    """Remembers SIGTERM and Ctrl-C, so that the loop can save first. `asked` is the signal's number, or 0."""

    def __init__(self) -> None:
        self.asked = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: Any) -> None:
        self.asked = number
