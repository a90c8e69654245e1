"""A CPU ray tracer for procedural scenes: supersampled colour and exact z-depth (numba, no compiler needed).

Every primitive is a convex unit shape behind an affine map, so a ray meets it in an interval [near, far]. Primary rays
are culled by 8 x 8 pixel tiles (cone against bounding spheres), shadow rays by bounding spheres. `trace_torch` says
the same in torch; keep the two alike.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import njit

from pixworld.data.procedural import Scene
from pixworld.data.things import (
    BOX,
    BRICK,
    CELLS,
    CHECKER,
    CYLINDER,
    ELLIPSOID,
    IMAGE,
    NOISE,
    PLANKS,
    SPECKLE,
    STRIPES,
    TEXTURE_SIZE,
    World,
)

EPS = 1e-6  # shortest ray parameter that counts as a hit
TILE = 8
SUBSAMPLES = 2  # per pixel side
GLOSS = 24.0  # exponent of the specular lobe
LEVELS = TEXTURE_SIZE.bit_length()  # 256, 128, ..., 1
LEVEL_START = np.cumsum([0] + [(TEXTURE_SIZE >> k) ** 2 for k in range(LEVELS)])[:-1]
_byte = np.arange(256) / 255
LINEAR = np.where(_byte <= 0.04045, _byte / 12.92, ((_byte + 0.055) / 1.055) ** 2.4)  # sRGB byte to linear light

# The kernels allocate nothing. Without `_nrt=False` numba counts references to every array of World at every call, with
# atomic operations that cost as much as the tracing does.
_options = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}
_jit = njit(**_options)
_inlined = njit(**_options, inline="always")  # World is passed by value: fewer calls, fewer copies


def mipmaps(images: UInt8[np.ndarray, "k s s 3"]) -> UInt8[np.ndarray, "k t 3"]:
    """Each image followed by its halvings, texels in one row."""
    levels = [images]
    while levels[-1].shape[1] > 1:
        k, s = levels[-1].shape[:2]
        small = levels[-1].reshape(k, s // 2, 2, s // 2, 2, 3).mean((2, 4))
        levels.append(np.round(small).astype(np.uint8))
    return np.concatenate([x.reshape(len(images), -1, 3) for x in levels], axis=1)


@_jit
def _hash(x, y, seed):
    """Two integers and a seed to a uniform number in [0, 1)."""
    h = (x * 1640531527 + y * 1013904243 + seed * 1181783497) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 747796405) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1597334677) & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@_jit
def _value_noise(x, y, seed):
    i, j = math.floor(x), math.floor(y)
    a, b = x - i, y - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = _hash(i, j, seed) * (1 - a) + _hash(i + 1, j, seed) * a
    high = _hash(i, j + 1, seed) * (1 - a) + _hash(i + 1, j + 1, seed) * a
    return low * (1 - b) + high * b


@_jit
def _fbm(x, y, seed, footprint):
    """Noise of five octaves in 0..1; octaves finer than the footprint fade out."""
    total, amplitude, frequency = 0.5, 0.5, 1.0
    for octave in range(5):
        fade = 2 - 2 * footprint * frequency
        if fade <= 0:
            break
        total += amplitude * min(fade, 1.0) * (_value_noise(x * frequency, y * frequency, seed + octave) - 0.5)
        amplitude *= 0.65
        frequency *= 2.1
    return min(max(total, 0.0), 1.0)


@_jit
def _texel(texels, image, u, v, footprint):
    """Bilinear lookup in the mip level that fits the footprint (in image widths); images repeat mirrored."""
    level = math.floor(math.log2(max(footprint * TEXTURE_SIZE, 1.0)) + 0.5)
    level = min(level, LEVELS - 1)
    n = TEXTURE_SIZE >> level
    x, y = u * n - 0.5, v * n - 0.5
    i, j = math.floor(x), math.floor(y)
    a, b = x - i, y - j
    r, g, bl = 0.0, 0.0, 0.0
    for dj in range(2):
        row = (j + dj) % (2 * n)
        row = row if row < n else 2 * n - 1 - row
        wy = b if dj else 1 - b
        for di in range(2):
            column = (i + di) % (2 * n)
            column = column if column < n else 2 * n - 1 - column
            w = wy * (a if di else 1 - a)
            at = LEVEL_START[level] + row * n + column
            r += w * LINEAR[texels[image, at, 0]]
            g += w * LINEAR[texels[image, at, 1]]
            bl += w * LINEAR[texels[image, at, 2]]
    return r, g, bl


@_jit
def _cells(x, y, seed):
    """Voronoi: the id of the nearest of one random point a cell, and by how much the second is farther."""
    i, j = math.floor(x), math.floor(y)
    first, second, name = 9.0, 9.0, 0.0
    for dj in range(-1, 2):
        for di in range(-1, 2):
            h = _hash(i + di, j + dj, seed)
            px, py = i + di + h, j + dj + _hash(i + di, j + dj, seed + 7)
            d = math.sqrt((px - x) ** 2 + (py - y) ** 2)
            if d < first:
                first, second, name = d, first, h
            elif d < second:
                second = d
    return name, second - first


@_inlined
def _albedo(world, texels, m, u, v, footprint):
    """Linear colour of material m at surface coordinates u, v (scene units)."""
    c, s = math.cos(world.turn[m]), math.sin(world.turn[m])
    period = world.period[m]
    seed = world.seed[m]
    x = (c * u - s * v) / period + world.shift[m, 0]
    y = (s * u + c * v) / period + world.shift[m, 1]
    size = footprint / period
    pattern = world.pattern[m]
    ca, cb, cc = world.colours[m, 0], world.colours[m, 1], world.colours[m, 2]
    mix, line, sharp = 0.0, 0.0, min(max(1.6 - 1.6 * size, 0.0), 1.0)
    if pattern == IMAGE:
        r, g, b = _texel(texels, world.image[m], x, y, size)
        r, g, b = r * ca[0], g * ca[1], b * ca[2]
    else:
        if pattern == CHECKER:
            mix = float((math.floor(x) + math.floor(y)) & 1)
        elif pattern == STRIPES:
            mix = 1.0 if x - math.floor(x) < 0.45 else 0.0
        elif pattern == NOISE:
            mix = _fbm(x, y, seed, size)
            mix = min(max(1.8 * mix - 0.4, 0.0), 1.0)
            sharp = 1.0
        elif pattern == CELLS:
            name, border = _cells(x, y, seed)
            mix = name
            line = 1.0 if border < 0.07 else 0.0
        elif pattern == SPECKLE:
            name, border = _cells(x, y, seed)
            mix = 1.0 if name < 0.3 else 0.0
            line = 1.0 if name > 0.85 else 0.0
        elif pattern in (BRICK, PLANKS):
            aspect = 2.2 if pattern == BRICK else 7.0
            joint = 0.08 if pattern == BRICK else 0.03
            row = math.floor(y)
            along = x / aspect + (0.5 * row if pattern == BRICK else _hash(row, 3, seed))
            column = math.floor(along)
            mix = 0.8 * _hash(column, row, seed)
            if (along - column) * aspect < joint or y - row < joint:
                line = 1.0
            if pattern == PLANKS:  # the grain of the wood runs along the plank
                mix += 0.6 * (_fbm(x * 1.5, y * 9 + 17 * mix, seed + 5, size * 9) - 0.5)
                mix = min(max(mix, 0.0), 1.0)
        mean = 0.5 if pattern else 0.0
        mix = mean + sharp * (mix - mean)
        line *= sharp
        r = (ca[0] * (1 - mix) + cb[0] * mix) * (1 - line) + cc[0] * line
        g = (ca[1] * (1 - mix) + cb[1] * mix) * (1 - line) + cc[1] * line
        b = (ca[2] * (1 - mix) + cb[2] * mix) * (1 - line) + cc[2] * line
    if world.grain[m] > 0:  # dirt and fine relief, which every real surface has
        k = 1 + world.grain[m] * (2 * _fbm(x * 4 + 31, y * 4, seed + 11, size * 4) - 1)
        r, g, b = r * k, g * k, b * k
    return r, g, b


@_jit
def _interval(world, p, ox, oy, oz, dx, dy, dz):
    """Parameters at which a ray enters and leaves primitive p; near > far where it misses."""
    inv = world.inverse[p]
    cx, cy, cz = ox - world.centre[p, 0], oy - world.centre[p, 1], oz - world.centre[p, 2]
    x = inv[0, 0] * cx + inv[0, 1] * cy + inv[0, 2] * cz
    y = inv[1, 0] * cx + inv[1, 1] * cy + inv[1, 2] * cz
    z = inv[2, 0] * cx + inv[2, 1] * cy + inv[2, 2] * cz
    a = inv[0, 0] * dx + inv[0, 1] * dy + inv[0, 2] * dz
    b = inv[1, 0] * dx + inv[1, 1] * dy + inv[1, 2] * dz
    c = inv[2, 0] * dx + inv[2, 1] * dy + inv[2, 2] * dz
    kind = world.kind[p]
    near, far = -np.inf, np.inf
    if kind == ELLIPSOID:
        aa, ab, bb = a * a + b * b + c * c, a * x + b * y + c * z, x * x + y * y + z * z - 1
        root = ab * ab - aa * bb
        if root < 0:
            return 1.0, 0.0
        root = math.sqrt(root)
        return (-ab - root) / aa, (-ab + root) / aa
    if kind == BOX:
        t0, t1 = (-1 - x) / a, (1 - x) / a
        near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
        t0, t1 = (-1 - y) / b, (1 - y) / b
        near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    else:
        aa, ab, bb = a * a + b * b, a * x + b * y, x * x + y * y - 1
        root = ab * ab - aa * bb
        if root < 0:
            return 1.0, 0.0
        root = math.sqrt(root)
        near, far = (-ab - root) / aa, (-ab + root) / aa
    t0, t1 = (-1 - z) / c, (1 - z) / c
    return max(near, min(t0, t1)), min(far, max(t0, t1))


@_jit
def _reaches(world, p, ox, oy, oz, dx, dy, dz, dd):
    """Whether the line of a ray (dd = its squared length) comes within the bounding sphere of primitive p."""
    cx, cy, cz = world.centre[p, 0] - ox, world.centre[p, 1] - oy, world.centre[p, 2] - oz
    along = cx * dx + cy * dy + cz * dz
    return (cx * cx + cy * cy + cz * cz - world.radius[p] * world.radius[p]) * dd <= along * along


@_inlined
def _first(world, chosen, count, ox, oy, oz, dx, dy, dz):
    """The nearest hit among the chosen primitives: parameter and primitive (-1: none)."""
    best, which = np.inf, -1
    dd = dx * dx + dy * dy + dz * dz
    for k in range(count):
        p = chosen[k]
        if not _reaches(world, p, ox, oy, oz, dx, dy, dz, dd):
            continue
        near, far = _interval(world, p, ox, oy, oz, dx, dy, dz)
        if near > far:
            continue
        t = near if near > EPS else far
        if EPS < t < best:
            best, which = t, p
    return best, which


@_jit
def _shadowed(world, ox, oy, oz, dx, dy, dz, limit):
    """Whether anything but the enclosure (primitive 0) is met before the parameter `limit`."""
    dd = dx * dx + dy * dy + dz * dz
    for p in range(1, len(world.kind)):
        if not _reaches(world, p, ox, oy, oz, dx, dy, dz, dd):
            continue
        near, far = _interval(world, p, ox, oy, oz, dx, dy, dz)
        if near <= far and far > EPS and near < limit:
            return True
    return False


@_inlined
def _background(world, dx, dy, dz):
    """Sky in a direction of any length: horizon to zenith, with clouds."""
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    up = max(dz / length, 0.0)
    k = math.sqrt(up)
    cloud = 0.0
    if world.clouds > 0:
        n = _fbm(3 * dx / length / (up + 0.2), 3 * dy / length / (up + 0.2), 5, 0.1)
        cloud = world.clouds * min(max((n - 0.5) * 5, 0.0), 1.0) * min(up * 6, 1.0)
    r = (world.sky[0, 0] * (1 - k) + world.sky[1, 0] * k) * (1 - cloud) + world.sky[2, 0] * cloud
    g = (world.sky[0, 1] * (1 - k) + world.sky[1, 1] * k) * (1 - cloud) + world.sky[2, 1] * cloud
    b = (world.sky[0, 2] * (1 - k) + world.sky[1, 2] * k) * (1 - cloud) + world.sky[2, 2] * cloud
    return r, g, b


@_inlined
def _shade(world, texels, p, t, ox, oy, oz, dx, dy, dz, pixel):
    """Linear colour of the hit at parameter t on primitive p; pixel is the sample pitch at t = 1."""
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    inv = world.inverse[p]
    cx, cy, cz = px - world.centre[p, 0], py - world.centre[p, 1], pz - world.centre[p, 2]
    x = inv[0, 0] * cx + inv[0, 1] * cy + inv[0, 2] * cz
    y = inv[1, 0] * cx + inv[1, 1] * cy + inv[1, 2] * cz
    z = inv[2, 0] * cx + inv[2, 1] * cy + inv[2, 2] * cz
    # local normal and face
    kind = world.kind[p]
    ax, ay, az = abs(x), abs(y), abs(z)
    axis = 0 if ax >= ay and ax >= az else (1 if ay >= az else 2)
    round_side = kind == CYLINDER and az <= math.sqrt(x * x + y * y)
    nx, ny, nz = 0.0, 0.0, 0.0
    face = 0
    if kind == ELLIPSOID:
        nx, ny, nz = x, y, z
    elif round_side:
        nx, ny = x, y
    else:
        if kind == CYLINDER:
            axis = 2
        value = x if axis == 0 else (y if axis == 1 else z)
        sign = 1.0 if value > 0 else -1.0
        face = 2 * axis + (1 if value > 0 else 0)
        nx, ny, nz = (sign if axis == 0 else 0.0), (sign if axis == 1 else 0.0), (sign if axis == 2 else 0.0)
    # a normal goes by the transpose of the map from world to local
    wx = inv[0, 0] * nx + inv[1, 0] * ny + inv[2, 0] * nz
    wy = inv[0, 1] * nx + inv[1, 1] * ny + inv[2, 1] * nz
    wz = inv[0, 2] * nx + inv[1, 2] * ny + inv[2, 2] * nz
    norm = math.sqrt(wx * wx + wy * wy + wz * wz)
    dl = math.sqrt(dx * dx + dy * dy + dz * dz)
    facing = (wx * dx + wy * dy + wz * dz) / (norm * dl)
    if facing > 0:
        norm = -norm
    facing = abs(facing)
    nx, ny, nz = wx / norm, wy / norm, wz / norm
    # surface coordinates in scene units
    hx, hy, hz = world.half[p, 0], world.half[p, 1], world.half[p, 2]
    if round_side:
        u, v = math.atan2(y, x) * 0.5 * (hx + hy), z * hz
    elif axis == 0:
        u, v = y * hy, -z * hz
    elif axis == 1:
        u, v = x * hx, -z * hz
    else:
        u, v = x * hx, y * hy
    m = world.surface[p, face]
    footprint = pixel * t / math.sqrt(max(facing, 0.06))
    r, g, b = _albedo(world, texels, m, u, v, footprint)

    upward = 0.5 + 0.5 * nz
    lr = world.ambient[1, 0] * (1 - upward) + world.ambient[0, 0] * upward
    lg = world.ambient[1, 1] * (1 - upward) + world.ambient[0, 1] * upward
    lb = world.ambient[1, 2] * (1 - upward) + world.ambient[0, 2] * upward
    sr, sg, sb = 0.0, 0.0, 0.0
    shift = 1e-4 * (1 + t * dl)
    qx, qy, qz = px + shift * nx, py + shift * ny, pz + shift * nz
    for k in range(len(world.lights)):
        light = world.lights[k]  # x y z w, r g b, shadow; w = 0: direction to a sun, else a bulb that reaches w
        ex, ey, ez = light[0], light[1], light[2]
        strength, limit = 1.0, np.inf
        if light[3] > 0:
            ex, ey, ez = ex - qx, ey - qy, ez - qz
            limit = 1.0
            strength = 1 / (0.3 + (ex * ex + ey * ey + ez * ez) / (light[3] * light[3]))
        el = math.sqrt(ex * ex + ey * ey + ez * ez)
        cosine = (nx * ex + ny * ey + nz * ez) / el
        if cosine <= 0:
            continue
        if light[7] > 0 and _shadowed(world, qx, qy, qz, ex, ey, ez, limit):
            continue
        lr += strength * cosine * light[4]
        lg += strength * cosine * light[5]
        lb += strength * cosine * light[6]
        if world.shine[m] > 0:
            hx, hy, hz = ex / el - dx / dl, ey / el - dy / dl, ez / el - dz / dl
            hl = math.sqrt(hx * hx + hy * hy + hz * hz)
            lobe = max((nx * hx + ny * hy + nz * hz) / hl, 0.0)
            lobe = world.shine[m] * strength * lobe**GLOSS
            sr, sg, sb = sr + lobe * light[4], sg + lobe * light[5], sb + lobe * light[6]
    glow = world.glow[m]
    r, g, b = r * (lr + glow) + sr, g * (lg + glow) + sg, b * (lb + glow) + sb
    if world.haze > 0:
        clear = math.exp(-world.haze * t * dl)
        r = r * clear + world.sky[0, 0] * (1 - clear)
        g = g * clear + world.sky[0, 1] * (1 - clear)
        b = b * clear + world.sky[0, 2] * (1 - clear)
    return r, g, b


@_inlined
def _near_tile(world, c2w, K, x0, y0, size, chosen):
    """Fill `chosen` with the primitives whose bounding sphere meets the cone around a tile; return how many."""
    dx = (x0 + 0.5 * size - K[0, 2]) / K[0, 0]
    dy = (y0 + 0.5 * size - K[1, 2]) / K[1, 1]
    length = math.sqrt(dx * dx + dy * dy + 1)
    half = math.atan(0.5 * size * math.sqrt(1 / (K[0, 0] * K[0, 0]) + 1 / (K[1, 1] * K[1, 1])))
    ax = (c2w[0, 0] * dx + c2w[0, 1] * dy + c2w[0, 2]) / length
    ay = (c2w[1, 0] * dx + c2w[1, 1] * dy + c2w[1, 2]) / length
    az = (c2w[2, 0] * dx + c2w[2, 1] * dy + c2w[2, 2]) / length
    count = 0
    for p in range(len(world.kind)):
        cx, cy, cz = world.centre[p, 0] - c2w[0, 3], world.centre[p, 1] - c2w[1, 3], world.centre[p, 2] - c2w[2, 3]
        distance = math.sqrt(cx * cx + cy * cy + cz * cz)
        if distance > world.radius[p]:
            angle = math.acos(min(max((cx * ax + cy * ay + cz * az) / distance, -1.0), 1.0))
            if angle > half + math.asin(world.radius[p] / distance):
                continue
        chosen[count] = p
        count += 1
    return count


@_jit
def _trace(world, texels, c2w, K, colour, depth, primitive, chosen, shade):
    """Fill colour [v h w 3] (linear, if `shade`), depth [v h w] and primitive [v h w]; chosen [p] is scratch."""
    views, height, width = depth.shape
    for view in range(views):
        pose, k = c2w[view], K[view]
        ox, oy, oz = pose[0, 3], pose[1, 3], pose[2, 3]
        for tile in range(((height + TILE - 1) // TILE) * ((width + TILE - 1) // TILE)):
            y0 = tile // ((width + TILE - 1) // TILE) * TILE
            x0 = tile % ((width + TILE - 1) // TILE) * TILE
            count = _near_tile(world, pose, k, x0, y0, TILE, chosen)
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    for sample in range(-1, SUBSAMPLES * SUBSAMPLES if shade else 0):  # -1: centre ray, for depth
                        jx = 0.5 if sample < 0 else (sample % SUBSAMPLES + 0.5) / SUBSAMPLES
                        jy = 0.5 if sample < 0 else (sample // SUBSAMPLES + 0.5) / SUBSAMPLES
                        a, b = (x + jx - k[0, 2]) / k[0, 0], (y + jy - k[1, 2]) / k[1, 1]
                        dx = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2]
                        dy = pose[1, 0] * a + pose[1, 1] * b + pose[1, 2]
                        dz = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2]
                        t, p = _first(world, chosen, count, ox, oy, oz, dx, dy, dz)
                        if sample < 0:
                            depth[view, y, x] = t if p >= 0 else 0.0
                            primitive[view, y, x] = p
                            continue
                        if p >= 0:
                            pitch = 1 / (SUBSAMPLES * k[0, 0])
                            r, g, bl = _shade(world, texels, p, t, ox, oy, oz, dx, dy, dz, pitch)
                        else:
                            r, g, bl = _background(world, dx, dy, dz)
                        share = 1 / (SUBSAMPLES * SUBSAMPLES)
                        colour[view, y, x, 0] += share * r
                        colour[view, y, x, 1] += share * g
                        colour[view, y, x, 2] += share * bl


def trace(
    scene: Scene, texels: UInt8[np.ndarray, "k t 3"], height: int, width: int
) -> tuple[UInt8[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w"]]:
    """Images (sRGB bytes) and z-depth (0: sky) of a scene's cameras; the scene's K is for width 1."""
    K = pixel_intrinsics(scene, height, width)
    shape = (len(scene.c2w), height, width)
    colour, depth = np.zeros((*shape, 3)), np.zeros(shape)
    _trace(
        scene.world,
        texels,
        scene.c2w,
        K,
        colour,
        depth,
        np.zeros(shape, np.int64),
        np.zeros(len(scene.world.kind), np.int64),
        True,
    )
    return develop(scene, colour), depth


def probe(scene: Scene, height: int, width: int) -> tuple[Float[np.ndarray, "v h w"], Int[np.ndarray, "v h w"]]:
    """z-depth (0: sky) and primitive (-1: sky) of every pixel centre, without shading."""
    shape = (len(scene.c2w), height, width)
    depth, primitive = np.zeros(shape), np.zeros(shape, np.int64)
    texels, K = np.zeros((1, 1, 3), np.uint8), pixel_intrinsics(scene, height, width)
    _trace(
        scene.world,
        texels,
        scene.c2w,
        K,
        np.zeros((1, 1, 1, 3)),
        depth,
        primitive,
        np.zeros(len(scene.world.kind), np.int64),
        False,
    )
    return depth, primitive


def pixel_intrinsics(scene: Scene, height: int, width: int) -> Float[np.ndarray, "v 3 3"]:
    """Pixel K of the scene's focal lengths (in widths), principal point in the middle."""
    K = np.zeros((len(scene.focal), 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = scene.focal * width
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    return K


def develop(scene: Scene, linear: Float[np.ndarray, "v h w 3"]) -> UInt8[np.ndarray, "v h w 3"]:
    """Linear light to sRGB bytes as a camera does: one exposure a scene, highlights rolled off, contrast."""
    grey = linear.mean(-1, keepdims=True)
    x = (grey + scene.saturation * (linear - grey)) * (scene.exposure / np.median(grey))
    x = x * (1 + x / 9) / (1 + x)  # extended Reinhard, white at 3
    x = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.clip(x, 1e-9, 1) ** (1 / 2.4) - 0.055)
    x = 0.45 + scene.contrast * (x - 0.45)
    return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)


def inside(world: World, points: Float[np.ndarray, "n 3"], margin: float) -> np.ndarray:
    """Whether each point lies in any primitive but the enclosure, grown by a share `margin` of its size."""
    local = np.abs(np.einsum("pij,npj->npi", world.inverse, points[:, None] - world.centre))[:, 1:]
    flat = np.hypot(local[..., 0], local[..., 1])
    distance = np.where(
        world.kind[1:] == BOX,
        local.max(-1),
        np.where(world.kind[1:] == CYLINDER, np.maximum(flat, local[..., 2]), np.hypot(flat, local[..., 2])),
    )
    return (distance < 1 + margin).any(-1)
