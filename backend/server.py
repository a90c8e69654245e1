"""The service: one ROUTER socket, a queue, and one worker process that owns the device. Never imports torch.

Only the loop touches the socket and the jobs. A thread a worker carries messages between the worker's pipe and the
loop, so that neither a busy worker nor a large message keeps anyone waiting. Clients are on this machine, or have keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import queue
import signal
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from backend import __version__, worker
from backend.access import Gate, ServerKeys, endpoint_of
from backend.client import BackendError
from backend.protocol import DEFAULT_ADDRESS, MAX_BYTES, PROTOCOL, Header, ProtocolError, decode, encode, failure

QUEUE_LIMIT = 32  # jobs that wait
QUEUE_BYTES = 4 * MAX_BYTES  # of all jobs that wait
RETRY_AFTER_S = 5.0  # what a refused client is told
KEEP_S = 3600.0  # how long a result can be fetched
KEEP_BYTES = 2 * MAX_BYTES  # of all results that are kept; the oldest go first
KEEP_JOBS = 1000
CANCEL_GRACE_S = 10.0  # a worker that does not stop by itself in this time is stopped
READ_LIMIT = 64  # messages read in a row before the other side gets its turn
TICK_MS = 1000  # between two looks at the clock, when nothing comes

_spawn = multiprocessing.get_context("spawn")


@dataclass
class Job:
    id: str
    client: bytes  # who hears about it
    frames: list[bytes]  # the message that submitted it; empty once it is over
    digest: bytes  # of that message
    state: str = "queued"  # then "running", then "result", "error" or "cancelled"
    last: list[Any] = field(default_factory=list)  # the latest message about it
    heard: bool = True  # whether the client gave a sign of life since the last preview was sent
    cancelled_at: float | None = None
    ended_at: float = 0.0


class Worker:
    """One worker process, its pipe, and a thread that carries messages between the pipe and the loop's inbox."""

    def __init__(self, context: zmq.Context, inbox: str, device: str, ops: str) -> None:
        self.about: Header | None = None  # what the worker says of itself once it is ready
        self.tag = uuid.uuid4().bytes
        self._cancel = _spawn.RawValue("b", 0)  # without a lock, which a killed worker could take along
        self._jobs: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self._connection, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=worker.main, args=(theirs, self._cancel, device, ops), daemon=True)
        self.process.start()
        theirs.close()  # so that the worker's death closes the pipe
        self._thread = threading.Thread(target=self._carry, args=(context, inbox), daemon=True)
        self._thread.start()

    def give(self, job: list[bytes]) -> None:
        self._cancel.value = 0
        self._jobs.put(job)

    def cancel(self) -> None:
        self._cancel.value = 1

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self._jobs.put([])
        self._thread.join()

    def _carry(self, context: zmq.Context, inbox: str) -> None:
        """Every message for the inbox has the worker's tag in front; the tag alone says that the worker is dead."""
        with context.socket(zmq.PUSH) as out, self._connection:
            out.setsockopt(zmq.LINGER, 0)
            out.setsockopt(zmq.SNDHWM, 0)
            out.connect(inbox)
            with contextlib.suppress(EOFError, OSError):
                out.send_multipart([self.tag, *worker.receive(self._connection)])  # "ready"
                while job := self._jobs.get():
                    worker.send(self._connection, job)
                    kind = "progress"
                    while kind == "progress":
                        frames = worker.receive(self._connection)
                        kind = decode(frames)[0]["kind"]
                        out.send_multipart([self.tag, *frames])
            out.send(self.tag)


