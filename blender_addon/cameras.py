"""Pinhole cameras <-> Blender cameras.

OpenCV camera: c2w [4 4] (x right, y down, z forward), K [3 3] in pixels, (0.5, 0.5) the centre of the top-left pixel.
Blender camera: looks along -z, y up; lens and sensor in mm, shift in units of the fitted side. Image size and pixel
aspect belong to Blender's scene, so an imported camera keeps its own in custom properties: see `look_through`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV camera axes <-> Blender camera axes
Y_DOWN_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
SENSOR_MM = 36.0


@dataclass(frozen=True)
class Lens:
    """What Blender keeps of K and the image size: the first four of the camera, the others of the scene."""

    lens: float  # mm; the sensor is SENSOR_MM wide and fitted to the width
    shift_x: float
    shift_y: float
    width: int
    height: int
    aspect_x: float
    aspect_y: float


def lens_of(K: np.ndarray, width: int, height: int) -> Lens:
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    aspect_x, aspect_y = max(1.0, fy / fx), max(1.0, fx / fy)  # Blender allows no less than 1
    return Lens(
        lens=fx * SENSOR_MM / width,
        shift_x=(width / 2 - cx) / width,
        shift_y=(cy - height / 2) / width * fx / fy,
        width=width,
        height=height,
        aspect_x=aspect_x,
        aspect_y=aspect_y,
    )


def intrinsics_of(camera: bpy.types.Object, render: bpy.types.RenderSettings) -> tuple[np.ndarray, int, int]:
    """K, width and height of a perspective camera, with any sensor fit, at the scene's render settings.

    Raises ValueError for other kinds of camera.
    """
    data = camera.data
    if data.type != "PERSP":
        raise ValueError(f"{camera.name} is not a perspective camera; set its lens type to Perspective.")
    width = int(render.resolution_x * render.resolution_percentage / 100)
    height = int(render.resolution_y * render.resolution_percentage / 100)
    wide, tall = width * render.pixel_aspect_x, height * render.pixel_aspect_y
    by_height = data.sensor_fit == "VERTICAL" or (data.sensor_fit == "AUTO" and tall > wide)
    side = tall if by_height else wide
    sensor = data.sensor_height if data.sensor_fit == "VERTICAL" else data.sensor_width
    focal = data.lens / sensor * side
    K = np.array(
        [
            [focal / render.pixel_aspect_x, 0, width / 2 - data.shift_x * side / render.pixel_aspect_x],
            [0, focal / render.pixel_aspect_y, height / 2 + data.shift_y * side / render.pixel_aspect_y],
            [0, 0, 1],
        ]
    )
    return K, width, height


def pose_of(camera: bpy.types.Object) -> np.ndarray:
    """c2w [4 4] of a camera object in Blender's world; its scale does not count."""
    location, rotation, _ = camera.matrix_world.decompose()
    return np.array(Matrix.LocRotScale(location, rotation, None)) @ FLIP


def make(
    name: str, c2w: np.ndarray, K: np.ndarray, width: int, height: int, collection: bpy.types.Collection
) -> bpy.types.Object:
    """Make a camera object; its pose is relative to the parent that it is given later."""
    lens = lens_of(K, width, height)
    data = bpy.data.cameras.new(name)
    data.sensor_fit, data.sensor_width = "HORIZONTAL", SENSOR_MM
    data.lens, data.shift_x, data.shift_y = lens.lens, lens.shift_x, lens.shift_y
    data.clip_start, data.clip_end = 0.001, 1e4  # the splats have a near plane of their own
    camera = bpy.data.objects.new(name, data)
    camera.rotation_mode = "QUATERNION"  # Euler angles lose a digit
    camera.matrix_basis = Matrix(c2w @ FLIP)
    camera["pixworld_size"] = (lens.width, lens.height)
    camera["pixworld_aspect"] = (lens.aspect_x, lens.aspect_y)
    collection.objects.link(camera)
    return camera


def look_through(camera: bpy.types.Object, scene: bpy.types.Scene) -> None:
    """Make a camera the active one and, if it came from a photo, give the scene the size of that photo."""
    scene.camera = camera
    if "pixworld_size" in camera:
        render = scene.render
        render.resolution_x, render.resolution_y = camera["pixworld_size"]
        render.pixel_aspect_x, render.pixel_aspect_y = camera["pixworld_aspect"]
        render.resolution_percentage = 100


def show_photo(camera: bpy.types.Object, photo: bytes) -> None:
    """Show a photo behind a camera's view; the bytes of its file are packed into the .blend."""
    image = bpy.data.images.new(camera.name, *(int(side) for side in camera["pixworld_size"]))
    image.pack(data=photo, data_len=len(photo))
    image.filepath_raw = f"//{camera.name}"
    image.source = "FILE"
    background = camera.data.background_images.new()
    background.image = image
    camera.data.show_background_images = True


def upright(poses: Iterable[np.ndarray]) -> np.ndarray:
    """Rotation [4 4] that takes the world of these OpenCV poses to Blender's, z up.

    Photographers hold their cameras level on average; where that says nothing, y is taken to point down.
    """
    ups = [-c2w[:3, 1] for c2w in poses]
    up = np.mean(ups, axis=0) if ups else np.zeros(3)
    if np.linalg.norm(up) < 0.3:
        return Y_DOWN_TO_Z_UP
    x = up / np.linalg.norm(up)
    target = np.array([0.0, 0.0, 1.0])
    cross, cos = np.cross(x, target), x @ target
    if cos < -0.999:
        return np.diag([1.0, -1.0, -1.0, 1.0])
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    rotation = np.eye(4)
    rotation[:3, :3] += skew + skew @ skew / (1 + cos)
    return rotation
