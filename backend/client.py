"""Talk to a backend: submit, poll, cancel. Needs pyzmq, msgpack and numpy only; it ships inside Blender."""

from __future__ import annotations

import contextlib
import json
import struct
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from .protocol import DEFAULT_ADDRESS, MAX_BYTES, Arrays, Header, ProtocolError, decode, encode

PING_S = 1.0  # between two signs of life that poll() asks for
CONNECT_S = 1.0  # to a backend on this machine: one that listens is connected to within milliseconds
REMOTE_CONNECT_S = 3.0  # to one with keys, which may be far away
POLL_LIMIT = 64  # messages that one poll() reads, so that a user interface never waits for a flood
HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)


class BackendError(RuntimeError):
    """The backend cannot be used. The message is one sentence that says what is wrong and what to do."""


class Keys(NamedTuple):
    """What a backend with keys is reached by: 40 characters of Z85 each, from the client.json of `backend keys`."""

    server: str  # public key of the backend
    public: str
    secret: str

    @staticmethod
    def read(path: Path) -> Keys:
        """Those of a client.json. Raises BackendError."""
        content = read_json(path, "choose the client.json that `backend keys` made on the backend's machine")
        if "clients" in content:  # server.json
            raise BackendError(f"{path} is the backend's own file; choose the client.json that was made with it")
        return Keys(*(check_key(path, content.get(name)) for name in Keys._fields))


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The content of a file of keys. Raises BackendError with the advice when it has none."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is no file of keys"
        raise BackendError(f"{path} {reason}; {advice}") from None
    if not isinstance(content, dict):
        raise BackendError(f"{path} is no file of keys; {advice}")
    return content


def check_key(path: Path | str, key: object) -> str:
    """A key as it came from a file. Raises BackendError unless it is one."""
    with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError, struct.error):
        if len(z85.decode(key)) == 32:
            return key
    raise BackendError(f"{path} holds no key where one should be; make the keys anew with `backend keys`")


class Event(NamedTuple):
    """Something that happened to a job; after "result", "error" or "cancelled" nothing more happens to it."""

    job: str
    kind: Literal["progress", "result", "error", "cancelled"]
    header: Header  # see protocol.py; the fields of a result are those of its task in tasks/
    arrays: Arrays  # read-only