class Server:
    """The service at one address. `run` serves until it is interrupted; `close` leaves no process behind.

    `ops` is the module of the tasks: `OPS` and `describe` as in tasks/. With `keys`, only clients that they name are
    let in, wherever they are; without, only this machine's. Raises BackendError if it cannot start.
    """

    def __init__(
        self,
        bind: str = DEFAULT_ADDRESS,
        device: str = "auto",
        ops: str = "backend.tasks",
        keys: ServerKeys | None = None,
    ) -> None:
        endpoint = endpoint_of(bind, keys is not None)
        self._device, self._ops = device, ops
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._ended: deque[Job] = deque()  # kept for fetch, the oldest first
        self._kept_bytes = 0
        self._worker: Worker | None = None
        self._context = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(
            zmq.RCVHWM, 0
        )  # what waits here is bounded by the worker: one job, few messages a second
        self._inbox.bind("inproc://workers")
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.IPV6, "[" in endpoint)
        self._router.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that reconnects takes its name over
        self._gate = None if keys is None else Gate(self._context, keys)
        if keys is not None:
            Gate.guard(self._router, keys)
        try:
            self._router.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise BackendError(f"cannot listen at {bind}: {error.strerror}; choose another address") from None
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._worker:
            self._worker.stop()
        self._context.destroy(linger=0)

    def run(self) -> None:
        """Serve for ever. Raises BackendError if the worker cannot use the device that it is told to use."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._inbox, zmq.POLLIN)
        if self._gate:
            poller.register(self._gate.socket, zmq.POLLIN)
        self._start_worker()
        while True:
            poller.poll(TICK_MS)
            if self._gate:
                self._gate.answer()
            self._read_clients()
            self._read_worker()
            self._check_times()
            self._start_next()

    # clients

    def _read_clients(self) -> None:
        for _ in range(READ_LIMIT):
            try:
                client, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            job = ""
            try:
                header, _arrays = decode(frames)
                if header.get("job") is not None:
                    job = text(header, "job")
                self._answer(client, header, frames)
            except ProtocolError as error:
                self._send(client, encode(failure(job, error.code, str(error))))

    def _answer(self, client: bytes, header: Header, frames: list[bytes]) -> None:
        match text(header, "op"):
            case "hello":
                self._send(client, encode(self._hello() | {"request": text(header, "request")}))
            case "status":
                self._send(client, encode(self._status(header.get("job")) | {"request": text(header, "request")}))
            case "ping":
                jobs = header.get("jobs")
                if not isinstance(jobs, list) or not all(isinstance(job, str) for job in jobs):
                    raise ProtocolError("BAD_FIELD", "field 'jobs' must be a list of ids")
                for job in self._jobs.keys() & set(jobs):
                    self._jobs[job].client, self._jobs[job].heard = client, True
                self._send(client, encode({"kind": "pong", "states": {job: self._state(job) for job in jobs}}))
            case "submit":
                self._submit(client, text(header, "job"), frames)
            case "cancel":
                self._cancel(self._find(header))
            case "fetch":
                job = self._find(header)
                job.client = client
                self._send(client, job.last)
            case op:
                raise ProtocolError("UNSUPPORTED", f"there is no operation {op!r} in protocol {PROTOCOL}")

    def _hello(self) -> Header:
        about = self._worker.about if self._worker else None
        return {
            "kind": "hello",
            "version": __version__,
            "protocol": PROTOCOL,
            "ready": about is not None,
            **(about or {"device": self._device, "checkpoint": "", "hash": ""}),
        }

    def _status(self, job: object) -> Header:
        if job is not None:
            return {"kind": "status", "job": job, "state": self._state(job)}
        running = self._running.id if self._running else None
        return {"kind": "status", "running": running, "queued": len(self._queue), "kept": len(self._ended)}

    def _state(self, job: object) -> str:
        return self._jobs[job].state if job in self._jobs else "unknown"

    def _find(self, header: Header) -> Job:
        id = text(header, "job")
        if id not in self._jobs:
            raise ProtocolError("UNKNOWN_JOB", f"there is no job {id} here, or its result is too old and was dropped")
        return self._jobs[id]

    def _submit(self, client: bytes, id: str, frames: list[bytes]) -> None:
        digest = hashlib.blake2b()
        for frame in frames:
            digest.update(len(frame).to_bytes(8, "little") + frame)
        known = self._jobs.get(id)
        if known is None:
            self._admit(Job(id, client, frames, digest.digest()))
        elif known.digest != digest.digest():
            raise ProtocolError("ID_CONFLICT", f"there is a job {id} already, which asks for something else")
        else:
            known.client = client
            self._send(client, known.last)

    def _admit(self, job: Job) -> None:
        size = sum(nbytes(waiting.frames) for waiting in [*self._queue, job])
        if len(self._queue) >= QUEUE_LIMIT or size > QUEUE_BYTES:
            busy = failure(
                job.id, "BUSY", f"the backend is busy, {len(self._queue)} jobs wait already; try again later"
            )
            self._send(job.client, encode(busy | {"retry_after": RETRY_AFTER_S}))
            return
        self._jobs[job.id] = job
        self._queue.append(job)
        self._tell_place(job, len(self._queue) - 1)
        self._start_next()

    def _cancel(self, job: Job) -> None:
        if job.state == "queued":
            self._queue.remove(job)
            self._end(job, "cancelled", encode({"kind": "cancelled", "job": job.id}))
        elif job.state == "running" and job.cancelled_at is None:
            job.cancelled_at = time.monotonic()
            self._worker.cancel()

    def _tell_place(self, job: Job, place: int) -> None:
        ahead = place + (self._running is not None)
        job.last = encode({"kind": "progress", "job": job.id, "stage": "queued", "step": ahead, "steps": 0})
        self._send(job.client, job.last)

    def _tell_progress(self, job: Job, header: Header, frames: list[Any]) -> None:
        """Previews are large: they must not pile up for a client that is too busy to read them."""
        job.last = frames
        if job.heard or not header.get("preview"):
            self._send(job.client, frames)
        if header.get("preview"):
            job.heard = False

    def _send(self, client: bytes, frames: list[Any]) -> None:
        """A client that is gone or does not read misses this message; it can fetch the latest one."""
        with contextlib.suppress(zmq.ZMQError):
            self._router.send_multipart([client, *frames], zmq.NOBLOCK, copy=False)

    # the worker

    def _start_worker(self) -> None:
        self._worker = Worker(self._context, "inproc://workers", self._device, self._ops)

    def _start_next(self) -> None:
        if self._running or not self._queue:
            return
        if self._worker is None:
            self._start_worker()
        if self._worker.about is None:
            return  # it is still starting
        job = self._running = self._queue.popleft()
        job.state = "running"
        self._worker.give(job.frames)
        for place, waiting in enumerate(self._queue):
            self._tell_place(waiting, place)

    def _read_worker(self) -> None:
        for _ in range(READ_LIMIT):
            try:
                tag, *frames = self._inbox.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if not self._worker or tag != self._worker.tag:
                continue
            if not frames:
                self._bury_worker()
                continue
            header, _arrays = decode(frames)
            if header["kind"] == "ready":
                self._worker.about = {key: value for key, value in header.items() if key != "kind"}
            elif self._running is None:
                raise BackendError(header["message"])
            elif header["kind"] == "progress":
                self._tell_progress(self._running, header, frames)
            else:
                self._end(self._running, header["kind"], frames)

    def _bury_worker(self) -> None:
        """The worker is dead: its job fails, and so do all that wait if it died before it could do any work."""
        dead, self._worker = self._worker, None
        dead.stop()
        message = f"the worker process died with code {dead.process.exitcode}; if memory ran out, use fewer photos"
        jobs = [self._running] if self._running else []
        if dead.about is None:
            jobs, self._queue = jobs + list(self._queue), deque()
        for job in jobs:
            if job.cancelled_at is not None:
                self._end(job, "cancelled", encode({"kind": "cancelled", "job": job.id}))
            else:
                self._end(job, "error", encode(failure(job.id, "WORKER_DIED", message)))
        print(f"backend: {message}", file=sys.stderr, flush=True)
        if dead.about is not None:
            self._start_worker()  # otherwise the next job tries again

    def _end(self, job: Job, state: str, last: list[Any]) -> None:
        if job is self._running:
            self._running = None
        job.state, job.last, job.frames, job.ended_at = state, last, [], time.monotonic()
        self._ended.append(job)
        self._kept_bytes += nbytes(last)
        self._send(job.client, last)

    def _check_times(self) -> None:
        now = time.monotonic()
        while self._ended and (
            now - self._ended[0].ended_at > KEEP_S or self._kept_bytes > KEEP_BYTES or len(self._ended) > KEEP_JOBS
        ):
            job = self._ended.popleft()
            self._kept_bytes -= nbytes(job.last)
            del self._jobs[job.id]
        running = self._running
        if running and running.cancelled_at is not None and now - running.cancelled_at > CANCEL_GRACE_S:
            self._worker.process.kill()  # its thread tells of its death
        if self._worker and not running and not self._worker.process.is_alive():
            self._bury_worker()


def nbytes(frames: list[Any]) -> int:
    return sum(memoryview(frame).nbytes for frame in frames)


def text(header: Header, key: str) -> str:
    """A short text that a message must have."""
    value = header.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise ProtocolError("BAD_FIELD", f"field {key!r} must be a text of 1 to 64 characters")
    return value


def serve(bind: str, device: str, ops: str = "backend.tasks", keys: Path | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, with the keys of a folder. Raises BackendError if it cannot."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    known = None if keys is None else ServerKeys.read(keys)
    with Server(bind, device, ops, known) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"backend {__version__} listens at {server.address}; stop it with Ctrl-C", flush=True)
        server.run()
