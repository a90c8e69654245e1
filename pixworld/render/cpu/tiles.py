"""Tiles: which Gaussians touch each, front to back, and blending them forward and backward.

The inner loops run over LANES pixels, ROWS by COLUMNS, without branches, so that LLVM turns them into vector code.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from pixworld.render.cpu.jit import inlined, kernel, on_stack

from pixworld.render.cpu.projection import (  # isort: skip
    BLUE, CA, CB, CC, DBLUE, DGREEN, DRED, DZ, G0, GREEN, GX, GXX, GXY, GY, GYY, MX, MY, OP, PAIR, RED, TILE, Z,
)  # fmt: skip

ROWS, COLUMNS = 2, 8  # pixels blended together: most splats are 5 or 6 pixels wide and high
LANES = ROWS * COLUMNS
AHEAD = 16  # Gaussians: how early what is known of one is fetched; worth a fifth of the time
# A tile's pixels lie in memory band after band of ROWS rows, each column after column. Lanes may start at any column of
# the tile, so bands are padded.
BAND = (TILE + COLUMNS) * ROWS
PLANE = TILE // ROWS * BAND
assert TILE % ROWS == 0
BACK = 7 * PLANE  # what blend_backward knows of the pixels of a tile
# What blend_lanes_backward adds up in COLUMNS columns, over rows: Σg, Σg dy, Σg dy² with g = dL/dσ, then colour, z.
S0, SY, SYY, SRED, SGREEN, SBLUE, SZ, SUM = range(8)
SUMS = SUM * LANES


def exp(x):
    """e^x for x <= 0; a compiler intrinsic, see _exp."""
    raise NotImplementedError


@overload(exp, inline="always")
def _exp(x):
    if x == numba.float64:
        return lambda x: math.exp(x)

    def exp32(x):
        # 2^t = 2^n 2^f with |f| <= 1/2; the polynomial is the Chebyshev interpolant of 2^f, relative error 1e-7
        t = max(x * np.float32(1.44269504), np.float32(-64))  # far below 1/255, and nothing is denormal
        n = np.int32(t - np.float32(0.5))
        f = t - np.float32(n)
        p = np.float32(0.00967603192) + f * np.float32(0.00133908634)
        p = np.float32(0.240221075) + f * (np.float32(0.0555035711) + f * p)
        p = np.float32(1.00000008) + f * (np.float32(0.693147188) + f * p)
        return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

    return exp32


@intrinsic
def fetch(typingctx, array, index):
    """Ask memory for array[index, ...], which will be needed soon: lists are in the order of depth, arrays are not.

    What is longer than a number may lie on two lines of the cache, so both ends are asked for.
    """

    def generate(context, builder, signature, args):
        view = context.make_array(array)(context, builder, args[0])
        stride = cgutils.unpack_tuple(builder, view.strides)[0]
        offset = builder.mul(stride, context.cast(builder, args[1], index, types.intp))
        pointer = cgutils.pointer_add(builder, view.data, offset, ir.IntType(8).as_pointer())
        last = builder.sub(stride, ir.Constant(stride.type, 1))
        pointers = [pointer, cgutils.pointer_add(builder, pointer, last)][: min(2, array.ndim)]
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        for each in pointers:
            builder.call(prefetch, [each, flag(0), flag(3), flag(1)])  # to read, keep near, data
        return context.get_dummy_value()

    return types.void(array, index), generate


@kernel
def bin_tiles(start, stop, size, columns, bits, boxes, cursors, order, depths, first, pairs_before):
    """For chunks start..stop, of `size` Gaussians, in each view: append them to the lists of the tiles they touch.

    cursors [s chunk v tile] is where in `order` and `depths` the chunk begins to write in the list of a tile; it is
    used up. `bits` is the records seen as integers: positive floats sort like their bits. first [s v n], when not
    empty, gets the number of the Gaussian's first pair; pairs_before [s chunk v] is that of the chunk.
    """
    n = boxes.shape[2]
    for task in range(start, stop):
        s, chunk = task // cursors.shape[1], task % cursors.shape[1]
        for v in range(boxes.shape[1]):
            cursor = cursors[s, chunk, v]
            pair = pairs_before[s, chunk, v]
            for g in range(chunk * size, min((chunk + 1) * size, n)):
                box = boxes[s, v, g]
                if first.shape[2] > 0:
                    first[s, v, g] = pair
                if box[2] == 0:
                    continue
                depth = bits[s, v, g, Z]
                for ty in range(box[1] // TILE, (box[3] - 1) // TILE + 1):
                    for tx in range(box[0] // TILE, (box[2] - 1) // TILE + 1):
                        at = cursor[ty * columns + tx]
                        order[at] = g
                        depths[at] = depth
                        cursor[ty * columns + tx] = at + 1
                        pair += 1


@kernel
def sort_by_depth(ids, keys, other_ids, other_keys, n):
    """Sort n ids by their keys, stably: a radix sort of bytes that skips those in which all keys agree.

    Uses the `other` arrays as scratch space; keys are used up.
    """
    histogram = numba.carray(on_stack(ids, 1, 256), 256)
    shift = keys.dtype.type(0)
    mask = keys.dtype.type(255)
    moved = False
    for _ in range(keys.itemsize):
        for b in range(256):
            histogram[b] = 0
        for i in range(n):
            histogram[(keys[i] >> shift) & mask] += 1
        if histogram[(keys[0] >> shift) & mask] < n:
            total = 0
            for b in range(256):
                total, histogram[b] = total + histogram[b], total
            for i in range(n):
                b = (keys[i] >> shift) & mask
                other_ids[histogram[b]] = ids[i]
                other_keys[histogram[b]] = keys[i]
                histogram[b] += 1
            ids, other_ids, keys, other_keys, moved = other_ids, ids, other_keys, keys, not moved
        shift += keys.dtype.type(8)
    if moved:
        for i in range(n):
            other_ids[i] = ids[i]


@inlined
def place(y, x):
    """Where a pixel of a tile lies in its plane."""
    return y // ROWS * BAND + x * ROWS + y % ROWS


@kernel
def blend(start, stop, records, boxes, columns, begin, order, depths, out, kept):
    """For tiles start..stop: sort their lists by z, then blend.

    Writes out [i 5 h w], and for the way back kept [i 2 h w]: the transmittance behind the last Gaussian, and that
    one's place in the tile's list.
    """
    T = records.dtype.type
    tiles = columns * ((out.shape[2] + TILE - 1) // TILE)
    longest = 0
    for t in range(start, stop):
        longest = max(longest, begin[t + 1] - begin[t])
    scratch_ids, scratch_keys = np.empty(longest, order.dtype), np.empty(longest, depths.dtype)
    # Six planes of the tile: transmittance (negated where the pixel has stopped), r, g, b, z, place of the last one
    pixels = numba.carray(on_stack(records, 6, PLANE), 6 * PLANE)
    for t in range(start, stop):
        i = t // tiles
        top, left = (t % tiles) // columns * TILE, (t % tiles) % columns * TILE
        bottom, right = min(top + TILE, out.shape[2]), min(left + TILE, out.shape[3])
        ids = order[begin[t] : begin[t + 1]]
        if len(ids) > 1:
            sort_by_depth(ids, depths[begin[t] : begin[t + 1]], scratch_ids, scratch_keys, len(ids))

        for p in range(5 * PLANE):
            pixels[p] = T(0)
        for p in range(5 * PLANE, 6 * PLANE):
            pixels[p] = T(-1)
        for y in range(bottom - top):
            for x in range(right - left):
                pixels[place(y, x)] = T(1)
        for k in range(len(ids)):
            if k % 64 == 63:
                clearest = T(0)
                for p in range(PLANE):
                    clearest = max(clearest, pixels[p])
                if clearest == T(0):
                    break
            if k + AHEAD < len(ids):
                fetch(records[i], ids[k + AHEAD])
                fetch(boxes[i], ids[k + AHEAD])
            r, box = records[i, ids[k]], boxes[i, ids[k]]
            x0, x1 = max(box[0], left), min(box[2], right)
            y0, y1 = max(box[1], top) // ROWS * ROWS, min(box[3], bottom)
            for y in range(y0, y1, ROWS):
                dy = r[MY] - (T(y) + T(0.5))
                for x in range(x0, x1, COLUMNS):
                    dx = r[MX] - (T(x) + T(0.5))
                    blend_lanes(place(y - top, x - left), dx, dy, T(k), r, pixels)

        for y in range(top, bottom):
            for x in range(left, right):
                p = place(y - top, x - left)
                for c in range(4):
                    out[i, c, y, x] = pixels[(c + 1) * PLANE + p]
                out[i, 4, y, x] = T(1) - abs(pixels[p])
                kept[i, 0, y, x] = abs(pixels[p])
                kept[i, 1, y, x] = pixels[5 * PLANE + p]


@inlined
def blend_lanes(at, dx0, dy0, k, r, pixels):
    """Blend the k-th Gaussian of the list, record r, into LANES pixels; dx0, dy0 = its centre - the first of them."""
    T = r.dtype.type
    ca, cb, cc, opacity = r[CA] * T(0.5), r[CB], r[CC] * T(0.5), r[OP]
    red, green, blue, z = r[RED], r[GREEN], r[BLUE], r[Z]
    for lane in range(LANES):
        p = np.uintp(at + lane)
        before = pixels[p]
        dx, dy = dx0 - T(lane // ROWS), dy0 - T(lane % ROWS)
        sigma = (ca * dx + cb * dy) * dx + cc * dy * dy
        alpha = min(opacity * exp(-sigma), T(0.999))
        seen = (sigma >= T(0)) & (alpha >= T(1 / 255)) & (before > T(0))
        after = before * (T(1) - alpha)
        drawn = seen & (after > T(1e-4))
        weight = alpha * before if drawn else T(0)
        pixels[p] = (after if drawn else -before) if seen else before
        pixels[p + np.uintp(PLANE)] += weight * red
        pixels[p + np.uintp(2 * PLANE)] += weight * green
        pixels[p + np.uintp(3 * PLANE)] += weight * blue
        pixels[p + np.uintp(4 * PLANE)] += weight * z
        last = pixels[p + np.uintp(5 * PLANE)]
        pixels[p + np.uintp(5 * PLANE)] = k if drawn else last


@inlined
def of_tile(box, top, left):
    """Which of the pairs of a Gaussian with this box is that of the tile that begins at (top, left)."""
    across = (box[2] - 1) // TILE - box[0] // TILE + 1
    return (top // TILE - box[1] // TILE) * across + left // TILE - box[0] // TILE


@kernel
def blend_backward(start, stop, records, boxes, columns, begin, order, first, kept, upstream, pairs):
    """For tiles start..stop: the gradient of every pair (tile, Gaussian) from upstream [i 5 h w], into pairs [m PAIR].

    The pairs of a Gaussian follow each other, tile after tile, from first[image, Gaussian] on: each has a place of its
    own, so nothing is added up concurrently.
    """
    T = records.dtype.type
    height, width = upstream.shape[2], upstream.shape[3]
    tiles = columns * ((height + TILE - 1) // TILE)
    # Seven planes: transmittance, what lies behind times upstream, place of the last one, upstream of r, g, b, z
    pixels = numba.carray(on_stack(records, 7, PLANE), BACK)
    sums = numba.carray(on_stack(records, SUM, LANES), SUMS)
    for t in range(start, stop):
        if begin[t] == begin[t + 1]:
            continue
        i = t // tiles
        top, left = (t % tiles) // columns * TILE, (t % tiles) % columns * TILE
        bottom, right = min(top + TILE, height), min(left + TILE, width)
        ids = order[begin[t] : begin[t + 1]]
        for p in range(BACK):
            pixels[p] = T(0)
        for p in range(2 * PLANE, 3 * PLANE):
            pixels[p] = T(-1)
        deepest = T(-1)
        for y in range(top, bottom):
            for x in range(left, right):
                p = place(y - top, x - left)
                pixels[p] = kept[i, 0, y, x]
                pixels[PLANE + p] = -kept[i, 0, y, x] * upstream[i, 4, y, x]  # d(1 - T)/dα has the sign of -behind
                pixels[2 * PLANE + p] = kept[i, 1, y, x]
                deepest = max(deepest, kept[i, 1, y, x])
                for c in range(4):
                    pixels[(3 + c) * PLANE + p] = upstream[i, c, y, x]

        for k in range(len(ids) - 1, -1, -1):
            if k >= AHEAD:
                fetch(records[i], ids[k - AHEAD])
                fetch(boxes[i], ids[k - AHEAD])
                fetch(first[i], ids[k - AHEAD])
            if k >= AHEAD // 2:
                soon = ids[k - AHEAD // 2]
                fetch(pairs, first[i, soon] + of_tile(boxes[i, soon], top, left))
            r, box = records[i, ids[k]], boxes[i, ids[k]]
            pair = pairs[first[i, ids[k]] + of_tile(box, top, left)]
            for c in range(PAIR):
                pair[c] = T(0)
            if T(k) > deepest:
                continue
            x0, x1 = max(box[0], left), min(box[2], right)
            y0, y1 = max(box[1], top) // ROWS * ROWS, min(box[3], bottom)
            for x in range(x0, x1, COLUMNS):
                dx = r[MX] - (T(x) + T(0.5))
                for j in range(SUMS):
                    sums[j] = T(0)
                for y in range(y0, y1, ROWS):
                    dy = r[MY] - (T(y) + T(0.5))
                    blend_lanes_backward(place(y - top, x - left), dx, dy, T(k), r, pixels, sums)
                add_lanes(dx, sums, pair)


@inlined
def blend_lanes_backward(at, dx0, dy0, k, r, pixels, sums):
    """Undo blend_lanes: transmittance back to before the k-th Gaussian, its gradients added to sums [SUM LANES]."""
    T = r.dtype.type
    ca, cb, cc, opacity = r[CA] * T(0.5), r[CB], r[CC] * T(0.5), r[OP]
    red, green, blue, z = r[RED], r[GREEN], r[BLUE], r[Z]
    for lane in range(LANES):
        p = np.uintp(at + lane)
        dx, dy = dx0 - T(lane // ROWS), dy0 - T(lane % ROWS)
        sigma = (ca * dx + cb * dy) * dx + cc * dy * dy
        free = opacity * exp(-sigma)
        alpha = min(free, T(0.999))
        drawn = (sigma >= T(0)) & (alpha >= T(1 / 255)) & (pixels[p + np.uintp(2 * PLANE)] >= k)
        alpha = alpha if drawn else T(0)
        grow = T(1) / (T(1) - alpha)
        before = pixels[p] * grow
        behind = pixels[p + np.uintp(PLANE)]
        weight = alpha * before
        d_red, d_green = pixels[p + np.uintp(3 * PLANE)], pixels[p + np.uintp(4 * PLANE)]
        d_blue, d_z = pixels[p + np.uintp(5 * PLANE)], pixels[p + np.uintp(6 * PLANE)]
        worth = red * d_red + green * d_green + blue * d_blue + z * d_z
        pixels[p] = before
        pixels[p + np.uintp(PLANE)] = behind + weight * worth
        d_sigma = alpha * (behind * grow - before * worth)
        d_sigma = d_sigma if free <= T(0.999) else T(0)
        q = np.uintp(lane)
        sums[q + np.uintp(S0 * LANES)] += d_sigma
        sums[q + np.uintp(SY * LANES)] += d_sigma * dy
        sums[q + np.uintp(SYY * LANES)] += d_sigma * dy * dy
        sums[q + np.uintp(SRED * LANES)] += weight * d_red
        sums[q + np.uintp(SGREEN * LANES)] += weight * d_green
        sums[q + np.uintp(SBLUE * LANES)] += weight * d_blue
        sums[q + np.uintp(SZ * LANES)] += weight * d_z


@numba.njit(forceinline=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")
def add_lanes(dx0, sums, pair):
    """Add a column's sums [SUM LANES] to the gradient of the pair; a lane's dx does not depend on the row."""
    T = pair.dtype.type
    g0 = gx = gy = gxx = gxy = gyy = d_red = d_green = d_blue = d_z = T(0)
    for lane in range(LANES):
        dx = dx0 - T(lane // ROWS)
        q = np.uintp(lane)
        d_sigma, d_sigma_y = sums[q], sums[q + np.uintp(SY * LANES)]
        g0 += d_sigma
        gx += d_sigma * dx
        gxx += d_sigma * dx * dx
        gy += d_sigma_y
        gxy += d_sigma_y * dx
        gyy += sums[q + np.uintp(SYY * LANES)]
        d_red += sums[q + np.uintp(SRED * LANES)]
        d_green += sums[q + np.uintp(SGREEN * LANES)]
        d_blue += sums[q + np.uintp(SBLUE * LANES)]
        d_z += sums[q + np.uintp(SZ * LANES)]
    pair[G0] += g0
    pair[GX] += gx
    pair[GY] += gy
    pair[GXX] += gxx
    pair[GXY] += gxy
    pair[GYY] += gyy
    pair[DRED] += d_red
    pair[DGREEN] += d_green
    pair[DBLUE] += d_blue
    pair[DZ] += d_z
