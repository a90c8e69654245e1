"""`Builder` collects the primitives, materials, lights and names of a scene. A thing is a function of a builder and a
size, which stands on z = 0 of the builder's current frame and returns the radius of its footprint."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from pixworld.data.world import (
    BOX,
    BRICK,
    CELLS,
    CHECKER,
    CYLINDER,
    ELLIPSOID,
    IMAGE,
    NOISE,
    PLAIN,
    PLANKS,
    SPECKLE,
    STRIPES,
    SYNTHETIC,
    Scene,
    World,
    linear,
)

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
METALS = ("silver", "grey", "dark", "black", "golden", "white")
PALETTE = np.array(list(COLOURS.values()))
LAMPS = 3  # bulbs and suns of a scene: each costs shadow rays
PATTERNS = {PLAIN: 2, CHECKER: 1, STRIPES: 1, NOISE: 2, CELLS: 1, SPECKLE: 1, BRICK: 0.5, PLANKS: 2, IMAGE: 6}
# the word for each pattern
ADJECTIVES = ("plain", "checkered", "striped", "mottled", "tiled", "speckled", "brick", "wooden", "patterned")
NUMBERS = ("", "", "two", "three", "four", "five", "six", "many")
NOUNS = {  # singular: plural
    "box": "boxes", "ball": "balls", "pillar": "pillars", "table": "tables", "chair": "chairs", "shelf": "shelves",
    "sofa": "sofas", "bed": "beds", "lamp": "lamps", "stack": "stacks", "vase": "vases", "cabinet": "cabinets",
    "plant": "plants", "picture": "pictures", "window": "windows", "door": "doors", "rug": "rugs", "house": "houses",
    "tree": "trees", "bush": "bushes", "rock": "rocks", "car": "cars", "fence": "fences", "wall": "walls",
    "tower": "towers", "hill": "hills", "figure": "figures", "toy": "toys", "egg": "eggs", "can": "cans", "cup": "cups",
    "sculpture": "sculptures", "stool": "stools", "bench": "benches", "ladder": "ladders", "rack": "racks",
    "screen": "screens", "mirror": "mirrors", "curtain": "curtains", "frame": "frames", "staircase": "staircases",
    "fruit": "fruits", "book": "books", "bottle": "bottles", "post": "posts", "arch": "arches",
}  # fmt: skip


class Builder:
    """Collects primitives, materials, lights and words. Furniture is built in a frame set by `place`.

    `images` is the size of the texture library, `polished` the share of materials that mirror.
    """

    def __init__(self, rng: Generator, images: int):
        self.rng, self.images = rng, images
        self.polished = rng.uniform(0.08, 0.25) if rng.random() < 0.2 else 0.015
        self.rough = rng.uniform(0.15, 0.9)  # how much grain the surfaces of this scene have
        self.primitives: list[tuple] = []
        self.materials: list[tuple] = []
        self.lights: list[list[float]] = []
        self.things: dict[str, int] = {}  # "red checkered box" -> count
        self.origin, self.frame = np.zeros(3), np.eye(3)

    def place(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> None:
        """Put the frame's origin at x y z, its x axis turned by `yaw`."""
        self.origin, self.frame = np.array([x, y, z]), turned(yaw)

    def say(self, noun: str, words: str = "") -> None:
        thing = f"{words} {noun}".strip()
        self.things[thing] = self.things.get(thing, 0) + 1

    def material(
        self,
        size: float,
        colours=tuple(COLOURS),
        patterns: dict[int, float] | None = None,
        glow=0.0,
        photos: float = 0.65,
        mirror: float | None = None,
    ) -> int:
        """A random material for a surface of about `size`; `self.words` says what it is. `photos` is the share of
        pictures that come from the texture folder rather than being synthetic."""
        rng = self.rng
        pattern = weighted(rng, patterns or PATTERNS)
        if pattern == PLANKS and rng.random() < 0.8:
            colours = WOODS
        name = colours[rng.integers(len(colours))]
        base = np.array(COLOURS[name]) * rng.uniform(0.8, 1.15) + rng.normal(0, 0.03, 3)
        if pattern in (CHECKER, STRIPES, SPECKLE) and rng.random() < 0.6:
            second = palette_colour(rng) + rng.normal(0, 0.03, 3)
        else:  # another shade of the same paint
            second = base * (0.5, 0.65, 0.8, 1.3)[rng.integers(4)] + rng.normal(0, 0.04, 3)
        joint = base * 0.35 if rng.random() < 0.6 else 0.5 * base + 0.4
        repeats = math.exp(rng.uniform(math.log(1.5), math.log(9)))
        image = 0
        if pattern == IMAGE:  # one picture, or a part of it, over most of the surface
            photo = self.images > SYNTHETIC and rng.random() < photos
            repeats = rng.uniform(0.3, 1.2) if photo else rng.uniform(0.5, 2.0)
            image = rng.integers(SYNTHETIC, self.images) if photo else rng.integers(SYNTHETIC)
            base = 1 - rng.uniform(0, 0.6) * (1 - base / base.max())  # a tint
        turn = rng.normal(0, 0.02)
        if pattern != IMAGE and rng.random() < 0.4:
            turn += (0.5, 0.25, rng.uniform(0, 1))[rng.integers(3)] * math.pi
        polish = math.exp(rng.uniform(math.log(8), math.log(150)))
        shine = rng.uniform(0.05, 0.5) * math.sqrt(polish / 24) if rng.random() < 0.4 else 0.0
        if mirror is None:
            metal = rng.random() < 0.35
            mirror = rng.uniform(0.3, 0.7) if metal else rng.uniform(0.03, 0.15)
            mirror *= rng.random() < self.polished and not glow
        grain = self.rough * (rng.uniform(0.5, 1.4) if pattern == PLAIN else rng.uniform(0.2, 1))
        self.materials.append(
            (
                pattern,
                (base, second, joint),
                size / repeats,
                turn,
                rng.uniform(-50, 50, 2),
                rng.integers(1 << 20),
                image,
                grain,
                shine,
                polish,
                mirror,
                glow,
            )
        )
        adjective = "" if pattern == PLAIN else ADJECTIVES[pattern]
        self.words = adjective if pattern in (PLANKS, IMAGE) else f"{name} {adjective}".strip()
        return len(self.materials) - 1

    def add(
        self, kind: int, centre, half, material, turn: Float[np.ndarray, "3 3"] | None = None, anchor=(0.0, 0, 0)
    ) -> None:
        """A primitive in the current frame; material is one index or six, turn a rotation inside the frame."""
        rotation = self.frame if turn is None else self.frame @ turn
        half = np.asarray(half, float)
        surface = [material] * 6 if isinstance(material, int) else list(material)
        centre = self.origin + self.frame @ np.asarray(centre, float)
        self.primitives.append((kind, centre, half, rotation, np.asarray(anchor, float), surface))

    def box(self, centre, size, material, turn=None, anchor=(0.0, 0, 0)) -> None:
        self.add(BOX, centre, np.asarray(size, float) / 2, material, turn, anchor)

    def stick(self, start, end, radius: float, material) -> None:
        """A thin cylinder between two points of the current frame."""
        low, high = sorted((tuple(start), tuple(end)), key=lambda point: point[2])
        length = math.dist(low, high)
        x, y, z = ((high[axis] - low[axis]) / length for axis in range(3))
        a, b, c = 1 - x * x / (1 + z), -x * y / (1 + z), 1 - y * y / (1 + z)
        turn = np.array([[a, b, x], [b, c, y], [-x, -y, z]])  # the shortest turn of the z axis; z >= 0
        middle = [(low[axis] + high[axis]) / 2 for axis in range(3)]
        self.add(CYLINDER, middle, (radius, radius, length / 2), material, turn)

    def lamp(self, at, reach: float, colour, shadow: bool) -> None:
        """A bulb at a point of the current frame, whose light has halved at 0.55 `reach`; LAMPS of them at most."""
        if len(self.lights) < LAMPS:
            self.lights.append([*(self.origin + self.frame @ np.asarray(at, float)), reach, *colour, shadow])

    def world(self, ambient, sky, clouds: float = 0.0, haze: float = 0.0) -> World:
        kind, centre, half, rotation, anchor, surface = (np.stack(x) for x in zip(*self.primitives))
        inverse = np.swapaxes(rotation, 1, 2) / half[:, :, None]
        flat = np.where(kind == CYLINDER, half[:, :2].max(1), np.hypot(half[:, 0], half[:, 1]))
        radius = np.where(kind == ELLIPSOID, half.max(1), np.hypot(flat, half[:, 2]))
        pattern, colours, period, turn, shift, seed, image, *reals = (np.stack(x) for x in zip(*self.materials))
        return World(
            kind.astype(np.int64), centre, half, inverse, radius, anchor, surface.astype(np.int64),
            pattern.astype(np.int64), linear(colours), period.astype(float), turn.astype(float), shift,
            seed.astype(np.int64), image.astype(np.int64), *(x.astype(float) for x in reals),
            np.array(self.lights, float).reshape(-1, 8), np.asarray(ambient, float), np.asarray(sky, float),
            float(clouds), float(haze),
        )  # fmt: skip

    def scene(self, world: World, c2w, focal: float, caption: str, subject=(0, 0), overlap=0.4) -> Scene:
        """The world seen by cameras [v 4 4] of one focal length, developed in a random way."""
        rng = self.rng
        exposure, contrast = 0.2 * math.exp(rng.normal(0, 0.35)), rng.uniform(0.85, 1.25)
        saturation = rng.uniform(0.55, 1)
        return Scene(world, c2w, np.full(len(c2w), focal), exposure, contrast, saturation, subject, overlap, caption)

    def sentence(self, limit: int) -> str:
        """The things that were built, as words: "a red checkered box and two blue balls"."""
        names = list(self.things)
        if len(names) > limit:
            names = [names[i] for i in sorted(self.rng.choice(len(names), limit, replace=False))]
        parts = []
        for name in names:
            count, (*words, noun) = self.things[name], name.split()
            number = article(name) if count == 1 else NUMBERS[min(count, 7)]
            parts.append(" ".join([number, *words, noun if count == 1 else NOUNS[noun]]))
        return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1] if parts else ""


