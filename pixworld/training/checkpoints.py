"""Checkpoints of a run: folders OUT/checkpoints/step-0000200 of torch.distributed.checkpoint, which any number of
ranks writes and reads. OUT/checkpoints/latest names the newest whole one.

Everything random in a run is a function of (seed, step), so that weights, their average, the optimisers' moments and
the step are all there is to keep. (The format's index is a pickle: load checkpoints that you made.)
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from pixworld.checkpoint import dequantise
from pixworld.files import atomic
from pixworld.methods.base import Method
from pixworld.training.distributed import Ranks
from pixworld.views import InputError


def training_state(model: Method, ema: dict[str, Tensor], optimisers: dict[str, list[Optimizer]]) -> dict[str, Any]:
    """The live tensors of a run by name, to save, and to load into."""
    names = {id(p): name for name, p in model.named_parameters()}
    moments = {
        group: {names[id(p)]: dict(state) for optimiser in members for p, state in optimiser.state.items()}
        for group, members in optimisers.items()
    }
    return {"model": model.state_dict(), "ema": ema, "optimisers": moments}


def save(out: Path, step: int, state: dict[str, Any], keep: int, ranks: Ranks) -> None:
    """Write a checkpoint, make it the latest, and remove all but the newest `keep`. Whenever this is killed, `latest`
    names a whole checkpoint. Raises InputError."""
    folder = out / "checkpoints" / f"step-{step:07d}"
    partial = folder.with_name(f".{folder.name}")
    try:
        if ranks.first:
            for stale in (partial, folder):  # of a run that was killed, or that goes on from an older one
                shutil.rmtree(stale, ignore_errors=True)
            partial.mkdir(parents=True)
        ranks.barrier()
        with _alone_is_fine():
            dcp.save(state, checkpoint_id=partial)
        ranks.barrier()
        if ranks.first:
            os.replace(partial, folder)
            with atomic(folder.with_name("latest")) as temp:
                temp.write_text(folder.name + "\n")
            written = sorted(folder.parent.glob("step-*"))
            kept = [f for f in written if f <= folder][-keep:]  # one past this step was cut off before it became latest
            for old in set(written) - set(kept):
                shutil.rmtree(old)
    except (OSError, dcp.api.CheckpointException) as error:
        raise InputError(f"{folder} cannot be written ({_reason(error)}); make room, then --resume") from None


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    name = out / "checkpoints" / "latest"
    return name.with_name(name.read_text().strip()) if name.exists() else None


def load(folder: Path, state: dict[str, Any]) -> int:
    """Load a checkpoint into the tensors of `state`; returns its step. Raises InputError."""
    try:
        with _alone_is_fine():
            dcp.load(state, checkpoint_id=folder)
    except (OSError, RuntimeError, ValueError, KeyError, dcp.api.CheckpointException) as error:
        raise InputError(
            f"{folder} cannot be resumed from ({_reason(error)}); name another one in {folder.with_name('latest')}"
        ) from None
    return int(folder.name.removeprefix("step-"))


def start_from(model: Method, folder: Path) -> str:
    """Take over the weights of a checkpoint folder (weights/ of a run) that fit by name and shape; returns a sentence
    that says what did not. Raises InputError."""
    try:
        given = dequantise(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"--init {folder} has no weights that can be read ({_reason(error)}); give a folder with model.safetensors"
        ) from None
    own = model.state_dict()
    fits = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    if not fits:
        raise InputError(f"no tensor of --init {folder} fits this model; give a checkpoint of its method")
    model.load_state_dict(fits, strict=False)
    said = [f"{len(fits)} of {len(own)} tensors start from {folder}"]
    kinds = {
        "fresh": own.keys() - given.keys(),
        "fresh, as theirs have another shape": own.keys() & given.keys() - fits.keys(),
        "not used": given.keys() - own.keys(),
    }
    said += [f"{kind}: {_some(names)}" for kind, names in kinds.items() if names]
    return "; ".join(said)


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """No warning that there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield


def _some(names: set[str], most: int = 6) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _reason(error: BaseException) -> str:
    if isinstance(error, dcp.api.CheckpointException):  # an error a rank
        error = next(iter(error.failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0]
