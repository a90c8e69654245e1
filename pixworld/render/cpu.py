"""The rasterizer on the CPU: numba kernels, forward and backward, in the dtype of their input.

Stages, each a kernel over a range of independent tasks that runs without the GIL:

    project          a Gaussian     -> what its images need to know of it: a record and a pixel box in every view
    bin_image        an image       -> the Gaussians that touch each of its tiles
    blend            a tile         -> sort by z, blend front to back, one Gaussian at a time
    blend_backward   a tile         -> back to front; one gradient record for each (tile, Gaussian) pair
    project_backward a Gaussian     -> sum its pairs, chain rule through the projection

A pair's gradient has a place of its own, so nothing is added up concurrently and results do not depend on threads.
The threads are our own: OpenMP dies in forked children (DataLoader workers), numba's workqueue with two callers.

The inner loops run over LANES neighbouring pixels without branches, so that LLVM turns them into vector code. Numbers
in kernels are cast to the working dtype: a bare literal would promote float32 arithmetic to float64.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from jaxtyping import Float
from numba.core import cgutils
from numba.extending import intrinsic, overload
from torch import Tensor

TILE = 16  # pixels
LANES = 8  # pixels blended together
ROW = TILE + LANES  # a row of lanes may start at any pixel of the tile, so tile rows are padded
PLANE = TILE * ROW
BACK = 7 * PLANE  # what blend_backward knows of the pixels of a tile

# A projected Gaussian: mean, conic (a, b, c), opacity, colour, z, as indices into its record.
MX, MY, CA, CB, CC, OP, RED, GREEN, BLUE, Z, RECORD = range(11)
# The gradient of a (tile, Gaussian) pair: Σg, Σg dx, Σg dy, Σg dx², Σg dx dy, Σg dy² with g = dL/dσ, then colour, z.
G0, GX, GY, GXX, GXY, GYY, DRED, DGREEN, DBLUE, DZ, PAIR = range(11)
SUMS = PAIR * LANES

# No reassociation: the same pixel must get the same α in both passes, whatever was vectorised.
kernel = numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
inlined = numba.njit(forceinline=True, fastmath={"contract", "nsz"}, error_model="numpy")


def exp(x):
    """e^x for x <= 0; a compiler intrinsic, see _exp."""
    raise NotImplementedError


@overload(exp, inline="always")
def _exp(x):
    if x == numba.float64:
        return lambda x: math.exp(x)

    def exp32(x):
        # 2^t = 2^n 2^f with |f| <= 1/2; the polynomial is the Chebyshev interpolant of 2^f, relative error 1e-7
        t = max(x * np.float32(1.44269504), np.float32(-126))
        n = np.int32(t - np.float32(0.5))
        f = t - np.float32(n)
        p = np.float32(0.00967603192) + f * np.float32(0.00133908634)
        p = np.float32(0.240221075) + f * (np.float32(0.0555035711) + f * p)
        p = np.float32(1.00000008) + f * (np.float32(0.693147188) + f * p)
        return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

    return exp32


@intrinsic(prefer_literal=True)
def on_stack(typingctx, like, size):
    """Pointer to `size` items of the dtype of `like` in the stack frame of the calling kernel.

    LLVM knows that such arrays do not overlap; with arrays on the heap blend_lanes_backward would stay scalar code.
    """

    def codegen(context, builder, signature, args):
        return cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=size.literal_value)

    return numba.types.CPointer(like.dtype)(like, size), codegen


@kernel
def frame(q, s, out):
    """out [3 3] = R(q) diag(s), q not necessarily unit; returns 1 / |q|."""
    one = q.dtype.type(1)
    two = q.dtype.type(2)
    inv = one / math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] * inv, q[1] * inv, q[2] * inv, q[3] * inv
    out[0, 0] = (one - two * (y * y + z * z)) * s[0]
    out[0, 1] = two * (x * y - w * z) * s[1]
    out[0, 2] = two * (x * z + w * y) * s[2]
    out[1, 0] = two * (x * y + w * z) * s[0]
    out[1, 1] = (one - two * (x * x + z * z)) * s[1]
    out[1, 2] = two * (y * z - w * x) * s[2]
    out[2, 0] = two * (x * z - w * y) * s[0]
    out[2, 1] = two * (y * z + w * x) * s[1]
    out[2, 2] = (one - two * (x * x + y * y)) * s[2]
    return inv


@kernel
def footprint(x, y, z, view, K, width, height, M, A, B):
    """Jacobian of the projection at the camera-space point: A [2 3] = J W, and B [2 3] = A M, so cov2d = B Bᵀ.

    J is taken no farther out than 15 % of the image beyond its borders; returns whether x and y were within that.
    """
    T = view.dtype.type
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    inv = T(1) / z
    mx, my = T(0.15) * T(width), T(0.15) * T(height)
    u = min(max(x * inv, -(cx + mx) / fx), (T(width) + mx - cx) / fx)
    v = min(max(y * inv, -(cy + my) / fy), (T(height) + my - cy) / fy)
    for j in range(3):
        A[0, j] = fx * inv * (view[0, j] - u * view[2, j])
        A[1, j] = fy * inv * (view[1, j] - v * view[2, j])
    for i in range(2):
        for j in range(3):
            B[i, j] = A[i, 0] * M[0, j] + A[i, 1] * M[1, j] + A[i, 2] * M[2, j]
    return u == x * inv, v == y * inv


@kernel
def project(
    start, stop, means, quats, scales, opacities, colours, views, Ks, width, height, eps2d, near, antialiased,
    records, boxes, counts,
):  # fmt: skip
    """For Gaussians start..stop of the batch, in each view: the record, the pixel box (x0, y0, x1, y1), the number of
    tiles it touches (0 when it is not drawn)."""
    T = means.dtype.type
    n = means.shape[1]
    M = np.empty((3, 3), means.dtype)
    A = np.empty((2, 3), means.dtype)
    B = np.empty((2, 3), means.dtype)
    for task in range(start, stop):
        s, g = task // n, task % n
        frame(quats[s, g], scales[s, g], M)
        m = means[s, g]
        for v in range(views.shape[1]):
            counts[s, v, g] = 0
            W, K = views[s, v], Ks[s, v]
            z = W[2, 0] * m[0] + W[2, 1] * m[1] + W[2, 2] * m[2] + W[2, 3]
            if not z >= near:  # also when z is NaN
                continue
            x = W[0, 0] * m[0] + W[0, 1] * m[1] + W[0, 2] * m[2] + W[0, 3]
            y = W[1, 0] * m[0] + W[1, 1] * m[1] + W[1, 2] * m[2] + W[1, 3]
            footprint(x, y, z, W, K, width, height, M, A, B)
            c00 = B[0, 0] * B[0, 0] + B[0, 1] * B[0, 1] + B[0, 2] * B[0, 2]
            c01 = B[0, 0] * B[1, 0] + B[0, 1] * B[1, 1] + B[0, 2] * B[1, 2]
            c11 = B[1, 0] * B[1, 0] + B[1, 1] * B[1, 1] + B[1, 2] * B[1, 2]
            sharp = c00 * c11 - c01 * c01
            c00 += eps2d
            c11 += eps2d
            det = c00 * c11 - c01 * c01
            if not T(0) < det < T(np.inf):
                continue
            opacity = opacities[s, g]
            if antialiased:
                opacity *= math.sqrt(max(T(0), sharp / det))
            if not opacity >= T(1 / 255):
                continue
            # α = 1/255 on the ellipse σ = ln(255 o); its box, a trifle larger against rounding
            reach = T(2.001) * math.log(T(255) * opacity)
            rx, ry = math.sqrt(reach * c00), math.sqrt(reach * c11)
            mx = K[0, 0] * x / z + K[0, 2]
            my = K[1, 1] * y / z + K[1, 2]
            x0 = math.floor(min(max(mx - rx, T(0)), T(width)))
            y0 = math.floor(min(max(my - ry, T(0)), T(height)))
            x1 = math.ceil(min(max(mx + rx, T(0)), T(width)))
            y1 = math.ceil(min(max(my + ry, T(0)), T(height)))
            if x0 >= x1 or y0 >= y1:
                continue
            counts[s, v, g] = ((x1 - 1) // TILE - x0 // TILE + 1) * ((y1 - 1) // TILE - y0 // TILE + 1)
            box = boxes[s, v, g]
            box[0], box[1], box[2], box[3] = x0, y0, x1, y1
            colour = colours[s, v if colours.shape[1] > 1 else 0, g]
            record = records[s, v, g]
            record[MX], record[MY], record[Z], record[OP] = mx, my, z, opacity
            record[CA], record[CB], record[CC] = c11 / det, -c01 / det, c00 / det
            record[RED], record[GREEN], record[BLUE] = colour[0], colour[1], colour[2]


@kernel
def bin_image(start, stop, boxes, counts, first, columns, begin, order):
    """For images start..stop: `begin` of each tile's list in `order`, and the Gaussians in it, by index.

    `first` is the running total of `counts` before each (image, Gaussian), so an image's lists begin at its first[0].
    """
    tiles = begin.shape[1]
    fill = np.empty(tiles, np.int64)
    for i in range(start, stop):
        fill[:] = 0
        for g in range(counts.shape[1]):
            if counts[i, g]:
                box = boxes[i, g]
                for ty in range(box[1] // TILE, (box[3] - 1) // TILE + 1):
                    for tx in range(box[0] // TILE, (box[2] - 1) // TILE + 1):
                        fill[ty * columns + tx] += 1
        total = first[i, 0]
        for t in range(tiles):
            begin[i, t] = total
            total += fill[t]
            fill[t] = begin[i, t]
        for g in range(counts.shape[1]):
            if counts[i, g]:
                box = boxes[i, g]
                for ty in range(box[1] // TILE, (box[3] - 1) // TILE + 1):
                    for tx in range(box[0] // TILE, (box[2] - 1) // TILE + 1):
                        t = ty * columns + tx
                        order[fill[t]] = g
                        fill[t] += 1


@kernel
def sort_by_depth(ids, keys, scratch_ids, scratch_keys):
    """Sort ids by keys, stably: a radix sort of bytes that skips those in which all keys agree."""
    n = len(ids)
    histogram = np.empty(256, np.int64)
    shift = keys.dtype.type(0)
    mask = keys.dtype.type(255)
    for _ in range(keys.itemsize):
        histogram[:] = 0
        for i in range(n):
            histogram[(keys[i] >> shift) & mask] += 1
        if histogram[(keys[0] >> shift) & mask] < n:
            total = 0
            for b in range(256):
                total, histogram[b] = total + histogram[b], total
            for i in range(n):
                b = (keys[i] >> shift) & mask
                scratch_ids[histogram[b]] = ids[i]
                scratch_keys[histogram[b]] = keys[i]
                histogram[b] += 1
            ids[:] = scratch_ids[:n]
            keys[:] = scratch_keys[:n]
        shift += keys.dtype.type(8)


@kernel
def blend(start, stop, records, bits, boxes, columns, begin, order, out, kept):
    """For tiles start..stop: sort their lists by z, then blend.

    `bits` is `records` seen as unsigned integers: positive floats sort like their bits. Writes out [i 5 h w], and for
    the way back kept [i 2 h w]: the transmittance behind the last Gaussian, and that one's place in the tile's list.
    """
    T = records.dtype.type
    tiles = columns * ((out.shape[2] + TILE - 1) // TILE)
    longest = 0
    for t in range(start, stop):
        longest = max(longest, begin[t + 1] - begin[t])
    keys, scratch_keys = np.empty(longest, bits.dtype), np.empty(longest, bits.dtype)
    scratch_ids = np.empty(longest, order.dtype)
    # Six planes of the tile: transmittance (negated where the pixel has stopped), r, g, b, z, place of the last one
    pixels = np.empty(6 * PLANE, records.dtype)
    for t in range(start, stop):
        i = t // tiles
        top, left = (t % tiles) // columns * TILE, (t % tiles) % columns * TILE
        bottom, right = min(top + TILE, out.shape[2]), min(left + TILE, out.shape[3])
        ids = order[begin[t] : begin[t + 1]]
        for k in range(len(ids)):
            keys[k] = bits[i, ids[k], Z]
        if len(ids) > 1:
            sort_by_depth(ids, keys[: len(ids)], scratch_ids, scratch_keys)

        pixels[:] = T(0)
        pixels[5 * PLANE :] = T(-1)
        for y in range(bottom - top):
            pixels[y * ROW : y * ROW + right - left] = T(1)
        for k in range(len(ids)):
            if k % 64 == 63 and pixels[:PLANE].max() <= T(0):
                break
            r, box = records[i, ids[k]], boxes[i, ids[k]]
            x0, x1 = max(box[0], left), min(box[2], right)
            for y in range(max(box[1], top), min(box[3], bottom)):
                dy = r[MY] - (T(y) + T(0.5))
                for x in range(x0, x1, LANES):
                    dx = r[MX] - (T(x) + T(0.5))
                    blend_lanes((y - top) * ROW + x - left, dx, dy, T(k), r, pixels)

        for y in range(top, bottom):
            for x in range(left, right):
                p = (y - top) * ROW + x - left
                for c in range(4):
                    out[i, c, y, x] = pixels[(c + 1) * PLANE + p]
                out[i, 4, y, x] = T(1) - abs(pixels[p])
                kept[i, 0, y, x] = abs(pixels[p])
                kept[i, 1, y, x] = pixels[5 * PLANE + p]


@inlined
def blend_lanes(at, dx0, dy, k, r, pixels):
    """Blend the k-th Gaussian of the list, record r, into LANES pixels; dx0, dy = its centre - the first of them."""
    T = r.dtype.type
    ca, cb, cc, opacity = r[CA] * T(0.5), r[CB] * dy, r[CC] * T(0.5) * dy * dy, r[OP]
    red, green, blue, z = r[RED], r[GREEN], r[BLUE], r[Z]
    for lane in range(LANES):
        p = np.uintp(at + lane)
        before = pixels[p]
        dx = dx0 - T(lane)
        sigma = (ca * dx + cb) * dx + cc
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


@kernel
def blend_backward(start, stop, records, boxes, columns, begin, order, first, kept, upstream, pairs):
    """For tiles start..stop: the gradient of every pair (tile, Gaussian) from upstream [i 5 h w], into pairs [m PAIR].

    The pairs of a Gaussian follow each other, tile after tile, from first[image, Gaussian] on.
    """
    T = records.dtype.type
    height, width = upstream.shape[2], upstream.shape[3]
    tiles = columns * ((height + TILE - 1) // TILE)
    # Seven planes: transmittance, what lies behind times upstream, place of the last one, upstream of r, g, b, z
    pixels = numba.carray(on_stack(records, BACK), BACK)
    sums = numba.carray(on_stack(records, SUMS), SUMS)
    for t in range(start, stop):
        if begin[t] == begin[t + 1]:
            continue
        i = t // tiles
        top, left = (t % tiles) // columns * TILE, (t % tiles) % columns * TILE
        bottom, right = min(top + TILE, height), min(left + TILE, width)
        ids = order[begin[t] : begin[t + 1]]
        pixels[:] = T(0)
        pixels[2 * PLANE : 3 * PLANE] = T(-1)
        for y in range(top, bottom):
            for x in range(left, right):
                p = (y - top) * ROW + x - left
                pixels[p] = kept[i, 0, y, x]
                pixels[PLANE + p] = -kept[i, 0, y, x] * upstream[i, 4, y, x]  # d(1 - T)/dα has the sign of -behind
                pixels[2 * PLANE + p] = kept[i, 1, y, x]
                for c in range(4):
                    pixels[(3 + c) * PLANE + p] = upstream[i, c, y, x]
        deepest = int(pixels[2 * PLANE : 3 * PLANE].max())

        for k in range(len(ids) - 1, -1, -1):
            g = ids[k]
            r, box = records[i, g], boxes[i, g]
            across = (box[2] - 1) // TILE - box[0] // TILE + 1
            row, column = top // TILE - box[1] // TILE, left // TILE - box[0] // TILE
            pair = pairs[first[i, g] + row * across + column]
            if k > deepest:
                pair[:] = T(0)
                continue
            sums[:] = T(0)
            x0, x1 = max(box[0], left), min(box[2], right)
            for y in range(max(box[1], top), min(box[3], bottom)):
                dy = r[MY] - (T(y) + T(0.5))
                for x in range(x0, x1, LANES):
                    dx = r[MX] - (T(x) + T(0.5))
                    blend_lanes_backward((y - top) * ROW + x - left, dx, dy, T(k), r, pixels, sums)
            for c in range(PAIR):
                total = T(0)
                for lane in range(LANES):
                    total += sums[c * LANES + lane]
                pair[c] = total


@inlined
def blend_lanes_backward(at, dx0, dy, k, r, pixels, sums):
    """Undo blend_lanes: transmittance back to before the k-th Gaussian, its gradients added to sums [PAIR LANES]."""
    T = r.dtype.type
    ca, cb, cc, opacity = r[CA] * T(0.5), r[CB] * dy, r[CC] * T(0.5) * dy * dy, r[OP]
    red, green, blue, z = r[RED], r[GREEN], r[BLUE], r[Z]
    for lane in range(LANES):
        p = np.uintp(at + lane)
        dx = dx0 - T(lane)
        sigma = (ca * dx + cb) * dx + cc
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
        sums[q + np.uintp(G0 * LANES)] += d_sigma
        sums[q + np.uintp(GX * LANES)] += d_sigma * dx
        sums[q + np.uintp(GY * LANES)] += d_sigma * dy
        sums[q + np.uintp(GXX * LANES)] += d_sigma * dx * dx
        sums[q + np.uintp(GXY * LANES)] += d_sigma * dx * dy
        sums[q + np.uintp(GYY * LANES)] += d_sigma * dy * dy
        sums[q + np.uintp(DRED * LANES)] += weight * d_red
        sums[q + np.uintp(DGREEN * LANES)] += weight * d_green
        sums[q + np.uintp(DBLUE * LANES)] += weight * d_blue
        sums[q + np.uintp(DZ * LANES)] += weight * d_z


@kernel
def project_backward(
    start, stop, means, quats, scales, opacities, views, Ks, width, height, eps2d, antialiased,
    records, counts, first, pairs, d_means, d_quats, d_scales, d_opacities, d_colours,
):  # fmt: skip
    """For Gaussians start..stop of the batch: sum their pairs over tiles and views, chain rule to the five inputs."""
    T = means.dtype.type
    n = means.shape[1]
    M, dM = np.empty((3, 3), means.dtype), np.empty((3, 3), means.dtype)
    A, dA = np.empty((2, 3), means.dtype), np.empty((2, 3), means.dtype)
    B, dB = np.empty((2, 3), means.dtype), np.empty((2, 3), means.dtype)
    total, ones = np.empty(PAIR, means.dtype), np.ones(3, means.dtype)
    for task in range(start, stop):
        s, g = task // n, task % n
        d_means[s, g], d_quats[s, g], d_scales[s, g], d_opacities[s, g] = T(0), T(0), T(0), T(0)
        for v in range(d_colours.shape[1]):
            d_colours[s, v, g] = T(0)
        tiles = 0
        for v in range(views.shape[1]):
            tiles += counts[s, v, g]
        if tiles == 0:  # not drawn anywhere; it may hold NaNs
            continue
        dM[:] = T(0)
        inv = frame(quats[s, g], scales[s, g], M)
        m = means[s, g]
        for v in range(views.shape[1]):
            if counts[s, v, g] == 0:
                continue
            total[:] = T(0)
            for p in range(first[s, v, g], first[s, v, g] + counts[s, v, g]):
                for c in range(PAIR):
                    total[c] += pairs[p, c]
            r, W, K = records[s, v, g], views[s, v], Ks[s, v]
            colour = d_colours[s, v if d_colours.shape[1] > 1 else 0, g]
            colour[0] += total[DRED]
            colour[1] += total[DGREEN]
            colour[2] += total[DBLUE]
            a, b, c = r[CA], r[CB], r[CC]
            d_mx = a * total[GX] + b * total[GY]
            d_my = b * total[GX] + c * total[GY]
            da, db, dc = T(0.5) * total[GXX], total[GXY], T(0.5) * total[GYY]
            # conic = cov⁻¹, so d cov = -conic d conic conic
            d00 = -(a * a * da + a * b * db + b * b * dc)
            d01 = -(T(2) * a * b * da + (a * c + b * b) * db + T(2) * b * c * dc)
            d11 = -(b * b * da + b * c * db + c * c * dc)
            d_opacity = -total[G0] / r[OP]

            x = W[0, 0] * m[0] + W[0, 1] * m[1] + W[0, 2] * m[2] + W[0, 3]
            y = W[1, 0] * m[0] + W[1, 1] * m[1] + W[1, 2] * m[2] + W[1, 3]
            z = r[Z]
            u_free, v_free = footprint(x, y, z, W, K, width, height, M, A, B)
            if antialiased:
                # opacity = o √(sharp / det), sharp before and det after eps2d was added
                c00 = B[0, 0] * B[0, 0] + B[0, 1] * B[0, 1] + B[0, 2] * B[0, 2]
                c01 = B[0, 0] * B[1, 0] + B[0, 1] * B[1, 1] + B[0, 2] * B[1, 2]
                c11 = B[1, 0] * B[1, 0] + B[1, 1] * B[1, 1] + B[1, 2] * B[1, 2]
                sharp = c00 * c11 - c01 * c01
                det = (c00 + eps2d) * (c11 + eps2d) - c01 * c01
                d_log = T(0.5) * d_opacity * r[OP]
                d00 += d_log * (c11 / sharp - (c11 + eps2d) / det)
                d01 -= d_log * T(2) * c01 * (T(1) / sharp - T(1) / det)
                d11 += d_log * (c00 / sharp - (c00 + eps2d) / det)
                d_opacity *= math.sqrt(sharp / det)
            d_opacities[s, g] += d_opacity

            for j in range(3):
                dB[0, j] = T(2) * d00 * B[0, j] + d01 * B[1, j]
                dB[1, j] = d01 * B[0, j] + T(2) * d11 * B[1, j]
            for i in range(2):
                for j in range(3):
                    dA[i, j] = dB[i, 0] * M[j, 0] + dB[i, 1] * M[j, 1] + dB[i, 2] * M[j, 2]
            for i in range(3):
                for j in range(3):
                    dM[i, j] += A[0, i] * dB[0, j] + A[1, i] * dB[1, j]

            # A[0] = f/z (W[0] - u W[2]), and the mean is f x/z + c
            fx, fy, iz = K[0, 0], K[1, 1], T(1) / z
            du = -fx * iz * (dA[0, 0] * W[2, 0] + dA[0, 1] * W[2, 1] + dA[0, 2] * W[2, 2])
            dv = -fy * iz * (dA[1, 0] * W[2, 0] + dA[1, 1] * W[2, 1] + dA[1, 2] * W[2, 2])
            d_u = fx * d_mx + (du if u_free else T(0))
            d_v = fy * d_my + (dv if v_free else T(0))
            scaled = T(0)
            for i in range(2):
                for j in range(3):
                    scaled += dA[i, j] * A[i, j]
            dx, dy = d_u * iz, d_v * iz
            dz = total[DZ] - iz * (dx * x + dy * y + scaled)
            for j in range(3):
                d_means[s, g, j] += W[0, j] * dx + W[1, j] * dy + W[2, j] * dz

        R = M
        frame(quats[s, g], ones, R)
        for j in range(3):
            d_scales[s, g, j] = dM[0, j] * R[0, j] + dM[1, j] * R[1, j] + dM[2, j] * R[2, j]
            for i in range(3):
                dM[i, j] *= scales[s, g, j]
        q = quats[s, g]
        w, x, y, z = q[0] * inv, q[1] * inv, q[2] * inv, q[3] * inv
        wx, wy, wz = dM[2, 1] - dM[1, 2], dM[0, 2] - dM[2, 0], dM[1, 0] - dM[0, 1]
        xy, xz, yz = dM[0, 1] + dM[1, 0], dM[0, 2] + dM[2, 0], dM[1, 2] + dM[2, 1]
        two = T(2)
        dw = two * (x * wx + y * wy + z * wz)
        dx = two * (w * wx + y * xy + z * xz) - T(4) * x * (dM[1, 1] + dM[2, 2])
        dy = two * (w * wy + x * xy + z * yz) - T(4) * y * (dM[0, 0] + dM[2, 2])
        dz = two * (w * wz + x * xz + y * yz) - T(4) * z * (dM[0, 0] + dM[1, 1])
        along = w * dw + x * dx + y * dy + z * dz
        d_quats[s, g, 0] = (dw - w * along) * inv
        d_quats[s, g, 1] = (dx - x * along) * inv
        d_quats[s, g, 2] = (dy - y * along) * inv
        d_quats[s, g, 3] = (dz - z * along) * inv


@functools.lru_cache(maxsize=4)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """Our threads. A forked child has another pid, hence a pool of its own: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="render")


