"""Our Adam against torch's."""

import torch

from pixworld.adam import EPS, Adam


def test_is_torchs():
    generator = torch.Generator().manual_seed(0)
    start = {name: torch.randn(5, width, generator=generator) for name, width in (("a", 3), ("b", 1), ("c", 2))}
    ours, theirs = ({name: x.clone().requires_grad_() for name, x in start.items()} for _ in range(2))
    rates = {"a": 0.1, "b": 0.01, "c": 0.1}
    adam = Adam(rates)
    groups = [{"params": [theirs[name]], "lr": rate} for name, rate in rates.items()]
    twin = torch.optim.Adam(groups, eps=EPS)
    for step in range(20):
        for tensors in (ours, theirs):
            for x in tensors.values():
                x.grad = None
            loss = sum((tensors[name] - step).square().sum() for name in "ab")
            (loss + 1e-15 * tensors["c"].sum()).backward()  # as small as the constant that keeps from dividing by 0
        for group, rate in zip(twin.param_groups, rates.values()):
            group["lr"] = rate * 0.5**step
        adam.step(ours, 0.5**step)
        twin.step()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-5) for name in rates)
    assert not any(torch.equal(ours[name], start[name]) for name in rates)


def test_rows_keep_their_averages():
    x = torch.zeros(4, 2, requires_grad=True)
    (x * torch.arange(4)[:, None]).sum().backward()
    adam = Adam({"x": 0.1, "y": 0.1})
    adam.step({"x": x})
    before = adam.averages["x"]
    source, fresh = torch.tensor([3, 1, 1]), torch.tensor([False, False, True])
    adam.take("x", source, fresh)
    adam.take("y", source, fresh)  # which had no step yet
    for old, new in zip(before, adam.averages["x"]):
        assert torch.equal(new[:2], old[[3, 1]]) and not new[2].any()
    assert "y" not in adam.averages
