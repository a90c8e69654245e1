"""Gaussians to images and back: project() in front of the tiles, project_backward() behind them.

Tasks are chunks of neighbouring Gaussians, cut by their number alone. What chunks add up (tile histograms, camera
gradients) is kept a chunk and summed in order, so that results do not depend on threads.

Numbers in kernels are cast to the working dtype: a bare literal would promote float32 arithmetic to float64.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from pixworld.render.cpu.jit import inlined, kernel, on_stack

TILE = 32  # pixels; with 16, what crosses borders and is paid in each tile makes 70 ms of 60

# A projected Gaussian: mean, conic (a, b, c), opacity, colour, z, as indices into its record.
MX, MY, CA, CB, CC, OP, RED, GREEN, BLUE, Z, RECORD = range(11)
# The gradient of a (tile, Gaussian) pair: Σg, Σg dx, Σg dy, Σg dx², Σg dx dy, Σg dy² with g = dL/dσ, then colour, z.
G0, GX, GY, GXX, GXY, GYY, DRED, DGREEN, DBLUE, DZ, PAIR = range(11)


@inlined
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


@inlined
def frame_backward(q, s, inv, d_out, ones, R, d_q, d_s):
    """Gradients of frame's q and s from that of its output, which is used up; R [3 3] is scratch space."""
    two, four = q.dtype.type(2), q.dtype.type(4)
    frame(q, ones, R)
    for j in range(3):
        d_s[j] = d_out[0, j] * R[0, j] + d_out[1, j] * R[1, j] + d_out[2, j] * R[2, j]
        for i in range(3):
            d_out[i, j] *= s[j]
    w, x, y, z = q[0] * inv, q[1] * inv, q[2] * inv, q[3] * inv
    wx, wy, wz = d_out[2, 1] - d_out[1, 2], d_out[0, 2] - d_out[2, 0], d_out[1, 0] - d_out[0, 1]
    xy, xz, yz = d_out[0, 1] + d_out[1, 0], d_out[0, 2] + d_out[2, 0], d_out[1, 2] + d_out[2, 1]
    xx, yy, zz = d_out[0, 0], d_out[1, 1], d_out[2, 2]
    dw = two * (x * wx + y * wy + z * wz)
    dx = two * (w * wx + y * xy + z * xz) - four * x * (yy + zz)
    dy = two * (w * wy + x * xy + z * yz) - four * y * (xx + zz)
    dz = two * (w * wz + x * xz + y * yz) - four * z * (xx + yy)
    along = w * dw + x * dx + y * dy + z * dz
    d_q[0] = (dw - w * along) * inv
    d_q[1] = (dx - x * along) * inv
    d_q[2] = (dy - y * along) * inv
    d_q[3] = (dz - z * along) * inv


@inlined
def footprint(x, y, z, view, K, width, height, M, A, B):
    """Jacobian of the projection at the camera-space point: A [2 3] = J W, and B [2 3] = A M, so cov2d = B Bᵀ.

    Returns 1/z, the pixel (fx x/z, fy y/z) counted from the principal point, and the pixel at which J is taken: the
    same, but no farther out than 15 % of the image beyond its borders.
    """
    T = view.dtype.type
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    inv = T(1) / z
    px, py = fx * (x * inv), fy * (y * inv)
    mx, my = T(0.15) * T(width), T(0.15) * T(height)
    u = min(max(px, -(cx + mx)), T(width) + mx - cx)
    v = min(max(py, -(cy + my)), T(height) + my - cy)
    for j in range(3):
        A[0, j] = inv * (fx * view[0, j] - u * view[2, j])
        A[1, j] = inv * (fy * view[1, j] - v * view[2, j])
    for i in range(2):
        for j in range(3):
            B[i, j] = A[i, 0] * M[0, j] + A[i, 1] * M[1, j] + A[i, 2] * M[2, j]
    return inv, px, py, u, v


@inlined
def local(view, m):
    """x, y, z in the camera of the world point m."""
    x = view[0, 0] * m[0] + view[0, 1] * m[1] + view[0, 2] * m[2] + view[0, 3]
    y = view[1, 0] * m[0] + view[1, 1] * m[1] + view[1, 2] * m[2] + view[1, 3]
    z = view[2, 0] * m[0] + view[2, 1] * m[1] + view[2, 2] * m[2] + view[2, 3]
    return x, y, z


@inlined
def covariance(B):
    """Elements 00, 01 and 11 of B Bᵀ."""
    c00 = B[0, 0] * B[0, 0] + B[0, 1] * B[0, 1] + B[0, 2] * B[0, 2]
    c01 = B[0, 0] * B[1, 0] + B[0, 1] * B[1, 1] + B[0, 2] * B[1, 2]
    c11 = B[1, 0] * B[1, 0] + B[1, 1] * B[1, 1] + B[1, 2] * B[1, 2]
    return c00, c01, c11


