"""Refinement: it gets nearer to the photos, respects masks, and can be stopped."""

from dataclasses import replace

import pytest
import torch

from pixworld.gaussians import Gaussians
from pixworld.metrics import psnr, ssim
from pixworld.refine import refine
from pixworld.render import render
from pixworld.views import Cancelled, Views


@pytest.fixture
def photos(arc, cloud):
    cameras = arc(5, 48, 64)
    images = render(cloud(300, degree=0), cameras).rgb.clamp(0, 1)
    return [Views(images[i : i + 1], cameras.select([i])) for i in range(5)]


@pytest.fixture
def start(cloud):
    """The true Gaussians, shaken."""
    g = torch.Generator().manual_seed(1)
    true = cloud(300, degree=0)
    return replace(
        true,
        means=true.means + 0.05 * torch.randn(true.means.shape, generator=g),
        scales=true.scales * 1.3,
        sh=true.sh + 0.3 * torch.randn(true.sh.shape, generator=g),
    )


def score(gaussians: Gaussians, photo: Views) -> float:
    return psnr(render(gaussians, photo.cameras).rgb, photo.images).item()


def test_a_photo_that_was_not_seen_is_matched_better(photos, start):
    seen = []
    refined = refine(start, photos[:2] + photos[3:], steps=80, on_step=lambda i, n, _: seen.append((i, n)))
    assert score(refined, photos[2]) > score(start, photos[2]) + 4
    assert seen[-1] == (80, 80) and all(torch.isfinite(x).all() for x in (refined.means, refined.scales))


def test_the_same_seed_gives_the_same_result(photos, start):
    a, b = (refine(start, photos, steps=5, seed=2) for _ in range(2))
    assert torch.equal(a.means, b.means) and not torch.equal(a.means, refine(start, photos, steps=5, seed=3).means)


def test_masked_pixels_do_not_count(photos, start):
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    mask[:, :, :32] = True
    masked = [replace(p, mask=mask) for p in photos]
    spoiled = [replace(p, images=torch.where(mask[:, None], p.images, 1.0)) for p in masked]
    a, b = (refine(start, x, steps=5) for x in (masked, spoiled))
    assert torch.allclose(a.means, b.means, atol=1e-6)


def test_no_steps_change_nothing_and_a_callback_can_stop(photos, start):
    assert refine(start, photos, steps=0) is start

    def stop(step, *_):
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        refine(start, photos, steps=50, on_step=stop)


def test_ssim_is_one_for_the_same_image_and_agrees_with_scikit_image():
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    g = torch.Generator().manual_seed(0)
    a = torch.rand(3, 40, 50, generator=g)
    b = (a + 0.1 * torch.randn(a.shape, generator=g)).clamp(0, 1)
    assert torch.allclose(ssim(a, a), torch.tensor(1.0))
    theirs = structural_similarity(
        a.numpy(),
        b.numpy(),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert abs(ssim(a, b).item() - theirs) < 0.01
