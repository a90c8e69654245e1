"""A mesh of an exact scene: a sphere and a wall of flat Gaussians."""

import math

import numpy as np
import pytest
import torch

from pixworld.cameras import Cameras, look_at
from pixworld.gaussians import Gaussians, quat_from_matrix
from pixworld.mesh import mesh_of
from pixworld.views import Cancelled, InputError

RADIUS = 2.0


def sphere(n: int = 12_000, centre: tuple[float, float, float] = (1.0, -2.0, 3.0)) -> Gaussians:
    """Flat opaque Gaussians, evenly on a sphere, each in its tangent plane."""
    i = torch.arange(n)
    y, turn = 2 * (i + 0.5) / n - 1, math.pi * (3 - math.sqrt(5)) * i
    normal = torch.stack([(1 - y**2).sqrt() * turn.cos(), y, (1 - y**2).sqrt() * turn.sin()], dim=-1)
    side = torch.nn.functional.normalize(torch.linalg.cross(normal, torch.tensor([0.3, 0.5, 0.8]).expand(n, 3)), dim=-1)
    axes = torch.stack([side, torch.linalg.cross(normal, side), normal], dim=-1)
    spacing = RADIUS * math.sqrt(4 * math.pi / n)
    return Gaussians(
        RADIUS * normal + torch.tensor(centre),
        quat_from_matrix(axes),
        torch.tensor([0.7 * spacing, 0.7 * spacing, 0.01]).expand(n, 3).clone(),
        torch.full((n,), 0.95),
        torch.zeros(n, 1, 3),
    )


def test_vertices_lie_on_the_sphere_and_it_is_closed():
    said = []
    made = mesh_of(sphere(), [], lambda *x: said.append(x), resolution=64)
    offset = made.vertices - np.array([1.0, -2.0, 3.0], np.float32)
    error = np.abs(np.linalg.norm(offset, axis=1) - RADIUS)
    voxel = 2 * RADIUS / 64
    assert np.median(error) < voxel / 4 and np.quantile(error, 0.99) < voxel, (np.median(error), error.max())
    a, b, c = (made.vertices[made.faces[:, k]] for k in range(3))
    area_vectors = np.cross(b - a, c - a) / 2
    assert np.linalg.norm(area_vectors, axis=1).sum() == pytest.approx(4 * math.pi * RADIUS**2, rel=0.05)
    volume = (a * area_vectors).sum() / 3  # positive only when faces turn outwards
    assert volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.05)
    assert 500 < len(made.faces) < 20_000
    assert said[0][0] == "render depth" and said[-1] == ("mesh", 1, 1)


def test_only_what_the_cameras_see_is_meshed():
    eye = torch.tensor([[1.0, -2.0, -7.0]])
    c2w = look_at(eye, torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.0, -1.0, 0.0]))
    K = torch.tensor([[[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]])
    made = mesh_of(sphere(), [Cameras(c2w, K, 240, 320)], lambda *_: None, resolution=48)
    assert made.vertices[:, 2].max() < 3.0  # the near half of the sphere
    assert np.abs(np.linalg.norm(made.vertices - np.array([1.0, -2.0, 3.0]), axis=1) - RADIUS).max() < 0.25


def test_crumbs_are_dropped():
    crumb = sphere(40, (6.0, -2.0, 3.0))
    small = Gaussians(
        (crumb.means - torch.tensor([6.0, -2, 3])) * 0.05 + torch.tensor([4.0, -2, 3]), crumb.quats,
        0.05 * crumb.scales, crumb.opacities, crumb.sh,
    )  # fmt: skip
    made = mesh_of(Gaussians.cat([sphere(), small]), [], lambda *_: None, resolution=64)
    assert made.vertices[:, 0].max() < 3.3


def test_what_cannot_be_meshed_is_said():
    clear = sphere(100)
    clear = Gaussians(clear.means, clear.quats, clear.scales, torch.full((100,), 0.01), clear.sh)
    with pytest.raises(InputError, match="transparent"):
        mesh_of(clear, [], lambda *_: None)
    with pytest.raises(InputError, match="resolution is 4; choose a number from 16 to 384"):
        mesh_of(sphere(100), [], lambda *_: None, resolution=4)
    away = Cameras(torch.eye(4)[None], torch.tensor([[[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]]), 240, 320)
    behind = Gaussians(clear.means - torch.tensor([0.0, 0, 100]), clear.quats, clear.scales, clear.opacities, clear.sh)
    with pytest.raises(InputError, match="no surface"):
        mesh_of(behind, [away], lambda *_: None)


def test_it_can_be_cancelled():
    def cancel(stage, step, steps):
        if stage == "fuse":
            raise Cancelled

    with pytest.raises(Cancelled):
        mesh_of(sphere(200), [], cancel, resolution=16)
