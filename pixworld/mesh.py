"""A triangle mesh of the surfaces that Gaussians show, as a proxy for shadows and collisions: depth that is rendered
from cameras, fused into a truncated signed distance (Curless & Levoy 1996), meshed by marching cubes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from pixworld.cameras import Cameras, look_at
from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.view_choice import farthest_points
from pixworld.views import InputError

# Called with (stage, step, steps) as the work goes on; it may raise Cancelled.
OnProgress = Callable[[str, int, int], None]

RESOLUTION, RESOLUTIONS = 192, (16, 384)  # voxels along the longest side, and the least and most that may be asked for
VIEWS = 32  # that are fused, at most
SIZE = 384  # their long side, px, at most
MIN_ALPHA = 0.5  # where less is covered, a view shows no surface
EDGE = 0.05  # relative step of depth to a neighbour beyond which a pixel lies between two surfaces
TRUNCATION = 3.0  # of the signed distance, voxels
REACH = 0.01, 0.99  # quantiles of the points seen that the volume reaches to
SMALLEST_PART = 0.05  # of the largest part's triangles
KEPT, MAX_FACES = 0.25, 100_000  # share of the marching cubes' triangles that flat places leave, and the most of all
SLAB = 1 << 18  # voxels at once


class Mesh(NamedTuple):
    vertices: Float[np.ndarray, "n 3"]  # scene units
    faces: Integer[np.ndarray, "m 3"]  # counter-clockwise, seen from outside


class Volume(NamedTuple):
    """A grid of voxels along the axes of the world."""

    origin: Float[Tensor, " 3"]  # centre of the first voxel
    voxel: float  # side, scene units
    shape: tuple[int, int, int]


@torch.no_grad()
def mesh_of(
    gaussians: Gaussians, cameras: Sequence[Cameras], on_progress: OnProgress, resolution: int = RESOLUTION
) -> Mesh:
    """The surfaces as single cameras see them, or, without cameras, as views from all around the scene do.

    Raises InputError when there is no surface to see, Cancelled when told to.
    """
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise InputError(f"resolution is {resolution}; choose a number from {low} to {high}.")
    device = gaussians.means.device
    cameras = [_shrunk(c).to(device) for c in _spread(cameras or around(gaussians))]
    depths = []
    for i, camera in enumerate(cameras):
        on_progress("render depth", i, len(cameras))
        depths.append(surface_depth(gaussians, camera))
    volume = _volume(cameras, depths, resolution)
    distance, seen = fuse(cameras, depths, volume, on_progress)
    on_progress("mesh", 0, 1)
    mesh = _simplified(_without_crumbs(_marched(distance, seen)))
    on_progress("mesh", 1, 1)
    return mesh._replace(vertices=mesh.vertices * np.float32(volume.voxel) + volume.origin.cpu().numpy())


def around(gaussians: Gaussians) -> list[Cameras]:
    """Views from all around, at up to 60 degrees above and below, that show all but the outermost Gaussians."""
    solid = gaussians.means[gaussians.opacities > 0.1].cpu()
    if not len(solid):
        raise InputError("these splats are all but transparent; there is no surface to mesh.")
    centre = solid.median(dim=0).values
    radius = max(1e-6, float(np.quantile((solid - centre).norm(dim=-1).numpy(), 0.95)))
    i = torch.arange(VIEWS)
    height = math.sin(math.radians(60)) * (2 * (i + 0.5) / VIEWS - 1)
    turn, flat = math.pi * (3 - math.sqrt(5)) * i, (1 - height**2).sqrt()  # golden angles are spread evenly
    direction = torch.stack([flat * turn.sin(), height, -flat * turn.cos()], dim=-1)
    c2w = look_at(centre + 3 * radius * direction, centre, torch.tensor([0.0, -1.0, 0.0]))
    K = torch.tensor([[1.2 * SIZE, 0, SIZE / 2], [0, 1.2 * SIZE, SIZE / 2], [0, 0, 1]])[None]
    return [Cameras(c2w[k : k + 1], K, SIZE, SIZE) for k in range(VIEWS)]


def surface_depth(gaussians: Gaussians, camera: Cameras) -> Float[Tensor, "h w"]:
    """z of the surface in one view; 0 where there is none, or where the pixel lies between two."""
    seen = render(gaussians, camera)
    depth = torch.where(seen.alpha > MIN_ALPHA, seen.depth, 0.0)
    nearest = -F.max_pool2d(-torch.where(depth > 0, depth, math.inf), 3, 1, 1)
    farthest = F.max_pool2d(depth, 3, 1, 1)
    return torch.where(farthest < (1 + EDGE) * nearest, depth, 0.0)[0]


def fuse(
    cameras: Sequence[Cameras], depths: Sequence[Float[Tensor, "h w"]], volume: Volume, on_progress: OnProgress
) -> tuple[Float[Tensor, "x y z"], Bool[Tensor, "x y z"]]:
    """The signed distance to the surface along z, mean of the views, over the truncation: 1 in front, negative behind;
    and where any view tells."""
    band = _near(cameras, depths, volume)
    which = band.view(-1).nonzero().squeeze(-1)
    total, count = (torch.zeros(volume.shape, device=band.device) for _ in range(2))
    for start in range(0, len(which), SLAB):
        on_progress("fuse", start, len(which))
        voxels = which[start : start + SLAB]
        grid = torch.stack(torch.unravel_index(voxels, volume.shape), dim=-1)
        points = volume.origin.to(band.device) + volume.voxel * grid
        sums, counts = (torch.zeros(len(voxels), device=band.device) for _ in range(2))
        for camera, depth in zip(cameras, depths):
            here, row, column, z = camera.in_frame(points)
            surface = depth[row, column]
            distance = (surface - z) / (TRUNCATION * volume.voxel)
            tells = (surface > 0) & (distance > -1)
            here = here[tells]
            sums[here] += distance[tells].clamp_max(1)
            counts[here] += 1
        total.view(-1)[voxels], count.view(-1)[voxels] = sums, counts
    on_progress("fuse", len(which), len(which))
    return total / count.clamp_min(1), count > 0


def _near(cameras: Sequence[Cameras], depths: Sequence[Float[Tensor, "h w"]], volume: Volume) -> Bool[Tensor, "x y z"]:
    """The voxels near a point that any view sees: only there can a surface be."""
    device, shape = depths[0].device, torch.tensor(volume.shape, device=depths[0].device)
    near = torch.zeros(volume.shape, device=device)
    for camera, depth in zip(cameras, depths):
        voxels = ((_seen_points(camera, depth) - volume.origin.to(device)) / volume.voxel).round().long()
        x, y, z = voxels[((voxels >= 0) & (voxels < shape)).all(-1)].unbind(-1)
        near[x, y, z] = 1
    width = 2 * math.ceil(TRUNCATION) + 3
    for axis in range(3):
        kernel = [width if k == axis else 1 for k in range(3)]
        near = F.max_pool3d(near[None, None], kernel, 1, [k // 2 for k in kernel])[0, 0]
    return near > 0


def _seen_points(camera: Cameras, depth: Float[Tensor, "h w"]) -> Float[Tensor, "m 3"]:
    origins, directions = camera.rays()
    return (origins[0, 0] + depth[..., None] * directions[0])[depth > 0]


def _spread(cameras: Sequence[Cameras]) -> list[Cameras]:
    """At most VIEWS of single cameras, far from one another."""
    if len(cameras) <= VIEWS:
        return list(cameras)
    alike = Cameras.cat([c.resize(1, 1) for c in cameras])  # only where they stand and look counts
    return [cameras[i] for i in farthest_points(alike, VIEWS)]


def _shrunk(camera: Cameras) -> Cameras:
    scale = min(1.0, SIZE / max(camera.height, camera.width))
    return camera.resize(max(1, round(scale * camera.height)), max(1, round(scale * camera.width)))


def _volume(cameras: Sequence[Cameras], depths: Sequence[Float[Tensor, "h w"]], resolution: int) -> Volume:
    """Around the points that are seen, but for the outermost, which are often a sky or a window."""
    points = torch.cat([_seen_points(c, d)[::7] for c, d in zip(cameras, depths)]).cpu().numpy()
    if len(points) < 100:
        raise InputError("the cameras see no surface of these splats; give cameras that look at them, or none.")
    low, high = np.quantile(points, REACH, axis=0)
    voxel = max(float((high - low).max()) / resolution, 1e-9)
    margin = (TRUNCATION + 1) * voxel
    shape = np.ceil((high - low + 2 * margin) / voxel).astype(int) + 1
    return Volume(torch.from_numpy(low - margin).float(), voxel, tuple(shape.tolist()))


def _marched(distance: Float[Tensor, "x y z"], seen: Bool[Tensor, "x y z"]) -> Mesh:
    """Where the distance is 0, in voxels, in the cells whose eight corners are all known."""
    from skimage.measure import marching_cubes

    values = torch.where(seen, distance, 1.0).cpu().numpy()
    known = ~F.max_pool3d(~seen[None, None].cpu() * 1.0, 2, 1)[0, 0].bool().numpy()
    if not (values.min() < 0 < values.max()):
        raise InputError("no surface was found in these splats; choose cameras that look at them.")
    vertices, faces, *_ = marching_cubes(values, 0.0, gradient_direction="descent")
    cell = vertices[faces].mean(axis=1).astype(int)
    faces = faces[known[tuple(cell.T)]]
    if not len(faces):
        raise InputError("no surface was found in these splats; choose more cameras that look at them.")
    return _compact(vertices, faces)


def _without_crumbs(mesh: Mesh) -> Mesh:
    """The connected parts that are not small beside the largest."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = mesh.faces[:, [0, 1]].T, mesh.faces[:, [1, 2]].T
    ends = np.concatenate([a, b], axis=1)
    n = len(mesh.vertices)
    _, part = connected_components(coo_matrix((np.ones(ends.shape[1], bool), tuple(ends)), (n, n)), directed=False)
    part = part[mesh.faces[:, 0]]
    size = np.bincount(part)
    return _compact(mesh.vertices, mesh.faces[size[part] >= SMALLEST_PART * size.max()])


def _simplified(mesh: Mesh) -> Mesh:
    """Fewer triangles by quadric error (Garland & Heckbert 1997): flat places need few."""
    from fast_simplification import simplify

    count = min(MAX_FACES, math.ceil(KEPT * len(mesh.faces)))
    return _compact(*simplify(mesh.vertices, mesh.faces, target_count=count))


def _compact(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Without vertices that no face has."""
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(vertices[used].astype(np.float32), faces.reshape(-1, 3).astype(np.int32))
