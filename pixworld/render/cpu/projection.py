"""Gaussians to images and back: project() in front of the tiles, project_backward() behind them.

Tasks are chunks of neighbouring Gaussians, cut by their number alone. What chunks add up (tile histograms, camera
gradients) is kept a chunk and summed in order, so that results do not depend on threads.

Arithmetic is done for LANES neighbours at a time, without branches, so that LLVM turns it into vector code; they are
read and written one by one. Numbers in kernels are cast to the working dtype: a bare literal would promote float32
arithmetic to float64. Tuples are unpacked, not indexed, and min and max are avoided: numba compiles both apart.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from pixworld.render.cpu.jit import inlined, kernel, on_stack

TILE = 32  # pixels; with 16, what crosses borders and is paid in each tile makes 70 ms of 60
LANES = 16  # Gaussians

# A projected Gaussian: mean, conic (a, b, c), opacity, colour, z, as indices into its record.
MX, MY, CA, CB, CC, OP, RED, GREEN, BLUE, Z, RECORD = range(11)
# The gradient of a (tile, Gaussian) pair: Σg, Σg dx, Σg dy, Σg dx², Σg dx dy, Σg dy² with g = dL/dσ, then colour, z.
G0, GX, GY, GXX, GXY, GYY, DRED, DGREEN, DBLUE, DZ, PAIR = range(11)
# A Gaussian in the world: mean, quaternion, scales, opacity, as rows of the arrays of lanes.
PX, PY, PZ, QW, QX, QY, QZ, SX, SY, SZ, OPACITY, WORLD = range(12)


@inlined
def dot(a, b):
    a0, a1, a2 = a
    b0, b1, b2 = b
    return a0 * b0 + a1 * b1 + a2 * b2


@inlined
def combination(s, a, t, b):
    """s a + t b of vectors."""
    a0, a1, a2 = a
    b0, b1, b2 = b
    return s * a0 + t * b0, s * a1 + t * b1, s * a2 + t * b2


@inlined
def columns_of(a, b, c):
    """The columns of the matrix with these rows."""
    a0, a1, a2 = a
    b0, b1, b2 = b
    c0, c1, c2 = c
    return (a0, b0, c0), (a1, b1, c1), (a2, b2, c2)


@inlined
def rows(matrix):
    """The first three."""
    first = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    second = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    return first, second, (matrix[2, 0], matrix[2, 1], matrix[2, 2])


@inlined
def read(means, quats, scales, opacities, s, begin, end, world):
    """Neighbours begin.. of scene s into the lanes of world [WORLD LANES]; beyond the end, the last one again."""
    for lane in range(LANES):
        g = begin + lane if begin + lane < end else end - 1
        for c in range(3):
            world[PX + c, lane] = means[s, g, c]
            world[SX + c, lane] = scales[s, g, c]
        for c in range(4):
            world[QW + c, lane] = quats[s, g, c]
        world[OPACITY, lane] = opacities[s, g]


@inlined
def rotation(world, lane):
    """R(q) by its columns, q not necessarily unit; the unit quaternion w, x, y, z; and 1 / |q|."""
    one, two = world.dtype.type(1), world.dtype.type(2)
    w, x, y, z = world[QW, lane], world[QX, lane], world[QY, lane], world[QZ, lane]
    inv = one / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inv, x * inv, y * inv, z * inv
    first = one - two * (y * y + z * z), two * (x * y + w * z), two * (x * z - w * y)
    second = two * (x * y - w * z), one - two * (x * x + z * z), two * (y * z + w * x)
    third = two * (x * z + w * y), two * (y * z - w * x), one - two * (x * x + y * y)
    return first, second, third, (w, x, y, z), inv


@inlined
def rotation_backward(unit, inv, first, second, third):
    """Gradient of rotation's q from that of the columns, given its unit quaternion and 1 / |q|."""
    w, x, y, z = unit
    xx, yx, zx = first
    xy, yy, zy = second
    xz, yz, zz = third
    dw = x * (zy - yz) + y * (xz - zx) + z * (yx - xy)
    dx = w * (zy - yz) + y * (xy + yx) + z * (xz + zx) - (x + x) * (yy + zz)
    dy = w * (xz - zx) + x * (xy + yx) + z * (yz + zy) - (y + y) * (xx + zz)
    dz = w * (yx - xy) + x * (xz + zx) + y * (yz + zy) - (z + z) * (xx + yy)
    along = w * dw + x * dx + y * dy + z * dz
    inv += inv
    return (dw - w * along) * inv, (dx - x * along) * inv, (dy - y * along) * inv, (dz - z * along) * inv


