"""The two-stream transformer block: clean and noisy tokens have weights of their own and meet in one attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixworld.nn.embeddings import ViewRope


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020) with hidden width 8/3 d, rounded up to a multiple of 16."""

    def __init__(self, d: int):
        super().__init__()
        hidden = -(-8 * d // 48) * 16
        self.up = nn.Linear(d, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class RMSNorm(nn.RMSNorm):
    """RMS norm whose gain takes the input's type: mixed types would leave bf16 for slow, unfused fp32."""

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def attend(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m d"],
    mask: Bool[Tensor, "b 1 1 m"] | None = None,
) -> Float[Tensor, "b h n d"]:
    """Softmax attention. On the CPU the scores are written out: torch's fused kernel takes 1.5 times (320 keys) to 3.6
    times (12 keys) as long, forward and backward together."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


def modulate(
    x: Float[Tensor, "b v l d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b v l d"]:
    """LayerNorm without learned gain, then (1 + scale) x + shift."""
    x = F.layer_norm(x, x.shape[-1:])
    return x * (1 + scale[:, None, None]) + shift[:, None, None]


class AdaLayerNorm(nn.Module):
    """adaLN-Zero (Peebles & Xie 2023): `parts` vectors of width d from the time embedding, zero at the start but for
    the gates' bias."""

    def __init__(self, d: int, parts: int):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(d, parts * d)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, time: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b d"], ...]:
        return self.linear(F.silu(time)).chunk(self.parts, dim=-1)


class StreamBlock(nn.Module):
    """One stream's half of a two-stream block."""

    def __init__(self, d: int, gate: float):
        super().__init__()
        self.modulation = AdaLayerNorm(d, 6)
        with torch.no_grad():
            bias = self.modulation.linear.bias.view(6, d)
            bias[2] = bias[5] = gate
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.mlp = SwiGLU(d)


@dataclass
class Stream:
    """Tokens of the views of one stream, and the time that they are at."""

    tokens: Float[Tensor, "b v l d"]
    time: Float[Tensor, "b d"]


class TwoStreamBlock(nn.Module):
    """Pre-LN block: joint attention over all tokens of all views, shared text cross-attention, MLP a stream.

    weights: the weights that each stream goes through, by name; {"clean": "clean", "noisy": "noisy"} is the paper's.
    """

    def __init__(self, d: int, heads: int, gate: float, weights: dict[str, str]):
        super().__init__()
        self.heads = heads
        self.weights = weights
        self.streams = nn.ModuleDict({name: StreamBlock(d, gate) for name in sorted(set(weights.values()))})
        # Shared by the streams: the norms that make queries and keys comparable, and everything about text.
        self.q_norm, self.k_norm = RMSNorm(d // heads), RMSNorm(d // heads)
        self.text_q = nn.Linear(d, d, bias=False)
        self.text_kv = nn.Linear(d, 2 * d, bias=False)
        self.text_out = nn.Linear(d, d, bias=False)
        nn.init.zeros_(self.text_out.weight)

    def forward(
        self,
        streams: dict[str, Stream],
        rope: ViewRope,
        text: Float[Tensor, "b m d"],
        text_mask: Bool[Tensor, "b m"],
    ) -> dict[str, Stream]:
        """The streams' views stand in the order of the dict, which is the order of `rope`'s cameras."""
        blocks = {name: self.streams[self.weights[name]] for name in streams}
        modulations = {name: blocks[name].modulation(s.time) for name, s in streams.items()}

        qkv = []
        for name, s in streams.items():
            shift, scale, *_ = modulations[name]
            qkv.append(blocks[name].qkv(modulate(s.tokens, shift, scale)))
        q, k, v = rearrange(torch.cat(qkv, dim=1), "b v l (three h d) -> three b v l h d", three=3, h=self.heads)
        q, k, v = rope.queries(self.q_norm(q)), rope.keys(self.k_norm(k)), rope.values(v)
        o = attend(*(rearrange(x, "b v l h d -> b h (v l) d") for x in (q, k, v)))
        o = rope.outputs(rearrange(o, "b h (v l) d -> b v l h d", v=q.shape[1]))
        o = rearrange(o, "b v l h d -> b v l (h d)").split([s.tokens.shape[1] for s in streams.values()], dim=1)

        text_k, text_v = rearrange(self.text_kv(text), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        out = {}
        for (name, s), attended in zip(streams.items(), o, strict=True):
            block = blocks[name]
            _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulations[name]
            x = s.tokens + gate[:, None, None] * block.out(attended)
            query = rearrange(self.text_q(F.layer_norm(x, x.shape[-1:])), "b v l (h d) -> b h (v l) d", h=self.heads)
            read = attend(query, text_k, text_v, text_mask[:, None, None])
            x = x + self.text_out(rearrange(read, "b h (v l) d -> b v l (h d)", v=x.shape[1]))
            x = x + mlp_gate[:, None, None] * block.mlp(modulate(x, mlp_shift, mlp_scale))
            out[name] = Stream(x, s.time)
        return out
