"""A backend process that this Blender started. It must be installed already: nothing is installed here."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

LAST_LINES = 5  # of the log, that a failure shows


class LocalBackend:
    """`python -m backend serve`, its log, and why it ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.log: Path | None = None  # of the last start
        self.last_lines: list[str] = []  # of the log, as of the last failure
        self.address = ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, python: str, address: str, keys: Path | None = None) -> None:
        """Start it; with a client.json it lets in who has that. Raises ValueError with a sentence for the user."""
        if self.running:
            return
        if not Path(python).is_file():
            raise ValueError(
                f"There is no Python at {python!r}; in the add-on's preferences, choose that of your PixWorld install, "
                "the file .venv/bin/python that `scripts/setup` makes in its folder."
            )
        if keys is not None and not keys.with_name("server.json").is_file():
            raise ValueError(
                f"There is no server.json beside {keys}; a backend on this computer needs no keys: leave Keys empty."
            )
        self.last_lines = []
        command = [python, "-m", "backend", "serve", "--bind", address]
        command += [] if keys is None else ["--keys", str(keys.parent)]
        with tempfile.NamedTemporaryFile(prefix="pixworld-backend-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
                self.address = address
            except OSError as error:
                raise ValueError(f"{python} cannot be run: {error.strerror or error}.") from None

    def failure(self) -> str:
        """Why the process ended by itself, once; "" when it runs or was never started."""
        if self.process is None or self.running:
            return ""
        code, python, self.process = self.process.returncode, self.process.args[0], None
        self.read_log()
        if any("No module named" in line for line in self.last_lines):
            return f"PixWorld is not installed in {python}; run `scripts/setup` in its folder, then choose its Python."
        return f"The backend ended with code {code}: {' '.join(self.last_lines[-1:])[:200] or 'its log is empty'}"

    def read_log(self) -> None:
        """Take note of the log's last lines."""
        if self.log is not None and self.log.is_file():
            self.last_lines = self.log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]

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
