"""A procedural scene as plain arrays: what the tracers read. World axes: z up, metres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BOX, ELLIPSOID, CYLINDER = range(3)
PLAIN, CHECKER, STRIPES, NOISE, CELLS, SPECKLE, BRICK, PLANKS, IMAGE = range(9)
SYNTHETIC = 60  # texture images that are computed; those of a folder follow them
TEXTURE_SIZE = 256  # pixels a side of every texture image


class World(NamedTuple):
    """What the tracer reads; p primitives, m materials. Primitive 0 is the room or the ground and casts no shadow."""

    kind: Int[np.ndarray, " p"]
    centre: Float[np.ndarray, "p 3"]
    half: Float[np.ndarray, "p 3"]  # half extents along the local axes (radii)
    inverse: Float[np.ndarray, "p 3 3"]  # world offset from the centre to the unit shape
    radius: Float[np.ndarray, " p"]  # bounding sphere
    anchor: Float[np.ndarray, "p 3"]  # the centre in the frame that textures are fixed to: pieces of a wall share one
    surface: Int[np.ndarray, "p 6"]  # material of the faces -x +x -y +y -z +z; round sides use the first
    pattern: Int[np.ndarray, " m"]
    colours: Float[np.ndarray, "m 3 3"]  # linear: base, second, joints
    period: Float[np.ndarray, " m"]  # scene units a repetition
    turn: Float[np.ndarray, " m"]  # radians
    shift: Float[np.ndarray, "m 2"]  # repetitions
    seed: Int[np.ndarray, " m"]
    image: Int[np.ndarray, " m"]
    grain: Float[np.ndarray, " m"]  # amplitude of the dirt that multiplies the pattern
    shine: Float[np.ndarray, " m"]  # strength of the specular lobe of a light
    polish: Float[np.ndarray, " m"]  # exponent of that lobe
    mirror: Float[np.ndarray, " m"]  # share reflected head on, sharply and once; 0: none at any angle
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


def linear(srgb: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """sRGB 0..1, not darker than 0.02, to linear light."""
    srgb = np.clip(srgb, 0.02, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def pixel_intrinsics(scene: Scene, height: int, width: int) -> Float[np.ndarray, "v 3 3"]:
    """Pixel K of the scene's focal lengths (in widths), principal point in the middle."""
    K = np.zeros((len(scene.focal), 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = scene.focal * width
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    return K
