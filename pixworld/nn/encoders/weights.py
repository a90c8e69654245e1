"""Reading public checkpoints, and fitting them to modules of ours exactly."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pixworld.views import InputError

MALFORMED = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(SafetensorError, pickle.UnpicklingError),
)
PICKLED = (".pt", ".pth", ".bin")  # read with torch's weights-only unpickler


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the safetensors files of a folder (shards). Raises InputError."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no *.safetensors files; give the folder that does, or a file")
    try:
        index = path / "model.safetensors.index.json"
        if index.exists():
            files = [path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        state: dict[str, Tensor] = {}
        for file in files:
            state |= _read(file)
    except MALFORMED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as weights ({reason}); download it again") from None
    return state


def read_config(folder: Path) -> dict:
    """config.json of a folder in the Hugging Face layout. Raises InputError."""
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(f"{folder} has no readable config.json; give the folder of the model") from None


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix not in PICKLED:
        return load_file(file)
    content = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
    if not all(isinstance(x, Tensor) for x in content.values()):
        raise ValueError("it holds more than named tensors")
    return content


def fit(module: nn.Module, state: dict[str, Tensor], path: Path, ignored: tuple[str, ...] = ()) -> nn.Module:
    """Give `module`, built on the meta device, the tensors of `state`. Every tensor must be there in the right shape;
    what is left over must begin with one of the `ignored` prefixes. Raises InputError, which names the first misfit."""
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise InputError(f"{path} is of another model: it has no tensor {name}")
        if state[name].shape != tensor.shape:
            found, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{path} is of another model: {name} is {found}, expected {expected}")
    extra = [name for name in state if name not in wanted and not name.startswith(ignored)]
    if extra:
        raise InputError(f"{path} is of another model: {extra[0]} has no place in it")
    module.load_state_dict({name: state[name] for name in wanted}, assign=True)
    return module


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered modules `prefix`0., `prefix`1., .. there are. Raises KeyError when there is none."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    if not numbers:
        raise KeyError(f"{prefix}0")
    return len(numbers)