@kernel
def project(
    start, stop, size, means, quats, scales, opacities, colours, views, Ks, width, height, eps2d, near, antialiased,
    records, boxes, histogram,
):  # fmt: skip
    """For chunks start..stop, of `size` Gaussians, in each view: the record; the pixel box (x0, y0, x1, y1), empty when
    it is not drawn; how many of the chunk touch each tile, added to histogram [s chunk v tile]."""
    T = means.dtype.type
    n = means.shape[1]
    columns = (width + TILE - 1) // TILE
    M = numba.carray(on_stack(means, 9), (3, 3))
    A, B = numba.carray(on_stack(means, 6), (2, 3)), numba.carray(on_stack(means, 6), (2, 3))
    for task in range(start, stop):
        s, chunk = task // histogram.shape[1], task % histogram.shape[1]
        for g in range(chunk * size, min((chunk + 1) * size, n)):
            frame(quats[s, g], scales[s, g], M)
            m = means[s, g]
            for v in range(views.shape[1]):
                box = boxes[s, v, g]
                box[0] = box[1] = box[2] = box[3] = 0
                W, K = views[s, v], Ks[s, v]
                x, y, z = local(W, m)
                if not z >= near:  # also when z is NaN
                    continue
                _, px, py, _, _ = footprint(x, y, z, W, K, width, height, M, A, B)
                c00, c01, c11 = covariance(B)
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
                mx, my = px + K[0, 2], py + K[1, 2]
                # the pixels whose centres, at n + 1/2, lie in it
                half = T(0.5)
                x0 = math.floor(min(max(mx - rx + half, T(0)), T(width)))
                y0 = math.floor(min(max(my - ry + half, T(0)), T(height)))
                x1 = math.floor(min(max(mx + rx + half, T(0)), T(width)))
                y1 = math.floor(min(max(my + ry + half, T(0)), T(height)))
                if x0 >= x1 or y0 >= y1:
                    continue
                box[0], box[1], box[2], box[3] = x0, y0, x1, y1
                for ty in range(y0 // TILE, (y1 - 1) // TILE + 1):
                    for tx in range(x0 // TILE, (x1 - 1) // TILE + 1):
                        histogram[s, chunk, v, ty * columns + tx] += 1
                colour = colours[s, v if colours.shape[1] > 1 else 0, g]
                record = records[s, v, g]
                record[MX], record[MY], record[Z], record[OP] = mx, my, z, opacity
                inv = T(1) / det
                record[CA], record[CB], record[CC] = c11 * inv, -c01 * inv, c00 * inv
                record[RED], record[GREEN], record[BLUE] = colour[0], colour[1], colour[2]


@kernel
def project_backward(
    start, stop, size, means, quats, scales, opacities, views, Ks, width, height, eps2d, antialiased,
    records, boxes, first, pairs, d_means, d_quats, d_scales, d_opacities, d_colours, d_views,
):  # fmt: skip
    """For chunks start..stop, of `size` Gaussians: sum their pairs over tiles and views, chain rule to the inputs.

    d_views [s chunk v 3 4] is what the chunk adds to the gradient of the views; of no chunks when it is not wanted.
    """
    T = means.dtype.type
    n = means.shape[1]
    chunks = (n + size - 1) // size
    posed = d_views.shape[1] > 0
    M, dM = numba.carray(on_stack(means, 9), (3, 3)), numba.carray(on_stack(means, 9), (3, 3))
    A, dA = numba.carray(on_stack(means, 6), (2, 3)), numba.carray(on_stack(means, 6), (2, 3))
    B, dB = numba.carray(on_stack(means, 6), (2, 3)), numba.carray(on_stack(means, 6), (2, 3))
    total, ones = numba.carray(on_stack(means, PAIR), PAIR), numba.carray(on_stack(means, 3), 3)
    ones[0] = ones[1] = ones[2] = T(1)
    for task in range(start, stop):
        s, chunk = task // chunks, task % chunks
        for g in range(chunk * size, min((chunk + 1) * size, n)):
            drawn = False
            for v in range(views.shape[1]):
                drawn |= boxes[s, v, g, 2] > 0
            if not drawn:  # it may hold NaNs
                continue
            for i in range(3):
                for j in range(3):
                    dM[i, j] = T(0)
            inv = frame(quats[s, g], scales[s, g], M)
            m = means[s, g]
            for v in range(views.shape[1]):
                box = boxes[s, v, g]
                if box[2] == 0:
                    continue
                for c in range(PAIR):
                    total[c] = T(0)
                across = (box[2] - 1) // TILE - box[0] // TILE + 1
                down = (box[3] - 1) // TILE - box[1] // TILE + 1
                for p in range(first[s, v, g], first[s, v, g] + across * down):
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

                x, y, z = local(W, m)
                iz, px, py, at_x, at_y = footprint(x, y, z, W, K, width, height, M, A, B)
                if antialiased:
                    # opacity = o √(sharp / det), sharp before and det after eps2d was added
                    c00, c01, c11 = covariance(B)
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

                # A[0] = (f W[0] - at_x W[2]) / z, and the mean is f x/z + c
                fx, fy = K[0, 0] * iz, K[1, 1] * iz
                du = -fx * (dA[0, 0] * W[2, 0] + dA[0, 1] * W[2, 1] + dA[0, 2] * W[2, 2])
                dv = -fy * (dA[1, 0] * W[2, 0] + dA[1, 1] * W[2, 1] + dA[1, 2] * W[2, 2])
                scaled = T(0)
                for i in range(2):
                    for j in range(3):
                        scaled += dA[i, j] * A[i, j]
                dx = fx * d_mx + (du * iz if at_x == px else T(0))
                dy = fy * d_my + (dv * iz if at_y == py else T(0))
                dz = total[DZ] - iz * (dx * x + dy * y + scaled)
                for j in range(3):
                    d_means[s, g, j] += W[0, j] * dx + W[1, j] * dy + W[2, j] * dz
                if posed:
                    d_view = d_views[s, chunk, v]
                    for j in range(3):
                        d_view[0, j] += dx * m[j] + fx * dA[0, j]
                        d_view[1, j] += dy * m[j] + fy * dA[1, j]
                        d_view[2, j] += dz * m[j] - iz * (at_x * dA[0, j] + at_y * dA[1, j])
                    d_view[0, 3] += dx
                    d_view[1, 3] += dy
                    d_view[2, 3] += dz

            frame_backward(quats[s, g], scales[s, g], inv, dM, ones, M, d_quats[s, g], d_scales[s, g])
