"""A checkpoint is a folder that describes itself: config.json (method, shape, training) + model.safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixworld.files import atomic
from pixworld.methods import METHODS
from pixworld.methods.base import Method
from pixworld.views import InputError

BUNDLED = Path(__file__).parent / "weights" / "pixworld-small"
SCALE = ".scale"  # suffix of the per-row scales of an 8-bit tensor


def save_checkpoint(folder: Path, config: Any, state: dict[str, Tensor], *, bits: int = 32) -> None:
    """Write a method's config and weights; bits is 32 (float32) or 8 (one scale a row of every matrix)."""
    if bits == 8:
        state = quantise(state)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "model.safetensors") as temp:
        save_file({k: v.contiguous().cpu() for k, v in state.items()}, temp)
    with atomic(folder / "config.json") as temp:
        Path(temp).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")


def load_checkpoint(folder: Path | None = None, device: str = "cpu") -> tuple[Method, dict[str, str]]:
    """The method in eval mode, and {"name", "hash"} (first 12 hex digits of the SHA-256 of its weights).

    Raises InputError when the folder is not a checkpoint of a known method.
    """
    folder = BUNDLED if folder is None else Path(folder)
    try:
        raw = (folder / "config.json").read_bytes()
        weights = (folder / "model.safetensors").read_bytes()
    except OSError:
        raise InputError(
            f"{folder} is not a checkpoint: it needs config.json and model.safetensors; give a folder that "
            "`backend train` wrote"
        ) from None
    try:
        method = msgspec.json.decode(raw)["method"]
        config = msgspec.json.decode(raw, type=METHODS[method])
        model = config.build()
        model.load_state_dict(dequantise(load_file(folder / "model.safetensors")))
    except (
        msgspec.MsgspecError,
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        SafetensorError,
        RuntimeError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder} cannot be read as a checkpoint ({reason}); it may be of another version") from None
    return model.to(device).eval(), {"name": folder.resolve().name, "hash": _hash(weights)}


def weights_hash(folder: Path) -> str:
    """The hash that `load_checkpoint` would give."""
    return _hash((folder / "model.safetensors").read_bytes())


def _hash(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()[:12]


def quantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices to int8 with a float32 scale a row (largest magnitude = 127); vectors stay as they are."""
    out = {}
    for name, x in state.items():
        if x.ndim < 2:
            out[name] = x
            continue
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        out[name], out[name + SCALE] = (x / scale).round().to(torch.int8), scale
    return out


def dequantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantise`; float tensors pass through."""
    return {
        name: x.float() * state[name + SCALE] if x.dtype == torch.int8 else x
        for name, x in state.items()
        if not name.endswith(SCALE)
    }
