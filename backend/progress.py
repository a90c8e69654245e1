"""What the command line shows while it works, and how Ctrl-C ends a refinement without losing it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from pixworld.refine import Progress


class Stages:
    """Progress on stderr, called as (stage, step, steps): a bar a stage on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, console=console) if console.is_terminal else None
        self._bar = None
        self.stage, self._started, self._tenths = "", 0.0, 0

    def __enter__(self) -> Stages:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        if self._bars:
            self._bars.stop()

    def __call__(self, stage: str, step: int, steps: int) -> None:
        if stage != self.stage:
            self._finish()
            self.stage, self._started = stage, time.monotonic()
            if self._bars:
                self._bar = self._bars.add_task(stage, total=steps)
            else:
                print(f"{stage} ..", file=sys.stderr, flush=True)
        if self._bars:
            self._bars.update(self._bar, completed=step, total=steps)

    def on_refine(self, progress: Progress) -> None:
        """Progress of a refinement, with the PSNR: beside the bar, or in a line every tenth."""
        self("refine", round(1000 * progress.fraction), 1000)
        if self._bars:
            self._bars.update(self._bar, description=f"refine, {progress.psnr:.2f} dB")
        elif int(10 * progress.fraction) > self._tenths:
            self._tenths = int(10 * progress.fraction)
            said = f"refine: {10 * self._tenths} %, step {progress.step}, {progress.psnr:.2f} dB"
            print(said, file=sys.stderr, flush=True)

    def _finish(self) -> None:
        if self._bars and self._bar is not None:
            total = self._bars.tasks[self._bar].total
            self._bars.update(self._bar, completed=total)
            self._bars.stop_task(self._bar)
        elif self.stage:
            print(f"{self.stage}: {time.monotonic() - self._started:.1f} s", file=sys.stderr, flush=True)


@contextmanager
def interruptible(gently: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """While the block runs, a Ctrl-C at a time that is `gently` is a wish to end, which the yielded function tells; at
    any other time, and the second time, it interrupts."""
    asked = threading.Event()

    def on_interrupt(*_: object) -> None:
        if asked.is_set() or not gently():
            raise KeyboardInterrupt
        asked.set()
        with suppress(OSError):  # a message must not end the work; print itself may be what was interrupted
            os.write(2, b"\nEnding; what there is will be kept, unless you press Ctrl-C again.\n")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
