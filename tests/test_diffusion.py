"""The flow path and its sampler."""

import torch

from pixworld import diffusion
from pixworld.losses import flow_matching, log_depth_huber


def test_path_ends_and_velocity():
    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for t, expected in ((0.0, noise), (1.0, x)):
        assert torch.allclose(diffusion.add_noise(x, noise, torch.full((2,), t)), expected)
    t = torch.tensor([0.3, 0.7])
    x_t = diffusion.add_noise(x, noise, t)
    assert torch.allclose(diffusion.velocity(x, x_t, t), x - noise, atol=1e-5)


def test_euler_with_the_true_answer_arrives_there():
    x = torch.randn(2, 3, 4)
    seen = []
    out = diffusion.euler(lambda x_t, t: x, torch.randn(2, 3, 4), 5, lambda i, n, _: seen.append((i, n)))
    assert torch.allclose(out, x) and seen[-1] == (5, 5)


def test_euler_follows_the_flow_of_a_gaussian():
    """For x ~ N(m, s²) the exact x̂ is E[x | x_t]; integrating it must carry N(0, 1) to N(m, s²)."""
    m, s = 0.7, 0.2

    def posterior_mean(x_t, t):
        t = t[:, None]
        return m + t * s**2 / (t**2 * s**2 + (1 - t) ** 2) * (x_t - t * m)

    noise = torch.randn(1, 20000, generator=torch.Generator().manual_seed(0))
    t_final = []
    out = diffusion.euler(lambda x_t, t: posterior_mean(x_t, t), noise, 400, lambda i, n, x: t_final.append(i))
    assert abs(out.mean().item() - m) < 0.01 and abs(out.std().item() - s) < 0.01


def test_linear_estimate_is_the_least_squares_one():
    g = torch.Generator().manual_seed(0)
    x, noise = 0.5 * torch.randn(1, 100_000, generator=g), torch.randn(1, 100_000, generator=g)
    t = torch.tensor([0.4])
    x_t = diffusion.add_noise(x, noise, t)
    best = (x * x_t).mean() / x_t.square().mean()
    assert torch.allclose(diffusion.linear_estimate(x_t, t), best * x_t, atol=0.02)


def test_flow_matching_is_the_weighted_x_error():
    x_hat, x, noise = (torch.randn(2, 3, 4) for _ in range(3))
    t = torch.tensor([0.2, 0.99])
    x_t = diffusion.add_noise(x, noise, t)
    weight = 1 / torch.tensor([0.8, 0.25])[:, None, None] ** 2
    expected = (weight * (x_hat - x) ** 2).mean()
    assert torch.allclose(flow_matching(x_hat, x, x_t, t, floor=0.25), expected, rtol=1e-4)


def test_log_depth_huber_ignores_unknown_pixels_and_is_linear_far_out():
    target = torch.tensor([0.0, 1.0])
    assert log_depth_huber(torch.tensor([5.0, 1.0]), target).item() == 0
    far = log_depth_huber(torch.tensor([5.0, torch.e**2]), target, delta=0.2)
    assert torch.allclose(far, torch.tensor(2 - 0.1))
