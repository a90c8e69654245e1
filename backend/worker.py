"""The worker process: it owns the device, and does the jobs that the server sends over a pipe, one after the other.

A task is a function of the module's `OPS`: (fields, arrays, device, report) -> (fields, arrays), all of them plain data
of protocol.py; see tasks/. No path ever crosses the wire. Nothing here imports torch before there is work to do, so
that the server may import this module.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pixworld  # noqa: F401  before torch: it settles how OpenMP's threads wait
from backend.protocol import Arrays, Header, ProtocolError, decode, encode, failure

PROGRESS_S = 0.1  # between two messages of one stage
PREVIEW_S = 1.0  # between two previews


def main(connection: multiprocessing.connection.Connection, cancel: Any, device: str, module: str) -> None:
    """Say "ready" (or an error), then do one job after the other until the server is gone.

    `cancel` is a shared flag that the server sets; `module` has the tasks (`OPS`) and `describe`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which stops this process
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            tasks = importlib.import_module(module)
            about = tasks.describe(device)
        except Exception as error:
            send(connection, encode(_explain("", error)))
            return
        send(connection, encode({"kind": "ready", **about}))
        while True:
            header, arrays = decode(receive(connection))
            send(connection, _perform(tasks.OPS, header, arrays, device, Reporter(connection, cancel, header["job"])))


def send(connection: multiprocessing.connection.Connection, frames: Sequence[Any]) -> None:
    """Write a message to a pipe."""
    connection.send_bytes(len(frames).to_bytes(4, "little"))
    for frame in frames:
        connection.send_bytes(frame)


def receive(connection: multiprocessing.connection.Connection) -> list[bytes]:
    """Read a message from a pipe. Raises EOFError when the other side is gone."""
    return [connection.recv_bytes() for _ in range(int.from_bytes(connection.recv_bytes(), "little"))]


def _perform(ops: dict[str, Callable], header: Header, arrays: Arrays, device: str, report: Reporter) -> list[Any]:
    """Do a job; whatever becomes of it is a message."""
    job, task, fields = header["job"], header.get("task"), header.get("fields")
    try:
        if task not in ops:
            raise ProtocolError("UNSUPPORTED", f"there is no task {task!r}; there is {', '.join(ops)}")
        if not isinstance(fields, dict):
            raise ProtocolError("BAD_FIELD", "field 'fields' must be a map")
        fields, arrays = ops[task](fields, arrays, device, report)
        return encode({**fields, "kind": "result", "job": job}, arrays)
    except Exception as error:
        return encode(_explain(job, error))


def _explain(job: str, error: Exception) -> Header:
    """The last message of a job that has no result."""
    if isinstance(error, ProtocolError):
        return failure(job, error.code, str(error))
    import torch

    from pixworld.views import Cancelled, InputError

    if isinstance(error, Cancelled):
        return {"kind": "cancelled", "job": job}
    if isinstance(error, InputError):
        return failure(job, "BAD_INPUT", str(error))
    traceback.print_exception(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return failure(job, "OUT_OF_MEMORY", "memory ran out; use fewer photos or a smaller size")
    return failure(job, "FAILED", f"the backend failed, and its log says where: {type(error).__name__}: {error}")


class Reporter:
    """Tells the server how far a job is, called as (stage, step, steps); raises Cancelled once the job is unwanted."""

    def __init__(self, connection: multiprocessing.connection.Connection, cancel: Any, job: str) -> None:
        self._connection, self._cancel, self._job = connection, cancel, job
        self._where: Header = {"stage": "", "step": 0, "steps": 0}
        self._said, self._said_at, self._shown_at = "", 0.0, -PREVIEW_S

    def __call__(self, stage: str, step: int, steps: int) -> None:
        if self._cancel.value:
            from pixworld.views import Cancelled

            raise Cancelled
        self._where = {"stage": stage, "step": step, "steps": steps}
        now = time.monotonic()
        if stage != self._said or step == steps or now - self._said_at >= PROGRESS_S:
            self._said, self._said_at = stage, now
            self._send({})

    def preview(self, arrays: Callable[[], Arrays]) -> None:
        """Show what there is so far; `arrays` is asked for it where the last preview is old enough."""
        if time.monotonic() - self._shown_at >= PREVIEW_S:
            self._send({"preview": True}, arrays())
            self._shown_at = time.monotonic()  # only now: making and sending it may take long

    def _send(self, more: Header, arrays: Arrays | None = None) -> None:
        send(self._connection, encode({"kind": "progress", "job": self._job, **self._where, **more}, arrays))


def _die_with_parent() -> None:
    """A server that was killed could not stop this process."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
