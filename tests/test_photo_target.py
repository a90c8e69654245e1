"""The losses of a refinement, by their formulas."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pixworld.photo_target import DEPTH_DELTA, SSIM_WEIGHT, PhotoTarget
from pixworld.views import Views


@pytest.fixture
def photo(arc):
    g = torch.Generator().manual_seed(0)
    depth = torch.rand(1, 40, 56, generator=g) + 1
    return Views(
        torch.rand(1, 3, 40, 56, generator=g), arc(1, 40, 56), depth * (torch.rand(depth.shape, generator=g) < 0.3)
    )


def rendered(photo):
    g = torch.Generator().manual_seed(1)
    return (photo.images + 0.1 * torch.randn(photo.images.shape, generator=g)).clamp(0, 1)


def plain_image_loss(rgb, truth):
    """Of every window of 8 pixels, 4 apart, one after the other."""
    scores = []
    for y in range(0, rgb.shape[-2] - 7, 4):
        for x in range(0, rgb.shape[-1] - 7, 4):
            a, b = (image[0, :, y : y + 8, x : x + 8].double().flatten(1) for image in (rgb, truth))
            covariance = ((a - a.mean(1, True)) * (b - b.mean(1, True))).mean(1)
            means = (2 * a.mean(1) * b.mean(1) + 1e-4) / (a.mean(1) ** 2 + b.mean(1) ** 2 + 1e-4)
            scores.append(means * (2 * covariance + 9e-4) / (a.var(1, False) + b.var(1, False) + 9e-4))
    return (1 - SSIM_WEIGHT) * F.l1_loss(rgb, truth) + SSIM_WEIGHT * (1 - torch.stack(scores).mean())


def test_image_loss_is_l1_and_ssim_of_windows(photo):
    rgb = rendered(photo)
    assert PhotoTarget(photo).image_loss(rgb).item() == pytest.approx(plain_image_loss(rgb, photo.images).item(), 1e-4)
    assert PhotoTarget(photo).image_loss(photo.images).item() == pytest.approx(0, abs=1e-5)


def test_what_a_mask_hides_changes_no_loss(photo):
    mask = torch.zeros(1, 40, 56, dtype=torch.bool)
    mask[:, :, :30] = True
    target, rgb = PhotoTarget(replace(photo, mask=mask)), rendered(photo)
    other = torch.where(mask[:, None], rgb, 1 - rgb)
    assert target.image_loss(rgb) == target.image_loss(other)
    assert target.psnr(rgb) == target.psnr(other)
    expected = plain_image_loss(rgb * mask, photo.images * mask)
    assert target.image_loss(rgb).item() == pytest.approx(expected.item(), 1e-4)


def test_depth_loss_is_hubers_of_logarithms_where_both_are_known(photo):
    g = torch.Generator().manual_seed(2)
    depth = photo.depth.clamp_min(1) * torch.exp(0.1 * torch.randn(photo.depth.shape, generator=g))
    depth[:, 20:] = 0
    depth.requires_grad_()
    loss = PhotoTarget(photo).depth_loss(depth)
    both = (depth > 0) & (photo.depth > 0)
    expected = F.huber_loss(depth[both].log(), photo.depth[both].log(), delta=DEPTH_DELTA) / DEPTH_DELTA
    assert loss.item() == pytest.approx(expected.item(), 1e-5)
    loss.backward()
    assert depth.grad.isfinite().all()
    assert not depth.grad[~both].any()


def test_depth_that_nobody_knows_costs_nothing(photo):
    nothing = torch.zeros_like(photo.depth)
    assert PhotoTarget(replace(photo, depth=None)).depth_loss(photo.depth) == 0
    assert PhotoTarget(replace(photo, depth=nothing)).depth_loss(photo.depth) == 0
    assert PhotoTarget(photo).depth_loss(nothing) == 0
