"""Light of procedural scenes: tinted bulbs, glowing tubes, the sun and the sky."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from pixworld.data.builder import Builder, palette_colour, weighted
from pixworld.data.world import CYLINDER, ELLIPSOID, PLAIN, linear


def tint(rng: Generator) -> tuple[Float[np.ndarray, " 3"], str]:
    """Colour of a light and the word for it."""
    name = weighted(rng, {"warm": 0.4, "cool": 0.2, "soft": 0.4})
    k = rng.uniform(0.1, 0.3)
    colour = {"warm": (1 + k, 1, 1 - k), "cool": (1 - k, 1, 1 + 0.7 * k), "soft": (1.0, 1, 1)}[name]
    return np.array(colour), name


def bulbs(b: Builder, count: int, low, high, reach: tuple[float, float], colour: Float[np.ndarray, " 3"]) -> None:
    """Invisible lamps between the corners low and high; one in six has a colour of its own."""
    rng = b.rng
    b.place(0, 0)
    for _ in range(count):
        own = palette_colour(rng) * 1.3 if rng.random() < 0.17 else colour
        b.lamp(rng.uniform(low, high), rng.uniform(*reach), own * rng.uniform(0.3, 1.0), rng.random() < 0.5)


def hanging_lamp(b: Builder, x: float, y: float, ceiling: float, colour: Float[np.ndarray, " 3"]) -> None:
    """A glowing shade on a wire, with a light below it."""
    rng, drop = b.rng, b.rng.uniform(0.25, 0.8)
    b.place(x, y, ceiling - drop)
    shade = b.material(0.4, ("white", "cream", "yellow", "orange"), {PLAIN: 1}, glow=rng.uniform(0.8, 2.5))
    size = rng.uniform(0.08, 0.22)
    b.add(int(rng.choice([ELLIPSOID, CYLINDER])), (0, 0, 0), (size, size, 0.7 * size), shade)
    b.stick((0, 0, 0.7 * size), (0, 0, drop), 0.008, b.material(0.2, ("black", "dark", "white"), {PLAIN: 1}))
    b.lamp((0, 0, -size - 0.05), rng.uniform(1.0, 3.0), colour * rng.uniform(0.3, 0.9), rng.random() < 0.75)


def tube(b: Builder, start, end, colour: Float[np.ndarray, " 3"]) -> None:
    """A glowing stick in the current frame; its light comes from the middle, a little off it."""
    rng = b.rng
    glow = b.material(0.3, ("white", "cream", "yellow", "pink", "blue", "teal"), {PLAIN: 1}, glow=rng.uniform(1.5, 4))
    radius = rng.uniform(0.012, 0.035)
    b.stick(start, end, radius, glow)
    own = linear(b.materials[glow][1][0])  # of the paint, so that a blue tube lights blue
    middle = (np.asarray(start, float) + end) / 2 + (0, 4 * radius, 0)
    b.lamp(middle, rng.uniform(0.8, 2.5), colour * own / own.max() * rng.uniform(0.2, 0.7), rng.random() < 0.5)


def sun(b: Builder, low: float = 0.25) -> tuple[Float[np.ndarray, " 3"], str]:
    """Add a sun, at least `low` radians high but in the evening; the ambient light, and the words."""
    rng = b.rng
    evening = rng.random() < 0.25
    height = rng.uniform(0.1, 0.4) if evening else rng.uniform(low, 1.4)
    azimuth = rng.uniform(0, 2 * math.pi)
    cloudy = rng.random() < 0.3
    strength = rng.uniform(0.1, 0.5) if cloudy else rng.uniform(0.8, 1.8)
    colour = np.array((1.15, 0.9, 0.65) if evening else (1.05, 1.0, 0.92)) * strength
    direction = (math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height))
    b.lights.append([*direction, 0, *colour, not cloudy and rng.random() < 0.85])
    ambient = np.array([0.36, 0.42, 0.5]) * rng.uniform(0.6, 1.3) * (1.8 if cloudy else 1.0)
    return ambient, "soft light" if cloudy else ("evening light" if evening else "bright sun")


def sky(rng: Generator, words: str) -> tuple[Float[np.ndarray, "3 3"], float, str]:
    """Sky colours, cloud cover and its word, to go with the words of the sun."""
    horizon = np.array([0.75, 0.80, 0.85]) * rng.uniform(0.8, 1.3)
    zenith = np.array([0.22, 0.38, 0.68]) * rng.uniform(0.7, 1.3)
    if words == "evening light":
        horizon = np.array([0.95, 0.62, 0.40]) * rng.uniform(0.6, 1.1)
    if words == "soft light":
        zenith = horizon * rng.uniform(0.6, 1.0)
    clouds = rng.uniform(0.4, 1) if rng.random() < 0.55 else 0.0
    return np.stack([horizon, zenith, np.full(3, rng.uniform(0.8, 1.2))]), clouds, "cloudy" if clouds else "clear"
