"""Random scenes to train on: rooms, streets, single objects and ground seen from above, as plain arrays.

`propose(kind, rng, ...)` draws a scene: primitives, materials, lights, cameras along a path and a caption made of a small
fixed vocabulary. World axes: z up, metres. Everything is decided by the random generator, so a seed is a scene. Whether
the cameras see anything sensible is decided after tracing (`bank`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator
from PIL import Image

from pixworld.views import InputError

BOX, ELLIPSOID, CYLINDER = range(3)
PLAIN, CHECKER, STRIPES, NOISE, CELLS, SPECKLE, BRICK, PLANKS, IMAGE = range(9)
SYNTHETIC = 48  # texture images that are computed; those of a folder follow them
TEXTURE_SIZE = 256  # pixels a side of every texture image
KINDS = {"room": 0.45, "outdoor": 0.25, "object": 0.20, "nadir": 0.10}

# sRGB. Muted on purpose: the colours of walls, wood, cloth and stone rather than of a paint box.
COLOURS = {
    "white": (0.90, 0.89, 0.86), "grey": (0.55, 0.55, 0.54), "dark": (0.22, 0.21, 0.21), "black": (0.12, 0.12, 0.13),
    "red": (0.68, 0.22, 0.18), "orange": (0.82, 0.48, 0.22), "yellow": (0.85, 0.74, 0.36), "green": (0.35, 0.52, 0.28),
    "blue": (0.27, 0.40, 0.62), "purple": (0.46, 0.34, 0.53), "pink": (0.82, 0.58, 0.58), "brown": (0.46, 0.32, 0.21),
    "beige": (0.80, 0.72, 0.58), "cream": (0.91, 0.86, 0.74), "teal": (0.25, 0.50, 0.50), "tan": (0.68, 0.55, 0.40),
    "olive": (0.46, 0.46, 0.26), "navy": (0.17, 0.22, 0.36), "golden": (0.76, 0.60, 0.28), "silver": (0.70, 0.71, 0.73),
}  # fmt: skip
WOODS, STONES = ("brown", "tan", "beige", "golden", "dark", "orange"), ("grey", "beige", "tan", "dark", "white", "brown")
LEAVES, EARTHS = ("green", "olive", "green", "golden", "orange"), ("tan", "brown", "olive", "grey", "green", "beige")
WALLS = ("white", "cream", "beige", "grey", "blue", "green", "yellow", "pink", "teal", "tan", "red")
ADJECTIVES = ("plain", "checkered", "striped", "mottled", "tiled", "speckled", "brick", "wooden", "patterned")  # by pattern
NUMBERS = ("", "a", "two", "three", "four", "five", "six", "many", "many", "many")
NOUNS = {  # singular: plural
    "box": "boxes", "ball": "balls", "pillar": "pillars", "table": "tables", "chair": "chairs", "shelf": "shelves",
    "sofa": "sofas", "bed": "beds", "lamp": "lamps", "stool": "stools", "stack": "stacks", "vase": "vases",
    "cabinet": "cabinets", "plant": "plants", "picture": "pictures", "window": "windows", "door": "doors", "rug": "rugs",
    "house": "houses", "tree": "trees", "bush": "bushes", "rock": "rocks", "car": "cars", "fence": "fences",
    "wall": "walls", "tower": "towers", "hill": "hills", "bench": "benches", "figure": "figures", "toy": "toys",
    "block": "blocks", "egg": "eggs", "can": "cans", "cup": "cups", "sculpture": "sculptures", "pole": "poles",
}  # fmt: skip
_PHRASES = (
    "a an the with and on of in from above seen near room street garden field ground floor table backdrop sky clear "
    "cloudy light warm cool soft bright sun evening aerial view empty large small tall long close wide hall drone"
)
VOCABULARY: tuple[str, ...] = tuple(
    sorted({*_PHRASES.split(), *NOUNS, *NOUNS.values(), *COLOURS, *ADJECTIVES, *NUMBERS} - {""})
)


class World(NamedTuple):
    """What the tracer reads; p primitives, m materials. Primitive 0 is the room or the ground and casts no shadow."""

    kind: Int[np.ndarray, " p"]
    centre: Float[np.ndarray, "p 3"]
    half: Float[np.ndarray, "p 3"]  # half extents along the local axes (radii)
    inverse: Float[np.ndarray, "p 3 3"]  # world offset from the centre to the unit shape
    radius: Float[np.ndarray, " p"]  # bounding sphere
    surface: Int[np.ndarray, "p 6"]  # material of the faces -x +x -y +y -z +z; round sides use the first
    pattern: Int[np.ndarray, " m"]
    colours: Float[np.ndarray, "m 3 3"]  # linear: base, second, joints
    period: Float[np.ndarray, " m"]  # scene units a repetition
    turn: Float[np.ndarray, " m"]  # radians
    shift: Float[np.ndarray, "m 2"]  # repetitions
    seed: Int[np.ndarray, " m"]
    image: Int[np.ndarray, " m"]
    grain: Float[np.ndarray, " m"]  # amplitude of the dirt that multiplies the pattern
    shine: Float[np.ndarray, " m"]  # strength of the specular lobe
    glow: Float[np.ndarray, " m"]  # emitted share of the colour
    lights: Float[np.ndarray, "l 8"]  # x y z w, linear r g b, shadow; w = 0: direction to a sun, else reach of a bulb
    ambient: Float[np.ndarray, "2 3"]  # from above, from below
    sky: Float[np.ndarray, "3 3"]  # horizon, zenith, clouds
    clouds: float
    haze: float  # per scene unit


@dataclass(frozen=True)
class Scene:
    world: World
    c2w: Float[np.ndarray, "v 4 4"]  # OpenCV, along the path
    focal: Float[np.ndarray, " v"]  # in image widths
    exposure: float  # linear light that the median pixel is brought to
    contrast: float
    saturation: float
    subject: tuple[int, int]  # primitives that every view should show; (0, 0): none in particular
    overlap: float  # share of a view that the next one has to see again
    caption: str


def library(textures: Path | None) -> UInt8[np.ndarray, "k 256 256 3"]:
    """Texture images: 48 synthetic ones (1/f noise, and leaves of random shapes that occlude each other, which has the
    statistics of photos), then centre squares of the jpg files of a folder. Raises InputError for a folder without any."""
    rng = np.random.default_rng(48)
    images = [_one_over_f(rng) if k % 2 else _dead_leaves(rng) for k in range(SYNTHETIC)]
    if textures is not None:
        files = sorted(p for p in Path(textures).glob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
        if not files:
            raise InputError(f"{textures} has no .jpg files; give --textures a folder of photos, or leave it out")
        for file in files:
            with Image.open(file) as photo:
                side = min(photo.size)
                left, top = (photo.width - side) // 2, (photo.height - side) // 2
                square = photo.convert("RGB").crop((left, top, left + side, top + side))
                images.append(np.asarray(square.resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX)))
    return np.stack(images)


def _one_over_f(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    n = TEXTURE_SIZE
    fy, fx = np.meshgrid(np.fft.fftfreq(n), np.fft.rfftfreq(n), indexing="ij")
    stretch = np.exp(rng.normal(0, 0.4))
    power = np.hypot(fx * stretch, fy / stretch) + 1 / n
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, n, n))) * power ** -rng.uniform(0.9, 1.6), s=(n, n))
    noise /= noise.std((1, 2), keepdims=True)
    noise = np.einsum("ij,jhw->hwi", rng.normal(size=(3, 3)) * 0.25 + rng.uniform(0.6, 1.0), noise)
    return np.clip(255 * (_palette_colour(rng) + 0.13 * noise), 0, 255).astype(np.uint8)


def _dead_leaves(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    n = TEXTURE_SIZE
    y, x = np.mgrid[:n, :n]
    image = np.empty((n, n, 3))
    image[:] = _palette_colour(rng)
    base = [_palette_colour(rng) for _ in range(4)]
    round_share = rng.random()
    for r in np.sort(4 * (1 - rng.random(260)) ** -0.8)[::-1]:  # power law of radii, small ones on top
        cx, cy, angle, aspect = rng.uniform(0, n), rng.uniform(0, n), rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        r = min(r, n / 3)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / aspect
        leaf = np.hypot(u, v) < r if rng.random() < round_share else np.maximum(abs(u), abs(v)) < r
        image[leaf] = base[rng.integers(4)] * rng.uniform(0.6, 1.2) + rng.normal(0, 0.04, 3)
        image[leaf] += (0.1 * rng.normal() * u[leaf] / r)[:, None]  # a shade across the leaf
    image += rng.normal(0, 0.03, (n, n, 1))
    return np.clip(255 * image, 0, 255).astype(np.uint8)


def _palette_colour(rng: Generator) -> np.ndarray:
    return np.array(list(COLOURS.values())[rng.integers(len(COLOURS))])


def _linear(srgb: np.ndarray) -> np.ndarray:
    srgb = np.clip(srgb, 0.02, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


class Builder:
    """Collects primitives, materials, lights and words. Furniture is built in a frame set by `place`."""

    def __init__(self, rng: Generator, images: int):
        self.rng, self.images = rng, images
        self.primitives: list[tuple] = []
        self.materials: list[tuple] = []
        self.lights: list[list[float]] = []
        self.things: dict[str, int] = {}  # "red checkered box" -> count
        self.origin, self.frame = np.zeros(3), np.eye(3)

    def place(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> None:
        c, s = math.cos(yaw), math.sin(yaw)
        self.origin, self.frame = np.array([x, y, z]), np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])

    def say(self, noun: str, words: str = "") -> None:
        thing = f"{words} {noun}".strip()
        self.things[thing] = self.things.get(thing, 0) + 1

    def material(self, size: float, colours=tuple(COLOURS), patterns: dict[int, float] | None = None, glow=0.0,
                 photos: float = 0.5) -> int:
        """A random material for a surface of about `size`; `self.words` says what it is. `photos` is the share of
        pictures that come from the texture folder rather than being synthetic."""
        rng = self.rng
        patterns = patterns or {PLAIN: 2, CHECKER: 1, STRIPES: 1, NOISE: 2, CELLS: 1, SPECKLE: 1, BRICK: 0.5, PLANKS: 2,
                                IMAGE: 5}  # fmt: skip
        weights = np.array(list(patterns.values()), float)
        pattern = list(patterns)[rng.choice(len(weights), p=weights / weights.sum())]
        if pattern == PLANKS and rng.random() < 0.8:
            colours = WOODS
        name = colours[rng.integers(len(colours))]
        base = np.array(COLOURS[name]) * rng.uniform(0.8, 1.15) + rng.normal(0, 0.03, 3)
        if pattern in (CHECKER, STRIPES, SPECKLE) and rng.random() < 0.6:
            second = _palette_colour(rng) + rng.normal(0, 0.03, 3)
        else:  # another shade of the same paint
            second = base * rng.choice([0.5, 0.65, 0.8, 1.3]) + rng.normal(0, 0.04, 3)
        joint = base * 0.35 if rng.random() < 0.6 else 0.5 * base + 0.4
        repeats = math.exp(rng.uniform(math.log(1.5), math.log(9)))
        image = 0
        if pattern == IMAGE:  # one picture, or a part of it, over most of the surface
            photo = self.images > SYNTHETIC and rng.random() < photos
            repeats = rng.uniform(0.25, 0.9) if photo else rng.uniform(0.5, 1.6)
            image = rng.integers(SYNTHETIC, self.images) if photo else rng.integers(SYNTHETIC)
            base = 1 - rng.uniform(0, 0.6) * (1 - base / base.max())  # a tint
        turn = rng.normal(0, 0.02)
        if pattern != IMAGE and rng.random() < 0.4:
            turn += rng.choice([0.5, 0.25, rng.uniform(0, 1)]) * math.pi
        shine = rng.uniform(0.05, 0.5) if rng.random() < 0.35 else 0.0
        grain = rng.uniform(0.15, 0.6) if pattern == PLAIN else rng.uniform(0, 0.35)
        colours = _linear(np.stack([base, second, joint]))
        self.materials.append(
            (pattern, colours, size / repeats, turn, rng.uniform(-50, 50, 2), rng.integers(1 << 20), image, grain, shine,
             glow)
        )  # fmt: skip
        adjective = "" if pattern == PLAIN else ADJECTIVES[pattern]
        self.words = adjective if pattern in (PLANKS, IMAGE) else f"{name} {adjective}".strip()
        return len(self.materials) - 1

    def add(self, kind: int, centre, half, material, turn: np.ndarray | None = None) -> None:
        """A primitive in the current frame; material is one index or six, turn a rotation inside the frame."""
        rotation = self.frame if turn is None else self.frame @ turn
        half = np.asarray(half, float)
        surface = np.broadcast_to(np.asarray(material), 6)
        self.primitives.append((kind, self.origin + self.frame @ np.asarray(centre, float), half, rotation, surface))

    def box(self, centre, size, material, turn=None) -> None:
        self.add(BOX, centre, np.asarray(size, float) / 2, material, turn)

    def world(self, ambient, sky, clouds: float = 0.0, haze: float = 0.0) -> World:
        kind, centre, half, rotation, surface = (np.stack(x) for x in zip(*self.primitives))
        inverse = np.swapaxes(rotation, 1, 2) / half[:, :, None]
        flat = np.where(kind == CYLINDER, half[:, :2].max(1), np.hypot(half[:, 0], half[:, 1]))
        radius = np.where(kind == ELLIPSOID, half.max(1), np.hypot(flat, half[:, 2]))
        m = [np.stack(x) for x in zip(*self.materials)]
        lights = np.array(self.lights, float).reshape(-1, 8)
        return World(
            kind.astype(np.int64), centre, half, inverse, radius, surface.astype(np.int64),
            m[0].astype(np.int64), m[1], m[2].astype(float), m[3].astype(float), m[4], m[5].astype(np.int64),
            m[6].astype(np.int64), m[7].astype(float), m[8].astype(float), m[9].astype(float),
            lights, np.asarray(ambient, float), np.asarray(sky, float), float(clouds), float(haze),
        )  # fmt: skip

    def sentence(self, limit: int) -> str:
        """The things that were built, as words: "a red checkered box and two blue balls"."""
        names = list(self.things)
        if len(names) > limit:
            names = [names[i] for i in sorted(self.rng.choice(len(names), limit, replace=False))]
        parts = []
        for name in names:
            count, (*words, noun) = self.things[name], name.split()
            article = "an" if name[0] in "aeiou" else "a"
            number = article if count == 1 else NUMBERS[min(count, 9)]
            parts.append(" ".join([number, *words, noun if count == 1 else NOUNS[noun]]))
        return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1] if parts else ""


def random_rotation(rng: Generator) -> Float[np.ndarray, "3 3"]:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.array([1, 1, np.linalg.det(q)])


# --- things: each stands on z = 0 of the current frame and returns the radius of its footprint -----------------------


def _simple(b: Builder, size: float) -> float:
    """One box, ball, egg, pillar, can or a stack of boxes."""
    rng, m = b.rng, b.material(size)
    noun = str(rng.choice(["box", "box", "ball", "egg", "pillar", "can", "stack"]))
    b.say(noun, b.words)
    w, d, h = size * rng.uniform(0.5, 1, 3)
    if noun == "box":
        tops = b.material(size) if rng.random() < 0.3 else m
        b.box((0, 0, h / 2), (w, d, h), [m, m, m, m, tops, tops])
    elif noun == "stack":
        z = 0.0
        for _ in range(rng.integers(2, 5)):
            t = size * rng.uniform(0.08, 0.3)
            c, s = math.cos(a := rng.normal(0, 0.3)), math.sin(a)
            b.box((0, 0, z + t / 2), (w, d, t), b.material(size), np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))
            z += t
    elif noun in ("ball", "egg"):
        h = w if noun == "ball" else 1.4 * w
        b.add(ELLIPSOID, (0, 0, h / 2), (w / 2, w / 2, h / 2), m)
    else:
        h = size * rng.uniform(1.5, 3) if noun == "pillar" else h
        b.add(CYLINDER, (0, 0, h / 2), (w / 3, w / 3, h / 2), m)
    return 0.6 * size


def _table(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 5, PLAIN: 1, IMAGE: 2, NOISE: 1, CHECKER: 0.5})
    b.say("table", b.words)
    w, d, h, leg = size, size * rng.uniform(0.5, 1), size * rng.uniform(0.45, 0.65), size * rng.uniform(0.02, 0.05)
    top = 0.05 * size
    if rng.random() < 0.25:
        b.add(CYLINDER, (0, 0, h), (w / 2, d / 2, top / 2), m)
        b.add(CYLINDER, (0, 0, h / 2), (2 * leg, 2 * leg, h / 2), b.material(h))
    else:
        b.box((0, 0, h), (w, d, top), m)
        other = m if rng.random() < 0.6 else b.material(h)
        for sx in (-1, 1):
            for sy in (-1, 1):
                b.box((sx * (w / 2 - leg), sy * (d / 2 - leg), h / 2), (2 * leg, 2 * leg, h), other)
    origin, frame = b.origin, b.frame
    for _ in range(rng.integers(0, 4)):  # things on it
        x, y = rng.uniform(-0.33, 0.33, 2) * (w, d)
        b.origin = origin + frame @ np.array([x, y, h + top / 2])
        [_simple, _vase, _simple][rng.integers(3)](b, size * rng.uniform(0.1, 0.25))
    b.origin = origin
    return 0.6 * math.hypot(w, d)


def _chair(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 4, PLAIN: 2, IMAGE: 2, STRIPES: 1, NOISE: 1})
    b.say("chair", b.words)
    w, h, leg = 0.55 * size, 0.5 * size, 0.03 * size
    seat = b.material(size) if rng.random() < 0.5 else m
    b.box((0, 0, h), (w, w, 0.07 * size), seat)
    for sx in (-1, 1):
        for sy in (-1, 1):
            b.box((sx * (w / 2 - leg), sy * (w / 2 - leg), h / 2), (2 * leg, 2 * leg, h), m)
    b.box((0, -w / 2 + leg, 1.5 * h), (w, 2 * leg, h), seat if rng.random() < 0.5 else m)
    return 0.45 * size


def _shelf(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 5, PLAIN: 2, NOISE: 1})
    b.say("shelf", b.words)
    w, d, h, t = size * rng.uniform(0.5, 0.9), 0.3 * size, size * rng.uniform(0.8, 1.2), 0.025 * size
    rows = rng.integers(3, 6)
    for sx in (-1, 1):
        b.box((sx * w / 2, 0, h / 2), (t, d, h), m)
    b.box((0, -d / 2, h / 2), (w, t / 2, h), m if rng.random() < 0.7 else b.material(size))
    for row in range(rows):
        z = (row + 0.3) * h / rows
        b.box((0, 0, z), (w, d, t), m)
        x = -0.45 * w
        while x < 0.4 * w and rng.random() < 0.85:  # books
            width, height = w * rng.uniform(0.05, 0.22), h / rows * rng.uniform(0.4, 0.8)
            b.box((x + width / 2, 0.02 * size, z + height / 2 + t / 2), (width * 0.95, 0.7 * d, height), b.material(0.3 * size))
            x += width
    return 0.5 * math.hypot(w, d)


def _cabinet(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={PLANKS: 4, PLAIN: 2, IMAGE: 2, NOISE: 1})
    b.say("cabinet", b.words)
    w, d, h = size * rng.uniform(0.6, 1.2), 0.45 * size, size * rng.uniform(0.5, 1.2)
    b.box((0, 0, h / 2), (w, d, h), m)
    front, doors = b.material(size), rng.integers(1, 4)
    for k in range(doors):
        x = (k + 0.5) / doors * w - w / 2
        b.box((x, d / 2, h / 2), (0.85 * w / doors, 0.03 * size, 0.85 * h), front)
    return 0.5 * math.hypot(w, d)


def _sofa(b: Builder, size: float) -> float:
    rng, m = b.rng, b.material(size, patterns={NOISE: 2, IMAGE: 3, STRIPES: 1, PLAIN: 2, CHECKER: 0.5})
    b.say("sofa", b.words)
    w, d, h = size * rng.uniform(0.9, 1.4), 0.6 * size, 0.28 * size
    b.box((0, 0, h / 2), (w, d, h), m)
    b.box((0, -d / 2 + 0.08 * size, h), (w, 0.16 * size, 2 * h), m)
    for sx in (-1, 1):
        b.box((sx * w / 2, 0, 0.7 * h), (0.14 * size, d, 1.4 * h), m)
    for _ in range(rng.integers(0, 3)):
        b.add(ELLIPSOID, (rng.uniform(-0.35, 0.35) * w, 0, 1.3 * h), (0.16 * size, 0.08 * size, 0.14 * size), b.material(0.3 * size))
    return 0.5 * math.hypot(w, d)


def _bed(b: Builder, size: float) -> float:
    m = b.material(size, patterns={NOISE: 2, IMAGE: 3, STRIPES: 1, CHECKER: 1})
    b.say("bed", b.words)
    w, d, h = 0.9 * size, 1.3 * size, 0.3 * size
    frame = b.material(size, patterns={PLANKS: 3, PLAIN: 1})
    b.box((0, 0, h / 3), (w, d, 2 * h / 3), frame)
    b.box((0, 0, 0.8 * h), (0.95 * w, 0.97 * d, 0.4 * h), m)
    b.box((0, -d / 2, h), (w, 0.05 * size, 2 * h), frame)
    pillow = b.material(0.3 * size, WALLS)
    for sx in (-1, 1):
        b.add(ELLIPSOID, (sx * 0.22 * w, -0.38 * d, 1.1 * h), (0.18 * w, 0.1 * d, 0.2 * h), pillow)
    return 0.5 * math.hypot(w, d)


def _lamp(b: Builder, size: float) -> float:
    m = b.material(size, patterns={PLAIN: 1})
    b.add(CYLINDER, (0, 0, 0.45 * size), (0.02 * size, 0.02 * size, 0.45 * size), m)
    b.add(CYLINDER, (0, 0, 0.02 * size), (0.15 * size, 0.15 * size, 0.02 * size), m)
    shade = b.material(0.3 * size, ("cream", "white", "yellow", "orange"), {PLAIN: 2, STRIPES: 1}, glow=0.9)
    b.say("lamp", b.words)
    b.add(CYLINDER, (0, 0, 0.95 * size), (0.17 * size, 0.17 * size, 0.13 * size), shade)
    return 0.2 * size


def _vase(b: Builder, size: float) -> float:
    m = b.material(size)
    b.say(str(b.rng.choice(["vase", "cup"])), b.words)
    r = 0.5 * size * b.rng.uniform(0.5, 0.9)
    b.add(ELLIPSOID, (0, 0, 0.4 * size), (r, r, 0.42 * size), m)
    b.add(CYLINDER, (0, 0, 0.8 * size), (0.45 * r, 0.45 * r, 0.2 * size), m)
    return 0.4 * size


def _plant(b: Builder, size: float) -> float:
    rng, pot = b.rng, b.material(0.3 * size)
    b.add(CYLINDER, (0, 0, 0.15 * size), (0.16 * size, 0.16 * size, 0.15 * size), pot)
    leaf = b.material(0.5 * size, LEAVES, {NOISE: 3, CELLS: 2, IMAGE: 1, SPECKLE: 2})
    b.say("plant", b.words)
    for _ in range(rng.integers(3, 9)):
        at = rng.normal(0, 0.14, 3) * size + (0, 0, 0.62 * size)
        b.add(ELLIPSOID, at, size * rng.uniform((0.05, 0.05, 0.1), (0.2, 0.1, 0.26)), leaf, random_rotation(rng))
    return 0.3 * size


def _sculpture(b: Builder, size: float) -> float:
    """Up to nine primitives of any shape and turn through each other."""
    rng, spread = b.rng, 0.22 * size
    materials = [b.material(size) for _ in range(rng.integers(1, 5))]
    b.say(str(rng.choice(["sculpture", "toy"])), b.words)
    for _ in range(rng.integers(2, 10)):
        half = size * rng.uniform(0.06, 0.28, 3)
        at = rng.normal(0, 1, 3).clip(-1.5, 1.5) * spread + (0, 0, 0.5 * size)
        at[2] = max(at[2], half.max())
        turn = random_rotation(rng) if rng.random() < 0.7 else None
        b.add(int(rng.integers(3)), at, half, materials[rng.integers(len(materials))], turn)
    return 0.5 * size


def _figure(b: Builder, size: float) -> float:
    """A doll: legs, body, arms, head with eyes, hat or hair."""
    rng, body = b.rng, b.material(0.6 * size)
    b.say("figure", b.words)
    skin, limb, w = b.material(0.3 * size, ("beige", "tan", "brown", "pink", "cream"), {PLAIN: 1, NOISE: 1}), b.material(0.4 * size), 0.16 * size
    b.add(int(rng.integers(3)), (0, 0, 0.45 * size), (w, 0.8 * w, 0.2 * size), body)
    b.add(ELLIPSOID, (0, 0, 0.78 * size), (0.9 * w, 0.9 * w, 0.16 * size), skin)
    b.add(ELLIPSOID, (0, -0.3 * w, 0.84 * size), (w, 0.9 * w, 0.15 * size), b.material(0.3 * size))
    dark = b.material(0.1, ("black", "navy"), {PLAIN: 1})
    for s in (-1, 1):
        b.add(CYLINDER, (s * 0.5 * w, 0, 0.14 * size), (0.35 * w, 0.35 * w, 0.14 * size), limb)
        c, n = math.cos(a := s * rng.uniform(0.2, 1.2)), math.sin(a)
        b.add(CYLINDER, (s * 1.25 * w, 0, 0.48 * size), (0.25 * w, 0.25 * w, 0.15 * size), body if rng.random() < 0.5 else skin,
              np.array([[c, 0, -n], [0, 1, 0], [n, 0, c]]))  # fmt: skip
        b.add(ELLIPSOID, (s * 0.35 * w, 0.8 * w, 0.78 * size), (0.12 * w, 0.12 * w, 0.18 * w), dark)
    b.box((0, 0.15 * w, 0.02 * size), (2.2 * w, 1.8 * w, 0.04 * size), limb)
    return 0.35 * size


def _house(b: Builder, size: float) -> float:
    rng = b.rng
    m = b.material(size, WALLS, {BRICK: 3, PLAIN: 2, NOISE: 1, PLANKS: 1, IMAGE: 3})
    b.say("tower" if (tall := rng.random() < 0.25) else "house", b.words)
    w, d, h = size * rng.uniform(0.6, 1.2), size * rng.uniform(0.6, 1.2), size * (rng.uniform(1.2, 2.5) if tall else rng.uniform(0.4, 0.9))
    roof = b.material(size, ("red", "brown", "grey", "dark"), {BRICK: 2, STRIPES: 1, NOISE: 1, PLANKS: 1})
    b.box((0, 0, h / 2), (w, d, h), [m, m, m, m, roof, roof])
    if not tall and rng.random() < 0.8:  # a gable: a square bar turned by 45 degrees, sunk in the walls
        q = math.sqrt(0.5)
        flat = np.array([[q, 0, -q], [0, 1, 0], [q, 0, q]])
        b.box((0, 0, h - 0.02 * w), (w * q * 1.06, d * 1.06, w * q * 1.06), [roof, roof, m, m, roof, roof], flat)
    pane = b.material(0.2 * size, ("navy", "dark", "silver", "blue"), {PLAIN: 2, IMAGE: 2})
    frame = b.material(0.2 * size, ("white", "brown", "dark"), {PLAIN: 1})
    rows, columns, t = max(1, round(h / (0.38 * size))), int(rng.integers(2, 5)), 0.02 * size
    for side in range(4):
        along, out = (w, d / 2) if side % 2 == 0 else (d, w / 2)
        c, s = [(1, 0), (0, 1), (-1, 0), (0, -1)][side]
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        for row in range(rows):
            for column in range(columns):
                at = ((column + 0.5) / columns - 0.5) * along, -out, (row + 0.55) / rows * h
                size_w, size_h = 0.45 * along / columns, 0.45 * h / rows
                door = row == 0 and column == columns // 2 and side == 0
                b.box(turn @ at, (size_w * 1.2, t, size_h * 1.2), frame, turn)
                b.box(turn @ (at[0], -out - t / 2, at[2]), (size_w, t, size_h), frame if door else pane, turn)
    return 0.55 * math.hypot(w, d)


def _tree(b: Builder, size: float) -> float:
    rng, leaf = b.rng, b.material(0.6 * size, LEAVES, {NOISE: 3, CELLS: 1, SPECKLE: 2, IMAGE: 1})
    b.say("tree", b.words)
    b.add(CYLINDER, (0, 0, 0.25 * size), (0.04 * size, 0.04 * size, 0.27 * size), b.material(0.2 * size, ("brown", "dark", "grey"), {NOISE: 1, PLANKS: 1}))
    for _ in range(rng.integers(1, 7)):
        at = rng.normal(0, 0.13, 3) * size + (0, 0, 0.68 * size)
        b.add(ELLIPSOID, at, size * rng.uniform(0.12, 0.3, 3), leaf, random_rotation(rng))
    return 0.3 * size


def _bush(b: Builder, size: float) -> float:
    rng, rock = b.rng, b.rng.random() < 0.4
    m = b.material(size, STONES if rock else LEAVES, {NOISE: 3, CELLS: 1, SPECKLE: 1, IMAGE: 2})
    b.say("rock" if rock else "bush", b.words)
    for _ in range(rng.integers(1, 4)):
        half = size * rng.uniform(0.15, 0.45, 3)
        b.add(ELLIPSOID, (*rng.normal(0, 0.2, 2) * size, 0.5 * half[2]), half, m)
    return 0.5 * size


def _car(b: Builder, size: float) -> float:
    m = b.material(size, patterns={PLAIN: 4, IMAGE: 1, STRIPES: 0.5})
    b.say("car", b.words)
    tyre, glass = b.material(0.2 * size, ("black", "dark"), {PLAIN: 1}), b.material(0.3 * size, ("navy", "silver"), {PLAIN: 1, IMAGE: 1})
    b.box((0, 0, 0.17 * size), (size, 0.42 * size, 0.18 * size), m)
    b.box((-0.04 * size, 0, 0.32 * size), (0.52 * size, 0.38 * size, 0.14 * size), [glass, glass, glass, glass, m, m])
    lying = np.array([[1, 0, 0], [0, 0, 1.0], [0, -1, 0]])
    for sx in (-0.3, 0.3):
        for sy in (-0.2, 0.2):
            b.add(CYLINDER, (sx * size, sy * size, 0.09 * size), (0.09 * size, 0.09 * size, 0.03 * size), tyre, lying)
    return 0.5 * size


def _fence(b: Builder, size: float) -> float:
    rng = b.rng
    if rng.random() < 0.5:
        m = b.material(size, STONES, {BRICK: 3, CELLS: 1, IMAGE: 2, NOISE: 1})
        b.say("wall", b.words)
        b.box((0, 0, 0.12 * size), (1.5 * size, 0.06 * size, 0.24 * size), m)
    else:
        m = b.material(size, patterns={PLANKS: 2, PLAIN: 1, NOISE: 1})
        b.say("fence", b.words)
        for k in range(9):
            b.box(((k - 4) * 0.17 * size, 0, 0.14 * size), (0.08 * size, 0.03 * size, 0.28 * size), m)
        b.box((0, 0, 0.2 * size), (1.5 * size, 0.02 * size, 0.03 * size), m)
    return 0.3 * size


FURNITURE = (_table, _chair, _shelf, _cabinet, _sofa, _bed, _lamp, _plant, _simple, _simple, _sculpture, _vase)
OUTSIDE = (_house, _house, _tree, _tree, _bush, _bush, _car, _fence, _simple, _sculpture)
SUBJECTS = (_sculpture, _sculpture, _sculpture, _figure, _figure, _chair, _plant, _vase, _simple, _shelf, _table, _car,
            _house, _lamp)  # fmt: skip


# --- cameras ---------------------------------------------------------------------------------------------------------


def look_at(eye: Float[np.ndarray, "v 3"], target: Float[np.ndarray, "v 3"], roll: Float[np.ndarray, " v"], up=(0, 0, 1.0)):
    """c2w [v 4 4] (OpenCV) of cameras at `eye` that look at `target`, turned by `roll` about the viewing axis."""
    forward = (target - eye) / np.linalg.norm(target - eye, axis=1, keepdims=True)
    right = np.cross(forward, np.asarray(up, float))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    c2w = np.tile(np.eye(4), (len(eye), 1, 1))
    c2w[:, :3] = np.stack([c * right + s * down, c * down - s * right, forward, eye], axis=-1)
    return c2w


def _walk(rng: Generator, views: int, eye: np.ndarray, target: np.ndarray, reach: float):
    """Eyes and targets of a hand-held dolly, strafe, arc or scatter that starts at `eye`; `reach` is its length."""
    forward = target - eye
    distance = float(np.linalg.norm(forward))
    side = np.array([-forward[1], forward[0], 0]) / math.hypot(forward[0], forward[1])
    s = np.linspace(0, 1, views)[:, None] if rng.random() < 0.7 else np.linspace(-0.5, 0.5, views)[:, None]
    s = s * rng.choice([-1, 1])
    path = rng.choice(["dolly", "strafe", "arc", "scatter"], p=[0.25, 0.25, 0.3, 0.2])
    lift = s * np.array([0, 0, rng.normal(0, 0.15) * reach])
    if path == "dolly":
        eyes = eye + s * reach * (forward / distance * rng.choice([1, 1, -1]) + rng.normal(0, 0.25) * side) + lift
        targets = np.broadcast_to(target, eyes.shape) + 0.3 * (eyes - eye)
    elif path == "strafe":
        eyes = eye + s * reach * side + lift
        targets = target + (eyes - eye) * rng.uniform(0, 1)  # between "keeps looking there" and "looks straight on"
    elif path == "arc":
        angle = (s * reach / distance * rng.uniform(0.8, 1.4))[:, 0]
        c, n, o = np.cos(angle), np.sin(angle), np.zeros(views)
        turn = np.stack([np.stack([c, -n, o], -1), np.stack([n, c, o], -1), np.stack([o, o, o + 1], -1)], 1)
        eyes = target + turn @ (eye - target) + lift
        targets = np.broadcast_to(target, eyes.shape)
    else:
        eyes = eye + rng.uniform(-0.5, 0.5, (views, 3)) * (reach, reach, 0.3 * reach)
        eyes = eyes[np.argsort(eyes @ side)]
        targets = target + rng.normal(0, 0.08, (views, 3)) * distance
    shake = 0.008 * reach
    return eyes + rng.normal(0, shake, eyes.shape), targets + rng.normal(0, shake, eyes.shape), path == "scatter"


def _hand(rng: Generator, views: int) -> np.ndarray:
    """Roll of a hand-held camera: an offset that most photographers do not have, and a tremble."""
    return rng.normal(0, 0.06) * (rng.random() < 0.4) + rng.normal(0, 0.015, views)


# --- kinds of scenes -------------------------------------------------------------------------------------------------


def propose(kind: str, rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """Draw a scene of one of KINDS with `views` cameras; aspect is height / width, images the size of the library."""
    return {"room": _room, "outdoor": _outdoor, "object": _object, "nadir": _nadir}[kind](rng, views, aspect, images)


def _finish(b: Builder, world: World, c2w, focal: float, caption: str, subject=(0, 0), overlap=0.4) -> Scene:
    rng = b.rng
    exposure, contrast, saturation = 0.2 * math.exp(rng.normal(0, 0.35)), rng.uniform(0.85, 1.2), rng.uniform(0.55, 1)
    return Scene(world, c2w, np.full(len(c2w), focal), exposure, contrast, saturation, subject, overlap, caption)


def _tint(rng: Generator) -> tuple[np.ndarray, str]:
    """Colour of a light and the word for it."""
    name = str(rng.choice(["warm", "cool", "soft"], p=[0.4, 0.2, 0.4]))
    k = rng.uniform(0.1, 0.3)
    colour = {"warm": (1 + k, 1, 1 - k), "cool": (1 - k, 1, 1 + 0.7 * k), "soft": (1, 1, 1)}[name]
    return np.array(colour), name


def _scatter(b: Builder, things, count: int, low, high, sizes, taken: list, blocked=()) -> None:
    """Place `count` things on the ground between the corners low and high, apart from each other."""
    rng = b.rng
    for _ in range(count):
        size = math.exp(rng.uniform(math.log(sizes[0]), math.log(sizes[1])))
        for _ in range(6):
            x, y = rng.uniform(np.add(low, 0.4 * size), np.subtract(high, 0.4 * size))
            if all(math.hypot(x - tx, y - ty) > 0.45 * size + tr for tx, ty, tr in taken):
                yaw = rng.choice([0, 0.5, 1, 1.5]) * math.pi if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi)
                b.place(x, y, 0, yaw)
                taken.append((x, y, things[rng.integers(len(things))](b, size)))
                break


def _room_shell(b: Builder, w: float, d: float, h: float) -> tuple[str, str]:
    """Room box from (0, 0, 0) to (w, d, h), things on its walls; the words for floor and walls."""
    rng = b.rng
    b.place(0, 0)
    walls = {PLAIN: 3, NOISE: 2, BRICK: 1.5, STRIPES: 1, IMAGE: 3, CHECKER: 0.3, PLANKS: 1, CELLS: 0.5}
    first = b.material(min(w, h) * 0.8, WALLS, walls)
    wall_words = b.words
    faces = [first if rng.random() < 0.6 else b.material(min(w, h) * 0.8, WALLS, walls) for _ in range(4)]
    ceiling = b.material(2.0, ("white", "cream", "grey", "beige"), {PLAIN: 4, PLANKS: 1, NOISE: 1, CHECKER: 0.5})
    floor = b.material(min(w, d) * 0.9, patterns={PLANKS: 5, CHECKER: 1.5, CELLS: 1.5, NOISE: 1, IMAGE: 2, SPECKLE: 1, BRICK: 1}, photos=0.15)
    floor_words = b.words
    b.box((w / 2, d / 2, h / 2), (w, d, h), [*faces, floor, ceiling])
    for side in range(4):
        length, depth = (w, d) if side % 2 == 0 else (d, w)
        x, y = [(w / 2, 0), (w, d / 2), (w / 2, d), (0, d / 2)][side]
        b.place(x, y, 0, side * math.pi / 2)
        at = -length / 2 + rng.uniform(0.2, 0.8)
        while at < length / 2 - 0.8 and rng.random() < 0.85:
            width = rng.uniform(0.4, 1.6)
            noun = str(rng.choice(["picture", "window", "door", "panel"], p=[0.5, 0.22, 0.13, 0.15]))
            z, height = rng.uniform(1.2, 1.8), rng.uniform(0.4, 1.2)
            if noun == "door":
                width, height, z = 0.9, 2.1, 1.05
            frame = b.material(0.5, ("white", "brown", "dark", "golden", "grey"), {PLAIN: 2, PLANKS: 1})
            glow = rng.uniform(0.5, 2.0) if noun == "window" else 0.0
            pattern = {"picture": {IMAGE: 6, STRIPES: 0.5, NOISE: 0.5, CELLS: 0.5}, "window": {IMAGE: 3, PLAIN: 1},
                       "door": {PLANKS: 2, PLAIN: 1}, "panel": None}[noun]  # fmt: skip
            inner = b.material(min(width, height), patterns=pattern, glow=glow)
            if noun != "panel":
                b.say(noun)
            mid = at + width / 2
            b.box((mid, 0.02, z), (width, 0.06, height), frame)
            b.box((mid, 0.04, z), (width - 0.1, 0.06, height - 0.1), inner)
            if noun == "window" and rng.random() < 0.6:
                b.box((mid, 0.06, z), (0.05, 0.05, height), frame)
            at += width + rng.uniform(0.1, 1.2)
    return floor_words, wall_words


def _room(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    b = Builder(rng, images)
    w, d, h = rng.uniform(2.8, 8), rng.uniform(2.8, 8), rng.uniform(2.3, 3.6)
    floor, walls = _room_shell(b, w, d, h)
    if rng.random() < 0.35:
        b.place(w * rng.uniform(0.35, 0.65), d * rng.uniform(0.35, 0.65))
        m = b.material(1.5, patterns={IMAGE: 3, STRIPES: 1, CELLS: 1, NOISE: 1})
        b.say("rug", b.words)
        b.box((0, 0, 0.01), (rng.uniform(1, 0.5 * w + 1), rng.uniform(1, 0.5 * d + 1), 0.02), m)
    taken: list = []
    _scatter(b, FURNITURE, int(rng.integers(4, 11)), (0, 0), (w, d), (0.5, 1.6), taken)
    for _ in range(rng.integers(0, 3)):  # beams and hanging lamps
        b.place(rng.uniform(0, w), rng.uniform(0, d), 0, rng.choice([0, 0.5]) * math.pi)
        if rng.random() < 0.5:
            b.box((0, 0, h - 0.1), (9, rng.uniform(0.1, 0.3), 0.2), b.material(1.0, WOODS, {PLANKS: 2, PLAIN: 1}))
        else:
            b.add(ELLIPSOID, (0, 0, h - 0.4), (0.2, 0.2, 0.15), b.material(0.4, ("white", "cream", "yellow"), {PLAIN: 1}, 1.5))
    tint, word = _tint(rng)
    shadow = rng.random() < 0.6
    for _ in range(rng.integers(1, 3)):
        at = (rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * d, h * rng.uniform(0.7, 0.95))
        b.lights.append([*at, rng.uniform(1.5, 4), *(tint * rng.uniform(0.3, 1.0)), shadow])
    up = rng.uniform(0.15, 0.5) * (0.5 + 0.5 * tint)
    world = b.world([up, up * rng.uniform(0.6, 1.0)], np.full((3, 3), 0.5))

    inner = np.array([w, d])
    eye = np.array([*(rng.uniform(0.08, 0.92, 2) * inner), rng.uniform(0.8, min(2.0, h - 0.3))])
    x, y, _ = taken[rng.integers(len(taken))] if taken and rng.random() < 0.75 else (w / 2, d / 2, 0)
    target = np.array([x, y, rng.uniform(0.2, 1.5)])
    distance = float(np.linalg.norm(target - eye)) + 0.3
    eyes, targets, scattered = _walk(rng, views, eye, target, distance * rng.uniform(0.2, 0.8))
    focal = math.exp(rng.uniform(math.log(0.8), math.log(1.6)))
    c2w = look_at(eyes, targets, _hand(rng, views))
    size = "large " if w * d > 38 else ("small " if w * d < 14 else "")
    things = b.sentence(4)
    caption = f"a {size}room" + (f" with {things}" if things else "") + f", {floor} floor, {walls} walls, {word} light"
    return _finish(b, world, c2w, focal, caption, overlap=0.3 if scattered else 0.4)


def _sun(b: Builder, low: float = 0.25) -> tuple[np.ndarray, str]:
    """Add a sun; returns the ambient light and the words."""
    rng = b.rng
    evening = rng.random() < 0.25
    height = rng.uniform(0.1, 0.4) if evening else rng.uniform(low, 1.4)
    azimuth = rng.uniform(0, 2 * math.pi)
    cloudy = rng.random() < 0.3
    strength = rng.uniform(0.1, 0.5) if cloudy else rng.uniform(0.8, 1.8)
    colour = np.array((1.15, 0.9, 0.65) if evening else (1.05, 1.0, 0.92)) * strength
    direction = (math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height))
    b.lights.append([*direction, 0, *colour, not cloudy and rng.random() < 0.75])
    ambient = np.array([0.36, 0.42, 0.5]) * rng.uniform(0.6, 1.3) * (1.8 if cloudy else 1.0)
    return ambient, "soft light" if cloudy else ("evening light" if evening else "bright sun")


def _sky(rng: Generator, words: str) -> tuple[np.ndarray, float, str]:
    """Sky colours, cloud cover and its word, to go with the sun."""
    horizon = np.array([0.75, 0.80, 0.85]) * rng.uniform(0.8, 1.3)
    zenith = np.array([0.22, 0.38, 0.68]) * rng.uniform(0.7, 1.3)
    if words == "evening light":
        horizon = np.array([0.95, 0.62, 0.40]) * rng.uniform(0.6, 1.1)
    if words == "soft light":
        zenith = horizon * rng.uniform(0.6, 1.0)
    clouds = rng.uniform(0.4, 1) if rng.random() < 0.55 else 0.0
    return np.stack([horizon, zenith, np.full(3, rng.uniform(0.8, 1.2))]), clouds, "cloudy" if clouds else "clear"


def _ground(b: Builder, period: float) -> str:
    m = b.material(period, EARTHS, {NOISE: 4, IMAGE: 3, CELLS: 1.5, SPECKLE: 1, BRICK: 0.7, CHECKER: 0.3}, photos=0.1)
    b.place(0, 0)
    b.box((0, 0, -1), (1200, 1200, 2), m)
    return b.words


def _outdoor(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    b = Builder(rng, images)
    floor = _ground(b, rng.uniform(2, 10))
    reach = rng.uniform(8, 22)
    taken: list = []
    if street := rng.random() < 0.45:  # houses along both sides of a road
        b.place(0, 0)
        b.box((0, 0, 0.01), (8 * reach, rng.uniform(3, 6), 0.04), b.material(5, STONES, {NOISE: 2, BRICK: 2, IMAGE: 2, CELLS: 1}))
        for side in (-1, 1):
            x = -1.5 * reach
            while x < 1.8 * reach:
                size = rng.uniform(4, 7)
                b.place(x, side * rng.uniform(6.5, 8), 0, 0 if side > 0 else math.pi)
                [_house, _house, _house, _tree][rng.integers(4)](b, size)
                x += size * rng.uniform(1.0, 1.5)
        _scatter(b, (_tree, _bush, _car, _car, _simple, _fence), int(rng.integers(5, 10)), (-reach, -4), (reach, 4), (1.2, 3.5), taken)
    else:
        _scatter(b, OUTSIDE, int(rng.integers(8, 18)), (-reach, -reach), (reach, reach), (1.2, 6), taken)
    for _ in range(rng.integers(0, 7)):  # far hills and towers
        a, far = rng.uniform(0, 2 * math.pi), rng.uniform(4, 12) * reach
        b.place(far * math.cos(a), far * math.sin(a), 0, a)
        if rng.random() < 0.6:
            m = b.material(0.5 * far, (*EARTHS, *LEAVES), {NOISE: 3, IMAGE: 1, SPECKLE: 1})
            b.say("hill", b.words)
            b.add(ELLIPSOID, (0, 0, 0), far * rng.uniform((0.1, 0.3, 0.05), (0.3, 0.8, 0.2)), m)
        else:
            m = b.material(0.2 * far, STONES, {BRICK: 1, STRIPES: 1, IMAGE: 2})
            b.box((0, 0, 0.1 * far), far * rng.uniform(0.06, 0.25, 3) * (1, 1, 2), m)
    ambient, light = _sun(b)
    sky, clouds, cover = _sky(rng, light)
    haze = rng.uniform(0.2, 1) / (12 * reach) if rng.random() < 0.5 else 0.0
    world = b.world([ambient, ambient * (0.5, 0.45, 0.4)], sky, clouds, haze)

    eye = np.array([*rng.uniform(-0.8, 0.8, 2) * reach, rng.uniform(1.2, 2.2) if rng.random() < 0.7 else rng.uniform(2, 9)])
    x, y, _ = taken[rng.integers(len(taken))] if taken else (0, 0, 0)
    if street:
        eye[1] = rng.uniform(-2.5, 2.5)
        x, y = eye[0] + rng.choice([-1, 1]) * rng.uniform(6, 14), rng.uniform(-6, 6)
    target = np.array([x, y, rng.uniform(0.5, 2.5)])
    distance = float(np.linalg.norm(target - eye)) + 1
    eyes, targets, scattered = _walk(rng, views, eye, target, distance * rng.uniform(0.2, 0.9))
    focal = math.exp(rng.uniform(math.log(0.8), math.log(1.6)))
    c2w = look_at(eyes, targets, _hand(rng, views))
    place = "street" if street else str(rng.choice(["garden", "field"]))
    caption = f"a {place} with {b.sentence(4) or 'a tree'}, {floor} ground, {cover} sky, {light}"
    return _finish(b, world, c2w, focal, caption, overlap=0.3 if scattered else 0.4)


def _object(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    b = Builder(rng, images)
    size = 1.0
    focal = math.exp(rng.uniform(math.log(0.8), math.log(3.0)))
    fill = rng.uniform(0.5, 1.05)
    distance = max(0.6 * size * focal / (fill * aspect / 2), 1.1)
    step = math.radians(rng.uniform(10, 30)) * rng.choice([-1, 1])
    elevation = rng.uniform(0.1, 0.95) + np.linspace(0, 1, views) * rng.normal(0, 0.15)
    elevation = elevation.clip(0.06, 1.2) + rng.normal(0, 0.015, views)
    azimuth = rng.uniform(0, 2 * math.pi) + np.arange(views) * step + rng.normal(0, 0.02, views)
    eyes = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1)
    eyes = eyes * (distance * (1 + rng.normal(0, 0.03, (views, 1)))) + (0, 0, 0.42 * size)
    targets = np.array([0, 0, 0.42 * size]) + rng.normal(0, 0.025, (views, 3)) + rng.normal(0, 0.05, 3)

    backdrop = str(rng.choice(["room", "table", "plain", "outside"], p=[0.3, 0.3, 0.25, 0.15]))
    sky, clouds = np.stack([_linear(_palette_colour(rng)) * rng.uniform(0.5, 1.2) for _ in range(3)]), 0.0
    tint, light = _tint(rng)
    light += " light"
    ambient = tint * rng.uniform(0.3, 0.6)
    high = float(eyes[:, 2].max())
    if backdrop == "room":
        w, d, h = *(2 * distance * rng.uniform(1.1, 1.8, 2)), max(high + 0.3, distance * rng.uniform(1.0, 1.6))
        floor, _ = _room_shell(b, w, d, h)
        b.primitives = [(k, c - (w / 2, d / 2, 0), *rest) for k, c, *rest in b.primitives]
        surface = f"{floor} floor"
    elif backdrop == "plain":
        tone = b.material(2.0, ("white", "white", "grey", "cream", "blue", "black", "green"), {PLAIN: 1})
        b.place(0, 0)
        b.box((0, 0, 10 * distance), (24 * distance, 24 * distance, 20 * distance), tone)
        surface = f"{b.words} backdrop"
    else:
        surface = f"{_ground(b, rng.uniform(0.6, 4))} ground"
        if backdrop == "outside":
            ambient, light = _sun(b, 0.5)
            sky, clouds, _ = _sky(rng, light)
    if backdrop == "table":
        m = b.material(rng.uniform(0.7, 3), patterns={PLANKS: 4, IMAGE: 3, CHECKER: 1, NOISE: 1, CELLS: 0.5, STRIPES: 1})
        b.place(0, 0, -1, rng.uniform(0, 6))
        b.add(int(rng.choice([BOX, CYLINDER])), (0, 0, 0.97), (rng.uniform(0.8, 1.6), rng.uniform(0.8, 1.6), 0.03), m)
        b.primitives[0] = (b.primitives[0][0], b.primitives[0][1] - (0, 0, 1), *b.primitives[0][2:])
        surface = f"{b.words} table"
    b.things = {}
    first = len(b.primitives)
    b.place(0, 0, 0, rng.uniform(0, 2 * math.pi))
    SUBJECTS[rng.integers(len(SUBJECTS))](b, size)
    subject = (first, len(b.primitives))
    noun = b.sentence(2)
    ring = 0.6 * distance
    for _ in range(rng.integers(0, 6)):  # smaller things around it, which stay below the cameras
        a, r = rng.uniform(0, 2 * math.pi), rng.uniform(0.6, max(0.7, min(ring, 1.0)))
        b.place(r * math.cos(a), r * math.sin(a), 0, rng.uniform(0, 6))
        (_simple, _vase, _sculpture, _plant)[rng.integers(4)](b, rng.uniform(0.12, 0.35))
    if backdrop != "outside":
        shadow = rng.random() < 0.65
        for _ in range(rng.integers(1, 3)):
            a, r = rng.uniform(0, 2 * math.pi), rng.uniform(0.4, 1.0) * distance
            at = (r * math.cos(a), r * math.sin(a), rng.uniform(1.2, 2.5) * size)
            b.lights.append([*at, rng.uniform(1.5, 3) * size, *(tint * rng.uniform(0.4, 1.0)), shadow])
    world = b.world([ambient, ambient * rng.uniform(0.6, 0.9)], sky, clouds)
    caption = f"{noun} on {'an' if surface[0] in 'aeiou' else 'a'} {surface}, {light}"
    c2w = look_at(eyes, targets, _hand(rng, views))
    return _finish(b, world, c2w, focal, caption, subject, overlap=0.25)


def _nadir(rng: Generator, views: int, aspect: float, images: int) -> Scene:
    b = Builder(rng, images)
    height = rng.uniform(10, 40)
    focal = math.exp(rng.uniform(math.log(0.8), math.log(1.6)))
    width = height / focal  # metres that a view shows
    ground = _ground(b, width * rng.uniform(0.3, 1.5))
    overlap = rng.uniform(0.6, 0.88)
    rows = int(rng.choice([1, 2])) if views % 2 == 0 else 1
    k = np.arange(views)
    column, row = k % (views // rows), k // (views // rows)
    column = np.where(row % 2 == 1, views // rows - 1 - column, column)  # as a drone flies
    extent = np.array([views // rows * (1 - overlap) + overlap, (rows - 1) * (1 - overlap) + 1]) * width
    step = np.stack([column - (views // rows - 1) / 2, (row - (rows - 1) / 2)], -1) * (1 - overlap)
    at = step * (aspect * width, width) if rng.random() < 0.5 else step * (width, aspect * width)
    yaw = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])

    half = 0.5 * float(np.hypot(*extent)) + 0.3 * width
    taken: list = []
    style = rng.choice(["town", "nature", "mixed"])
    for _ in range(rng.integers(20, 70)):  # low bumps make the relief
        r = width * rng.uniform(0.05, 0.35)
        b.place(*rng.uniform(-half, half, 2), 0, rng.uniform(0, 6))
        m = b.material(r * 2, EARTHS, {NOISE: 4, IMAGE: 2, CELLS: 1, SPECKLE: 1}) if rng.random() < 0.5 or not taken else m
        taken.append((*b.origin[:2], 0.3 * r))
        b.add(ELLIPSOID, (0, 0, 0), (r, r * rng.uniform(0.4, 1), height * rng.uniform(0.01, 0.12)), m)
    things = {"town": (_house, _house, _car, _tree), "nature": (_tree, _bush, _bush), "mixed": OUTSIDE}[str(style)]
    _scatter(b, things, int(rng.integers(6, 22)), (-half, -half), (half, half), (0.08 * width, 0.3 * width), taken=[])
    if rng.random() < 0.5:
        b.place(0, 0, 0, rng.uniform(0, 6))
        b.box((rng.uniform(-0.3, 0.3) * width, 0, 0), (0.12 * width, 8 * half, 0.1), b.material(0.2 * width, STONES))
    ambient, light = _sun(b, 0.4)
    sky, _, _ = _sky(rng, light)
    world = b.world([ambient, ambient * 0.5], sky)
    eyes = np.concatenate([at @ turn.T, np.full((views, 1), height)], -1) + rng.normal(0, 0.012 * height, (views, 3))
    tilt = rng.normal(0, 0.03, (views, 2)) + rng.normal(0, 0.12 if rng.random() < 0.4 else 0.02, 2)
    targets = eyes + np.concatenate([tilt, -np.ones((views, 1))], -1) * height
    c2w = look_at(eyes, targets, rng.normal(0, 0.03, views), up=(*turn[:, 1], 0.0))
    caption = f"aerial view of a field with {b.sentence(4)}, {ground} ground, {light}"
    return _finish(b, world, c2w, focal, caption, overlap=0.4)