@inlined
def jacobian(W0, W1, W2, K, width, height, x, y, z):
    """Of the projection at the camera-space point, times the rotation of the view (rows W): its rows A0, A1.

    Also 1/z, the pixel (fx x/z, fy y/z) counted from the principal point, and the pixel at which the Jacobian is taken:
    the same, but no farther out than 15 % of the image beyond its borders.
    """
    T = K.dtype.type
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    inv = T(1) / z
    px, py = fx * (x * inv), fy * (y * inv)
    mx, my = T(0.15) * T(width), T(0.15) * T(height)
    left, right, top, bottom = -(cx + mx), T(width) + mx - cx, -(cy + my), T(height) + my - cy
    u = px if px > left else left
    v = py if py > top else top
    u = u if u < right else right
    v = v if v < bottom else bottom
    a0, a1, a2 = combination(fx, W0, -u, W2)
    b0, b1, b2 = combination(fy, W1, -v, W2)
    return (inv * a0, inv * a1, inv * a2), (inv * b0, inv * b1, inv * b2), inv, px, py, u, v


@inlined
def within(x, size):
    """x, no less than 0 (as which NaN counts, too) and no more than size."""
    zero = size - size
    x = x if x > zero else zero
    return x if x < size else size


@kernel
def project(
    start, stop, size, means, quats, scales, opacities, colours, views, Ks, width, height, eps2d, near, antialiased,
    records, boxes, histogram,
):  # fmt: skip
    """For chunks start..stop, of `size` Gaussians, in each view: the record; the pixel box (x0, y0, x1, y1), empty when
    it is not drawn; how many of the chunk touch each tile, added to histogram [s chunk v tile]."""
    T = means.dtype.type
    _, n, _ = means.shape
    _, chunks, cameras, _ = histogram.shape
    _, palettes, _, _ = colours.shape  # one, or one a view
    columns = (width + TILE - 1) // TILE
    half, right, bottom = T(0.5), T(width), T(height)
    world = numba.carray(on_stack(means, WORLD, LANES), (WORLD, LANES))
    record = numba.carray(on_stack(means, RECORD, LANES), (RECORD, LANES))
    box = numba.carray(on_stack(means, 4, LANES), (4, LANES))
    logs = numba.carray(on_stack(means, 1, LANES), LANES)
    for task in range(start, stop):
        s, chunk = task // chunks, task % chunks
        end = (chunk + 1) * size if (chunk + 1) * size < n else n
        for begin in range(chunk * size, end, LANES):
            read(means, quats, scales, opacities, s, begin, end, world)
            for lane in range(LANES):  # apart, because the C library's logarithm takes one number at a time
                logs[lane] = math.log(T(255) * world[OPACITY, lane])
            for v in range(cameras):
                view, K = views[s, v], Ks[s, v]
                W0, W1, W2 = rows(view)
                for lane in range(LANES):
                    mean = world[PX, lane], world[PY, lane], world[PZ, lane]
                    x, y, z = dot(W0, mean) + view[0, 3], dot(W1, mean) + view[1, 3], dot(W2, mean) + view[2, 3]
                    A0, A1, _, px, py, _, _ = jacobian(W0, W1, W2, K, width, height, x, y, z)
                    R0, R1, R2, _, _ = rotation(world, lane)
                    s0, s1, s2 = world[SX, lane], world[SY, lane], world[SZ, lane]
                    B0 = s0 * dot(A0, R0), s1 * dot(A0, R1), s2 * dot(A0, R2)
                    B1 = s0 * dot(A1, R0), s1 * dot(A1, R1), s2 * dot(A1, R2)
                    c00, c01, c11 = dot(B0, B0), dot(B0, B1), dot(B1, B1)
                    sharp = c00 * c11 - c01 * c01
                    c00 += eps2d
                    c11 += eps2d
                    det = c00 * c11 - c01 * c01
                    inv = T(1) / det
                    opacity, reach = world[OPACITY, lane], logs[lane]
                    if antialiased:
                        fade = sharp * inv
                        fade = math.sqrt(fade if fade > T(0) else T(0))
                        opacity *= fade
                        # ln x <= 64 (x^(1/64) - 1), closely: the box may be too large, and square roots make vectors
                        fade = math.sqrt(math.sqrt(math.sqrt(fade)))
                        reach += T(64) * (math.sqrt(math.sqrt(math.sqrt(fade))) - T(1))
                    drawn = (z >= near) & (det > T(0)) & (det < T(np.inf)) & (opacity >= T(1 / 255))
                    # α = 1/255 on the ellipse σ = ln(255 o); its box, a trifle larger against rounding
                    reach *= T(2.001)
                    rx, ry = math.sqrt(reach * c00), math.sqrt(reach * c11)
                    mx, my = px + K[0, 2], py + K[1, 2]
                    # the pixels whose centres, at n + 1/2, lie in it
                    box[0, lane], box[1, lane] = within(mx - rx + half, right), within(my - ry + half, bottom)
                    box[2, lane], box[3, lane] = within(mx + rx + half, right), within(my + ry + half, bottom)
                    box[2, lane] = box[2, lane] if drawn else T(0)
                    record[MX, lane], record[MY, lane], record[Z, lane], record[OP, lane] = mx, my, z, opacity
                    record[CA, lane], record[CB, lane], record[CC, lane] = c11 * inv, -c01 * inv, c00 * inv

                for g in range(begin, begin + LANES if begin + LANES < end else end):
                    lane = g - begin
                    x0, y0, x1, y1 = int(box[0, lane]), int(box[1, lane]), int(box[2, lane]), int(box[3, lane])
                    boxes[s, v, g, 0], boxes[s, v, g, 1], boxes[s, v, g, 2], boxes[s, v, g, 3] = x0, y0, x1, y1
                    if x0 >= x1 or y0 >= y1:
                        boxes[s, v, g, 2] = 0
                        continue
                    for ty in range(y0 // TILE, (y1 - 1) // TILE + 1):
                        for tx in range(x0 // TILE, (x1 - 1) // TILE + 1):
                            histogram[s, chunk, v, ty * columns + tx] += 1
                    for c in range(3):
                        record[RED + c, lane] = colours[s, v if palettes > 1 else 0, g, c]
                    for c in range(RECORD):
                        records[s, v, g, c] = record[c, lane]


@kernel
def project_backward(
    start, stop, size, means, quats, scales, opacities, views, Ks, width, height, eps2d, antialiased,
    records, boxes, first, pairs, d_means, d_quats, d_scales, d_opacities, d_colours, d_views,
):  # fmt: skip
    """For chunks start..stop, of `size` Gaussians: sum their pairs over tiles and views, chain rule to the inputs.

    d_views [s chunk v 3 4] is what the chunk adds to the gradient of the views; of no chunks when it is not wanted.
    """
    T = means.dtype.type
    _, n, _ = means.shape
    _, cameras, _ = first.shape
    _, palettes, _, _ = d_colours.shape
    chunks = (n + size - 1) // size
    _, posed, _, _, _ = d_views.shape
    zero, half, one, two = T(0), T(0.5), T(1), T(2)
    world = numba.carray(on_stack(means, WORLD, LANES), (WORLD, LANES))
    d_world = numba.carray(on_stack(means, WORLD, LANES), (WORLD, LANES))
    record = numba.carray(on_stack(means, RECORD, LANES), (RECORD, LANES))
    total = numba.carray(on_stack(means, PAIR, LANES), (PAIR, LANES))
    d_view = numba.carray(on_stack(means, 12, LANES), (12, LANES))
    own = numba.carray(on_stack(means, 1, PAIR), PAIR)
    drawn = numba.carray(on_stack(first, 1, LANES), LANES)
    for task in range(start, stop):
        s, chunk = task // chunks, task % chunks
        end = (chunk + 1) * size if (chunk + 1) * size < n else n
        for begin in range(chunk * size, end, LANES):
            read(means, quats, scales, opacities, s, begin, end, world)
            for c in range(WORLD):
                for lane in range(LANES):
                    d_world[c, lane] = zero
            for v in range(cameras):
                view, K = views[s, v], Ks[s, v]
                W0, W1, W2 = rows(view)
                V0, V1, V2 = columns_of(W0, W1, W2)
                seen = 0
                for lane in range(LANES):
                    g = begin + lane if begin + lane < end else end - 1
                    drawn[lane] = boxes[s, v, g, 2] if begin + lane < end else 0
                    seen += drawn[lane]
                    for c in range(PAIR):
                        own[c] = zero
                    if drawn[lane]:
                        box = boxes[s, v, g]
                        across = (box[2] - 1) // TILE - box[0] // TILE + 1
                        down = (box[3] - 1) // TILE - box[1] // TILE + 1
                        for p in range(first[s, v, g], first[s, v, g] + across * down):
                            for c in range(PAIR):
                                own[c] += pairs[p, c]
                        for c in range(3):
                            d_colours[s, v if palettes > 1 else 0, g, c] += own[DRED + c]
                    for c in range(PAIR):
                        total[c, lane] = own[c]
                    for c in range(RECORD):
                        record[c, lane] = records[s, v, g, c] if drawn[lane] else one
                if seen == 0:  # the camera may hold NaNs
                    continue

                for lane in range(LANES):
                    gx, gy = total[GX, lane], total[GY, lane]
                    a, b, c, opacity = record[CA, lane], record[CB, lane], record[CC, lane], record[OP, lane]
                    d_mx, d_my = a * gx + b * gy, b * gx + c * gy
                    da, db, dc = half * total[GXX, lane], total[GXY, lane], half * total[GYY, lane]
                    # conic = cov⁻¹, so d cov = -conic d conic conic
                    d00 = -(a * a * da + a * b * db + b * b * dc)
                    d01 = -(two * a * b * da + (a * c + b * b) * db + two * b * c * dc)
                    d11 = -(b * b * da + b * c * db + c * c * dc)
                    d_opacity = -total[G0, lane] / opacity

                    mean = world[PX, lane], world[PY, lane], world[PZ, lane]
                    x, y = dot(W0, mean) + view[0, 3], dot(W1, mean) + view[1, 3]
                    # Where it is not drawn, though elsewhere it is, its gradients are 0 times what must be finite
                    z = dot(W2, mean) + view[2, 3] if drawn[lane] else one
                    A0, A1, iz, px, py, at_x, at_y = jacobian(W0, W1, W2, K, width, height, x, y, z)
                    R0, R1, R2, unit, inv = rotation(world, lane)
                    s0, s1, s2 = world[SX, lane], world[SY, lane], world[SZ, lane]
                    r00, r01, r02 = dot(A0, R0), dot(A0, R1), dot(A0, R2)
                    r10, r11, r12 = dot(A1, R0), dot(A1, R1), dot(A1, R2)
                    B00, B01, B02, B10, B11, B12 = r00 * s0, r01 * s1, r02 * s2, r10 * s0, r11 * s1, r12 * s2
                    if antialiased:
                        # opacity = o √(sharp / det), sharp before and det after eps2d was added
                        B0, B1 = (B00, B01, B02), (B10, B11, B12)
                        c00, c01, c11 = dot(B0, B0), dot(B0, B1), dot(B1, B1)
                        sharp = c00 * c11 - c01 * c01 if drawn[lane] else one
                        det = (c00 + eps2d) * (c11 + eps2d) - c01 * c01 if drawn[lane] else one
                        d_log = half * d_opacity * opacity
                        d00 += d_log * (c11 / sharp - (c11 + eps2d) / det)
                        d01 -= d_log * two * c01 * (one / sharp - one / det)
                        d11 += d_log * (c00 / sharp - (c00 + eps2d) / det)
                        d_opacity *= math.sqrt(sharp / det)

                    # cov = B Bᵀ with B = A R diag(s); e = dB first, then dB diag(s)
                    d00, d11 = d00 + d00, d11 + d11
                    e00, e01, e02 = d00 * B00 + d01 * B10, d00 * B01 + d01 * B11, d00 * B02 + d01 * B12
                    e10, e11, e12 = d01 * B00 + d11 * B10, d01 * B01 + d11 * B11, d01 * B02 + d11 * B12
                    d_world[SX, lane] += e00 * r00 + e10 * r10
                    d_world[SY, lane] += e01 * r01 + e11 * r11
                    d_world[SZ, lane] += e02 * r02 + e12 * r12
                    e00, e01, e02, e10, e11, e12 = e00 * s0, e01 * s1, e02 * s2, e10 * s0, e11 * s1, e12 * s2
                    dR0, dR1 = combination(e00, A0, e10, A1), combination(e01, A0, e11, A1)
                    dw, dx, dy, dz = rotation_backward(unit, inv, dR0, dR1, combination(e02, A0, e12, A1))
                    d_world[QW, lane] += dw
                    d_world[QX, lane] += dx
                    d_world[QY, lane] += dy
                    d_world[QZ, lane] += dz
                    d_world[OPACITY, lane] += d_opacity

                    # A0 = (f W0 - at_x W2) / z, and the mean is f x/z + c
                    C0, C1, C2 = columns_of(R0, R1, R2)
                    dA0, dA1 = (e00, e01, e02), (e10, e11, e12)
                    dA0, dA1 = (dot(dA0, C0), dot(dA0, C1), dot(dA0, C2)), (dot(dA1, C0), dot(dA1, C1), dot(dA1, C2))
                    fx, fy = K[0, 0] * iz, K[1, 1] * iz
                    dx = fx * (d_mx - (dot(dA0, W2) * iz if at_x == px else zero))
                    dy = fy * (d_my - (dot(dA1, W2) * iz if at_y == py else zero))
                    dz = total[DZ, lane] - iz * (dx * x + dy * y + dot(dA0, A0) + dot(dA1, A1))
                    moved = dx, dy, dz
                    d_world[PX, lane] += dot(V0, moved)
                    d_world[PY, lane] += dot(V1, moved)
                    d_world[PZ, lane] += dot(V2, moved)
                    d0, d1 = combination(dx, mean, fx, dA0), combination(dy, mean, fy, dA1)
                    d2 = combination(T(1), combination(dz, mean, -iz * at_x, dA0), -iz * at_y, dA1)
                    d_view[0, lane], d_view[1, lane], d_view[2, lane] = d0
                    d_view[4, lane], d_view[5, lane], d_view[6, lane] = d1
                    d_view[8, lane], d_view[9, lane], d_view[10, lane] = d2
                    d_view[3, lane], d_view[7, lane], d_view[11, lane] = moved
                if posed:
                    for lane in range(LANES):
                        if drawn[lane]:
                            for i in range(3):
                                for j in range(4):
                                    d_views[s, chunk, v, i, j] += d_view[4 * i + j, lane]

            for g in range(begin, begin + LANES if begin + LANES < end else end):
                lane = g - begin
                seen = 0
                for v in range(cameras):
                    seen += boxes[s, v, g, 2]
                if seen == 0:  # it may hold NaNs
                    continue
                for c in range(3):
                    d_means[s, g, c] = d_world[PX + c, lane]
                    d_scales[s, g, c] = d_world[SX + c, lane]
                for c in range(4):
                    d_quats[s, g, c] = d_world[QW + c, lane]
                d_opacities[s, g] = d_world[OPACITY, lane]
