"""Metrics against values computed by hand."""

import math

import pytest
import torch

from pixworld.cameras import look_at
from pixworld.metrics import pose_auc, pose_errors, psnr, ssim


def test_psnr_of_a_constant_error():
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 1.0)])
    assert psnr(a, b).tolist() == pytest.approx([20.0, 0.0], abs=1e-4)


def test_psnr_of_what_the_mask_shows():
    a, b = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    b[..., 0, 0], b[..., 1, 1] = 0.5, 1.0
    mask = torch.tensor([[[True, True], [True, False]]])
    assert psnr(a, b, mask).item() == pytest.approx(-10 * math.log10(0.25 / 3), abs=1e-4)


def test_ssim_of_constants():
    """Without variance it is (2 a b + C1) / (a² + b² + C1)."""
    a, b = torch.full((3, 16, 16), 0.2), torch.full((3, 16, 16), 0.6)
    assert ssim(a, b).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-4)
    x = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert ssim(x, 1 - x).max() < 0  # an inverted picture


def poses(eyes, targets=((0.0, 0.0, 0.0),)) -> torch.Tensor:
    return look_at(torch.tensor(eyes), torch.tensor(targets), torch.tensor([0.0, -1.0, 0.0]))


def rotation(axis: int, degrees: float) -> torch.Tensor:
    """Homogeneous rotation about a coordinate axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    out = torch.eye(4)
    out[i, i], out[i, j], out[j, i], out[j, j] = c, -s, s, c
    return out


EYES = [[0.0, 0.0, -4.0], [1.0, 0.5, -4.0], [2.0, 0.0, -3.0]]


def test_pose_errors_ignore_the_world_and_its_scale():
    truth = poses(EYES)
    moved = truth.clone()
    moved[:, :3, 3] *= 7
    moved = rotation(1, 40) @ moved
    moved[:, :3, 3] += torch.tensor([5.0, -1.0, 2.0])
    assert pose_errors(moved, truth).max() < 0.01


def test_pose_errors_of_a_camera_that_is_turned():
    """A camera rolled by 10 degrees in place: its pairs are off by 10, seen from the others; seen from itself the
    direction to the others turns as well, by at most as much."""
    truth = poses(EYES)
    wrong = truth.clone()
    wrong[2] = truth[2] @ rotation(2, 10)
    assert pose_errors(wrong, truth).tolist() == pytest.approx([0.0, 10.0, 10.0], abs=0.01)


def test_pose_errors_of_a_camera_in_the_wrong_place():
    """Unturned cameras at 0, x and, in truth, z; the estimate has the third 30 degrees off, seen from the first."""
    truth = torch.eye(4).repeat(2, 1, 1)
    truth[1, :3, 3] = torch.tensor([0.0, 0.0, 2.0])
    wrong = truth.clone()
    wrong[1, :3, 3] = torch.tensor([math.sin(math.radians(30)), 0.0, math.cos(math.radians(30))])
    assert pose_errors(wrong, truth).tolist() == pytest.approx([30.0], abs=1e-3)
    wrong[1, :3, 3] *= -1  # the sign is free
    assert pose_errors(wrong, truth).tolist() == pytest.approx([30.0], abs=1e-3)


def test_lost_views_count_180_degrees():
    truth = poses(EYES)
    found = torch.tensor([True, True, False])
    assert pose_errors(truth, truth, found).tolist() == pytest.approx([0.0, 180.0, 180.0], abs=0.01)
    here = truth.clone()
    here[1, :3, 3] = here[0, :3, 3]  # no translation where there was one
    assert pose_errors(here, truth)[0] == 180


def test_pairs_that_only_turn_have_no_direction_to_compare():
    truth = torch.stack([torch.eye(4), rotation(1, 20), poses(EYES)[1]])
    wrong = torch.stack([torch.eye(4), rotation(1, 23), poses(EYES)[1]])
    assert pose_errors(wrong, truth)[0].item() == pytest.approx(3.0, abs=1e-3)


def test_pose_auc_by_hand():
    """Errors 0.5, 2.5 and 40 degrees: below 1 and 2 lies one of three, below 3, 4 and 5 two of three."""
    errors = torch.tensor([0.5, 2.5, 40.0])
    assert pose_auc(errors, 5) == pytest.approx((1 + 1 + 2 + 2 + 2) / 15)
    assert pose_auc(errors, 1) == pytest.approx(1 / 3)
    assert pose_auc(torch.zeros(4), 30) == 1 and pose_auc(torch.full((4,), 180.0), 30) == 0
