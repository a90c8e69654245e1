"""How the kernels are compiled and run: numba without the GIL, on threads of our own.

A kernel is a function over a range of independent tasks, `kernel(start, stop, *args)`. The threads are our own: OpenMP
dies in forked children (DataLoader workers), numba's workqueue with two callers.

numba caches what it compiled on disk, under names of pixworld/kernel_cache.py. Slice assignments and array methods are
avoided: each costs up to 3 s of compile time (they drag string formatting along).
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numba.core import cgutils
from numba.extending import intrinsic

from pixworld.frozen_heap import frozen_heap
from pixworld.kernel_cache import stamped

# No reassociation: the same pixel must get the same α in both passes, whatever was vectorised.
# What is switched off takes a tenth of the compile time: wrappers that nobody calls, and rewrites of array expressions.
_options = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "no_cfunc_wrapper": True, "no_rewrites": True}
inlined = numba.njit(forceinline=True, no_cpython_wrapper=True, **_options)
CACHED = True  # whether what one process compiled another will find


def kernel(function: Callable) -> Callable:
    """Compile on first call, or load from the cache: beside the source or, where that is read-only, the user's."""
    try:
        return numba.njit(nogil=True, cache=True, **_options)(stamped(function))
    except RuntimeError:  # numba found no place to write to: every process compiles for itself
        global CACHED
        CACHED = False
        return numba.njit(nogil=True, **_options)(function)


@intrinsic(prefer_literal=True)
def on_stack(typingctx, like, rows, columns):
    """Pointer to rows * columns items of the dtype of `like` in the stack frame of the calling kernel.

    LLVM knows that such arrays do not overlap, and keeps small ones in registers: with arrays on the heap
    blend_lanes_backward would stay scalar code.
    """

    def codegen(context, builder, signature, args):
        size = rows.literal_value * columns.literal_value
        return cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=size)

    return numba.types.CPointer(like.dtype)(like, rows, columns), codegen


@functools.lru_cache(maxsize=4)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """Our threads. A forked child has another pid, hence a pool of its own: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="render")


def parallel(function: Callable, tasks: int, *args) -> None:
    """function(start, stop, *args) over 0..tasks, on as many threads as torch may use, the caller's among them."""
    if not function.signatures:
        with frozen_heap():
            function(0, 0, *args)  # does nothing but load or compile it, for the dtype that is usual in this process
    threads = min(os.cpu_count() or 1, torch.get_num_threads(), tasks)
    if threads <= 1:
        function(0, tasks, *args)
        return
    # Several ranges a thread, as tasks differ in work; whoever is free takes the next (`next` of a list is atomic).
    edges = np.linspace(0, tasks, min(tasks, 8 * threads) + 1).astype(np.int64).tolist()
    ranges = iter(list(itertools.pairwise(edges)))

    def work() -> None:
        for start, stop in ranges:
            function(start, stop, *args)

    jobs = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for job in jobs:
        job.result()
