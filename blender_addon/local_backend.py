"""A backend process that this Blender started. It must be installed already: nothing is installed here."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from pathlib import Path

LAST_LINES = 5  # of the log, that a failure shows
CHOOSE = "choose .venv/bin/python of the PixWorld folder in the extension's preferences"
GRACE_S = 10.0  # for the process to end by itself


class LocalBackend:
    """`python -m backend serve`, its log, and why it ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.log: Path | None = None  # of the last start
        self.last_lines: list[str] = []  # of the log, as of the last failure
        self.address = ""
        self._ending: threading.Thread | None = None  # waits for the last process

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, python: str, address: str, keys: Path | None = None) -> None:
        """Start it; with a client.json it lets in who has that. Raises ValueError with a sentence for the user."""
        if self.running:
            return
        self.last_lines = []
        if self._ending is not None and self._ending.is_alive():
            raise ValueError("The backend that was stopped is still ending; try again in some seconds.")
        if not Path(python).is_file():
            raise ValueError(f"There is no Python at {python!r}; {CHOOSE}, which `scripts/setup` makes there.")
        if keys is not None and not keys.with_name("server.json").is_file():
            raise ValueError(
                f"There is no server.json beside {keys}; a backend on this computer needs no keys: leave Keys empty."
            )
        command = [python, "-m", "backend", "serve", "--bind", address]
        command += [] if keys is None else ["--keys", str(keys.parent)]
        with tempfile.NamedTemporaryFile(prefix="pixworld-backend-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
                self.address = address
            except OSError as error:
                raise ValueError(f"{python} cannot be run ({error.strerror or error}); {CHOOSE}.") from None

    def failure(self) -> str:
        """Why the process ended by itself, once; "" when it runs or was never started."""
        if self.process is None or self.running:
            return ""
        code, python, self.process = self.process.returncode, self.process.args[0], None
        self.read_log()
        if any("No module named" in line for line in self.last_lines):
            return f"PixWorld is not installed in {python}; run `scripts/setup` in its folder, then choose its Python."
        if not self.last_lines:
            return f"{python} ended with code {code} and an empty log, so it may be no Python with PixWorld; {CHOOSE}."
        return f"The backend ended with code {code}: {self.last_lines[-1][:200]}"

    def read_log(self) -> None:
        """Take note of the log's last lines."""
        if self.log is not None and self.log.is_file():
            self.last_lines = self.log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]

    def end(self) -> None:
        """End the process, without waiting for it."""
        if self.process is not None:
            self.process.terminate()
            self._ending = threading.Thread(target=_see_off, args=(self.process,), name="PixWorld backend")
            self._ending.start()
            self.process = None

    def stop(self) -> None:
        """End the process and wait until it is gone."""
        self.end()
        if self._ending is not None:
            self._ending.join()


def _see_off(process: subprocess.Popen) -> None:
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
