"""Compiling takes seconds, once: it is announced, and shared between two processes.

numba compiles on one core at a time. So while a process compiles the kernels of its first image, a forked child
compiles those of the gradient, and leaves them in the cache on disk. A process begun afresh would not do: it would
import torch first, which takes as long as it saves. Nothing depends on the child: whoever lacks a kernel compiles it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Collection

import torch
from numba.core import event

from pixworld.render.cpu import jit

PATIENCE = 10  # seconds that one waits for the child once its kernels are needed; it takes 3 to 8 in all
LIFETIME = 60  # seconds of the child: it would wait for ever for a lock that another thread of the parent held
_results: list[int] = []  # a pipe that the child closes by ending


def share(gradient: Collection[Callable], work: Callable[[], None]) -> None:
    """When compiling begins, say so once; and a child does `work`, which compiles the kernels `gradient`."""
    event.register("numba:compile", _Listener(gradient, work))


def wait() -> None:
    """Until the child, if there is one, has ended, but not for long."""
    with contextlib.suppress(IndexError):
        pipe = _results.pop()  # atomic: one of several threads waits
        select.select([pipe], [], [], PATIENCE)
        os.close(pipe)


class _Listener(event.Listener):
    """Of what is really compiled: what the cache has is not. numba compiles in one thread at a time."""

    def __init__(self, gradient: Collection[Callable], work: Callable[[], None]) -> None:
        self.gradient, self.work = gradient, work
        self.first = True

    def on_start(self, event_: event.Event) -> None:
        dispatcher = event_.data["dispatcher"]
        if self.first and (dispatcher.py_func.__module__ or "").startswith(__package__):
            self.first = False
            print("compiling the CPU rasterizer, once (a few seconds) ..", file=sys.stderr, flush=True)
            if dispatcher not in self.gradient:
                fork(self.work)

    def on_end(self, event_: event.Event) -> None:
        pass


def fork(work: Callable[[], None]) -> None:
    """Do `work` in a process of its own, for which wait() waits; where that cannot be had, nothing.

    Forked twice, so that nobody finds a child that he did not start, and none is left as a zombie.
    """
    if sys.platform != "linux" or min(len(os.sched_getaffinity(0)), torch.get_num_threads()) < 2 or not jit.CACHED:
        return
    mine, its = os.pipe()
    # Signals are for the parent: the child must not run its handlers, nor be thrown back into its code.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, on forks beside threads: see LIFETIME
            child = os.fork()
        if not child:
            _end_after(work, its)
        with contextlib.suppress(ChildProcessError):  # somebody else waited for it
            os.waitpid(child, 0)
        _results.append(mine)
    except OSError:
        os.close(mine)
    finally:
        os.close(its)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_after(work: Callable[[], None], pipe: int) -> None:
    """The first child ends at once; the second after the work. Neither returns."""
    try:
        if os.fork():
            return
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.alarm(LIFETIME)
        # The parent's pipes and ports end with the parent.
        for file in os.listdir("/proc/self/fd"):
            if int(file) != pipe:
                with contextlib.suppress(OSError):
                    os.close(int(file))
        for _ in range(3):
            os.open(os.devnull, os.O_RDWR)
        work()
    finally:
        os._exit(0)
