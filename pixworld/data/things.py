"""What procedural scenes are made of: primitives, materials, and furniture, houses, plants and figures built of them.

World axes: z up, metres. `Builder` collects the pieces and their names; a thing is a function of a builder and a size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

BOX, ELLIPSOID, CYLINDER = range(3)
PLAIN, CHECKER, STRIPES, NOISE, CELLS, SPECKLE, BRICK, PLANKS, IMAGE = range(9)
SYNTHETIC = 48  # texture images that are computed; those of a folder follow them
TEXTURE_SIZE = 256  # pixels a side of every texture image

# sRGB. Muted on purpose: the colours of walls, wood, cloth and stone rather than of a paint box.
COLOURS = {
    "white": (0.90, 0.89, 0.86), "grey": (0.55, 0.55, 0.54), "dark": (0.22, 0.21, 0.21), "black": (0.12, 0.12, 0.13),
    "red": (0.68, 0.22, 0.18), "orange": (0.82, 0.48, 0.22), "yellow": (0.85, 0.74, 0.36), "green": (0.35, 0.52, 0.28),
    "blue": (0.27, 0.40, 0.62), "purple": (0.46, 0.34, 0.53), "pink": (0.82, 0.58, 0.58), "brown": (0.46, 0.32, 0.21),
    "beige": (0.80, 0.72, 0.58), "cream": (0.91, 0.86, 0.74), "teal": (0.25, 0.50, 0.50), "tan": (0.68, 0.55, 0.40),
    "olive": (0.46, 0.46, 0.26), "navy": (0.17, 0.22, 0.36), "golden": (0.76, 0.60, 0.28), "silver": (0.70, 0.71, 0.73),
}  # fmt: skip
WOODS, STONES = (
    ("brown", "tan", "beige", "golden", "dark", "orange"),
    ("grey", "beige", "tan", "dark", "white", "brown"),
)
LEAVES, EARTHS = ("green", "olive", "green", "golden", "orange"), ("tan", "brown", "olive", "grey", "green", "beige")
WALLS = ("white", "cream", "beige", "grey", "blue", "green", "yellow", "pink", "teal", "tan", "red")
# the word for each pattern
ADJECTIVES = ("plain", "checkered", "striped", "mottled", "tiled", "speckled", "brick", "wooden", "patterned")
NUMBERS = ("", "", "two", "three", "four", "five", "six", "many")
NOUNS = {  # singular: plural
    "box": "boxes", "ball": "balls", "pillar": "pillars", "table": "tables", "chair": "chairs", "shelf": "shelves",
    "sofa": "sofas", "bed": "beds", "lamp": "lamps", "stack": "stacks", "vase": "vases", "cabinet": "cabinets",
    "plant": "plants", "picture": "pictures", "window": "windows", "door": "doors", "rug": "rugs", "house": "houses",
    "tree": "trees", "bush": "bushes", "rock": "rocks", "car": "cars", "fence": "fences", "wall": "walls",
    "tower": "towers", "hill": "hills", "figure": "figures", "toy": "toys", "egg": "eggs", "can": "cans", "cup": "cups",
    "sculpture": "sculptures",
}  # fmt: skip


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


def palette_colour(rng: Generator) -> np.ndarray:
    return np.array(list(COLOURS.values())[rng.integers(len(COLOURS))])


def linear(srgb: np.ndarray) -> np.ndarray:
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

    def material(
        self,
        size: float,
        colours=tuple(COLOURS),
        patterns: dict[int, float] | None = None,
        glow=0.0,
        photos: float = 0.5,
    ) -> int:
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
            second = palette_colour(rng) + rng.normal(0, 0.03, 3)
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
        colours = linear(np.stack([base, second, joint]))
        self.materials.append(
            (
                pattern,
                colours,
                size / repeats,
                turn,
                rng.uniform(-50, 50, 2),
                rng.integers(1 << 20),
                image,
                grain,
                shine,
                glow,
            )
        )
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
            number = article if count == 1 else NUMBERS[min(count, 7)]
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
            at = (x + width / 2, 0.02 * size, z + height / 2 + t / 2)
            b.box(at, (width * 0.95, 0.7 * d, height), b.material(0.3 * size))
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
        at, half = (rng.uniform(-0.35, 0.35) * w, 0, 1.3 * h), size * np.array([0.16, 0.08, 0.14])
        b.add(ELLIPSOID, at, half, b.material(0.3 * size))
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
    skin = b.material(0.3 * size, ("beige", "tan", "brown", "pink", "cream"), {PLAIN: 1, NOISE: 1})
    limb, w = b.material(0.4 * size), 0.16 * size
    b.add(int(rng.integers(3)), (0, 0, 0.45 * size), (w, 0.8 * w, 0.2 * size), body)
    b.add(ELLIPSOID, (0, 0, 0.78 * size), (0.9 * w, 0.9 * w, 0.16 * size), skin)
    b.add(ELLIPSOID, (0, -0.3 * w, 0.84 * size), (w, 0.9 * w, 0.15 * size), b.material(0.3 * size))
    dark = b.material(0.1, ("black", "navy"), {PLAIN: 1})
    for s in (-1, 1):
        b.add(CYLINDER, (s * 0.5 * w, 0, 0.14 * size), (0.35 * w, 0.35 * w, 0.14 * size), limb)
        c, n = math.cos(a := s * rng.uniform(0.2, 1.2)), math.sin(a)
        sleeve = body if rng.random() < 0.5 else skin
        outward = np.array([[c, 0, -n], [0, 1, 0], [n, 0, c]])
        b.add(CYLINDER, (s * 1.25 * w, 0, 0.48 * size), (0.25 * w, 0.25 * w, 0.15 * size), sleeve, outward)
        b.add(ELLIPSOID, (s * 0.35 * w, 0.8 * w, 0.78 * size), (0.12 * w, 0.12 * w, 0.18 * w), dark)
    b.box((0, 0.15 * w, 0.02 * size), (2.2 * w, 1.8 * w, 0.04 * size), limb)
    return 0.35 * size


def _house(b: Builder, size: float) -> float:
    rng = b.rng
    m = b.material(size, WALLS, {BRICK: 3, PLAIN: 2, NOISE: 1, PLANKS: 1, IMAGE: 3})
    b.say("tower" if (tall := rng.random() < 0.25) else "house", b.words)
    w, d = size * rng.uniform(0.6, 1.2), size * rng.uniform(0.6, 1.2)
    h = size * (rng.uniform(1.2, 2.5) if tall else rng.uniform(0.4, 0.9))
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
    bark = b.material(0.2 * size, ("brown", "dark", "grey"), {NOISE: 1, PLANKS: 1})
    b.add(CYLINDER, (0, 0, 0.25 * size), (0.04 * size, 0.04 * size, 0.27 * size), bark)
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
    tyre = b.material(0.2 * size, ("black", "dark"), {PLAIN: 1})
    glass = b.material(0.3 * size, ("navy", "silver"), {PLAIN: 1, IMAGE: 1})
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


# what stands where; a thing named twice is twice as likely
FURNITURE = (_table, _chair, _shelf, _cabinet, _sofa, _bed, _lamp, _plant, _simple, _simple, _sculpture, _vase)
OUTSIDE = (_house, _house, _tree, _tree, _bush, _bush, _car, _fence, _simple, _sculpture)
BESIDE_A_ROAD = (_house, _house, _house, _tree)
ON_A_ROAD = (_tree, _bush, _car, _car, _simple, _fence)
TOWN, NATURE = (_house, _house, _car, _tree), (_tree, _bush, _bush)
TRINKETS = (_simple, _vase, _sculpture, _plant)
SUBJECTS = (_sculpture, _sculpture, _sculpture, _figure, _figure, _chair, _plant, _vase, _simple, _shelf, _table, _car,
            _house, _lamp)  # fmt: skip
