"""Compiling takes seconds, once: it is announced, and shared between two processes.

numba compiles on one core at a time. So while a process compiles the kernels of its first image, a forked child
compiles those of the gradient, and leaves them in the cache on disk.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from numba.core import event

from pixworld.render.cpu import jit

PATIENCE = 30  # seconds, of the parent with the child
_child: threading.Thread | None = None  # which waits for the end of the child


def share(work: Callable[[], None]) -> None:
    """When compiling begins, and was not all done before, say so once and let a child do `work`."""
    event.register("numba:compile", _Listener(work))


def wait() -> None:
    """Until the child, if there is one, has done its work; whoever still lacks a kernel compiles it."""
    global _child
    if _child is not None:
        _child.join(PATIENCE)
        _child = None


class _Listener(event.Listener):
    """Of what is really compiled: what the cache has is not."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.depth = 0  # of kernels and the functions inlined in them
        self.collecting = False

    def on_start(self, event_: event.Event) -> None:
        global _child
        if not _ours(event_):
            return
        if self.work is not None:
            print("compiling the CPU rasterizer, once (a few seconds) ..", file=sys.stderr, flush=True)
            self.work, work = None, self.work
            _child = _fork(work)
        if self.depth == 0:
            # The garbage collector would look through all of torch again and again: a sixth of the time
            self.collecting = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event_: event.Event) -> None:
        if _ours(event_):
            self.depth -= 1
            if self.depth == 0 and self.collecting:
                gc.enable()


def _ours(event_: event.Event) -> bool:
    return event_.data["dispatcher"].py_func.__module__.startswith(__package__)


def _fork(work: Callable[[], None]) -> threading.Thread | None:
    """Not a process begun afresh, which would import torch first: that takes as long as it would save."""
    if sys.platform != "linux" or (os.cpu_count() or 1) < 2 or not jit.CACHED:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, on forks beside threads; see the alarm
        pid = os.fork()
    if pid:
        thread = threading.Thread(target=os.waitpid, args=(pid, 0), daemon=True)
        thread.start()
        return thread
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)  # a lock that another thread of the parent held would never be released here
        # The parent's pipes and ports end with the parent.
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        for _ in range(3):
            os.open(os.devnull, os.O_RDWR)
        work()
    finally:
        os._exit(0)
