"""A CPU ray tracer for procedural scenes: supersampled colour and exact z-depth (numba, no compiler needed).

Every primitive is a convex unit shape behind an affine map, so a ray meets it in an interval [near, far]. Primary rays
are culled by tiles of pixels (cone against bounding spheres), shadow rays by a grid a light. A mirroring surface is
followed for one reflection. `trace_torch` says the same in torch; keep the two alike.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int, UInt8

from pixworld.data.patterns import albedo, fbm, inlined, jit
from pixworld.data.shadows import casters, cell_of
from pixworld.data.world import BOX, CYLINDER, ELLIPSOID, Scene, World, pixel_intrinsics

EPS = 1e-6  # shortest ray parameter that counts as a hit
SUBSAMPLES = 2  # per pixel side
TILE = 8  # pixels


@jit
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


@jit
def _reaches(sx, sy, sz, radius, ox, oy, oz, dx, dy, dz, dd, limit):
    """Whether a ray (dd = its squared length) meets a sphere before the parameter `limit`."""
    cx, cy, cz = sx - ox, sy - oy, sz - oz
    along = cx * dx + cy * dy + cz * dz
    outside = cx * cx + cy * cy + cz * cz - radius * radius
    if outside <= 0:
        return True
    if along <= 0 or outside * dd > along * along:
        return False
    return along <= limit * dd or outside <= limit * (2 * along - limit * dd)


@jit
def _hit(world, p, ox, oy, oz, dx, dy, dz, dd, best):
    """The parameter at which a ray first meets primitive p, or infinity if that is not before `best`."""
    c = world.centre[p]
    if not _reaches(c[0], c[1], c[2], world.radius[p], ox, oy, oz, dx, dy, dz, dd, best):
        return np.inf
    near, far = _interval(world, p, ox, oy, oz, dx, dy, dz)
    t = near if near > EPS else far
    return t if near <= far and EPS < t < best else np.inf


@inlined
def _first(world, chosen, nearest, count, ox, oy, oz, dx, dy, dz):
    """The nearest hit among the chosen primitives, which begin at `nearest`: parameter and primitive (-1: none)."""
    best, which = np.inf, -1
    dd = dx * dx + dy * dy + dz * dz
    length = math.sqrt(dd)
    for k in range(count):
        if nearest[k] > best * length:
            break
        t = _hit(world, chosen[k], ox, oy, oz, dx, dy, dz, dd, best)
        if t < best:
            best, which = t, chosen[k]
    return best, which


@inlined
def _first_of_all(world, ox, oy, oz, dx, dy, dz):
    """The nearest hit among all primitives: parameter and primitive (-1: none)."""
    best, which = np.inf, -1
    dd = dx * dx + dy * dy + dz * dz
    for p in range(len(world.kind)):
        t = _hit(world, p, ox, oy, oz, dx, dy, dz, dd, best)
        if t < best:
            best, which = t, p
    return best, which


@jit
def _shadowed(world, grids, k, ox, oy, oz, dx, dy, dz, limit):
    """Whether anything but the enclosure (primitive 0) is met on the way to light k, before the parameter `limit`."""
    frames, starts, lists = grids
    cell = cell_of(world.lights[k], frames[k], ox, oy, oz)
    if cell < 0:
        return False
    dd = dx * dx + dy * dy + dz * dz
    for at in range(starts[k, cell], starts[k, cell + 1]):
        p = lists[at]
        c = world.centre[p]
        if _reaches(c[0], c[1], c[2], world.radius[p], ox, oy, oz, dx, dy, dz, dd, limit):
            near, far = _interval(world, p, ox, oy, oz, dx, dy, dz)
            if near <= far and far > EPS and near < limit:
                return True
    return False


@inlined
def _background(world, dx, dy, dz):
    """Sky in a direction of any length: horizon to zenith, with clouds."""
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    up = max(dz / length, 0.0)
    k = math.sqrt(up)
    cloud = 0.0
    if world.clouds > 0:
        n = fbm(3 * dx / length / (up + 0.2), 3 * dy / length / (up + 0.2), 5, 0.1)
        cloud = world.clouds * min(max((n - 0.5) * 5, 0.0), 1.0) * min(up * 6, 1.0)
    r = (world.sky[0, 0] * (1 - k) + world.sky[1, 0] * k) * (1 - cloud) + world.sky[2, 0] * cloud
    g = (world.sky[0, 1] * (1 - k) + world.sky[1, 1] * k) * (1 - cloud) + world.sky[2, 1] * cloud
    b = (world.sky[0, 2] * (1 - k) + world.sky[1, 2] * k) * (1 - cloud) + world.sky[2, 2] * cloud
    return r, g, b


@inlined
def _shade(world, grids, texels, p, t, ox, oy, oz, dx, dy, dz, pixel, follow):
    """The hit at parameter t on primitive p, where samples are `pixel` apart: its linear colour, the share that a
    mirror adds to it (0 unless `follow`), the normal, and a point just off the surface."""
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
    hx, hy = world.half[p, 0], world.half[p, 1]
    sx, sy = x * hx + world.anchor[p, 0], y * hy + world.anchor[p, 1]
    sz = z * world.half[p, 2] + world.anchor[p, 2]
    if round_side:
        u, v = math.atan2(y, x) * 0.5 * (hx + hy), sz
    elif axis == 0:
        u, v = sy, -sz
    elif axis == 1:
        u, v = sx, -sz
    else:
        u, v = sx, sy
    m = world.surface[p, face]
    r, g, b = albedo(world, texels, m, u, v, pixel / math.sqrt(max(facing, 0.06)))

    upward = 0.5 + 0.5 * nz
    lr = world.ambient[1, 0] * (1 - upward) + world.ambient[0, 0] * upward
    lg = world.ambient[1, 1] * (1 - upward) + world.ambient[0, 1] * upward
    lb = world.ambient[1, 2] * (1 - upward) + world.ambient[0, 2] * upward
    gr, gg, gb = 0.0, 0.0, 0.0
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
        if light[7] > 0 and _shadowed(world, grids, k, qx, qy, qz, ex, ey, ez, limit):
            continue
        lr += strength * cosine * light[4]
        lg += strength * cosine * light[5]
        lb += strength * cosine * light[6]
        if world.shine[m] > 0:
            hx, hy, hz = ex / el - dx / dl, ey / el - dy / dl, ez / el - dz / dl
            hl = math.sqrt(hx * hx + hy * hy + hz * hz)
            lobe = max((nx * hx + ny * hy + nz * hz) / hl, 0.0)
            lobe = world.shine[m] * strength * lobe ** world.polish[m]
            gr, gg, gb = gr + lobe * light[4], gg + lobe * light[5], gb + lobe * light[6]
    glow = world.glow[m]
    mirror = 0.0
    if follow and world.mirror[m] > 0:  # Schlick's approximation of Fresnel's law
        mirror = world.mirror[m] + (1 - world.mirror[m]) * (1 - facing) ** 5
    own = 1 - mirror
    r, g, b = r * own * (lr + glow) + gr, g * own * (lg + glow) + gg, b * own * (lb + glow) + gb
    if world.haze > 0:
        clear = math.exp(-world.haze * t * dl)
        r = r * clear + world.sky[0, 0] * (1 - clear)
        g = g * clear + world.sky[0, 1] * (1 - clear)
        b = b * clear + world.sky[0, 2] * (1 - clear)
        mirror *= clear
    return r, g, b, mirror, nx, ny, nz, qx, qy, qz


@inlined
def _radiance(world, grids, texels, t, p, ox, oy, oz, dx, dy, dz, pixel):
    """Linear colour that arrives along a ray whose first hit is known; pixel is the sample pitch at parameter 1."""
    r, g, b, weight, path = 0.0, 0.0, 0.0, 1.0, 0.0
    for bounce in range(2):
        if bounce == 1:
            t, p = _first_of_all(world, ox, oy, oz, dx, dy, dz)
        if p < 0:
            cr, cg, cb = _background(world, dx, dy, dz)
            mirror, nx, ny, nz, qx, qy, qz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        else:
            path += t
            cr, cg, cb, mirror, nx, ny, nz, qx, qy, qz = _shade(
                world, grids, texels, p, t, ox, oy, oz, dx, dy, dz, pixel * path, bounce == 0
            )
        r, g, b = r + weight * cr, g + weight * cg, b + weight * cb
        if mirror == 0:
            break
        weight = mirror
        k = 2 * (dx * nx + dy * ny + dz * nz)
        ox, oy, oz, dx, dy, dz = qx, qy, qz, dx - k * nx, dy - k * ny, dz - k * nz
    return r, g, b


@inlined
def _near_tile(world, c2w, K, x0, y0, chosen, nearest):
    """Fill `chosen` with the primitives whose bounding sphere meets the cone around a tile, by the distance at which it
    begins (`nearest`); return how many."""
    dx = (x0 + 0.5 * TILE - K[0, 2]) / K[0, 0]
    dy = (y0 + 0.5 * TILE - K[1, 2]) / K[1, 1]
    length = math.sqrt(dx * dx + dy * dy + 1)
    half = math.atan(0.5 * TILE * math.sqrt(1 / (K[0, 0] * K[0, 0]) + 1 / (K[1, 1] * K[1, 1])))
    cosine, sine = math.cos(half), math.sin(half)
    ax = (c2w[0, 0] * dx + c2w[0, 1] * dy + c2w[0, 2]) / length
    ay = (c2w[1, 0] * dx + c2w[1, 1] * dy + c2w[1, 2]) / length
    az = (c2w[2, 0] * dx + c2w[2, 1] * dy + c2w[2, 2]) / length
    count = 0
    for p in range(len(world.kind)):
        cx, cy, cz = world.centre[p, 0] - c2w[0, 3], world.centre[p, 1] - c2w[1, 3], world.centre[p, 2] - c2w[2, 3]
        square, r = cx * cx + cy * cy + cz * cz, world.radius[p]
        distance = math.sqrt(square)
        # Outside the cone where its half angle and that of the sphere do not add up to the angle between the two.
        if distance > r and cx * ax + cy * ay + cz * az < cosine * math.sqrt(square - r * r) - sine * r:
            continue
        k = count
        while k > 0 and nearest[k - 1] > distance - r:
            chosen[k], nearest[k] = chosen[k - 1], nearest[k - 1]
            k -= 1
        chosen[k], nearest[k] = p, distance - r
        count += 1
    return count


@jit
def _trace(world, grids, texels, c2w, K, colour, depth, primitive, chosen, nearest, shade):
    """Fill colour [v h w 3] (linear, if `shade`), depth [v h w] and primitive [v h w]; chosen [p] and nearest [p]
    are scratch."""
    views, height, width = depth.shape
    for view in range(views):
        pose, k = c2w[view], K[view]
        ox, oy, oz = pose[0, 3], pose[1, 3], pose[2, 3]
        for tile in range(((height + TILE - 1) // TILE) * ((width + TILE - 1) // TILE)):
            y0 = tile // ((width + TILE - 1) // TILE) * TILE
            x0 = tile % ((width + TILE - 1) // TILE) * TILE
            count = _near_tile(world, pose, k, x0, y0, chosen, nearest)
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    for sample in range(-1, SUBSAMPLES * SUBSAMPLES if shade else 0):  # -1: centre ray, for depth
                        jx = 0.5 if sample < 0 else (sample % SUBSAMPLES + 0.5) / SUBSAMPLES
                        jy = 0.5 if sample < 0 else (sample // SUBSAMPLES + 0.5) / SUBSAMPLES
                        a, b = (x + jx - k[0, 2]) / k[0, 0], (y + jy - k[1, 2]) / k[1, 1]
                        dx = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2]
                        dy = pose[1, 0] * a + pose[1, 1] * b + pose[1, 2]
                        dz = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2]
                        t, p = _first(world, chosen, nearest, count, ox, oy, oz, dx, dy, dz)
                        if sample < 0:
                            depth[view, y, x] = t if p >= 0 else 0.0
                            primitive[view, y, x] = p
                            continue
                        pixel = 1 / (SUBSAMPLES * k[0, 0])
                        r, g, bl = _radiance(world, grids, texels, t, p, ox, oy, oz, dx, dy, dz, pixel)
                        share = 1 / (SUBSAMPLES * SUBSAMPLES)
                        colour[view, y, x, 0] += share * r
                        colour[view, y, x, 1] += share * g
                        colour[view, y, x, 2] += share * bl


def trace(
    scene: Scene, texels: UInt8[np.ndarray, "k t 3"], height: int, width: int
) -> tuple[UInt8[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w"]]:
    """Images (sRGB bytes) and z-depth (0: sky) of a scene's cameras."""
    shape = (len(scene.c2w), height, width)
    colour = np.zeros((*shape, 3))
    depth, _ = _run(scene, texels, height, width, colour)
    return develop(scene, colour), depth


def probe(scene: Scene, height: int, width: int) -> tuple[Float[np.ndarray, "v h w"], Int[np.ndarray, "v h w"]]:
    """z-depth (0: sky) and primitive (-1: sky) of every pixel centre, without shading."""
    return _run(scene, np.zeros((1, 1, 3), np.uint8), height, width, None)


def _run(scene: Scene, texels, height: int, width: int, colour):
    """Depth and primitive; fills colour [v h w 3] unless it is None."""
    shape = (len(scene.c2w), height, width)
    depth, primitive, K = np.zeros(shape), np.zeros(shape, np.int64), pixel_intrinsics(scene, height, width)
    out = np.zeros((1, 1, 1, 3)) if colour is None else colour
    world, count = scene.world, len(scene.world.kind)
    scratch = np.zeros(count, np.int64), np.zeros(count)
    if colour is None:
        world = world._replace(lights=world.lights[:0])
    _trace(world, casters(world), texels, scene.c2w, K, out, depth, primitive, *scratch, colour is not None)
    return depth, primitive


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
