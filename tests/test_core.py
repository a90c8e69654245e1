"""Gaussians, cameras and spherical harmonics."""

import math
from dataclasses import replace

import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians, multiply_quats, quat_from_matrix, quat_to_matrix
from pixworld.sh import rgb_to_sh, rotate_sh, sh_basis, sh_to_rgb


def random_rotation(seed: int = 0) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    return q * torch.sign(torch.linalg.det(q))


def test_quaternions_and_matrices_agree():
    rotations = torch.stack(
        [random_rotation(i) for i in range(20)] + [torch.diag(torch.tensor([1.0, -1, -1])).double()]
    )
    quats = quat_from_matrix(rotations)
    assert torch.allclose(quat_to_matrix(quats), rotations, atol=1e-12)
    product = quat_to_matrix(multiply_quats(quats[:-1], quats[1:]))
    assert torch.allclose(product, rotations[:-1] @ rotations[1:], atol=1e-12)


def test_sh_basis_is_orthonormal():
    directions = torch.nn.functional.normalize(torch.randn(200_000, 3, dtype=torch.float64), dim=-1)
    basis = sh_basis(3, directions)
    gram = 4 * math.pi * basis.T @ basis / len(basis)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.03)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_rotated_sh_shows_the_same_colour_from_the_rotated_side(degree):
    sh = 0.1 * torch.randn(7, (degree + 1) ** 2, 3, dtype=torch.float64)
    directions = torch.randn(7, 3, dtype=torch.float64)
    rotation = random_rotation()
    turned = sh_to_rgb(rotate_sh(sh, rotation), directions @ rotation.T)
    assert torch.allclose(turned, sh_to_rgb(sh, directions), atol=1e-12)


def test_degree_zero_is_the_colour_itself():
    rgb = torch.rand(5, 3)
    assert torch.allclose(sh_to_rgb(rgb_to_sh(rgb), torch.randn(5, 3)), rgb, atol=1e-6)


def test_transformed_gaussians_have_the_transformed_covariance(cloud):
    g = cloud(dtype=torch.float64)
    rotation, shift = random_rotation(1), torch.tensor([1.0, 2, 3], dtype=torch.float64)
    moved = g.transform(2.5, rotation, shift)

    def covariance(x: Gaussians):
        m = quat_to_matrix(x.quats) * x.scales[:, None]
        return m @ m.mT

    assert torch.allclose(covariance(moved), 2.5**2 * rotation @ covariance(g) @ rotation.T)
    assert torch.allclose(moved.means, 2.5 * g.means @ rotation.T + shift)


def test_cat_pads_lower_sh_degrees(cloud):
    both = Gaussians.cat([cloud(3, degree=0), cloud(4, degree=2)])
    assert len(both) == 7 and both.sh_degree == 2
    assert both.sh[:3, 1:].abs().max() == 0


def test_wrong_shapes_are_refused(cloud):
    g = cloud(3)
    with pytest.raises((ValueError, TypeError)):
        Gaussians(g.means, g.quats[:2], g.scales, g.opacities, g.sh)


def test_rays_project_back_to_pixel_centres(arc):
    cameras = arc(3, 6, 8, torch.float64)
    origins, directions = cameras.rays()
    points = (origins + 2.5 * directions)[1]
    pixels, depth = cameras.project(points.reshape(-1, 3))
    assert torch.allclose(depth[1], torch.tensor(2.5, dtype=torch.float64))
    assert torch.allclose(pixels[1].reshape(6, 8, 2)[2, 3], torch.tensor([3.5, 2.5], dtype=torch.float64))


def test_points_in_frame_are_those_of_its_pixels(arc):
    camera = arc(3, 6, 8, torch.float64).select([1])
    beyond = replace(camera.crop(-1, -2, 8, 12), height=8, width=12)  # a pixel more above and below, two on either side
    origins, directions = beyond.rays()
    ahead, behind = ((origins + z * directions).reshape(-1, 3) for z in (2.5, -2.5))
    which, row, column, z = camera.in_frame(torch.cat([ahead, behind]))
    pixels = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij"), -1).reshape(-1, 2)
    assert torch.equal(torch.stack([row, column], -1), pixels)
    assert torch.equal(which, (pixels[:, 0] + 1) * 12 + pixels[:, 1] + 2) and torch.allclose(z, z.new_tensor(2.5))


def test_resize_crop_and_transform_keep_the_rays(arc):
    cameras = arc(2, 32, 40, torch.float64)
    point = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    pixels, depth = cameras.project(point)
    assert torch.allclose(cameras.resize(16, 10).project(point)[0], pixels * torch.tensor([0.25, 0.5]).double())
    assert torch.allclose(cameras.crop(4, 6, 8, 8).project(point)[0], pixels - torch.tensor([6.0, 4.0]).double())
    rotation, shift = random_rotation(2), torch.ones(3, dtype=torch.float64)
    moved = cameras.transform(3.0, rotation, shift)
    again, far = moved.project(3 * point @ rotation.T + shift)
    assert torch.allclose(again, pixels) and torch.allclose(far, 3 * depth)


def test_w2c_inverts_c2w(arc):
    cameras = arc(3, dtype=torch.float64)
    assert torch.allclose(cameras.w2c @ cameras.c2w, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), atol=1e-12)


def test_cameras_of_different_sizes_do_not_mix(arc):
    with pytest.raises(ValueError, match="different image sizes"):
        Cameras.cat([arc(1, 32, 40), arc(1, 32, 48)])
