"""Compiled kernels that numba keeps on disk."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.render import cpu, render
from pixworld.render.cpu import compiling
from pixworld.render.cpu.projection import project_backward
from pixworld.render.cpu.tiles import blend_backward

KERNEL = """
import numba
from constants import ADDED
from pixworld.kernel_cache import stamped

@stamped
def add(x):
    return x + ADDED

add = numba.njit(cache=True)(add)
"""


def test_a_constant_of_another_file_is_never_stale(tmp_path):
    """numba alone answers 2 both times."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}", "PYTHONDONTWRITEBYTECODE": "1"}
    code = "from kernel import add; print(add(1), sum(add.stats.cache_hits.values()))"
    said = []
    for constant in (1, 1, 2):
        (tmp_path / "constants.py").write_text(f"ADDED = {constant}\n")
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        said.append(done.stdout.decode().split())
    assert said == [["2", "0"], ["2", "1"], ["3", "0"]]


def test_what_a_child_compiles_is_what_a_gradient_needs():
    fields = torch.rand(9, 3), torch.rand(9, 4), torch.rand(9, 3), torch.rand(9), torch.rand(9, 1, 3)
    leaves = Gaussians(*fields).map(lambda x: x.requires_grad_())
    render(leaves, Cameras(torch.eye(4)[None], torch.eye(3)[None], 32, 32), backend="cpu").rgb.sum().backward()
    before = [list(kernel.signatures) for kernel in (blend_backward, project_backward)]
    cpu._compile_backward()
    assert before == [list(kernel.signatures) for kernel in (blend_backward, project_backward)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_a_child_works_apart(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work():
        os.write(1, b"not to be seen")
        (tmp_path / "done").write_text(f"{os.getpid()} {os.getppid()}")
        raise RuntimeError("not to be seen either")

    compiling.fork(work)
    compiling.wait()
    # Nobody finds a child that he did not start.
    assert str(os.getpid()) not in (tmp_path / "done").read_text().split()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_a_child_that_hangs_or_cannot_be_had_is_done_without(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiling, "PATIENCE", 0.2)
    monkeypatch.setattr(compiling, "LIFETIME", 1)
    start = time.monotonic()
    compiling.fork(lambda: time.sleep(30))
    compiling.wait()
    assert time.monotonic() - start < 5
    assert not compiling._results

    def full():
        raise OSError("no more processes")

    monkeypatch.setattr(os, "fork", full)
    compiling.fork(lambda: None)
    compiling.wait()
    assert not compiling._results
