"""A reconstructed scene in Blender: one collection with a root, the splats, and the cameras of the photos.

The root holds the rotation from the frame of the reconstruction to Blender's, so that the splats keep their own axes
(and their spherical harmonics need no rotation). Move, turn and scale the scene by its root.

The splats are one object, or one for each photo, to be muted or deleted. Cycles draws those as it draws one; EEVEE and
viewports sort splats within an object only, and draw one object after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from . import cameras, shading, splats, viewport

BY_PHOTO = "pixworld_by_photo"  # marks the collection of a scene's splats, where each photo has an object


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
    splats: bpy.types.Object  # the only one, or the first of those of the photos
    cameras: list[bpy.types.Object]  # in the order of the photos


def add_scene(
    name: str,
    gaussians: Mapping[str, np.ndarray],
    photos: Sequence[PhotoCamera],
    scene: bpy.types.Scene,
    world: np.ndarray | None = None,
    by_photo: np.ndarray | None = None,
) -> Imported:
    """Add Gaussians (arrays as in `splats.attributes`) and the cameras of their photos to the active scene.

    `world` [4 4] takes their frame to Blender's, where it is known; otherwise the photos tell what is up. `by_photo`,
    the index [n] of each Gaussian's photo or -1 for none, asks for an object a photo.
    """
    parts = [(name, gaussians)] if by_photo is None else _by_photo(gaussians, photos, by_photo)
    collection = bpy.data.collections.new(name)
    scene.collection.children.link(collection)
    root = bpy.data.objects.new(name, None)
    root[splats.ROOT] = collection[splats.MADE] = True
    root.matrix_basis = Matrix(cameras.upright(photo.c2w for photo in photos) if world is None else world)
    collection.objects.link(root)

    holder = collection
    if by_photo is not None:
        holder = bpy.data.collections.new(f"{name} Splats")
        holder[BY_PHOTO] = holder[splats.MADE] = True
        collection.children.link(holder)
    clouds = [splats.make(f"{part} Splats", arrays, holder) for part, arrays in parts]
    for cloud in clouds:
        cloud.parent = root
        shading.shade(cloud)
        viewport.adopt(cloud, scene)

    inside = bpy.data.collections.new(f"{name} Cameras")
    inside[splats.MADE] = True
    collection.children.link(inside)
    made = []
    size = _size_of(gaussians["means"])
    for photo in photos:
        camera = cameras.make(photo.name, photo.c2w, photo.K, photo.width, photo.height, inside)
        camera.parent = root
        camera.data.display_size = 0.1 * size
        camera["pixworld_split"] = photo.split
        if photo.photo is not None:
            cameras.show_photo(camera, photo.photo)
        made.append(camera)
    root.empty_display_size = 0.3 * size
    return Imported(collection, clouds[0], made)


def _size_of(means: np.ndarray) -> float:
    """The median distance of means [n 3] from their median on an axis: does not mind strays. (np.median would import
    numpy's masked arrays first, which takes as long as all else here.)"""
    middle = len(means) // 2
    offsets = np.abs(means - np.partition(means, middle, axis=0)[middle])
    return float(np.partition(offsets, offsets.size // 2, axis=None)[offsets.size // 2])


def _by_photo(
    gaussians: Mapping[str, np.ndarray], photos: Sequence[PhotoCamera], labels: np.ndarray
) -> list[tuple[str, Mapping[str, np.ndarray]]]:
    """The name and the Gaussians of each photo that has some, in the order of the photos; those of none come last."""
    n, within = len(gaussians["means"]), (labels >= -1) & (labels < len(photos))
    if labels.shape != (n,) or not within.all():
        raise ValueError("the photos of its splats are not those that came with it.")
    rows = {i: np.flatnonzero(labels == i) for i in (*range(len(photos)), -1)}
    names = [*(photo.name for photo in photos), "No Photo"]  # -1 is the last
    found = [i for i in rows if len(rows[i])] or [-1]
    return [(names[i], {key: array[rows[i]] for key, array in gaussians.items()}) for i in found]
