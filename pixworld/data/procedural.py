"""Random scenes to train on: rooms, streets, single objects and ground seen from above, as plain arrays.

`propose(kind, rng, ...)` draws a scene: a world of `things`, cameras along a path, and a caption of a small fixed
vocabulary. Everything is decided by the random generator, so a seed is a scene. Whether the cameras see anything
sensible is decided after tracing (`bank`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator
from PIL import Image

from pixworld.data.things import (
    ADJECTIVES,
    BESIDE_A_ROAD,
    BOX,
    BRICK,
    CELLS,
    CHECKER,
    COLOURS,
    CYLINDER,
    EARTHS,
    ELLIPSOID,
    FURNITURE,
    IMAGE,
    LEAVES,
    NATURE,
    NOISE,
    NOUNS,
    NUMBERS,
    ON_A_ROAD,
    OUTSIDE,
    PLAIN,
    PLANKS,
    SPECKLE,
    STONES,
    STRIPES,
    SUBJECTS,
    SYNTHETIC,
    TEXTURE_SIZE,
    TOWN,
    TRINKETS,
    WALLS,
    WOODS,
    Builder,
    World,
    linear,
    palette_colour,
)
from pixworld.views import InputError

KINDS = {"room": 0.45, "outdoor": 0.25, "object": 0.20, "nadir": 0.10}
_GRAMMAR = (
    "a an with and on of room street garden field ground floor walls backdrop sky clear cloudy light warm cool soft "
    "bright sun evening aerial view large small"
)
VOCABULARY: tuple[str, ...] = tuple(
    sorted({*_GRAMMAR.split(), *NOUNS, *NOUNS.values(), *COLOURS, *ADJECTIVES, *NUMBERS} - {""})
)


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
    """Texture images: 48 synthetic ones (1/f noise, and random leaves that occlude each other, which has the statistics
    of photos), then centre squares of the jpg files of a folder. Raises InputError for a folder without any."""
    files = [] if textures is None else sorted(p for p in textures.glob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    if textures is not None and not files:
        raise InputError(f"{textures} has no .jpg files; give --textures a folder of photos, or leave it out")
    rng = np.random.default_rng(48)
    images = [_one_over_f(rng) if k % 2 else _dead_leaves(rng) for k in range(SYNTHETIC)]
    return np.stack(images + [_square(file) for file in files])


def _square(file: Path) -> UInt8[np.ndarray, "256 256 3"]:
    try:
        with Image.open(file) as photo:
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            square = photo.convert("RGB").crop((left, top, left + side, top + side))
    except OSError as error:
        raise InputError(f"{file} is not a readable photo; remove it from the folder of --textures") from error
    return np.asarray(square.resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX))


def _one_over_f(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    n = TEXTURE_SIZE
    fy, fx = np.meshgrid(np.fft.fftfreq(n), np.fft.rfftfreq(n), indexing="ij")
    stretch = np.exp(rng.normal(0, 0.4))
    power = np.hypot(fx * stretch, fy / stretch) + 1 / n
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, n, n))) * power ** -rng.uniform(0.9, 1.6), s=(n, n))
    noise /= noise.std((1, 2), keepdims=True)
    noise = np.einsum("ij,jhw->hwi", rng.normal(size=(3, 3)) * 0.25 + rng.uniform(0.6, 1.0), noise)
    return np.clip(255 * (palette_colour(rng) + 0.13 * noise), 0, 255).astype(np.uint8)


def _dead_leaves(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    n = TEXTURE_SIZE
    image = np.empty((n, n, 3))
    image[:] = palette_colour(rng)
    base = [palette_colour(rng) for _ in range(4)]
    round_share = rng.random()
    for r in np.sort(4 * (1 - rng.random(260)) ** -0.8)[::-1]:  # power law of radii, small ones on top
        cx, cy, angle, aspect = rng.uniform(0, n), rng.uniform(0, n), rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        r = min(r, n / 3)
        reach = int(1.5 * r) + 2
        y, x = np.mgrid[
            max(0, int(cy) - reach) : min(n, int(cy) + reach), max(0, int(cx) - reach) : min(n, int(cx) + reach)
        ]
        patch = image[y[0, 0] : y[-1, 0] + 1, x[0, 0] : x[0, -1] + 1]
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / aspect
        leaf = np.hypot(u, v) < r if rng.random() < round_share else np.maximum(abs(u), abs(v)) < r
        patch[leaf] = base[rng.integers(4)] * rng.uniform(0.6, 1.2) + rng.normal(0, 0.04, 3)
        patch[leaf] += (0.1 * rng.normal() * u[leaf] / r)[:, None]  # a shade across the leaf
    image += rng.normal(0, 0.03, (n, n, 1))
    return np.clip(255 * image, 0, 255).astype(np.uint8)


# --- cameras ---------------------------------------------------------------------------------------------------------


def look_at(
    eye: Float[np.ndarray, "v 3"], target: Float[np.ndarray, "v 3"], roll: Float[np.ndarray, " v"], up=(0, 0, 1.0)
) -> Float[np.ndarray, "v 4 4"]:
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


def _scatter(b: Builder, things, count: int, low, high, sizes, taken: list) -> None:
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
    floors = {PLANKS: 5, CHECKER: 1.5, CELLS: 1.5, NOISE: 1, IMAGE: 2, SPECKLE: 1, BRICK: 1}
    floor = b.material(min(w, d) * 0.9, patterns=floors, photos=0.15)
    floor_words = b.words
    b.box((w / 2, d / 2, h / 2), (w, d, h), [*faces, floor, ceiling])
    for side in range(4):
        length = w if side % 2 == 0 else d
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
            shade = b.material(0.4, ("white", "cream", "yellow"), {PLAIN: 1}, glow=1.5)
            b.add(ELLIPSOID, (0, 0, h - 0.4), (0.2, 0.2, 0.15), shade)
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
        road = (8 * reach, rng.uniform(3, 6), 0.04)
        b.box((0, 0, 0.01), road, b.material(5, STONES, {NOISE: 2, BRICK: 2, IMAGE: 2, CELLS: 1}))
        for side in (-1, 1):
            x = -1.5 * reach
            while x < 1.8 * reach:
                size = rng.uniform(4, 7)
                b.place(x, side * rng.uniform(6.5, 8), 0, 0 if side > 0 else math.pi)
                BESIDE_A_ROAD[rng.integers(len(BESIDE_A_ROAD))](b, size)
                x += size * rng.uniform(1.0, 1.5)
        _scatter(b, ON_A_ROAD, int(rng.integers(5, 10)), (-reach, -4), (reach, 4), (1.2, 3.5), taken)
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

    eye = np.array([*rng.uniform(-0.8, 0.8, 2) * reach, 0])
    eye[2] = rng.uniform(1.2, 2.2) if rng.random() < 0.7 else rng.uniform(2, 9)
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
    sky, clouds = np.stack([linear(palette_colour(rng)) * rng.uniform(0.5, 1.2) for _ in range(3)]), 0.0
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
        tops = {PLANKS: 4, IMAGE: 3, CHECKER: 1, NOISE: 1, CELLS: 0.5, STRIPES: 1}
        m = b.material(rng.uniform(0.7, 3), patterns=tops)
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
        TRINKETS[rng.integers(len(TRINKETS))](b, rng.uniform(0.12, 0.35))
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
    style = rng.choice(["town", "nature", "mixed"])
    for k in range(rng.integers(20, 70)):  # low bumps make the relief
        r = width * rng.uniform(0.05, 0.35)
        b.place(*rng.uniform(-half, half, 2), 0, rng.uniform(0, 6))
        if rng.random() < 0.5 or k == 0:
            m = b.material(r * 2, EARTHS, {NOISE: 4, IMAGE: 2, CELLS: 1, SPECKLE: 1})
        b.add(ELLIPSOID, (0, 0, 0), (r, r * rng.uniform(0.4, 1), height * rng.uniform(0.01, 0.12)), m)
    things = {"town": TOWN, "nature": NATURE, "mixed": OUTSIDE}[str(style)]
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