class Client:
    """One connection to a backend. Use it from one thread; it reconnects by itself when the backend comes back.

    `timeout_s` is how long the backend may stay silent before it counts as dead; `keys` are those of a backend that
    other machines may reach.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, timeout_s: float = 5.0, keys: Keys | None = None) -> None:
        self.address, self.timeout_s, self.keys = address, timeout_s, keys
        self._events: deque[Event] = deque()
        self._open: set[str] = set()  # jobs that have not ended, as far as we heard
        self._request_id = ""  # of the hello or status that waits for its reply
        self._reply: Header | None = None
        self.refused = False  # whether something is there and does not let us in
        self.alive = False  # whether the backend has answered lately, as of the last poll()
        self.about: Header | None = None  # its latest answer to "hello", which poll() asks for; None when not alive
        self._unanswered_since: float | None = None
        self._pinged_at = -PING_S
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, "[" in address)  # otherwise localhost could mean [::1] only
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)  # the same one after a reconnection
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # a message for a dead backend fails instead of piling up
        self._connect_s = min(timeout_s, CONNECT_S if keys is None else REMOTE_CONNECT_S)
        self._monitor = self._socket.get_monitor_socket(sum(HANDSHAKES))
        try:
            if keys is not None:
                for option, key in zip((zmq.CURVE_SERVERKEY, zmq.CURVE_PUBLICKEY, zmq.CURVE_SECRETKEY), keys):
                    self._socket.setsockopt_string(option, check_key("the client's keys", key))
            self._socket.connect(address)
        except BackendError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            raise BackendError(f"{address} is not an address like {DEFAULT_ADDRESS}: {error}") from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the connection. Jobs go on; their results can be fetched by id later."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def hello(self) -> Header:
        """Who is there: version, protocol, device, checkpoint, ready. Waits for the answer."""
        return self._request({"op": "hello"})

    def status(self, job: str | None = None) -> Header:
        """State of one job ("queued", "running", "result", "error", "cancelled" or "unknown") or of the whole
        backend. Waits for the answer."""
        return self._request({"op": "status", "job": job})

    def submit(self, task: str, fields: Header, arrays: Arrays, job: str | None = None) -> str:
        """Ask for work; returns the job's id. Sending the same job with the same id again starts nothing new."""
        job = job or uuid.uuid4().hex
        self._send({"op": "submit", "job": job, "task": task, "fields": fields}, arrays)
        self._open.add(job)
        return job

    def cancel(self, job: str) -> None:
        """Ask a job to stop; a "cancelled" event follows unless it ended before."""
        self._send({"op": "cancel", "job": job})

    def fetch(self, job: str) -> None:
        """Ask for a job's events (again), by id, from any client: its result if it has ended."""
        self._send({"op": "fetch", "job": job})
        self._open.add(job)

    def trouble(self) -> str:
        """Why the backend is not alive, in one sentence that says what to do. Never waits."""
        self._watch()
        if not self.refused:
            bind = "" if self.address == DEFAULT_ADDRESS else f" --bind {self.address}"
            return f"no backend answers at {self.address}; start it with `backend serve{bind}`"
        if self.keys is None:
            return f"{self.address} lets in only clients with keys, or is no backend; give the client.json of its keys"
        advice = "give the client.json of its own keys, or leave Keys empty if it has none"
        return f"the backend at {self.address} does not accept these keys; {advice}"

    def poll(self) -> list[Event]:
        """What happened since the last call. Never waits. Raises BackendError if it speaks another protocol."""
        self._pump()
        events = list(self._events)
        self._events.clear()
        return events

    def wait(self, job: str, on_progress: Callable[[Event], Any] = lambda event: None) -> Event:
        """Wait for a job's last event; other jobs' events stay for poll(). Raises BackendError if the backend dies."""
        started = time.monotonic()
        while True:
            self._pump()
            mine = [event for event in self._events if event.job == job]
            self._events = deque(event for event in self._events if event.job != job)
            for event in mine:
                if event.kind != "progress":
                    return event
                on_progress(event)
            if not self.alive and time.monotonic() - started > self.timeout_s:
                raise self._dead()
            self._socket.poll(100)

    def _send(self, header: Header, arrays: Arrays | None = None) -> None:
        frames, deadline = encode(header, arrays), time.monotonic() + self._connect_s
        while True:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
                return
            except zmq.Again:
                self._watch()
                if self.refused or time.monotonic() > deadline:
                    raise self._dead() from None
                self._socket.poll(20, zmq.POLLOUT)

    def _request(self, header: Header) -> Header:
        self._request_id, self._reply = uuid.uuid4().hex, None
        self._send({**header, "request": self._request_id})
        deadline = time.monotonic() + self.timeout_s
        while self._reply is None:
            if not self._socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
                raise self._dead()
            self._pump()
        return self._reply

    def _pump(self) -> None:
        """Read what has come, and ask for a sign of life now and then."""
        self._watch()
        for _ in range(POLL_LIMIT):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            try:
                self._receive(*decode(frames))
            except ProtocolError as error:
                advice = "; use the same version of both" if error.code == "UNSUPPORTED" else ""
                raise BackendError(f"the backend at {self.address} cannot be understood: {error}{advice}") from None
        now = time.monotonic()
        if self._unanswered_since is not None and now - self._unanswered_since > self.timeout_s:
            self.alive, self.about = False, None
        if now - self._pinged_at >= PING_S:
            self._pinged_at = now
            if self._unanswered_since is None:
                self._unanswered_since = now
            # while there is no connection the ping is not sent, and `alive` will tell
            with contextlib.suppress(zmq.Again):
                self._socket.send_multipart(encode({"op": "hello", "request": "about"}), zmq.NOBLOCK)
                self._socket.send_multipart(encode({"op": "ping", "jobs": sorted(self._open)}), zmq.NOBLOCK)

    def _receive(self, header: Header, arrays: Arrays) -> None:
        self.alive, self._unanswered_since = True, None
        kind, job = header.get("kind"), header.get("job", "")
        if kind == "hello":
            self.about = header
        if kind == "pong":
            self._compare(header.get("states", {}))
        elif kind == "progress":
            self._events.append(Event(job, kind, header, arrays))
        elif kind in ("result", "error", "cancelled"):
            if job in self._open or not job:  # a result that was fetched twice is told once
                self._open.discard(job)
                self._events.append(Event(job, kind, header, arrays))
        elif header.get("request") == self._request_id:
            self._reply = header

    def _compare(self, states: dict[str, str]) -> None:
        """Make up for messages that were lost with a connection or a backend. Messages keep their order, so a job
        that is over for the backend while we have not heard its end will not be told by itself any more."""
        for job, state in states.items():
            if job not in self._open:
                continue
            if state == "unknown":
                self._open.discard(job)
                message = "the backend was restarted and has lost this job; submit it again"
                self._events.append(Event(job, "error", {"job": job, "code": "LOST", "message": message}, {}))
            elif state not in ("queued", "running"):
                self.fetch(job)

    def _dead(self) -> BackendError:
        return BackendError(self.trouble())

    def _watch(self) -> None:
        """Hear how the latest attempts to connect went."""
        with contextlib.suppress(zmq.ZMQError):  # closed
            while self._monitor.poll(0):
                self.refused = recv_monitor_message(self._monitor)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED
