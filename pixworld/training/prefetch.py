"""Batches read ahead, in threads: decoding and numpy leave Python's lock to the step that runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pixworld.views import Views


def ahead(batch: Callable[[int], Views], steps: range, readers: int) -> Iterator[Views]:
    """batch(step) for each step in order; `readers` of them are being read while the caller works on the last."""
    with ThreadPoolExecutor(readers) as pool:
        coming = deque(pool.submit(batch, step) for step in steps[:readers])
        try:
            for step in steps:
                views = coming.popleft().result()
                if step + readers in steps:
                    coming.append(pool.submit(batch, step + readers))
                yield views
        finally:
            for job in coming:
                job.cancel()
