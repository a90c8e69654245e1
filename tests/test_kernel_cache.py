"""Compiled kernels that numba keeps on disk."""

import os
import subprocess
import sys
from pathlib import Path

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
