"""One job at a time: the connection to a backend and the job's life. No bpy in here; `pump` is called by a timer."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .backend.client import BackendError, Client, Event
from .backend.protocol import ProtocolError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}


class Session:
    """The connection and the job of this Blender. Only events of the present job count: forgetting the job (another
    .blend was opened, the user cancelled) is enough to keep a late result out."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.job: str | None = None
        self.state: Literal["idle", "connecting", "running", "done", "error", "cancelled"] = "idle"
        self.stage, self.step, self.steps = "", 0, 0
        self.error = ""  # one sentence; stays until the next start
        self.backend = ""  # what the backend said of itself

    @property
    def connected(self) -> bool:
        return self.client is not None and self.client.alive

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def connect(self, address: str) -> Client:
        """Open the connection to an address, or keep it; does not wait for an answer. Raises BackendError."""
        if self.client is not None and self.client.address != address:
            self.close()
        if self.client is None:
            self.client = Client(address)
        return self.client

    def hello(self, address: str) -> str:
        """Ask the backend who it is; waits about a second for one that is not there. Raises BackendError."""
        try:
            about = self.connect(address).hello()
        except BackendError:
            self.close()
            raise
        ready = "ready" if about.get("ready") else "not ready yet"
        self.backend = f"PixWorld {about.get('version', '?')} on {about.get('device', '?')}, {ready}"
        return self.backend

    def start(self, address: str, task: str, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Send a job. Raises BackendError, and is then in state "error"."""
        assert self.job is None, "one job at a time"
        self.state, self.error = "connecting", ""
        self.stage, self.step, self.steps = "sending", 0, 0
        try:
            self.hello(address)
            self.job = self.client.submit(task, fields, arrays)
        except (BackendError, ProtocolError) as error:
            self._end("error", str(error))
            raise BackendError(str(error)) from None
        self.state = "running"

    def cancel(self) -> None:
        """Stop the job and forget it, whether or not the backend hears of it."""
        if self.job is not None:
            with contextlib.suppress(BackendError):  # it is gone, and so is the work
                self.client.cancel(self.job)
            self._end("cancelled")

    def pump(self) -> Event | None:
        """Take note of what has happened; the result event when there is one. Never waits."""
        if self.client is None:
            return None
        try:
            events = self.client.poll()
        except BackendError as error:
            self.fail(str(error))
            self.close()
            return None
        for event in events:
            if event.job != self.job:
                continue
            if event.kind == "progress":
                self.stage = event.header.get("stage", "")
                self.step, self.steps = event.header.get("step", 0), event.header.get("steps", 0)
            elif event.kind == "error":
                self._end("error", event.header.get("message", "the backend failed without saying why"))
            elif event.kind == "cancelled":
                self._end("cancelled")
            else:
                self._end("done")
                return event
        if self.job is not None and not self.client.alive:
            self.fail(f"the backend at {self.client.address} has stopped answering; start it again")
        return None

    def fail(self, message: str) -> None:
        """End the job with an error from this side, or note the error when there is no job."""
        self._end("error", message)

    def close(self) -> None:
        """Cancel the job and drop the connection."""
        self.cancel()
        if self.client is not None:
            self.client.close()
            self.client = None
        self.backend = ""

    def _end(self, state: Literal["done", "error", "cancelled"], error: str = "") -> None:
        self.job, self.state, self.error = None, state, error


def read_photos(folder: Path, chosen: Sequence[str] = ()) -> tuple[list[str], dict[str, np.ndarray]]:
    """File names and bytes of the photos in a folder (only those chosen, if any), as a job wants them.

    Raises ValueError with a sentence for the user.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose the folder with your photos.")
    names = sorted(x.name for x in folder.iterdir() if x.suffix.lower() in PHOTO_SUFFIXES)
    if chosen:
        names = [name for name in names if name in set(chosen)]
    if len(names) < 2:
        raise ValueError(f"{folder} has {len(names)} JPEG or PNG photos; a reconstruction needs at least 2.")
    try:
        arrays = {f"photo/{i}": np.fromfile(folder / name, np.uint8) for i, name in enumerate(names)}
    except OSError as error:
        raise ValueError(f"A photo in {folder} cannot be read: {error.strerror or error}.") from None
    return names, arrays


class LocalBackend:
    """A backend process that this Blender started. It must be installed already: nothing is installed here."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.log: Path | None = None
        self.address = ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, python: str, address: str) -> None:
        """Start `python -m backend serve`. Raises ValueError with a sentence for the user."""
        if self.running:
            return
        if not Path(python).is_file():
            raise ValueError(
                f"There is no Python at {python!r}; in the add-on's preferences, choose that of your PixWorld install."
            )
        with tempfile.NamedTemporaryFile(prefix="pixworld-backend-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
            try:
                self.process = subprocess.Popen(
                    [python, "-m", "backend", "serve", "--bind", address],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                self.address = address
            except OSError as error:
                raise ValueError(f"{python} cannot be run: {error.strerror or error}.") from None

    def failure(self) -> str:
        """Why the process ended by itself, once; "" when it runs or was never started."""
        if self.process is None or self.running:
            return ""
        code, self.process = self.process.returncode, None
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"The backend ended with code {code}: {' '.join(last)[:200]} (log: {self.log})"

    def stop(self) -> None:
        """End the process and wait until it is gone."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
