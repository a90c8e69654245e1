"""Scores of the paper whose networks do not come with this package: adapters for what the user has.

The user's part is a Python function, named MODULE:FUNCTION, that loads its weights as it likes.

| score | the user's part, on images [n 3 h w] in 0..1 | the score of a sample |
|---|---|---|
| i2v-subject | features [n d], in VBench of DINO ViT-B/16 | half the likeness of the given view most like a frame, half the mean likeness of frames that follow each other (VBench-I2V) |
| i2v-background | features [n d], in VBench of DreamSim | 0.4, and 0.3 mean and 0.3 least, of the same (VBench-I2V) |
| imaging-quality | quality [n] of 0..100, in VBench MUSIQ trained on SPAQ | mean / 100 |
| aesthetic-quality | beauty [n] of 0..10, in VBench the LAION predictor on CLIP ViT-L/14 | mean / 10 |
| worldscore | a function (frames [v 3 h w], given [g 3 h w], prompt) -> 0..100 of the official harness | as it is |

Likeness is the cosine between features, at least 0. WorldScore's own numbers are of its 2000 scenes; ours of other ones.
"""  # noqa: E501  a table

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.views import InputError


@runtime_checkable
class SampleScore(Protocol):
    """What scores one sample: frames in path order, what was given, and the prompt."""

    def __call__(self, frames: Float[Tensor, "v 3 h w"], given: Float[Tensor, "g 3 h w"], prompt: str) -> float: ...


def likeness(features: Callable[[Tensor], Tensor], most: float, mean: float, least: float) -> SampleScore:
    """VBench-I2V's consistency from a network's features: weights of the frame likest to what was given, and of the
    mean and the least likeness of frames that follow each other."""

    def score(frames: Float[Tensor, "v 3 h w"], given: Float[Tensor, "g 3 h w"], prompt: str) -> float:
        x, y = (torch.nn.functional.normalize(features(images).flatten(1), dim=1) for images in (frames, given))
        to_given, following = (x @ y.T).clamp_min(0), (x[1:] * x[:-1]).sum(1).clamp_min(0)
        return (most * to_given.max() + mean * following.mean() + least * following.min()).item()

    return score


def average(quality: Callable[[Tensor], Tensor], full: float) -> SampleScore:
    """Mean of a quality of single images, over its full mark."""

    def score(frames: Float[Tensor, "v 3 h w"], given: Float[Tensor, "g 3 h w"], prompt: str) -> float:
        return quality(frames).mean().item() / full

    return score


class Score(NamedTuple):
    """A score by name: what tables call it, what it needs, and how the user's part becomes it."""

    label: str
    needs: str
    adapt: Callable[[Callable], SampleScore]


SCORES = {
    "i2v-subject": Score("I2V Subj.", "features of DINO ViT-B/16", lambda f: likeness(f, 0.5, 0.5, 0.0)),
    "i2v-background": Score("I2V BG", "features of DreamSim", lambda f: likeness(f, 0.4, 0.3, 0.3)),
    "imaging-quality": Score("I.Q.", "MUSIQ trained on SPAQ", lambda f: average(f, 100.0)),
    "aesthetic-quality": Score("Aes.Q.", "the LAION predictor on CLIP ViT-L/14", lambda f: average(f, 10.0)),
    "worldscore": Score("WorldScore", "the official WorldScore harness and its weights", lambda f: f),
}


def load_scores(chosen: dict[str, str]) -> dict[str, SampleScore]:
    """Scores by name from where the user's part of each is. Raises InputError."""
    unknown = chosen.keys() - SCORES.keys()
    if unknown:
        raise InputError(f"there is no score {sorted(unknown)[0]!r}; choose from {', '.join(SCORES)}.")
    return {name: SCORES[name].adapt(_load(where)) for name, where in chosen.items()}


def _load(where: str) -> Callable:
    module, _, name = where.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # a module beside the user's data
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where} cannot be used as a scorer ({error}); give MODULE:FUNCTION.") from None
    finally:
        sys.path.pop(0)
