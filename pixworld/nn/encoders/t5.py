"""The encoders of T5 (Raffel et al. 2020) and UMT5 (Chung et al. 2023), from a folder in the Hugging Face layout.

Modules are named as in the public files. UMT5 has a table of relative positions in every block, T5 one for all.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pixworld.nn.encoders.tokens import TextEncoder, Tokenise, json_tokeniser, sentencepiece_tokeniser
from pixworld.nn.encoders.weights import fit, read_config, read_weights
from pixworld.views import InputError

LONGEST = 512  # tokens of a prompt
IGNORED = ("decoder.", "lm_head.", "encoder.embed_tokens.")  # the last repeats `shared`


class T5Norm(nn.Module):
    """RMS norm in float32."""

    def __init__(self, d: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(self.weight.dtype)


class SelfAttention(nn.Module):
    """Attention without scaling, with a learned bias for every bucket of relative positions."""

    def __init__(self, config: dict, has_bias: bool):
        super().__init__()
        d, inner = config["d_model"], config["num_heads"] * config["d_kv"]
        self.heads = config["num_heads"]
        self.q, self.k, self.v = (nn.Linear(d, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, d, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(config["relative_attention_num_buckets"], self.heads)

    def forward(self, x: Float[Tensor, "b l d"], bias: Float[Tensor, "b h l l"]) -> Float[Tensor, "b l d"]:
        q, k, v = (rearrange(f(x), "b l (h c) -> b h l c", h=self.heads) for f in (self.q, self.k, self.v))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        return self.o(rearrange(o, "b h l c -> b l (h c)"))


class FeedForward(nn.Module):
    """Gated GELU (T5 1.1, UMT5) or ReLU (T5)."""

    def __init__(self, config: dict):
        super().__init__()
        d, hidden = config["d_model"], config["d_ff"]
        self.gated = config.get("feed_forward_proj", "relu") == "gated-gelu"
        for name in ("wi_0", "wi_1") if self.gated else ("wi",):
            self.add_module(name, nn.Linear(d, hidden, bias=False))
        self.wo = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        if self.gated:
            return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return self.wo(F.relu(self.wi(x)))


class T5Encoder(nn.Module):
    """`config` is that of Hugging Face."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        d, eps = config["d_model"], config["layer_norm_epsilon"]
        self.shared = nn.Embedding(config["vocab_size"], d)
        blocks = nn.ModuleList()
        for i in range(config["num_layers"]):
            attention = SelfAttention(config, has_bias=i == 0 or config["model_type"] == "umt5")
            parts = ({"SelfAttention": attention}, {"DenseReluDense": FeedForward(config)})
            layers = nn.ModuleList(nn.ModuleDict(part | {"layer_norm": T5Norm(d, eps)}) for part in parts)
            blocks.append(nn.ModuleDict({"layer": layers}))
        self.encoder = nn.ModuleDict({"block": blocks, "final_layer_norm": T5Norm(d, eps)})

    def forward(self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        x = self.shared(ids)
        c = self.config
        buckets = relative_buckets(
            ids.shape[1], c["relative_attention_num_buckets"], c.get("relative_attention_max_distance", 128)
        ).to(ids.device)
        hidden = torch.where(mask, 0.0, -torch.inf)[:, None, None]
        bias = None
        for block in self.encoder["block"]:
            attend, feed = block["layer"]
            if hasattr(attend["SelfAttention"], "relative_attention_bias"):
                table = attend["SelfAttention"].relative_attention_bias(buckets)
                bias = rearrange(table, "q k h -> h q k") + hidden
            x = x + attend["SelfAttention"](attend["layer_norm"](x), bias)
            x = x + feed["DenseReluDense"](feed["layer_norm"](x))
        return self.encoder["final_layer_norm"](x)


def relative_buckets(length: int, buckets: int, farthest: int) -> Int[Tensor, "l l"]:
    """Bucket of (query, key): half of them for keys behind the query; near distances have a bucket each, others share
    logarithmically growing ones up to `farthest`."""
    offset = torch.arange(length)[None] - torch.arange(length)[:, None]
    half = buckets // 2
    near = half // 2
    distance = offset.abs()
    ratio = torch.log(distance.clamp_min(1).float() / near) / math.log(farthest / near)
    far = (near + (ratio * (half - near)).long()).clamp_max(half - 1)
    return (offset > 0) * half + torch.where(distance < near, distance, far)


def load_t5(path: Path) -> nn.Module:
    return _load(path, "t5")


def load_umt5(path: Path) -> nn.Module:
    return _load(path, "umt5")


def _load(path: Path, kind: str) -> nn.Module:
    config = read_config(path)
    if config["model_type"] != kind:
        raise InputError(f"{path} holds a model of type {config['model_type']!r}; give a folder of {kind}")
    tokenise = _tokeniser(path)
    with torch.device("meta"):
        net = T5Encoder(config)
    fit(net, read_weights(path), path, IGNORED)
    return TextEncoder(tokenise, net, config["d_model"])


def _tokeniser(path: Path) -> Tokenise:
    """Of the folder itself, or of `tokenizer` beside it, as pipelines of several models have it."""
    for folder in (path, path / "tokenizer", path.parent / "tokenizer"):
        for name, make in (("spiece.model", sentencepiece_tokeniser), ("tokenizer.json", json_tokeniser)):
            if (folder / name).exists():
                return make(folder / name, LONGEST)
    raise InputError(f"{path} has no tokenizer; put spiece.model or tokenizer.json into it")
