"""Makes the bundled demo photos: models a furnished room, path-traces it in Cycles and finishes it like a phone would.

Everything is made here: geometry, textures, light, lens, sensor noise. Nothing is downloaded, and the same seed gives
the same images. Needs bpy (the extra `blender`):

    .venv/bin/python scripts/make_demo_photos.py                                    # scripts/demo_photos/*.jpg
    .venv/bin/python scripts/make_demo_photos.py --out /tmp/x --samples 8 --scale 0.4 --only 0 8    # a quick look

Units are metres, z is up; textures are sRGB float arrays [h w 3] in 0..1, row 0 at the top.
"""

from __future__ import annotations

import datetime
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import bpy
import numpy as np
import tyro
from mathutils import Matrix, Vector
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

WIDTH, HEIGHT = 1080, 810
FOCAL_35MM = 27  # equivalent focal length, which EXIF defines by the diagonals: 36 x 24 mm has 43.27 mm
FOCAL_PX = FOCAL_35MM / math.hypot(36, 24) * math.hypot(WIDTH, HEIGHT)
EXPOSURE = 0.35  # EV; every photo deviates from it a little
K1 = -0.045  # SIMPLE_RADIAL: distorted = undistorted * (1 + K1 r^2), r in focal lengths
MARGIN = 1.05  # the pinhole render is this much larger, so that the barrel-distorted photo finds its corners in it
PHOTOS = 16
SEED = 7

rng = np.random.default_rng(SEED)


# ---------------------------------------------------------------- textures


def fractal(h: int, w: int, slope: float = 1.3, stretch: float = 1.0) -> np.ndarray:
    """Tileable noise [h w], 1/f^slope amplitudes, zero mean, unit variance; drawn out along x by `stretch`."""
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None] * stretch
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((h, w))) / radius**slope).real
    return (noise - noise.mean()) / noise.std()


def tint(shade: np.ndarray, color: Sequence[float]) -> np.ndarray:
    """A colour [3] times a shade [h w]."""
    return np.clip(np.asarray(color) * shade[..., None], 0, 1)


def drawn(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), float) / 255


def canvas(w: int, h: int, color: Sequence[float]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (w, h), rgb(color))
    return image, ImageDraw.Draw(image)


def rgb(color: Sequence[float]) -> tuple[int, ...]:
    return tuple(int(255 * min(max(c, 0), 1)) for c in color)


def wood(color: Sequence[float], size: int = 1024) -> np.ndarray:
    """Grain along x."""
    warp = fractal(size, size, 1.6, stretch=9)
    rings = np.sin(2 * np.pi * (np.linspace(0, 9, size, endpoint=False)[:, None] + 0.7 * warp))
    return tint(1 + 0.10 * rings + 0.09 * fractal(size, size, 0.7, stretch=14), color)


def planks(size: int = 2048, rows: int = 36) -> np.ndarray:
    """Oak floor: boards of one width, random joints, each with its own grain and tone."""
    grain, out = wood((0.62, 0.45, 0.30), size), np.empty((size, size, 3))
    edges = np.linspace(0, size, rows + 1).astype(int)
    for top, bottom in pairwise(edges):
        joints = np.sort(rng.integers(0, size, 4))
        for left, right in zip([0, *joints], [*joints, size]):
            shift = rng.integers(0, size, 2)
            board = np.roll(grain, shift, (0, 1))[: bottom - top, : right - left]
            out[top:bottom, left:right] = board * rng.uniform(0.72, 1.12) * (1 + rng.normal(0, 0.02, 3))
            out[top:bottom, left : left + 3] *= 0.45
        out[top : top + 3] *= 0.4
    return np.clip(out, 0, 1)


def leaf_shape(x: float, y: float, length: float, angle: float, slim: float = 0.28) -> list[tuple[float, float]]:
    """The outline of a pointed leaf that starts at (x, y)."""
    t = np.linspace(0, 1, 12)
    half = slim * length * np.sin(np.pi * t**0.8)
    along, across = np.concatenate([t, t[::-1]]) * length, np.concatenate([half, -half[::-1]])
    c, s = math.cos(angle), math.sin(angle)
    return list(zip(x + c * along - s * across, y + s * along + c * across))


def wallpaper(size: int = 2048) -> np.ndarray:
    """Sprigs of leaves and berries on sage green, none twice within the roll."""
    image, draw = canvas(size, size, (0.76, 0.77, 0.70))
    greens = [(0.55, 0.62, 0.54), (0.63, 0.67, 0.57), (0.86, 0.85, 0.77), (0.49, 0.56, 0.53)]
    for row in range(15):
        for column in range(15):
            x, y = (
                (column + 0.5 * (row % 2) + rng.uniform(-0.25, 0.25)) * size / 15,
                (row + rng.uniform(-0.25, 0.25)) * size / 15,
            )
            angle, color = rng.uniform(0, 2 * np.pi), greens[rng.integers(4)]
            for k in range(6):
                px, py = x + 17 * k * math.cos(angle), y + 17 * k * math.sin(angle)
                for side in (-0.9, 0.9):
                    leaf = leaf_shape(px, py, rng.uniform(30, 56), angle + side, 0.17)
                    draw.polygon(leaf, fill=rgb(np.array(color) * rng.uniform(0.9, 1.08)))
            draw.line(
                [(x - 20 * math.cos(angle), y - 20 * math.sin(angle)), (px, py)], fill=rgb((0.33, 0.38, 0.33)), width=3
            )
            for _ in range(3):
                bx, by, r = x + rng.uniform(-60, 60), y + rng.uniform(-60, 60), rng.uniform(4, 9)
                draw.ellipse((bx - r, by - r, bx + r, by + r), fill=rgb((0.76, 0.54, 0.43)))
    return np.clip(drawn(image) * (1 + 0.025 * fractal(size, size, 0.9))[..., None], 0, 1)


def rug(w: int = 1600, h: int = 1160) -> np.ndarray:
    """A medallion rug: bordered, mirrored, hand-dyed."""
    x, y = np.meshgrid(np.linspace(-w / 2, w / 2, w) / 100, np.linspace(-h / 2, h / 2, h) / 100)
    edge = np.minimum(w / 200 - abs(x), h / 200 - abs(y))
    red, navy, cream, gold, teal = np.array(
        [[0.50, 0.21, 0.18], [0.18, 0.22, 0.32], [0.80, 0.74, 0.63], [0.70, 0.54, 0.34], [0.34, 0.46, 0.46]]
    )
    out = np.broadcast_to(red, (h, w, 3)).copy()
    flowers = (
        np.cos(4.1 * x) * np.cos(4.1 * y)
        + 0.6 * np.cos(9.3 * x) * np.cos(12.1 * y)
        + 0.3 * np.cos(23 * x) * np.cos(19 * y)
    )
    for level, color in [(0.5, navy), (0.75, gold), (1.05, cream), (1.3, red)]:
        out[flowers > level] = color
    out[flowers < -0.7], out[flowers < -1.05] = teal, cream
    angle, radius = np.arctan2(y, x), np.hypot(x / 1.35, y)
    rosettes = np.cos(24 * angle) * np.cos(9 * radius)
    rings = zip((3.4, 3.1, 2.8, 2.0, 1.8, 1.1, 0.8, 0.35), (navy, cream, teal, gold, red, cream, navy, gold))
    for scale, color in rings:
        out[radius < scale * (1 + 0.05 * np.cos(16 * angle) + 0.03 * np.cos(48 * angle))] = color
    out[(radius < 3.0) & (rosettes > 0.6)] = gold
    out[(radius < 2.9) & (rosettes < -0.7)] = navy
    border = np.sin(6 * x) * np.sin(6 * y)
    bands = zip((1.45, 1.35, 0.55, 0.45, 0.12), (gold, navy, gold, red, navy), (gold, cream, gold, cream, navy))
    for depth, color, other in bands:
        out[edge < depth] = color
        out[(edge < depth) & (border > 0.35)] = other
    faded = np.clip(0.16 + 0.09 * fractal(h, w, 1.2), 0, 0.5)[..., None]
    out += (np.array([0.66, 0.58, 0.50]) - out) * faded
    wear = (
        1 + 0.07 * fractal(h, w, 1.1) + 0.10 * rng.standard_normal((h, w)) + 0.06 * np.sin(np.arange(h) * 1.3)[:, None]
    )
    return np.clip(out * wear[..., None], 0, 1)


