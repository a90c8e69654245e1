"""The texture images of procedural scenes: computed ones with the statistics of photos, and photos of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator
from PIL import Image

from pixworld.data.builder import palette_colour
from pixworld.data.world import SYNTHETIC, TEXTURE_SIZE
from pixworld.views import InputError

CROPS = 3  # parts of every photo at its own resolution, beside the whole


def library(textures: Path | None) -> UInt8[np.ndarray, "k 256 256 3"]:
    """Texture images: SYNTHETIC computed ones (1/f noise; leaves that occlude each other; fibres), then of each jpg
    file of a folder the centre square and CROPS parts. Raises InputError for a folder without any."""
    files = [] if textures is None else sorted(p for p in textures.glob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    if textures is not None and not files:
        raise InputError(f"{textures} has no .jpg files; give --textures a folder of photos, or leave it out")
    rng = np.random.default_rng(48)
    images = [(_dead_leaves, _one_over_f, _fibres)[k % 3](rng) for k in range(SYNTHETIC)]
    return np.stack(images + [image for file in files for image in _photo(file, rng)])


def mipmaps(images: UInt8[np.ndarray, "k s s 3"]) -> UInt8[np.ndarray, "k t 3"]:
    """Each image followed by its halvings, texels in one row."""
    levels = [images]
    while levels[-1].shape[1] > 1:
        k, s = levels[-1].shape[:2]
        x = levels[-1].reshape(k, s // 2, 2, s // 2, 2, 3)
        levels.append(((x.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8))
    return np.concatenate([x.reshape(len(images), -1, 3) for x in levels], axis=1)


def _photo(file: Path, rng: Generator) -> list[UInt8[np.ndarray, "256 256 3"]]:
    """The centre square, and parts that start at random places."""
    try:
        with Image.open(file) as photo:
            photo = photo.convert("RGB")
    except OSError as error:
        raise InputError(f"{file} is not a readable photo; remove it from the folder of --textures") from error
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    boxes = [(left, top, left + side, top + side)]
    part = min(side, max(TEXTURE_SIZE, side // 3))
    for _ in range(CROPS):
        left, top = int(rng.integers(photo.width - part + 1)), int(rng.integers(photo.height - part + 1))
        boxes.append((left, top, left + part, top + part))
    size = (TEXTURE_SIZE, TEXTURE_SIZE)
    return [np.asarray(photo.resize(size, Image.Resampling.BOX, box=box)) for box in boxes]


def _spectrum(rng: Generator, power: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "3 n n"]:
    """Three channels of noise with an amplitude spectrum, of unit variance."""
    n = TEXTURE_SIZE
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, n, n))) * power, s=(n, n))
    return noise / noise.std((1, 2), keepdims=True)


def _frequencies(rng: Generator) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n f"]]:
    """Spatial frequencies down and across, per texel, in a random stretch."""
    stretch = np.exp(rng.normal(0, 0.4))
    fy, fx = np.meshgrid(np.fft.fftfreq(TEXTURE_SIZE), np.fft.rfftfreq(TEXTURE_SIZE), indexing="ij")
    return fy / stretch, fx * stretch


def _paint(rng: Generator, noise: Float[np.ndarray, "3 n n"], contrast: float) -> UInt8[np.ndarray, "n n 3"]:
    """Noise as deviations from a palette colour, mostly of brightness."""
    noise = np.einsum("ij,jhw->hwi", rng.normal(size=(3, 3)) * 0.25 + rng.uniform(0.6, 1.0), noise)
    return np.clip(255 * (palette_colour(rng) + contrast * noise), 0, 255).astype(np.uint8)


def _one_over_f(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    power = np.hypot(*_frequencies(rng)) + 1 / TEXTURE_SIZE
    return _paint(rng, _spectrum(rng, power ** -rng.uniform(0.8, 1.5)), 0.13)


def _fibres(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    """Carpet, cloth, gravel: fine detail of one size over weak large stains, woven in two directions or in none."""
    fy, fx = _frequencies(rng)
    f, peak = np.hypot(fy, fx), 2 ** -rng.uniform(3, 6)
    if rng.random() < 0.5:
        f = np.maximum(np.minimum(abs(fy), abs(fx)) * rng.uniform(2, 6), np.maximum(abs(fy), abs(fx)))
    grain = np.exp(-0.5 * (np.log(np.maximum(f, 1e-4) / peak) / 0.6) ** 2)
    stains = (np.hypot(fy, fx) + 2 / TEXTURE_SIZE) ** -1.5
    return _paint(rng, _spectrum(rng, grain) + rng.uniform(0.1, 0.5) * _spectrum(rng, stains), rng.uniform(0.05, 0.13))


def _dead_leaves(rng: Generator) -> UInt8[np.ndarray, "256 256 3"]:
    n = TEXTURE_SIZE
    image = np.empty((n, n, 3))
    image[:] = palette_colour(rng)
    base = [palette_colour(rng) for _ in range(4)]
    round_share, least = rng.random(), rng.choice([4, 2.5])
    radii = least * (1 - rng.random(int(260 * (4 / least) ** 2))) ** -0.8  # power law
    for r in np.sort(radii)[::-1]:  # small ones on top
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
