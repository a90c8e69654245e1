"""What text encoders share: prompts -> tokens and a mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixworld.views import InputError

Tokenise = Callable[[str], list[int]]


class TextEncoder(nn.Module):
    """A tokeniser and a network (ids [b l], mask [b l]) -> tokens [b l width]."""

    def __init__(self, tokenise: Tokenise, net: nn.Module, width: int):
        super().__init__()
        self.tokenise, self.net, self.width = tokenise, net, width

    def forward(self, prompts: list[str]) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        """Tokens, 0 behind the end of a prompt, and a mask of the real ones. The empty prompt has tokens as well."""
        rows = [self.tokenise(prompt) for prompt in prompts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        device = next(self.net.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        return self.net(ids, mask).float() * mask[..., None], mask


def json_tokeniser(path: Path, longest: int) -> Tokenise:
    """A tokenizer.json of Hugging Face, special tokens included."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(
            "this text encoder needs the package tokenizers; run scripts/setup, or pip install --no-deps tokenizers"
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path} cannot be read as a tokenizer ({error}); download it again") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return lambda prompt: tokenizer.encode(prompt).ids


def sentencepiece_tokeniser(path: Path, longest: int) -> Tokenise:
    """A spiece.model; the end of sentence is added."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise InputError("this text encoder needs the package sentencepiece; pip install sentencepiece") from None
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as a tokenizer ({error}); download it again") from None
    return lambda prompt: [*pieces.encode(prompt)[: longest - 1], pieces.eos_id()]
