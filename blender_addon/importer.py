"""A reconstructed scene in Blender: one collection with a root, the splats, and the cameras of the photos.

The root holds the rotation from the frame of the reconstruction to Blender's, so that the splats keep their own axes
(and their spherical harmonics need no rotation). Move, turn and scale the scene by its root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from . import cameras, shading, splats, viewport


class PhotoCamera(NamedTuple):
    """One photo's camera, in the frame of the Gaussians."""

    name: str
    c2w: np.ndarray  # [4 4] OpenCV
    K: np.ndarray  # [3 3] pixels
    width: int
    height: int
    split: str  # "train" or "holdout"
    photo: bytes | None = None  # an upright, undistorted image, as a file's bytes


class Imported(NamedTuple):
    """What was added to the scene."""

    collection: bpy.types.Collection
    splats: bpy.types.Object
    cameras: list[bpy.types.Object]  # in the order of the photos


def add_scene(
    name: str,
    gaussians: Mapping[str, np.ndarray],
    photos: Sequence[PhotoCamera],
    scene: bpy.types.Scene,
    world: np.ndarray | None = None,
) -> Imported:
    """Add Gaussians (arrays as in `splats.attributes`) and the cameras of their photos to the active scene.

    `world` [4 4] takes their frame to Blender's, where it is known; otherwise the photos tell what is up.
    """
    collection = bpy.data.collections.new(name)
    scene.collection.children.link(collection)
    root = bpy.data.objects.new(name, None)
    root.matrix_basis = Matrix(cameras.upright(photo.c2w for photo in photos) if world is None else world)
    collection.objects.link(root)

    cloud = splats.make(f"{name} Splats", gaussians, collection)
    cloud.parent = root
    shading.shade(cloud)
    viewport.adopt(cloud, scene)

    inside = bpy.data.collections.new(f"{name} Cameras")
    collection.children.link(inside)
    made = []
    means = gaussians["means"]
    size = float(np.median(np.abs(means - np.median(means, axis=0))))  # does not mind stray splats
    for photo in photos:
        camera = cameras.make(photo.name, photo.c2w, photo.K, photo.width, photo.height, inside)
        camera.parent = root
        camera.data.display_size = 0.1 * size
        camera["pixworld_split"] = photo.split
        if photo.photo is not None:
            cameras.show_photo(camera, photo.photo)
        made.append(camera)
    root.empty_display_size = 0.3 * size
    return Imported(collection, cloud, made)
