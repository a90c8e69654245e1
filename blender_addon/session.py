"""One job at a time: the connection to a backend and the job's life. No bpy in here; `pump` is called by a timer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from .backend import __version__
from .backend.client import BackendError, Client, Event, Keys
from .backend.protocol import Header, ProtocolError

RETRY_S = 3.0  # between two tries of an address that cannot be used
PATIENCE_S = 30.0  # a backend that is silent for longer than this, after the client's own limit, has lost the job


class Session:
    """The connection and the job of this Blender. Only events of the present job count: forgetting the job (another
    .blend was opened, the user cancelled) is enough to keep a late result out.

    Before a job there may be work to prepare it (photos to read, key views to render): a generator that `advance`
    takes a step further at a time, that yields (stage, step, steps) and that starts the job in the end.
    """

    def __init__(self) -> None:
        self.client: Client | None = None
        self.job: str | None = None
        self.work: Iterator[tuple[str, int, int]] | None = None
        self.state: Literal["idle", "connecting", "running", "done", "error", "cancelled"] = "idle"
        self.stage, self.step, self.steps = "", 0, 0
        self.error = ""  # one sentence; stays until the next start
        self.notes: list[str] = []  # what else the user should know of the last job
        self.refusal = ""  # why the present address cannot be used, found without anybody asking
        self.patience_s = PATIENCE_S
        self._stage_began, self._first_step = 0.0, 0
        self._lost_at: float | None = None
        self._retry_at = 0.0

    # the connection

    @property
    def connected(self) -> bool:
        return self.client is not None and self.client.alive

    @property
    def about(self) -> Header | None:
        """What the backend says of itself; None when it does not answer."""
        return self.client.about if self.connected else None

    @property
    def backend(self) -> str:
        """The backend in a few words, "" when it does not answer."""
        if self.about is None:
            return ""
        ready = "ready" if self.about.get("ready") else "not ready yet"
        return f"PixWorld {self.about.get('version', '?')} on {self.about.get('device', '?')}, {ready}"

    @property
    def trouble(self) -> str:
        """Why the backend cannot be given a job, in one sentence; "" when it can."""
        if self.client is not None and self.client.refused:
            also = ", or leave Keys empty if it has none" if self.client.keys else ""
            advice = f"give the client.json of its `backend keys`{also}."
            return f"The backend at {self.client.address} does not let us in; {advice}"
        if self.refusal or self.about is None:
            return self.refusal or "No backend answers; start it."
        version = self.about.get("version")
        if version != __version__:
            return f"The backend is PixWorld {version} and this extension {__version__}; use the same version of both."
        return "" if self.about.get("ready") else "The backend is loading its model; wait a moment."

    def connect(self, address: str, keys: Keys | None = None) -> Client:
        """Open the connection to an address, or keep it; does not wait for an answer. Raises BackendError."""
        if self.client is not None and ((self.client.address, self.client.keys) != (address, keys)):
            self.close()
        if self.client is None:
            self.client, self.refusal = Client(address, keys=keys), ""
        return self.client

    @property
    def may_connect(self) -> bool:
        """Whether a timer should call `connect`: not while there is a connection, nor again and again to no avail."""
        return self.client is None and time.monotonic() >= self._retry_at

    def refuse(self, why: str) -> None:
        """Note what is wrong with the present address; it is tried again after some seconds."""
        self.refusal, self._retry_at = why, time.monotonic() + RETRY_S

    def hello(self, address: str, keys: Keys | None = None) -> str:
        """Ask the backend who it is; waits about a second for one that is not there. Raises BackendError."""
        client = self.connect(address, keys)
        try:
            client.hello()
        except BackendError as error:
            self.close()
            self.refuse(str(error))
            raise
        return self.backend

    def close(self) -> None:
        """Cancel the job and drop the connection."""
        self.cancel()
        if self.client is not None:
            self.client.close()
            self.client = None
        self.refusal = ""

    # the job

    @property
    def busy(self) -> bool:
        return self.job is not None or self.work is not None

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end of the stage at its pace so far; None while that says nothing."""
        done = self.step - self._first_step
        if done <= 0 or not self.steps:
            return None
        return (time.monotonic() - self._stage_began) / done * max(0, self.steps - self.step)

    def prepare(self, work: Iterator[tuple[str, int, int]]) -> None:
        """Begin the work before a job."""
        assert not self.busy, "one job at a time"
        self.work, self.state, self.error, self.notes = work, "connecting", "", []
        self._note("prepare", 0, 0)

    def advance(self, seconds: float) -> None:
        """Go on with the work before a job for about so long. Raises ValueError, and is then in state "error"."""
        until = time.monotonic() + seconds
        while self.work is not None:
            try:
                self._note(*next(self.work))
            except StopIteration:
                self.work = None
            except Exception as error:  # of Blender too, where something went away
                foreseen = isinstance(error, (ValueError, RuntimeError, ReferenceError, OSError))
                self.fail(str(error) if foreseen else repr(error))
                raise ValueError(self.error) from error
            if time.monotonic() >= until:
                return

    def start(self, task: str, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Send a job to the backend that answered `hello`. Raises BackendError, and is then in state "error"."""
        assert self.job is None, "one job at a time"
        self.state, self.error, self.notes = "connecting", "", []
        self._note("sending", 0, 0)
        try:
            if self.trouble:
                raise BackendError(self.trouble)
            self.job = self.client.submit(task, fields, arrays)
        except (BackendError, ProtocolError) as error:
            self.fail(str(error))
            raise BackendError(str(error)) from None
        self.state, self._lost_at = "running", None

    def cancel(self) -> None:
        """Stop the job and forget it, whether or not the backend hears of it."""
        if not self.busy:
            return
        if self.job is not None and self.connected:
            with contextlib.suppress(BackendError):  # it is gone, and so is the work
                self.client.cancel(self.job)
        self._end("cancelled")

    def pump(self) -> Event | None:
        """Take note of what has happened; never waits. The result, or else the latest preview, when there is one."""
        if self.client is None:
            return None
        try:
            events = self.client.poll()
        except BackendError as error:
            if self.busy:
                self.fail(str(error))
            self.close()
            self.refuse(str(error))
            return None
        preview = None
        for event in events:
            if event.job != self.job:
                continue
            if event.kind == "progress":
                self._note(*(event.header.get(key, empty) for key, empty in (("stage", ""), ("step", 0), ("steps", 0))))
                preview = event if event.header.get("preview") else preview
            elif event.kind == "error":
                self._end("error", event.header.get("message", "the backend failed without saying why"))
            elif event.kind == "cancelled":
                self._end("cancelled")
            else:
                self._end("done")
                return event
        self._mind_silence()
        return preview if self.job is not None else None

    def fail(self, message: str) -> None:
        """End the job with an error from this side, or note the error when there is no job."""
        self._end("error", message)

    def _mind_silence(self) -> None:
        """A job outlives a connection that was lost for a while; the client asks for what was missed."""
        if self.job is None or self.client.alive:
            self._lost_at = None
            return
        self._lost_at = self._lost_at or time.monotonic()
        self.stage = "waiting for the backend to answer again"
        self.step = self.steps = 0
        if time.monotonic() - self._lost_at > self.patience_s:
            self.fail(f"the backend at {self.client.address} has stopped answering; start it again")

    def _note(self, stage: str, step: int, steps: int) -> None:
        if stage != self.stage or step < self._first_step:
            self._stage_began, self._first_step = time.monotonic(), step
        self.stage, self.step, self.steps = stage, step, steps

    def _end(self, state: Literal["done", "error", "cancelled"], error: str = "") -> None:
        work, self.work = self.work, None
        self.job, self.state, self.error = None, state, error
        self.notes = []
        if hasattr(work, "close") and not getattr(work, "gi_running", False):
            work.close()  # so that it puts back what it changed for a while
