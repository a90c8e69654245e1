"""What the backend needs to look at splats that are here: their Gaussians, their cameras, a box; and taking in what it
made of the inside of the box."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import bpy
import numpy as np

from . import cameras, editing, export, splats

MAX_VIEWS = 256  # cameras that are sent, spread over those that there are


def arrays_for(parts: Sequence[bpy.types.Object], scene: bpy.types.Scene) -> dict[str, np.ndarray]:
    """The Gaussians of splat objects that no filter hides and the cameras around them, in the space of the first, as
    the tasks want them. Colours are those stored: the filters will change those of the new Gaussians, too.

    Raises ValueError when an object is hidden, when nothing is left of them, and as `views_of`.
    """
    left = [_subset(splats.arrays_of(x), editing.kept(x)) for x in parts]
    gaussians = editing.together(parts, left)
    if not len(gaussians["means"]):
        raise ValueError("The filters hide every Gaussian; loosen them first.")
    return {name: gaussians[name] for name in splats.FIELDS} | views_of(parts[0], scene)


def _subset(arrays: Mapping[str, np.ndarray], which: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[which] for name, array in arrays.items()}


def views_of(obj: bpy.types.Object, scene: bpy.types.Scene) -> dict[str, np.ndarray]:
    """c2w [v 4 4] OpenCV in the space of the splats, K [v 3 3] and sizes [v 2] (height, width) of the photo cameras of
    their scene; without any, the one camera of the Blender scene if it can be used; else none (v = 0).

    Raises ValueError when the splats are stretched.
    """
    root = export.root_of(obj)
    found = [x for x in root.children_recursive if x.type == "CAMERA" and "pixworld_size" in x]
    seen = [(camera, _render_of(camera)) for camera in sorted(found, key=lambda x: x.name)]
    if not seen and scene.camera is not None and scene.camera.type == "CAMERA" and scene.camera.data.type == "PERSP":
        seen = [(scene.camera, scene.render)]
    if len(seen) > MAX_VIEWS:
        seen = [seen[i] for i in np.linspace(0, len(seen) - 1, MAX_VIEWS).round().astype(int)]
    world = np.array(obj.matrix_world, float)
    if not np.linalg.det(world[:3, :3]):
        raise ValueError(f"{obj.name} is scaled to nothing; give it and its parents a scale.")
    to_splats = np.linalg.inv(world)
    scale = np.cbrt(np.linalg.det(to_splats[:3, :3]))
    if not scale > 0 or not np.allclose(
        to_splats[:3, :3] @ to_splats[:3, :3].T, scale**2 * np.eye(3), atol=1e-4 * scale**2
    ):
        raise ValueError(f"{obj.name} is stretched or mirrored; give it and its parents one scale for all axes.")
    poses, lenses, sizes = [np.zeros((0, 4, 4))], [np.zeros((0, 3, 3))], [np.zeros((0, 2), np.int32)]
    for camera, render in seen:
        K, width, height = cameras.intrinsics_of(camera, render)
        pose = to_splats @ cameras.pose_of(camera)
        pose[:3, :3] /= scale
        pose[3] = (0, 0, 0, 1)  # exactly
        poses.append(pose[None])
        lenses.append(K[None])
        sizes.append(np.array([[height, width]], np.int32))
    return {"c2w": np.concatenate(poses), "K": np.concatenate(lenses), "sizes": np.concatenate(sizes)}


def _render_of(camera: bpy.types.Object) -> SimpleNamespace:
    """The render settings that a photo camera brings with it: those of its photo."""
    (width, height), (aspect_x, aspect_y) = camera["pixworld_size"], camera["pixworld_aspect"]
    return SimpleNamespace(
        resolution_x=int(width),
        resolution_y=int(height),
        resolution_percentage=100,
        pixel_aspect_x=aspect_x,
        pixel_aspect_y=aspect_y,
    )


def box_of(obj: bpy.types.Object, box: bpy.types.Object) -> np.ndarray:
    """Matrix [4 4] that takes the cube [-1, 1]^3 of a box object to the space of the splats. ValueError if flat."""
    world = export.world_of(obj)
    if not world.determinant():
        raise ValueError(f"{obj.name} is scaled to nothing; give it and its parents a scale.")
    matrix = np.array(world.inverted() @ export.world_of(box), float)
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise ValueError(f"The box {box.name} is flat; scale it up.")
    matrix[3] = (0, 0, 0, 1)  # exactly
    return matrix


def take_in(
    obj: bpy.types.Object,
    box: np.ndarray,
    made: Mapping[str, np.ndarray],
    others: Sequence[tuple[bpy.types.Object, np.ndarray]] = (),
) -> list[str]:
    """Replace what is in a box (of `box_of`) by other Gaussians, hidden or not; all else stays bit for bit. From
    `others`, each with the box in its own space, what is in it is removed. Returns what the user should know: that
    most of the new ones are hidden.

    Of those that the backend made, only what is in the box counts. Raises ValueError when none of them is.
    """
    inside = np.flatnonzero(editing.in_box(made["means"], box))
    if not len(inside):
        raise ValueError("The backend made nothing inside the box; make it larger, or try another seed.")
    new = _subset({name: made[name] for name in splats.FIELDS}, inside)
    for part, its_box, added in ((obj, box, new), *((x, b, None) for x, b in others)):
        within = editing.in_box(splats.arrays_of(part)["means"], its_box)
        if added is not None or within.any():
            editing.keep(part, np.flatnonzero(~within), added)
    with contextlib.suppress(ValueError):  # the object is hidden as a whole
        hidden = len(inside) - int((editing.kept(obj) >= len(obj.data.points) - len(inside)).sum())
        if hidden > len(inside) / 2:
            return [f"The filters of {obj.name} hide {hidden:,} of the {len(inside):,} new splats; loosen them."]
    return []
