"""Frozen encoders behind three small interfaces: geometry critics, perceptual distances, text.

    load_geometry(name)   -> module(images [b v 3 h w], cameras) -> patch features [b v l d], all views jointly
    load_perceptual(name) -> module(a, b [*b 3 h w])             -> distance [*b]
    load_text(name)       -> module(prompts)                     -> tokens [b l d], mask [b l]

All are in eval mode, without trainable parameters, and differentiable in the images. What ships or comes with a package
needs no path; the others read public checkpoints from a local path, and nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pixworld.nn.encoders import bert, critic, depth_anything, dinov2, perceptual, pi3, t5, vggt
from pixworld.views import InputError

Device = str | torch.device


class Encoder(NamedTuple):
    """How an encoder is loaded, and what its path must hold."""

    load: Callable[[Path], nn.Module]
    wants: str  # completes the sentence "give .."
    default: Callable[[], Path] | None = None  # where it lies without a path; None where only the user has it


GEOMETRY: dict[str, Encoder] = {
    "geometry-critic-small": Encoder(critic.load, "a folder that `backend train` wrote", critic.bundled),
    "vggt": Encoder(vggt.load, "model.safetensors or model.pt of VGGT-1B by facebook"),
    "pi3": Encoder(pi3.load_pi3, "model.safetensors of Pi3 by yyfz233"),
    "pi3x": Encoder(pi3.load_pi3x, "model.safetensors of Pi3X by yyfz233"),
    "dinov2": Encoder(dinov2.load, "dinov2_vit{s,b,l,g}14[_reg4]_pretrain.pth of DINOv2 by facebookresearch"),
    "depth-anything-3": Encoder(
        depth_anything.load, "model.safetensors of DA3-SMALL, -BASE, -LARGE or -GIANT by depth-anything"
    ),
}

PERCEPTUAL: dict[str, Encoder] = {
    "st-lpips-vgg": Encoder(
        perceptual.load_st_vgg, "vgg_shift_tolerant.pth of stlpips-pytorch", perceptual.packaged("vgg")
    ),
    "st-lpips-alex": Encoder(
        perceptual.load_st_alex, "alex_shift_tolerant.pth of stlpips-pytorch", perceptual.packaged("alex")
    ),
    "lpips-vgg": Encoder(
        perceptual.load_vgg,
        "a folder with vgg16-397923af.pth of torchvision and vgg.pth (v0.1) of the package lpips",
    ),
    "lpips-alex": Encoder(
        perceptual.load_alex,
        "a folder with alexnet-owt-7be5be79.pth of torchvision and alex.pth (v0.1) of the package lpips",
    ),
}

TEXT: dict[str, Encoder] = {
    "minilm": Encoder(bert.load, "the folder of all-MiniLM-L6-v2 by sentence-transformers", bert.packaged),
    "umt5": Encoder(t5.load_umt5, "the folder of umt5-xxl by google: config.json, *.safetensors and its tokenizer"),
    "t5": Encoder(t5.load_t5, "the folder of t5-v1_1-xxl by google: config.json, *.safetensors and its tokenizer"),
}


def load_geometry(name: str = "geometry-critic-small", path: Path | None = None, device: Device = "cpu") -> nn.Module:
    """forward(images [b v 3 h w] 0..1, cameras or None) -> patch features [b v l d] of all views jointly.

    Images of any size are resized inside to multiples of the patch. Only pi3x looks at the cameras. Raises InputError.
    """
    return _load(GEOMETRY, "geometry critic", name, path, device)


def load_perceptual(name: str = "st-lpips-vgg", path: Path | None = None, device: Device = "cpu") -> nn.Module:
    """forward(a, b [*b 3 h w] 0..1) -> distance [*b]; `.label` is its name in tables. Raises InputError."""
    return _load(PERCEPTUAL, "perceptual distance", name, path, device)


def load_text(name: str = "minilm", path: Path | None = None, device: Device = "cpu") -> nn.Module:
    """forward(prompts) -> (tokens [b l d], mask [b l] of the real ones); `.width` is d. Raises InputError."""
    return _load(TEXT, "text encoder", name, path, device)


def _load(registry: dict[str, Encoder], kind: str, name: str, path: Path | None, device: Device) -> nn.Module:
    if name not in registry:
        raise InputError(f"there is no {kind} {name!r}; choose one of {', '.join(registry)}")
    encoder = registry[name]
    if path is None:
        if encoder.default is None:
            raise InputError(f"the {kind} {name} has no weights here; give the path of {encoder.wants}")
        path = encoder.default()
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; for the {kind} {name}, give {encoder.wants}")
    try:
        module = encoder.load(Path(path))
    except KeyError as error:  # a tensor that tells the sizes
        raise InputError(f"{path} does not hold {name}: it has no {error.args[0]}; give {encoder.wants}") from None
    return module.to(device).eval().requires_grad_(False)
