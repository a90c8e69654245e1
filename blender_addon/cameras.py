"""Pinhole cameras <-> Blender cameras.

OpenCV camera: c2w [4 4] (x right, y down, z forward), K [3 3] in pixels, (0.5, 0.5) the centre of the top-left pixel.
Blender camera: looks along -z, y up; lens and sensor in mm, shift in units of the fitted side. Image size and pixel
aspect belong to Blender's scene, so an imported camera keeps its own in custom properties: see `look_through`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV camera axes <-> Blender camera axes
Y_DOWN_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
SENSOR_MM = 36.0
KINDS = {"ORTHO": "orthographic", "PANO": "panoramic", "CUSTOM": "a custom one"}


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


class Path(NamedTuple):
    """A camera at some frames, in Blender's world."""

    c2w: np.ndarray  # [v 4 4] OpenCV
    K: np.ndarray  # [v 3 3] pixels
    sizes: np.ndarray  # [v 2] int32: height, width


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
        raise ValueError(
            f"The camera {camera.name} is {KINDS.get(data.type, data.type)}; only a perspective one has the lens that "
            "PixWorld knows: set its lens type to Perspective."
        )
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
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
    """c2w [4 4] of a camera object in Blender's world; its scale does not count.

    Raises ValueError for one that parents with uneven scale have skewed or mirrored: no lens sees like that.
    """
    pose = np.array(camera.matrix_world, np.float64)
    axes = pose[:3, :3] / np.maximum(np.linalg.norm(pose[:3, :3], axis=0), 1e-30)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4 or np.linalg.det(axes) < 0:
        raise ValueError(
            f"The camera {camera.name} is skewed or mirrored by a scale; apply the scale of it and its parents."
        )
    pose[:3, :3] = axes
    return pose @ FLIP


def key_frames(scene: bpy.types.Scene, views: int) -> list[int]:
    """At most `views` frames, spread over the scene's frame range from its first to its last."""
    return sorted({round(frame) for frame in np.linspace(scene.frame_start, scene.frame_end, views)})


def path_of(camera: bpy.types.Object | None, scene: bpy.types.Scene, frames: Sequence[int | None]) -> Path:
    """Where a camera is at every frame, and its lens then: animation, constraints, parents and drivers count. Without
    a camera it is the scene's of each frame, as markers may change it. The frame None is the scene as it is now.

    Raises ValueError for a camera without a K or a pose, see `intrinsics_of` and `pose_of`.
    """
    steps = follow(camera, scene, frames)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def follow(
    camera: bpy.types.Object | None, scene: bpy.types.Scene, frames: Sequence[int | None]
) -> Generator[tuple[str, int, int], None, Path]:
    """`path_of`, a frame at a time, because a heavy scene takes its time to change frame: yields (stage, step, steps),
    and between them the scene is at the frame where it was."""
    poses, lenses, sizes = [], [], []
    for i, frame in enumerate(frames):
        yield "follow the camera", i, len(frames)
        with at_frame(scene, frame):
            seen = active(scene) if camera is None else camera
            seen = seen.evaluated_get(_evaluated(scene))
            K, width, height = intrinsics_of(seen, scene.render)
            poses.append(pose_of(seen))
            lenses.append(K)
            sizes.append((height, width))
    return Path(np.stack(poses), np.stack(lenses), np.array(sizes, np.int32))


def active(scene: bpy.types.Scene) -> bpy.types.Object:
    """The scene's camera. Raises ValueError when there is none."""
    if scene.camera is None:
        raise ValueError("The scene has no active camera; add one and make it the active one.")
    return scene.camera


@contextlib.contextmanager
def at_frame(scene: bpy.types.Scene, frame: int | None) -> Iterator[None]:
    """The scene at another frame for a while. Even its own frame is evaluated anew, as a render would."""
    if frame is None:
        yield
        return
    before = scene.frame_current, scene.frame_subframe
    scene.frame_set(frame)
    try:
        yield
    finally:
        scene.frame_set(before[0], subframe=before[1])


def _evaluated(scene: bpy.types.Scene) -> bpy.types.Depsgraph:
    """The scene's own evaluation: by the time that a timer asks, the window may show another scene."""
    if bpy.context.scene == scene:
        return bpy.context.evaluated_depsgraph_get()
    layer = scene.view_layers[0]
    layer.update()
    return layer.depsgraph


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


def behind(camera: bpy.types.Object, background: bpy.types.CameraBackgroundImage, scene: bpy.types.Scene) -> Path:
    """The camera of a still image that is shown behind a camera's view, at the size of the image: a path of one.

    Raises ValueError where the image does not fill the view as Blender puts it there by itself.
    """
    if (tuple(background.offset), background.scale, background.rotation) != ((0, 0), 1, 0) or (
        background.use_flip_x or background.use_flip_y
    ):
        raise ValueError(
            f"The background image {background.image.name} of {camera.name} is moved, scaled, turned or flipped; reset "
            "its offset, scale, rotation and flips."
        )
    seen = camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
    render = scene.render
    if "pixworld_size" in camera:
        (x, y), (aspect_x, aspect_y) = camera["pixworld_size"], camera["pixworld_aspect"]
        render = SimpleNamespace(
            resolution_x=x, resolution_y=y, resolution_percentage=100, pixel_aspect_x=aspect_x, pixel_aspect_y=aspect_y
        )
    K, width, height = intrinsics_of(seen, render)
    frame = np.array([width * render.pixel_aspect_x, height * render.pixel_aspect_y])
    image = np.array(background.image.size)
    if not image.all():
        raise ValueError(f"The background image {background.image.name} has no pixels; find its file again.")
    scale = frame / image
    if background.frame_method != "STRETCH":
        scale[:] = scale.min() if background.frame_method == "FIT" else scale.max()
    aspect = (render.pixel_aspect_x, render.pixel_aspect_y)
    K[:2] = K[:2] * np.reshape(aspect, (2, 1)) / scale[:, None]
    K[:2, 2] -= (frame / scale - image) / 2
    return Path(pose_of(seen)[None], K[None], image[::-1][None].astype(np.int32))


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
