"""The heap is frozen while code loads, and thawed again."""

import gc

import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.frozen_heap import frozen_heap
from pixworld.gaussians import Gaussians
from pixworld.render import render


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


def test_an_image_leaves_nothing_frozen():
    fields = torch.rand(9, 3), torch.rand(9, 4), torch.rand(9, 3), torch.rand(9), torch.rand(9, 1, 3)
    leaves = Gaussians(*fields).map(lambda x: x.double().requires_grad_())
    render(leaves, Cameras(torch.eye(4)[None], torch.eye(3)[None], 32, 32)).rgb.sum().backward()
    assert not gc.get_freeze_count()