def scatter(b: Builder, things, count: int, low, high, sizes: tuple[float, float], taken: list) -> None:
    """Place `count` things on the ground between the corners low and high, apart from each other and from the discs
    (x, y, radius) in `taken`, to which theirs are appended."""
    rng = b.rng
    for _ in range(count):
        size = math.exp(rng.uniform(math.log(sizes[0]), math.log(sizes[1])))
        for _ in range(6):
            x, y = rng.uniform(np.add(low, 0.4 * size), np.subtract(high, 0.4 * size))
            if all(math.hypot(x - tx, y - ty) > 0.45 * size + tr for tx, ty, tr in taken):
                yaw = rng.integers(4) * math.pi / 2 if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi)
                b.place(x, y, 0, yaw)
                taken.append((x, y, things[rng.integers(len(things))](b, size)))
                break


def article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def weighted(rng: Generator, weights: dict):
    """A key of `weights`, drawn by its weight (the same as rng.choice with p, several times as fast)."""
    at = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        if at < weight:
            return key
        at -= weight
    return key  # rounding


def turned(yaw: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about z."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def random_rotation(rng: Generator) -> Float[np.ndarray, "3 3"]:
    """A uniform random rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.array([1, 1, np.linalg.det(q)])


def palette_colour(rng: Generator) -> Float[np.ndarray, " 3"]:
    """A colour of the palette, sRGB."""
    return PALETTE[rng.integers(len(PALETTE))]
