"""Names under which numba caches kernels on disk.

numba looks for changes in the file of a kernel alone, but kernels share constants and inline functions of other files:
one that was compiled before such a change is wrong, and may write where it must not.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path


def stamped(function: Callable) -> Callable:
    """The function, under a name that tells the content of its folder: kernels share nothing outside it."""
    function.__qualname__ = f"{function.__qualname__}_{_current(Path(function.__code__.co_filename).parent)}"
    return function


def stamp(folder: Path) -> str:
    """Of the content of all Python files in a folder."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()[:12]


@functools.cache
def _current(folder: Path) -> str:
    """The stamp, and kernels of other stamps beside the source deleted, which would pile up."""
    current = stamp(folder)
    for file in folder.glob("__pycache__/*.nb[ic]"):
        if f"_{current}-" not in file.name:
            with contextlib.suppress(OSError):
                file.unlink()
    return current