def cloth(
    color: Sequence[float], stripes: Sequence[float] | None = None, check: bool = False, size: int = 768
) -> np.ndarray:
    """Woven fabric, plain, striped or checked."""
    i = np.arange(size)
    weave = (
        1
        + 0.10 * fractal(size, size, 0.5)
        + 0.07 * fractal(size, size, 1.1)
        + 0.08 * (np.sin(i * 1.31)[:, None] * np.sin(i * 1.31))
    )
    out = np.broadcast_to(np.asarray(color, float), (size, size, 3)).copy()
    if stripes is not None:
        band = ((i // (size // 24)) % 4 == 0) | ((i // (size // 48)) % 8 == 5)
        mix = (band[:, None] + band[None] if check else np.broadcast_to(band[None], (size, size))) * (
            0.5 if check else 1.0
        )
        out += (np.asarray(stripes) - out) * mix[..., None]
    return np.clip(out * weave[..., None], 0, 1)


def print_cloth(ground: Sequence[float], colors: Sequence[Sequence[float]], size: int = 768) -> np.ndarray:
    """Printed leaves on cloth."""
    image, draw = canvas(size, size, ground)
    for _ in range(170):
        x, y = rng.uniform(0, size, 2)
        draw.polygon(
            leaf_shape(x, y, rng.uniform(50, 120), rng.uniform(0, 7), 0.2), fill=rgb(colors[rng.integers(len(colors))])
        )
    return np.clip(drawn(image) * cloth((1, 1, 1), size=size), 0, 1)


def cover(w: int, h: int) -> np.ndarray:
    """A book cover or spine: cloth, bands, an ornament and something that looks like lettering."""
    base = BOOK_COLORS[rng.integers(len(BOOK_COLORS))] * rng.uniform(0.8, 1.15)
    ink = (0.92, 0.86, 0.68) if base.mean() < 0.45 else (0.16, 0.13, 0.14)
    image, draw = canvas(w, h, base)
    for y in rng.uniform(0.04, 0.96, rng.integers(2, 5)) * h:
        draw.rectangle(
            (0, y, w, y + rng.uniform(0.005, 0.04) * h), fill=rgb(BOOK_COLORS[rng.integers(len(BOOK_COLORS))])
        )
    left, top = 0.3 * w, rng.uniform(0.08, 0.3) * h
    letter = max(3, 0.016 * h)
    for line in range(rng.integers(1, 3)):
        y = top
        while y < top + rng.uniform(0.25, 0.45) * h:
            length = rng.uniform(1, 3) * letter
            x = left + line * 0.28 * w
            draw.rectangle((x, y, x + 0.2 * w, y + length), fill=rgb(ink))
            y += length + letter * rng.uniform(0.5, 1.2)
    r, y = rng.uniform(0.15, 0.35) * w, rng.uniform(0.75, 0.88) * h
    draw.ellipse((w / 2 - r, y - r, w / 2 + r, y + r), outline=rgb(ink), width=max(2, w // 24))
    return np.clip(drawn(image) * (1 + 0.05 * fractal(h, w, 0.5))[..., None], 0, 1)


BOOK_COLORS = np.array(
    [
        [0.55, 0.14, 0.12, 0.14, 0.22, 0.38, 0.16, 0.34, 0.26, 0.80, 0.70, 0.50, 0.72, 0.42, 0.16, 0.30, 0.18, 0.14],
        [0.86, 0.82, 0.74, 0.24, 0.42, 0.50, 0.62, 0.26, 0.34, 0.42, 0.44, 0.24, 0.12, 0.12, 0.14, 0.78, 0.60, 0.22],
    ]
).reshape(12, 3)


def landscape(w: int = 700, h: int = 520) -> np.ndarray:
    """Ridges behind ridges under an evening sky."""
    t = np.linspace(0, 1, h)[:, None, None]
    out = (1 - t) * np.array([0.30, 0.45, 0.66]) + t * np.array([1.0, 0.78, 0.52])
    out = np.clip(np.repeat(out, w, 1) * (1 + 0.06 * fractal(h, w, 1.5, stretch=0.3))[..., None], 0, 1)
    for k in range(7):
        ridge = (0.32 + 0.10 * k) * h + 0.07 * h * fractal(1, w, 1.4)[0]
        color = np.array([0.52, 0.52, 0.62]) * (1 - k / 7) + np.array([0.10, 0.18, 0.14]) * (k / 7)
        layer = tint(1 + 0.12 * fractal(h, w, 0.8), color)
        out = np.where((np.arange(h)[:, None] > ridge)[..., None], layer, out)
    return out


def abstract(w: int = 560, h: int = 760) -> np.ndarray:
    """Discs, bars and lines."""
    image, draw = canvas(w, h, (0.93, 0.89, 0.80))
    palette = [
        (0.80, 0.28, 0.18),
        (0.12, 0.24, 0.40),
        (0.92, 0.68, 0.24),
        (0.26, 0.46, 0.42),
        (0.10, 0.10, 0.12),
        (0.85, 0.55, 0.5),
    ]
    for _ in range(40):
        x, y, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(12, 110)
        color = rgb(palette[rng.integers(len(palette))])
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        elif kind == 1:
            draw.ellipse((x - r, y - r, x + r, y + r), outline=color, width=9)
        elif kind == 2:
            draw.polygon(leaf_shape(x, y, 2 * r, rng.uniform(0, 7), 0.15), fill=color)
        else:
            draw.line((x, y, x + rng.uniform(-200, 200), y + rng.uniform(-200, 200)), fill=color, width=6)
    return np.clip(drawn(image) * (1 + 0.03 * fractal(h, w, 0.6))[..., None], 0, 1)


def botanical(w: int = 480, h: int = 640) -> np.ndarray:
    """A pressed fern."""
    image, draw = canvas(w, h, (0.90, 0.87, 0.77))
    draw.line((w / 2, 0.95 * h, w / 2 + 20, 0.08 * h), fill=rgb((0.2, 0.3, 0.15)), width=5)
    for t in np.linspace(0.12, 0.9, 22):
        for side in (-1, 1):
            length = (50 + 260 * (1 - t) * min(1, 4 * t)) * rng.uniform(0.6, 0.75)
            color = np.array([0.24, 0.40, 0.22]) * rng.uniform(0.7, 1.3)
            draw.polygon(
                leaf_shape(w / 2 + 20 * t, (0.95 - 0.87 * t) * h, length, -np.pi / 2 + side * 1.0, 0.07),
                fill=rgb(color),
            )
    return np.clip(drawn(image) * (1 + 0.04 * fractal(h, w, 1.0))[..., None], 0, 1)


def foliage(color: Sequence[float], size: int = 512) -> np.ndarray:
    """One leaf: midrib up the middle, side veins."""
    v, u = np.meshgrid(np.linspace(0, 1, size), np.linspace(-1, 1, size), indexing="ij")
    veins = np.exp(-((u / 0.05) ** 2)) + 0.6 * np.exp(-((np.sin(26 * (v + 0.45 * abs(u))) / 0.22) ** 2))
    return tint(0.85 + 0.35 * veins + 0.08 * fractal(size, size, 1.2), color)


def garden(size: int = 1024) -> np.ndarray:
    """What the window looks out on: sunlit leaves below, sky above."""
    image, draw = canvas(size, size, (0.80, 0.90, 1.0))
    for _ in range(14000):
        x, y = rng.uniform(-50, size), size * (1 - rng.beta(1.2, 2.2))
        color = np.array([0.42, 0.58, 0.26]) * rng.uniform(0.4, 1.5)
        draw.polygon(leaf_shape(x, y, rng.uniform(8, 24), rng.uniform(0, 7)), fill=rgb(color))
    return drawn(image)


# ---------------------------------------------------------------- materials


def material(
    texture: np.ndarray | Sequence[float],
    coords: str = "box",
    scale: float = 1.0,
    roughness: float = 0.6,
    bump: float = 0.0,
    translucent: float = 0.0,
    emission: float = 0.0,
    **principled: float,
) -> bpy.types.Material:
    """A Principled material from a texture or one colour.

    coords: "box" (metres, from six sides, `scale` metres a repeat), "uv", or "xy" / "xz" (stretched over the bounding
    box as seen from +z / -y). bump: relief depth in metres, from the texture's brightness.
    """
    out = bpy.data.materials.new("material")
    out.cycles.emission_sampling = "NONE"  # what glows is only looked at
    nodes, links = out.node_tree.nodes, out.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = roughness
    for name, value in principled.items():
        shader.inputs[name.replace("_", " ").title()].default_value = value
    texture = np.asarray(texture, float)
    if texture.ndim == 1:
        color = nodes.new("ShaderNodeRGB").outputs[0]
        color.default_value = (*texture, 1)
    else:
        where = nodes.new("ShaderNodeTexCoord").outputs[{"box": "Object", "uv": "UV"}.get(coords, "Generated")]
        picture = nodes.new("ShaderNodeTexImage")
        picture.image = to_blender(texture)
        if coords == "box":
            picture.projection, picture.projection_blend = "BOX", 0.15
            # objects that share a material start at different places of its texture
            shifted = nodes.new("ShaderNodeVectorMath")
            shifted.operation = "MULTIPLY_ADD"
            shifted.inputs[1].default_value = (1 / scale,) * 3
            links.new(where, shifted.inputs[0])
            links.new(nodes.new("ShaderNodeObjectInfo").outputs["Random"], shifted.inputs[2])
            where = shifted.outputs[0]
        elif coords == "xz":
            split, joined = nodes.new("ShaderNodeSeparateXYZ"), nodes.new("ShaderNodeCombineXYZ")
            links.new(where, split.inputs[0])
            links.new(split.outputs["X"], joined.inputs["X"])
            links.new(split.outputs["Z"], joined.inputs["Y"])
            where = joined.outputs[0]
        links.new(where, picture.inputs["Vector"])
        color = picture.outputs["Color"]
        if bump:
            relief = nodes.new("ShaderNodeBump")
            relief.inputs["Distance"].default_value = bump
            links.new(color, relief.inputs["Height"])
            links.new(relief.outputs["Normal"], shader.inputs["Normal"])
    links.new(color, shader.inputs["Base Color"])
    if emission:
        links.new(color, shader.inputs["Emission Color"])
        shader.inputs["Emission Strength"].default_value = emission
    if translucent:
        through, mixed = nodes.new("ShaderNodeBsdfTranslucent"), nodes.new("ShaderNodeMixShader")
        links.new(color, through.inputs["Color"])
        mixed.inputs["Fac"].default_value = translucent
        links.new(shader.outputs[0], mixed.inputs[1])
        links.new(through.outputs[0], mixed.inputs[2])
        links.new(mixed.outputs[0], nodes["Material Output"].inputs["Surface"])
    return out


def to_blender(texture: np.ndarray) -> bpy.types.Image:
    h, w, _ = texture.shape
    image = bpy.data.images.new("texture", w, h)
    pixels = np.ones((h, w, 4), np.float32)
    pixels[..., :3] = texture[::-1]
    image.pixels.foreach_set(pixels.ravel())
    image.update()
    return image


# ---------------------------------------------------------------- shapes


def add(data, mat: bpy.types.Material, at: Sequence[float], turn: Sequence[float] = (0, 0, 0)) -> bpy.types.Object:
    """Put a mesh or curve into the scene; `turn` is Euler XYZ in degrees."""
    thing = bpy.data.objects.new("object", data)
    data.materials.append(mat)
    thing.location, thing.rotation_euler = at, np.radians(turn)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def mesh_of(vertices: np.ndarray, faces: np.ndarray, smooth: bool = True) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new("mesh")
    mesh.from_pydata(vertices.tolist(), [], faces.tolist())
    mesh.polygons.foreach_set("use_smooth", [smooth] * len(mesh.polygons))
    return mesh


def box(size: Sequence[float], at: Sequence[float], mat, turn=(0, 0, 0), bevel: float = 0.006) -> bpy.types.Object:
    """A box with rounded edges; `at` is its centre."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    faces = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    thing = add(mesh_of(signs * np.asarray(size) / 2, faces), mat, at, turn)
    edges = thing.modifiers.new("bevel", "BEVEL")
    edges.width, edges.segments, edges.harden_normals = bevel, 3, True
    return thing


def sheet(shape: Callable, nu: int, nv: int, mat, at=(0, 0, 0), turn=(0, 0, 0)) -> bpy.types.Object:
    """The surface of `shape`: arrays u, v in 0..1 -> x, y, z."""
    u, v = np.meshgrid(np.linspace(0, 1, nu), np.linspace(0, 1, nv), indexing="ij")
    vertices = np.stack(np.broadcast_arrays(*shape(u, v)), -1).reshape(-1, 3)
    i = np.arange(nu * nv).reshape(nu, nv)
    faces = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(-1, 4)
    mesh = mesh_of(vertices, faces)
    uv = np.stack([u, v], -1).reshape(-1, 2)[faces.ravel()]
    mesh.uv_layers.new().data.foreach_set("uv", uv.ravel())
    return add(mesh, mat, at, turn)


def lathe(profile: Sequence[tuple[float, float]], at, mat, turn=(0, 0, 0)) -> bpy.types.Object:
    """Turn a profile of (radius, height) around z; its corners are smoothed."""
    profile = np.asarray(profile, float)
    knots = np.linspace(0, 1, len(profile))

    def shape(u, v):
        r, z = np.interp(v, knots, profile[:, 0]), np.interp(v, knots, profile[:, 1])
        return r * np.cos(2 * np.pi * u), r * np.sin(2 * np.pi * u), z

    thing = sheet(shape, 49, 8 * len(profile) + 1, mat, at, turn)
    thing.modifiers.new("smooth", "CORRECTIVE_SMOOTH").iterations = 3
    return thing


def soft(size: Sequence[float], at, mat, turn=(0, 0, 0), power: float = 5.0, dents: float = 0.012) -> bpy.types.Object:
    """An upholstered block: a superellipsoid with a few dents."""
    n = 24
    side = np.linspace(-1, 1, n)
    a, b = np.meshgrid(side, side, indexing="ij")
    i = np.arange(n * n).reshape(n, n)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(-1, 4)
    points, faces = [], []
    for axis in range(3):
        for sign in (-1, 1):
            face = np.insert(np.stack([a, b], -1).reshape(-1, 2), axis, sign, axis=1)
            flip = sign * (-1) ** axis > 0
            faces.append((quads if flip else quads[:, ::-1]) + len(points) * n * n)
            points.append(face)
    points = np.concatenate(points)
    points /= (abs(points) ** power).sum(1, keepdims=True) ** (1 / power)
    points *= np.asarray(size) / 2
    waves, phase = rng.normal(0, 9, (6, 3)), rng.uniform(0, 7, 6)
    points *= 1 + dents * np.sin(points @ waves.T + phase).sum(1, keepdims=True)
    thing = add(mesh_of(points, np.concatenate(faces)), mat, at, turn)
    thing.modifiers.new("weld", "WELD").merge_threshold = 1e-4
    return thing


def pillow(size: float, at, mat, turn) -> bpy.types.Object:
    """A throw pillow that lies in x-y, plump in the middle, with pinched edges and pointed corners."""
    wrinkles, phase = rng.normal(0, 6, (5, 2)), rng.uniform(0, 7, 5)

    def half(sign):
        def shape(u, v):
            x, y = 2 * u - 1, 2 * v - 1
            plump = ((1 - x**4) * (1 - y**4)) ** 0.55
            ripple = sum(np.sin(w[0] * x + w[1] * y + p) for w, p in zip(wrinkles, phase))
            pinch_x, pinch_y = 1 - 0.07 * (1 - y**2), 1 - 0.07 * (1 - x**2)
            return size / 2 * x * pinch_x, size / 2 * y * pinch_y, sign * size * 0.17 * plump * (1 + 0.03 * ripple)

        return shape

    for sign in (1, -1):
        sheet(half(sign), 40, 40, mat, at, turn)


def tube(points: Sequence[Sequence[float]], radius: float, mat) -> bpy.types.Object:
    """A round rod along a smooth curve."""
    curve = bpy.data.curves.new("curve", "CURVE")
    curve.dimensions, curve.bevel_depth, curve.bevel_resolution = "3D", radius, 3
    spline = curve.splines.new("NURBS")
    spline.points.add(len(points) - 1)
    for point, at in zip(spline.points, points):
        point.co = (*at, 1)
    spline.use_endpoint_u, spline.order_u = True, min(4, len(points))
    return add(curve, mat, (0, 0, 0))


def leaf(length: float, width: float, at, heading: float, lift: float, droop: float, mat) -> None:
    """One leaf of a plant that starts at `at` and bends down along its way (angles in degrees)."""

    def shape(u, v):
        across = (2 * u - 1) * width / 2 * np.sin(np.pi * np.clip(v, 0.02, 0.995) ** 0.75)
        angle = np.radians(lift - droop * v)
        out = length * v * np.cos(angle)
        return across, out, length * v * np.sin(angle) + 0.35 * abs(across) + 0.006 * np.sin(20 * v)

    sheet(shape, 9, 17, mat, at, (0, 0, heading))


# ---------------------------------------------------------------- the room


def build_room() -> None:
    """Floor 5.2 x 5.4 m with its corner at the window; the side behind the photographer is open to the sky."""
    shell()
    oak, walnut = material(wood((0.66, 0.47, 0.30)), roughness=0.45), material(wood((0.42, 0.27, 0.18)), roughness=0.4)
    sofa_corner(walnut)
    armchair(oak)
    coffee_table(oak)
    bookshelf(walnut)
    sideboard(oak)
    pictures(oak, walnut)
    plant((-2.1, 1.72, 0))
    lights()


def shell() -> None:
    paper = material(wallpaper(), scale=1.9, roughness=0.8)
    white = material((0.80, 0.78, 0.73), roughness=0.5)
    floor = material(planks(), "uv", roughness=0.5, bump=0.0015)
    sheet(lambda u, v: (5.2 * u - 2.6, 5.4 * v - 3.2, 0), 2, 2, floor)
    box((5.4, 0.1, 2.6), (0, 2.25, 1.3), paper)
    box((0.1, 5.4, 2.6), (2.65, -0.5, 1.3), paper)
    box((5.4, 5.6, 0.1), (0, -0.5, 2.65), material((0.86, 0.85, 0.82), roughness=0.9))
    # the window wall, around an opening of y -0.35..1.15, z 0.75..2.25
    box((0.1, 2.85, 2.6), (-2.65, -1.775, 1.3), paper)
    box((0.1, 1.05, 2.6), (-2.65, 1.675, 1.3), paper)
    box((0.1, 1.5, 0.75), (-2.65, 0.4, 0.375), paper)
    box((0.1, 1.5, 0.35), (-2.65, 0.4, 2.425), paper)
    for y in (-0.33, 0.4, 1.13):
        box((0.08, 0.06, 1.5), (-2.63, y, 1.5), white)
    for z in (0.77, 1.75, 2.23):
        box((0.07, 1.5, 0.06), (-2.63, 0.4, z), white)  # thinner: faces in one plane would fight
    box((0.26, 1.66, 0.04), (-2.52, 0.4, 0.74), white)
    lathe(
        [(0, 0), (0.07, 0), (0.09, 0.13), (0.08, 0.13), (0, 0.11)],
        (-2.5, 0.95, 0.76),
        material((0.72, 0.36, 0.22), roughness=0.8),
    )
    fern = material(foliage((0.36, 0.50, 0.20)), "uv", translucent=0.3)
    for k in range(16):
        leaf(rng.uniform(0.14, 0.24), 0.05, (-2.5, 0.95, 0.87), k * 47, rng.uniform(40, 85), 70, fern)
    for y, side in ((2.185, 0), (0, 90)):
        at = (0, y, 0.06) if side == 0 else (2.585, -0.5, 0.06)
        box((5.3, 0.03, 0.12), at, white, (0, 0, side))
    box((0.03, 5.4, 0.12), (-2.585, -0.5, 0.06), white)
    box((5.2, 0.06, 0.08), (0, 2.17, 2.56), white)
    outside = sheet(
        lambda u, v: (0 * u, 9 * u - 4, 5 * v - 0.8), 2, 2, material(garden(), "uv", emission=3.0), (-5.2, 0, 0)
    )
    outside.visible_shadow = outside.visible_diffuse = False  # the sun and the window light do its work

    drape = material(cloth((0.70, 0.36, 0.22), (0.82, 0.62, 0.42)), "uv", translucent=0.25, roughness=0.9)
    for y, width in ((-0.62, 0.5), (1.42, 0.5)):
        phase = rng.uniform(0, 6)

        def folds(u, v, y=y, width=width, phase=phase):
            gather = 1 - 0.12 * np.sin(np.pi * v) ** 2
            wave = 0.045 * np.sin(2 * np.pi * 6 * u + phase + 0.8 * np.sin(3 * v)) + 0.015 * np.sin(31 * u + 4 * v)
            return -2.44 + wave * (1.15 - 0.5 * v), y + (u - 0.5) * width * gather, 0.03 + 2.33 * v

        sheet(folds, 120, 24, drape)
    rail = material((0.45, 0.34, 0.18), roughness=0.3, metallic=1.0)
    tube([(-2.46, y, 2.4) for y in (-1.0, -0.3, 0.4, 1.1, 1.8)], 0.013, rail)

    wool = material(rug(), "uv", roughness=0.95, bump=0.004)

    def lie(u, v):
        return 2.9 * (u - 0.5), 2.1 * (v - 0.5), 0.012 + 0.002 * np.sin(7 * u + 3 * v)

    sheet(lie, 60, 60, wool, (-0.25, 0.30, 0), (0, 0, 4))
    fringe = material((0.82, 0.76, 0.62), roughness=1.0)
    for side in (-1, 1):
        for k in range(70):
            y = 0.30 + 2.05 * (k / 69 - 0.5) + side * 0.10
            x = -0.25 + side * 1.45
            middle = (x + side * 0.04, y + rng.normal(0, 0.01), 0.008)
            end = (x + side * 0.08, y + rng.normal(0, 0.02), 0.004)
            tube([(x, y, 0.012), middle, end], 0.004, fringe)


def sofa_corner(walnut) -> None:
    linen = material(cloth((0.46, 0.53, 0.56)), scale=0.6, roughness=0.95)
    x, y = -0.45, 1.60
    soft((2.1, 0.86, 0.26), (x, y, 0.27), linen, power=9, dents=0.003)
    soft((2.1, 0.24, 0.62), (x, y + 0.36, 0.52), linen, (-7, 0, 0), power=8, dents=0.004)
    for side in (-1, 1):
        soft((0.22, 0.88, 0.52), (x + side * 1.02, y, 0.36), linen, power=6, dents=0.006)
        soft((0.86, 0.66, 0.19), (x + side * 0.44, y - 0.07, 0.45), linen, (2, 0, side), power=6)
        soft((0.84, 0.22, 0.46), (x + side * 0.44, y + 0.22, 0.70), linen, (-14, 0, side * 2), power=5)
        for front in (-0.36, 0.36):
            lathe([(0, 0), (0.018, 0), (0.03, 0.15), (0, 0.15)], (x + side * 0.95, y + front, 0), walnut)
    prints = [
        print_cloth((0.86, 0.80, 0.66), [(0.70, 0.30, 0.18), (0.26, 0.38, 0.34), (0.84, 0.58, 0.26)]),
        cloth((0.76, 0.52, 0.20), (0.92, 0.84, 0.64), check=True),
        print_cloth((0.16, 0.24, 0.34), [(0.82, 0.78, 0.66), (0.72, 0.44, 0.28), (0.40, 0.56, 0.58)]),
        cloth((0.64, 0.24, 0.20), (0.90, 0.80, 0.70)),
    ]
    places = [
        (-0.78, 0.02, 64, 12, 16),
        (-0.42, -0.04, 60, -6, -14),
        (0.52, -0.02, 62, 8, 10),
        (0.80, 0.04, 66, -12, -18),
    ]
    for texture, (dx, dy, lean, roll, turn) in zip(prints, places):
        pillow(0.46, (x + dx, y + dy, 0.74), material(texture, "uv", roughness=0.9), (lean, roll, turn))

    plaid = material(cloth((0.74, 0.68, 0.56), (0.46, 0.22, 0.20), check=True), "uv", roughness=1.0)

    def over_arm(u, v):
        # along v: down the outside of the arm, over it and onto the seat
        knots = np.array([0, 0.38, 0.45, 0.62, 0.70, 0.78, 1])
        out = np.interp(v, knots, [0.145, 0.13, 0.10, -0.10, -0.14, -0.18, -0.5])
        up = np.interp(v, knots, [0.17, 0.60, 0.645, 0.645, 0.60, 0.575, 0.57])
        ripple = 0.012 * np.sin(22 * u + 3 * v) * (1.2 - v)
        return x + 1.02 + out + ripple, y - 0.12 + 0.55 * (u - 0.5) * (1 + 0.1 * v) + 0.06 * v, up + 0.4 * abs(ripple)

    throw = sheet(over_arm, 50, 60, plaid)
    throw.modifiers.new("smooth", "SMOOTH").iterations = 3


def armchair(oak) -> None:
    at, turn = np.array([-1.72, 0.52]), 68
    cloth_mat = material(
        print_cloth((0.72, 0.62, 0.42), [(0.50, 0.34, 0.16), (0.34, 0.40, 0.28), (0.90, 0.84, 0.68)]),
        scale=0.6,
        roughness=0.9,
    )
    parts = [
        soft((0.66, 0.64, 0.20), (0, 0, 0.40), cloth_mat, power=6),
        soft((0.64, 0.18, 0.62), (0, 0.32, 0.70), cloth_mat, (-16, 0, 0), power=5),
    ]
    for side in (-1, 1):
        parts.append(box((0.06, 0.70, 0.045), (side * 0.37, 0.0, 0.60), oak, bevel=0.015))
        for y, splay in ((-0.30, 4), (0.30, -6)):
            parts.append(box((0.05, 0.05, 0.60), (side * 0.37, y, 0.30), oak, (splay, 0, 0), bevel=0.012))
    for y in (-0.30, 0.30):
        parts.append(box((0.74, 0.04, 0.06), (0, y, 0.32), oak))
    place = Matrix.Translation((*at, 0)) @ Matrix.Rotation(math.radians(turn), 4, "Z")
    for part in parts:
        part.matrix_world = place @ part.matrix_basis
    knit = material(cloth((0.30, 0.44, 0.42), (0.80, 0.76, 0.62)), "uv", roughness=1.0)
    pillow(0.40, (at[0] - 0.12, at[1] + 0.04, 0.66), knit, (66, 10, turn))


def lying_book(w: float, d: float, h: float, at, turn: float) -> None:
    box((w - 0.008, d - 0.008, h * 0.8), at, material((0.90, 0.86, 0.76), roughness=0.9), (0, 0, turn), bevel=0.001)
    boards = material(cover(256, 340), "xy", roughness=0.4)
    for side in (-1, 1):
        box((w, d, h * 0.12), (at[0], at[1], at[2] + side * h * 0.44), boards, (0, 0, turn), bevel=0.001)
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    box((0.005, d, h), (at[0] - c * w / 2, at[1] - s * w / 2, at[2]), boards, (0, 0, turn), bevel=0.001)


def coffee_table(oak) -> None:
    x, y, top = -0.30, 0.25, 0.43
    box((1.15, 0.62, 0.035), (x, y, top - 0.0175), oak, bevel=0.012)
    box((1.0, 0.5, 0.02), (x, y, 0.17), oak)
    for sx in (-0.5, 0.5):
        for sy in (-0.24, 0.24):
            box((0.05, 0.05, 0.40), (x + sx, y + sy, 0.20), oak, bevel=0.008)
    z = top
    for w, d, h, turn in ((0.24, 0.31, 0.035, 12), (0.21, 0.28, 0.028, -6), (0.17, 0.23, 0.032, 24)):
        lying_book(w, d, h, (x - 0.36, y + 0.02, z + h / 2), turn)
        z += h
    lying_book(0.22, 0.29, 0.015, (x + 0.04, y - 0.13, top + 0.0085), -28)
    lying_book(0.25, 0.32, 0.04, (x - 0.2, y, 0.202), 80)
    lying_book(0.22, 0.29, 0.03, (x + 0.22, y + 0.03, 0.196), 100)

    glaze = tint(1 + 0.05 * fractal(512, 512, 1.0), (0.22, 0.40, 0.50))
    glaze[200:230], glaze[260:272] = (0.88, 0.84, 0.72), (0.70, 0.42, 0.22)
    vase = material(glaze, "uv", roughness=0.15)
    belly = [(0, 0), (0.05, 0), (0.075, 0.06), (0.07, 0.13)]
    neck = [(0.03, 0.19), (0.028, 0.22), (0.04, 0.24), (0.03, 0.235), (0.02, 0.2)]
    lathe(belly + neck, (x + 0.12, y + 0.12, top), vase)
    stem = material((0.22, 0.36, 0.14))
    leaves = material(foliage((0.30, 0.44, 0.20)), "uv", translucent=0.3)
    petals = [
        material(tint(1 + 0.12 * fractal(128, 128), c), "uv", translucent=0.3)
        for c in ((0.90, 0.60, 0.22), (0.84, 0.34, 0.28), (0.94, 0.88, 0.78))
    ]
    for k in range(11):
        around, reach = k * 2.4, rng.uniform(0.04, 0.16)
        tip = np.array(
            [x + 0.12 + reach * math.cos(around), y + 0.12 + reach * math.sin(around), top + rng.uniform(0.36, 0.52)]
        )
        base = np.array([x + 0.12, y + 0.12, top + 0.1])
        middle = (tip + base) / 2 - (0.3 * reach * math.cos(around), 0.3 * reach * math.sin(around), -0.04)
        tube([base, middle, tip], 0.0035, stem)
        leaf(0.11, 0.035, middle, math.degrees(around) + 60, 50, 60, leaves)
        for ring, (count, lift) in enumerate(((9, 15), (7, 45), (5, 70))):
            for j in range(count):
                leaf(0.048 - 0.008 * ring, 0.026, tip, j * 360 / count + 20 * ring, lift, 25, petals[k % 3])
        soft((0.018, 0.018, 0.012), tip + np.array([0, 0, 0.008]), material((0.35, 0.22, 0.06)), power=2)

    clay = material(tint(1 + 0.08 * fractal(512, 512, 0.8, 6), (0.78, 0.72, 0.62)), "uv", roughness=0.35)
    cx, cy = x + 0.40, y - 0.08
    lathe(
        [(0, 0.0), (0.06, 0), (0.07, 0.01), (0.13, 0.05), (0.155, 0.085), (0.145, 0.085), (0.11, 0.045), (0, 0.02)],
        (cx, cy, top),
        clay,
    )
    peels = [(0.92, 0.46, 0.08), (0.72, 0.14, 0.10), (0.48, 0.56, 0.14), (0.90, 0.72, 0.16)]
    peel_mats = [material(tint(1 + 0.13 * fractal(256, 256, 1.0), c), scale=0.2, roughness=0.35) for c in peels]
    spots = zip((0.06, -0.035, -0.04, 0.03, 0.045, 0), (0, 0.06, -0.055, -0.075, 0.075, 0), (7, 7, 7, 8.5, 8.5, 11.5))
    for k, (dx, dy, dz) in enumerate(spots):
        place = (cx + dx, cy + dy, top + dz / 100)
        soft((0.074, 0.074, 0.068), place, peel_mats[k % 4], (20 * k, 30, 0), power=2.1, dents=0.006)
    mug = material(print_cloth((0.88, 0.86, 0.80), [(0.24, 0.36, 0.50), (0.70, 0.36, 0.24)], 400), "uv", roughness=0.2)
    lathe(
        [(0, 0), (0.036, 0), (0.04, 0.01), (0.04, 0.09), (0.036, 0.09), (0.035, 0.02), (0, 0.015)],
        (x - 0.12, y - 0.2, top),
        mug,
    )
    handle = ((-0.085, -0.22, 0.075), (-0.045, -0.24, 0.075), (-0.045, -0.24, 0.025), (-0.085, -0.22, 0.025))
    tube([(x + dx, y + dy, top + dz) for dx, dy, dz in handle], 0.006, mug)

    # a knitted pouf beside the table
    i = np.arange(512)
    rows, loops = np.abs(np.sin(i * 2 * np.pi / 32))[:, None], np.abs(np.sin(i * 2 * np.pi / 16 + i[:, None] * 0.1))
    knit = tint(0.8 + 0.25 * rows * loops + 0.05 * fractal(512, 512, 0.8), (0.80, 0.62, 0.34))
    pouf = material(knit, "uv", roughness=1.0, bump=0.012)
    drum = [(0, 0.0), (0.2, 0.0), (0.28, 0.1), (0.29, 0.2), (0.26, 0.31), (0.15, 0.36), (0, 0.365)]
    lathe(drum, (0.93, 0.45, 0.01), pouf)


def bookshelf(walnut) -> None:
    x0, x1, y, depth, height = 1.05, 2.35, 2.03, 0.30, 2.02
    back = material(wood((0.52, 0.36, 0.24)), roughness=0.5)
    box((x1 - x0, 0.02, height), ((x0 + x1) / 2, y + depth / 2, height / 2), back)
    for x in (x0, (x0 + x1) / 2, x1):
        box((0.028, depth, height), (x, y, height / 2), walnut)
    levels = [0.06, 0.43, 0.80, 1.16, 1.52, 1.88]
    for z in [*levels, height]:
        box((x1 - x0 + 0.02, depth, 0.026), ((x0 + x1) / 2, y, z), walnut, bevel=0.003)
    half = (x1 - x0) / 2
    for column in range(2):
        for row, z in enumerate(levels[:-1]):
            left, right = x0 + column * half + 0.02, x0 + (column + 1) * half - 0.02
            gap = (row + 2 * column) % 3
            stop = right - (0.18 if gap else 0.02)
            x = left
            while x < stop - 0.05:
                w, h = rng.uniform(0.018, 0.045), rng.uniform(0.20, 0.30)
                d = rng.uniform(0.16, 0.22)
                spine = material(cover(max(24, int(1400 * w)), 400), "xz", roughness=rng.uniform(0.3, 0.7))
                tilt = rng.choice([0, 0, 0, 0, rng.uniform(2, 5)])
                place = (x + w / 2, y - 0.13 + d / 2 + rng.uniform(0, 0.02), z + 0.013 + h / 2)
                box((w - 0.001, d, h), place, spine, (0, tilt, 0), bevel=0.003)
                x += w + 0.001 + (h * math.sin(math.radians(tilt)) * 0.6)
            if gap == 1:
                ornament((stop + 0.07, y - 0.04, z + 0.013), row + column)
            elif gap == 2:
                pile = z + 0.013
                for _ in range(rng.integers(3, 6)):
                    h = rng.uniform(0.02, 0.035)
                    lying_book(0.13, 0.19, h, (stop + 0.09, y - 0.04, pile + h / 2), 90 + rng.uniform(-6, 6))
                    pile += h
    for k, x in enumerate((1.3, 1.72, 2.1)):
        ornament((x, y, height + 0.013), k + 5)


def ornament(at, kind: int) -> None:
    """A pot, bottle or bowl with a pattern of its own."""
    color = np.array(
        [(0.80, 0.44, 0.26), (0.24, 0.44, 0.46), (0.86, 0.78, 0.62), (0.30, 0.30, 0.42), (0.74, 0.60, 0.30)][kind % 5]
    )
    texture = print_cloth(color, [color * 0.6, color * 1.3, (0.9, 0.86, 0.74)], 400)
    profiles = [
        [(0, 0), (0.04, 0), (0.065, 0.06), (0.05, 0.13), (0.02, 0.17), (0.025, 0.2), (0.015, 0.2)],
        [(0, 0), (0.05, 0), (0.06, 0.10), (0.06, 0.14), (0.05, 0.14), (0.045, 0.02), (0, 0.02)],
        [(0, 0), (0.03, 0), (0.055, 0.05), (0.06, 0.12), (0.03, 0.16), (0.018, 0.24), (0.022, 0.25), (0.01, 0.25)],
    ]
    lathe(profiles[kind % 3], at, material(texture, "uv", roughness=0.25))


def sideboard(oak) -> None:
    x, y = 2.36, 0.35
    box((0.42, 1.5, 0.60), (x, y, 0.42), oak, bevel=0.01)
    panel = material(wood((0.58, 0.40, 0.25)), roughness=0.45)
    brass = material((0.72, 0.54, 0.26), roughness=0.25, metallic=1.0)
    for k in (-1, 0, 1):
        box((0.02, 0.47, 0.53), (x - 0.215, y + 0.49 * k, 0.42), panel)
        tube([(x - 0.24, y + 0.49 * k + d, 0.62) for d in (-0.05, 0, 0.05)], 0.006, brass)
    for sx in (-0.16, 0.16):
        for sy in (-0.68, 0.68):
            box((0.04, 0.04, 0.13), (x + sx, y + sy, 0.065), oak)
    for k in range(6):
        ornament((x + rng.uniform(-0.1, 0.1), y - 0.6 + 0.24 * k, 0.72), k)
    for k in range(3):
        lying_book(0.18, 0.25, 0.03, (x, y + 0.42, 0.735 + 0.03 * k), 90 + 8 * k)


def framed(picture: np.ndarray, w: float, h: float, at, wall: str, frame_mat) -> None:
    """A picture with mat and frame; `wall` is "back" (seen from -y) or "right" (seen from -x)."""
    turn = Matrix.Rotation(math.radians(-90), 4, "Z") if wall == "right" else Matrix.Identity(4)
    rim, depth = 0.035, 0.03
    print_mat = material(picture, "uv", roughness=0.5)
    parts = [
        box((w, 0.008, h), (0, 0, 0), material((0.90, 0.88, 0.82), roughness=0.9), bevel=0.001),
        sheet(lambda u, v: ((u - 0.5) * 0.80 * w, -0.0055, (v - 0.5) * 0.82 * h), 2, 2, print_mat),
    ]
    for side in (-1, 1):
        parts.append(box((rim, depth, h + rim), (side * w / 2, -depth / 3, 0), frame_mat, bevel=0.004))
        parts.append(box((w, 0.9 * depth, rim), (0, -depth / 3, side * h / 2), frame_mat, bevel=0.004))
    for part in parts:
        part.matrix_world = Matrix.Translation(at) @ turn @ part.matrix_basis


def pictures(oak, walnut) -> None:
    black = material((0.05, 0.05, 0.055), roughness=0.3)
    gold = material((0.62, 0.46, 0.22), roughness=0.35, metallic=0.8)
    framed(landscape(), 0.92, 0.66, (-0.55, 2.18, 1.62), "back", walnut)
    framed(botanical(), 0.40, 0.52, (-1.36, 2.18, 1.68), "back", gold)
    framed(abstract(), 0.44, 0.58, (0.30, 2.18, 1.70), "back", black)
    framed(botanical(), 0.30, 0.38, (-1.85, 2.18, 1.30), "back", oak)
    framed(abstract(), 0.28, 0.34, (0.72, 2.18, 1.42), "back", oak)
    framed(landscape(), 0.80, 0.60, (2.58, 0.35, 1.55), "right", gold)
    framed(botanical(), 0.42, 0.56, (2.58, 1.20, 1.50), "right", black)


def plant(at) -> None:
    i = np.arange(512)
    basket = 0.75 + 0.3 * np.abs(np.sin(i * 2 * np.pi / 42))[:, None] * np.abs(np.sin(i * 2 * np.pi / 26))
    weave = material(tint(basket + 0.08 * fractal(512, 512, 0.8), (0.70, 0.54, 0.34)), "uv", roughness=0.9, bump=0.01)
    lathe([(0, 0), (0.16, 0), (0.21, 0.14), (0.22, 0.30), (0.20, 0.36), (0.18, 0.36), (0, 0.31)], at, weave)
    green = [
        material(foliage(c), "uv", roughness=0.35, translucent=0.2)
        for c in ((0.22, 0.38, 0.18), (0.30, 0.46, 0.20), (0.17, 0.32, 0.20))
    ]
    trunk = material(wood((0.36, 0.26, 0.17)), roughness=0.9)
    base = np.add(at, (0, 0, 0.3))
    for stem in range(4):
        around = 1.2 + stem * 1.57
        top = np.add(base, (0.20 * math.cos(around), 0.20 * math.sin(around), rng.uniform(0.75, 1.25)))
        bend = (base + top) / 2 + np.array([0.04, -0.03, 0])
        tube([base, bend, top], 0.011, trunk)
        for k in range(12):
            t = 0.25 + 0.75 * k / 11
            point = (1 - t) ** 2 * base + 2 * t * (1 - t) * bend + t**2 * top
            length, width = rng.uniform(0.20, 0.30), rng.uniform(0.10, 0.14)
            lift, droop = rng.uniform(30, 70) * (0.6 + 0.4 * t), rng.uniform(60, 100)
            leaf(length, width, point, k * 137.5 + stem * 40, lift, droop, green[k % 3])


def lights() -> None:
    scene = bpy.context.scene
    # the floor lamp
    brass = material((0.72, 0.54, 0.26), roughness=0.25, metallic=1.0)
    x, y = 0.84, 1.86
    lathe([(0, 0), (0.14, 0), (0.14, 0.015), (0.02, 0.03), (0, 0.03)], (x, y, 0), brass)
    tube([(x, y, z) for z in (0.02, 0.5, 1.0, 1.36)], 0.011, brass)
    shade = material(cloth((0.92, 0.84, 0.68), size=512), "uv", roughness=0.9, translucent=0.55)

    def cone(u, v):
        r = 0.19 - 0.06 * v
        return r * np.cos(2 * np.pi * u), r * np.sin(2 * np.pi * u), 0.26 * v

    sheet(cone, 49, 2, shade, (x, y, 1.24))
    light("POINT", 22, (x, y, 1.36), (1.0, 0.70, 0.42)).data.shadow_soft_size = 0.05

    window = light("AREA", 150, (-2.72, 0.4, 1.5), (0.86, 0.93, 1.0), (0, -90, 0))
    window.data.shape, window.data.size, window.data.size_y = "RECTANGLE", 1.45, 1.45
    window.visible_camera = window.visible_glossy = False
    sun = light("SUN", 11, (0, 0, 5), (1.0, 0.86, 0.66))
    sun.rotation_euler = Vector((1.0, -0.42, -0.78)).to_track_quat("-Z", "Y").to_euler()
    sun.data.angle = math.radians(1.2)

    scene.world = bpy.data.worlds.new("sky")
    sky = scene.world.node_tree.nodes["Background"]
    sky.inputs["Color"].default_value, sky.inputs["Strength"].default_value = (0.90, 0.95, 1.0, 1), 0.75


def light(kind: str, power: float, at, color, turn=(0, 0, 0)) -> bpy.types.Object:
    data = bpy.data.lights.new("light", kind)
    data.energy, data.color = power, color
    thing = bpy.data.objects.new("light", data)
    thing.location, thing.rotation_euler = at, np.radians(turn)
    bpy.context.scene.collection.objects.link(thing)
    return thing


# ---------------------------------------------------------------- camera, photo


def camera_path() -> list[Matrix]:
    """c2w (x right, y up, z back) of two hand-held sweeps: one standing, left to right, one lower and nearer, back."""
    out, noise = [], np.random.default_rng(SEED)
    half = PHOTOS // 2
    for k in range(PHOTOS):
        second = k >= half
        step = 11.5 * (k - (half - 1) / 2) if not second else -11.5 * (k - half - (half - 1) / 2) + 3
        angle = math.radians(step + noise.normal(0, 0.8))
        radius, height = (2.75, 1.12) if second else (3.25, 1.48)
        radius, height = radius + noise.normal(0, 0.08), height + noise.normal(0, 0.07)
        target = Vector((-0.05, 1.0, 0.78)) + Vector(noise.normal(0, (0.10, 0.05, 0.05)))
        eye = Vector((0.0 + radius * math.sin(angle), 1.0 - radius * math.cos(angle), height))
        roll = Matrix.Rotation(math.radians(noise.normal(0, 1.3)), 4, "Z")
        out.append(Matrix.Translation(eye) @ (target - eye).to_track_quat("-Z", "Y").to_matrix().to_4x4() @ roll)
    return out


def set_up_render(samples: int, scale: float) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = round(WIDTH * MARGIN * scale), round(HEIGHT * MARGIN * scale)
    scene.render.image_settings.file_format = "PNG"
    scene.render.dither_intensity = 0
    scene.render.use_persistent_data = True
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.adaptive_threshold = "CPU", samples, 0.03
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces, cycles.transmission_bounces = 4, 3, 2, 2
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 3.0
    cycles.use_light_tree = False  # three lights
    view = scene.view_settings
    view.view_transform = "AgX"
    view.look = "AgX - Medium High Contrast"
    view.use_white_balance = True

    camera = bpy.data.cameras.new("phone")
    camera.sensor_fit, camera.sensor_width = "HORIZONTAL", 36
    camera.lens = 36 * FOCAL_PX / (WIDTH * MARGIN)
    camera.clip_start = 0.05
    scene.camera = bpy.data.objects.new("phone", camera)
    scene.collection.objects.link(scene.camera)


def like_a_photo(render: np.ndarray, scale: float, noise: np.random.Generator) -> np.ndarray:
    """Barrel distortion, vignetting and sensor noise on a pinhole render; sRGB floats in and out."""
    w, h, f = round(WIDTH * scale), round(HEIGHT * scale), FOCAL_PX * scale
    x, y = np.meshgrid((np.arange(w) + 0.5 - w / 2) / f, (np.arange(h) + 0.5 - h / 2) / f)
    distorted = np.hypot(x, y)
    pinhole = distorted.copy()
    for _ in range(20):
        pinhole = distorted / (1 + K1 * pinhole**2)
    stretch = pinhole / distorted
    rows, columns = y * stretch * f + render.shape[0] / 2 - 0.5, x * stretch * f + render.shape[1] / 2 - 0.5
    photo = np.stack(
        [map_coordinates(c, [rows, columns], order=3, mode="nearest") for c in np.moveaxis(render, -1, 0)], -1
    )
    light = np.clip(photo, 0, 1) ** 2.2 * (1 - 0.16 * (distorted / distorted.max()) ** 2)[..., None]
    light += noise.standard_normal(light.shape) * np.sqrt(2.5e-5 * light + 4e-7)  # shot and read noise
    return np.clip(light, 0, 1) ** (1 / 2.2)


def exif(index: int) -> Image.Exif:
    """What a phone would note, and that this is no photograph."""
    tags = Image.Exif()
    taken = datetime.datetime(2026, 1, 17, 10, 30) + datetime.timedelta(seconds=4 * index)
    tags[0x010E], tags[0x010F], tags[0x0110] = "path-traced render, not a photograph", "PixWorld", "Cycles render"
    tags[0x0112], tags[0x0132] = 1, taken.strftime("%Y:%m:%d %H:%M:%S")
    photo = tags.get_ifd(0x8769)
    photo[0x9003] = tags[0x0132]
    photo[0x920A], photo[0xA405] = 4.2, FOCAL_35MM  # FocalLength in mm of a phone's lens, FocalLengthIn35mmFilm
    return tags


def main(
    out: Path = Path(__file__).parent / "demo_photos",
    samples: int = 16,
    scale: float = 1.0,
    quality: int = 80,
    only: tuple[int, ...] = tuple(range(PHOTOS)),
) -> None:
    """Render the demo photos.

    out: folder for the JPEGs. samples: paths a pixel, at most. scale: of the image size, for a quick look.
    quality: of the JPEGs. only: numbers of the photos to make.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    set_up_render(samples, scale)
    build_room()
    scene = bpy.context.scene
    out.mkdir(parents=True, exist_ok=True)
    for index, pose in enumerate(camera_path()):
        noise = np.random.default_rng((SEED, index))
        exposure, warmth = noise.uniform(-0.15, 0.15), noise.normal(0, 60)
        if index not in only:
            continue
        start = time.monotonic()
        scene.camera.matrix_world = pose
        scene.cycles.seed = index
        scene.view_settings.exposure = EXPOSURE + exposure
        scene.view_settings.white_balance_temperature = 6500 + warmth
        with tempfile.TemporaryDirectory() as folder:
            scene.render.filepath = str(Path(folder) / "render.png")
            bpy.ops.render.render(write_still=True)
            render = np.asarray(Image.open(scene.render.filepath).convert("RGB"), float) / 255
        photo = Image.fromarray(np.round(like_a_photo(render, scale, noise) * 255).astype(np.uint8))
        path = out / f"room_{index:02d}.jpg"
        unfinished = path.with_suffix(".tmp")
        photo.save(unfinished, "JPEG", quality=quality, exif=exif(index), optimize=True)
        unfinished.rename(path)
        print(f"{path.name}  {path.stat().st_size / 1000:.0f} kB  {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
