"""LPIPS (Zhang et al. 2018) and its shift-tolerant form ST-LPIPS (Ghildyal & Liu 2022), on VGG-16 and AlexNet.

The two are different metrics, so their labels differ. Modules are named as in the public files.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.diffusion import to_signal
from pixworld.nn.encoders.weights import fit, read_weights
from pixworld.views import InputError

# Of images in -1..1 (the scaling layer of LPIPS v0.1).
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
IGNORED = ("scaling_layer.", "lins.", "classifier.")


class Blur(nn.Module):
    """Low-pass of 3 x 3 binomial weights, then every second pixel (Zhang 2019); ST-LPIPS pads by 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=len(self.filt))


def vgg16(shift_tolerant: bool) -> list[list[nn.Module]]:
    """The convolutions of VGG-16 (Simonyan & Zisserman 2015) in five slices, each ending in a feature map."""
    slices, channels = [], 3
    for widths in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        layers: list[nn.Module] = []
        if slices:
            layers = [nn.MaxPool2d(2, stride=1), Blur(channels)] if shift_tolerant else [nn.MaxPool2d(2)]
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        slices.append(layers)
    return slices


def alexnet(shift_tolerant: bool) -> list[list[nn.Module]]:
    """The convolutions of AlexNet (Krizhevsky 2014) in five slices. Images need 32 pixels a side."""

    def pool(channels: int) -> list[nn.Module]:
        return [nn.MaxPool2d(3, stride=1), Blur(channels)] if shift_tolerant else [nn.MaxPool2d(3, stride=2)]

    first = nn.Conv2d(3, 64, 11, stride=1 if shift_tolerant else 4, padding=2)
    return [
        [first, Blur(64), nn.ReLU()] if shift_tolerant else [first, nn.ReLU()],
        [*pool(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        [*pool(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    ]


class PerceptualDistance(nn.Module):
    """Weighted squared differences of channel-normalised features, averaged over pixels, summed over the slices."""

    def __init__(self, slices: list[list[nn.Module]], label: str):
        super().__init__()
        self.label = label
        self.net = nn.Module()
        number = 0  # of a layer, through all slices
        for i, layers in enumerate(slices):
            named = OrderedDict((str(number + n), layer) for n, layer in enumerate(layers))
            number += len(layers)
            self.net.add_module(f"slice{i + 1}", nn.Sequential(named))
            width = [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1].out_channels
            # 0 is where the public files have a dropout
            linear = nn.Sequential(OrderedDict({"1": nn.Conv2d(width, 1, 1, bias=False)}))
            self.add_module(f"lin{i}", nn.ModuleDict({"model": linear}))

    def forward(self, a: Float[Tensor, "*b 3 h w"], b: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b"]:
        """a, b: 0..1, at least 32 pixels a side. Differentiable in both."""
        batch = a.shape[:-3]
        shift, scale = (a.new_tensor(x)[:, None, None] for x in (SHIFT, SCALE))
        x = (to_signal(torch.cat([y.reshape(-1, *y.shape[-3:]) for y in (a, b)])) - shift) / scale
        total = 0
        for i, part in enumerate(self.net.children()):
            x = part(x)
            first, second = unit_channels(x.float()).chunk(2)
            weight = self.get_submodule(f"lin{i}.model.1").weight.flatten()
            total = total + torch.einsum("nchw,c->nhw", (first - second).square(), weight).mean((-2, -1))
        return total.reshape(batch)


def unit_channels(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Every pixel's channels divided by their norm; 0 with gradient 0 where all are 0."""
    return x / x.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()


def packaged(trunk: str) -> Callable[[], Path]:
    """Where the installed package stlpips-pytorch keeps its weights. Raises InputError when it is absent."""

    def find() -> Path:
        spec = find_spec("stlpips_pytorch")
        if spec is None:
            raise InputError(
                "ST-LPIPS is not installed; run scripts/setup, or "
                f"{sys.executable} -m pip install --no-deps stlpips-pytorch"
            )
        return Path(spec.origin).parent / "weights" / "vST0.0" / f"{trunk}_shift_tolerant.pth"

    return find


def load_st_vgg(path: Path) -> nn.Module:
    return _build(vgg16, True, "ST-LPIPS (VGG)", read_weights(path), path)


def load_st_alex(path: Path) -> nn.Module:
    return _build(alexnet, True, "ST-LPIPS (AlexNet)", read_weights(path), path)


def load_vgg(path: Path) -> nn.Module:
    return _build(vgg16, False, "LPIPS (VGG)", _whole(path, "vgg"), path)


def load_alex(path: Path) -> nn.Module:
    return _build(alexnet, False, "LPIPS (AlexNet)", _whole(path, "alex"), path)


def _build(
    trunk: Callable[[bool], list[list[nn.Module]]],
    shift_tolerant: bool,
    label: str,
    state: dict[str, Tensor],
    path: Path,
) -> nn.Module:
    with torch.device("meta"):
        model = PerceptualDistance(trunk(shift_tolerant), label)
    # torchvision numbers the same layers without slices
    ours = {name.split(".", 2)[-1]: name for name in model.state_dict() if name.startswith("net.")}
    state = {ours.get(name.removeprefix("features."), name): x for name, x in state.items()}
    return fit(model, state, path, IGNORED)


def _whole(path: Path, trunk: str) -> dict[str, Tensor]:
    """A state dict of LPIPS in one file, or a folder with torchvision's trunk and the linear weights of LPIPS."""
    files = sorted(path.glob(f"{trunk}*.pth")) if path.is_dir() else [path]
    return {name: x for file in files for name, x in read_weights(file).items()}
