"""Compiled kernels that numba keeps on disk."""

import os
import subprocess
import sys
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
def test_a_child_works_apart(tmp_path, capfd):
    def work():
        os.write(1, b"not to be seen")
        (tmp_path / "done").write_text("")
        raise RuntimeError("not to be seen either")

    child = compiling._fork(work)
    child.join(20)
    assert not child.is_alive()
    assert (tmp_path / "done").exists()
    assert capfd.readouterr() == ("", "")
