"""The rasterizer on the CPU: numba kernels, forward and backward, in the dtype of their input.

Stages, each a kernel over a range of independent tasks that runs without the GIL:

    project          a chunk of Gaussians  -> in every view a record, a pixel box, and how many touch each tile
    bin_tiles        a chunk of Gaussians  -> the lists of Gaussians that touch each tile
    blend            a tile                -> sort by z, blend front to back, one Gaussian at a time
    blend_backward   a tile                -> back to front; one gradient record for each (tile, Gaussian) pair
    project_backward a chunk of Gaussians  -> sum their pairs, chain rule through the projection

Memory in float32: 48 bytes a Gaussian and view, 8 a pair (forward); with gradients 4 and 40 more until backward ends.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.render.cpu import compiling
from pixworld.render.cpu.chunks import arrays, chunked
from pixworld.render.cpu.jit import parallel
from pixworld.render.cpu.projection import PAIR, RECORD, TILE, project, project_backward
from pixworld.render.cpu.tiles import bin_tiles, blend, blend_backward


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colours, w2c, K, width, height, eps2d, near, antialiased, train):
        inputs = arrays(means, quats, scales, opacities, colours, w2c, K)
        real = inputs[0].dtype.type
        s, v, n = means.shape[0], w2c.shape[1], means.shape[1]
        columns = -(-width // TILE)
        tiles = columns * -(-height // TILE)
        chunks, size = chunked(n)

        records = np.empty((s, v, n, RECORD), real)
        boxes = np.empty((s, v, n, 4), np.int16)
        histogram = np.zeros((s, chunks, v, tiles), np.int32)
        camera = (width, height, real(eps2d))
        parallel(project, s * chunks, size, *inputs, *camera, real(near), antialiased, records, boxes, histogram)

        # The list of a tile holds chunk after chunk, so the lists do not depend on who writes first.
        ends = np.cumsum(histogram.transpose(0, 2, 3, 1), dtype=np.int64)
        starts = np.concatenate([[0], ends])
        cursors = starts[:-1].reshape(s, v, tiles, chunks).transpose(0, 3, 1, 2).copy()
        begin = starts[::chunks].copy() if chunks else np.zeros(s * v * tiles + 1, np.int64)
        total = int(starts[-1])
        assert not train or total < 2**31, f"{total} pairs of tiles and Gaussians; render fewer views at once"
        in_chunk = histogram.sum(axis=-1, dtype=np.int64)
        pairs_before = (np.cumsum(in_chunk) - in_chunk.reshape(-1)).reshape(in_chunk.shape)
        first = np.empty((s, v, n if train else 0), np.int32)
        bits = records.view(np.int32 if real is np.float32 else np.int64)
        order, depths = np.empty(total, np.int32), np.empty(total, bits.dtype)
        parallel(bin_tiles, s * chunks, size, columns, bits, boxes, cursors, order, depths, first, pairs_before)

        out = np.empty((s * v, 5, height, width), real)
        kept = np.empty((s * v, 2, height, width), real)
        flat = [x.reshape(s * v, -1, x.shape[-1]) for x in (records, boxes)]
        parallel(blend, s * v * tiles, *flat, columns, begin, order, depths, out, kept)
        if train:
            ctx.save_for_backward(means, quats, scales, opacities, colours, w2c, K)
            ctx.camera, ctx.antialiased = camera, antialiased
            ctx.records, ctx.boxes, ctx.first = records, boxes, first
            ctx.begin, ctx.order, ctx.kept = begin, order, kept
        return torch.from_numpy(out).unflatten(0, (s, v))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        compiling.wait()
        means, quats, scales, opacities, colours, w2c, K = arrays(*ctx.saved_tensors)
        s, v, n = ctx.first.shape
        (upstream,) = arrays(upstream.flatten(0, 1))
        columns = -(-upstream.shape[3] // TILE)
        chunks, size = chunked(n)
        pairs = np.empty((len(ctx.order), PAIR), means.dtype)
        records, boxes, first = (x.reshape(s * v, n, *x.shape[3:]) for x in (ctx.records, ctx.boxes, ctx.first))
        lists = (columns, ctx.begin, ctx.order, first)
        parallel(blend_backward, len(ctx.begin) - 1, records, boxes, *lists, ctx.kept, upstream, pairs)

        grads = [np.zeros_like(x) for x in (means, quats, scales, opacities, colours)]
        posed = ctx.needs_input_grad[5]
        d_views = np.zeros((s, chunks if posed else 0, v, 3, 4))  # float64: a sum over all Gaussians
        fixed = (size, means, quats, scales, opacities, w2c, K, *ctx.camera, ctx.antialiased)
        of_views = (ctx.records, ctx.boxes, ctx.first)
        parallel(project_backward, s * chunks, *fixed, *of_views, pairs, *grads, d_views)
        d_w2c = None
        if posed:
            d_w2c = np.zeros_like(w2c)
            d_w2c[:, :, :3] = d_views.sum(axis=1)
            d_w2c = torch.from_numpy(d_w2c)
        return *(torch.from_numpy(x) for x in grads), d_w2c, *[None] * 7


def _compile_backward() -> None:
    """The gradient of no image: its kernels, for float32 as in practice, are compiled and cached."""
    shapes = (0, 0, 3), (0, 0, 4), (0, 0, 3), (0, 0), (0, 1, 0, 3), (0, 0, 4, 4), (0, 0, 3, 3)
    fields = [torch.from_numpy(np.empty(shape, np.float32)) for shape in shapes]
    nothing = SimpleNamespace(
        saved_tensors=fields,
        needs_input_grad=[False] * len(fields),
        camera=(1, 1, np.float32(0)),
        antialiased=False,
        records=np.empty((0, 0, 0, RECORD), np.float32),
        boxes=np.empty((0, 0, 0, 4), np.int16),
        first=np.empty((0, 0, 0), np.int32),
        begin=np.zeros(1, np.int64),
        order=np.empty(0, np.int32),
        kept=np.empty((0, 2, 1, 1), np.float32),
    )
    _Rasterize.backward(nothing, torch.from_numpy(np.empty((0, 0, 5, 1, 1), np.float32)))


compiling.share((blend_backward, project_backward), _compile_backward)


def rasterize(
    means: Float[Tensor, "s n 3"],
    quats: Float[Tensor, "s n 4"],
    scales: Float[Tensor, "s n 3"],
    opacities: Float[Tensor, "s n"],
    colours: Float[Tensor, "s c n 3"],
    w2c: Float[Tensor, "s v 4 4"],
    K: Float[Tensor, "s v 3 3"],
    *,
    width: int,
    height: int,
    eps2d: float,
    near: float,
    antialiased: bool,
) -> Float[Tensor, "s v 5 h w"]:
    """See pixworld.render for the semantics. K gets no gradient."""
    assert max(width, height) < 2**15, f"{width} x {height} pixels; pixel boxes are 16-bit"
    inputs = (means, quats, scales, opacities, colours, w2c, K)
    train = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _Rasterize.apply(*inputs, width, height, eps2d, near, antialiased, train)
