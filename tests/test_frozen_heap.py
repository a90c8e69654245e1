"""The heap is frozen while code loads, and thawed again."""

import gc

import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.frozen_heap import frozen_heap
from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.render.cpu.jit import parallel


def test_it_thaws():
    with pytest.raises(KeyError), frozen_heap():
        assert gc.get_freeze_count() and gc.isenabled()
        with frozen_heap():
            pass
        assert gc.get_freeze_count(), "the outer one thaws"
        raise KeyError
    assert not gc.get_freeze_count()


def test_what_somebody_else_froze_stays_so():
    gc.freeze()
    try:
        with frozen_heap():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_a_kernel_is_loaded_with_the_heap_frozen_and_run_without():
    calls = []

    def kernel(start: int, stop: int) -> None:
        calls.append((start, stop, bool(gc.get_freeze_count())))

    kernel.signatures = []
    parallel(kernel, 1)
    kernel.signatures = ["loaded"]
    parallel(kernel, 1)
    assert calls == [(0, 0, True), (0, 1, False), (0, 1, False)]


def test_an_image_leaves_nothing_frozen():
    fields = torch.rand(9, 3), torch.rand(9, 4), torch.rand(9, 3), torch.rand(9), torch.rand(9, 1, 3)
    leaves = Gaussians(*fields).map(lambda x: x.double().requires_grad_())
    render(leaves, Cameras(torch.eye(4)[None], torch.eye(3)[None], 32, 32)).rgb.sum().backward()
    assert not gc.get_freeze_count()