def _parallel(function: Callable, tasks: int, *args) -> None:
    """function(start, stop, *args) over 0..tasks, in several ranges a thread, as tasks differ in work."""
    threads = min(os.cpu_count() or 1, torch.get_num_threads(), tasks)
    if threads <= 1:
        function(0, tasks, *args)
        return
    edges = np.linspace(0, tasks, min(tasks, 6 * threads) + 1).astype(np.int64).tolist()
    pool = _pool(os.getpid(), threads)
    for job in [pool.submit(function, start, stop, *args) for start, stop in itertools.pairwise(edges)]:
        job.result()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().contiguous().numpy() for x in tensors]


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colours, w2c, K, width, height, eps2d, near, antialiased):
        ctx.save_for_backward(means, quats, scales, opacities, colours, w2c, K)
        inputs = _arrays(means, quats, scales, opacities, colours, w2c, K)
        real = inputs[0].dtype.type
        s, v, n = means.shape[0], w2c.shape[1], means.shape[1]
        columns = -(-width // TILE)
        tiles = columns * -(-height // TILE)

        records = np.empty((s, v, n, RECORD), real)
        boxes = np.empty((s, v, n, 4), np.int32)
        counts = np.empty((s, v, n), np.int32)
        camera = (width, height, real(eps2d))
        _parallel(project, s * n, *inputs, *camera, real(near), antialiased, records, boxes, counts)

        first = np.zeros(s * v * n + 1, np.int64)
        np.cumsum(counts.reshape(-1), out=first[1:])
        begin = np.zeros(s * v * tiles + 1, np.int64)
        begin[-1] = first[-1]
        order = np.empty(first[-1], np.int32)
        flat = [x.reshape(s * v, n, *x.shape[3:]) for x in (records, boxes, counts, first[:-1].reshape(s, v, n))]
        if n > 0:
            _parallel(bin_image, s * v, *flat[1:], columns, begin[:-1].reshape(s * v, tiles), order)

        out = np.empty((s * v, 5, height, width), real)
        kept = np.empty((s * v, 2, height, width), real)
        bits = flat[0].view(np.uint32 if real is np.float32 else np.uint64)
        _parallel(blend, s * v * tiles, flat[0], bits, flat[1], columns, begin, order, out, kept)
        ctx.camera, ctx.antialiased = camera, antialiased
        ctx.records, ctx.boxes, ctx.counts, ctx.first, ctx.begin = *flat, begin
        ctx.order, ctx.kept = order, kept
        return torch.from_numpy(out).unflatten(0, (s, v))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        means, quats, scales, opacities, colours, w2c, K = _arrays(*ctx.saved_tensors)
        s, v, n = means.shape[0], w2c.shape[1], means.shape[1]
        (upstream,) = _arrays(upstream.flatten(0, 1))
        columns = -(-upstream.shape[3] // TILE)
        pairs = np.empty((len(ctx.order), PAIR), means.dtype)
        grads = [np.empty_like(x) for x in (means, quats, scales, opacities, colours)]
        lists = (columns, ctx.begin, ctx.order, ctx.first)
        _parallel(blend_backward, len(ctx.begin) - 1, ctx.records, ctx.boxes, *lists, ctx.kept, upstream, pairs)
        of_views = [x.reshape(s, v, *x.shape[1:]) for x in (ctx.records, ctx.counts, ctx.first)]
        fixed = (means, quats, scales, opacities, w2c, K, *ctx.camera, ctx.antialiased)
        _parallel(project_backward, s * n, *fixed, *of_views, pairs, *grads)
        return *(torch.from_numpy(x) for x in grads), *[None] * 7


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
    """See pixworld.render for the semantics."""
    return _Rasterize.apply(means, quats, scales, opacities, colours, w2c, K, width, height, eps2d, near, antialiased)
