"""A headless Chromium for tests, spoken to over a pipe in the DevTools protocol, so that no driver is needed."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# --no-sandbox: Chromium's sandbox refuses to start as root; only our own page is opened
FLAGS = ("--headless", "--no-sandbox", "--remote-debugging-pipe", "--disable-dev-shm-usage", "--hide-scrollbars")
# WebGL 2 without a GPU: Mesa's llvmpipe where it is, five times as fast as the SwiftShader within Chromium
LLVMPIPE = ("--use-gl=angle", "--use-angle=gl-egl", "--ignore-gpu-blocklist")
SWIFTSHADER = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


def find_browser() -> str | None:
    """Path of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. Messages are JSON, each closed by a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._ids, self._buffer, self._session = itertools.count(1), b"", None
        self.errors: list[str] = []  # uncaught exceptions and failed or refused requests of the page
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, timeout_s: float = 60, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        message = {"id": next(self._ids), "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout_s
        while True:
            answer = self._receive(until)
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise ConnectionError("the browser is gone")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
        elif event.get("method") == "Network.loadingFailed":
            self.errors.append(str(params.get("errorText")))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str, width: int, height: int) -> None:
        """Load a page in a window of this size, in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, timeout_s: float = 60) -> Any:
        """Wait until an expression is truthy and return it. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        while not (value := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(f"{script} stays {value!r}; errors: {self.errors}")
            time.sleep(0.05)
        return value

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        self.send("Input.dispatchKeyEvent", type="keyDown", key=name)

    def screenshot(self) -> np.ndarray:
        """uint8 [h w 3]"""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@contextmanager
def open_browser(program: str, profile: Path) -> Iterator[Page]:
    """Start a browser with a profile folder of its own, and end it."""
    read_out, to_browser = os.pipe()
    from_browser, write_in = os.pipe()
    gl = LLVMPIPE if find_library("EGL_mesa") else SWIFTSHADER

    def fds() -> None:  # the browser reads at 3 and writes at 4; high copies first, for these may be in the way
        high_in, high_out = os.dup2(read_out, 100), os.dup2(write_in, 101)
        os.dup2(high_in, 3)
        os.dup2(high_out, 4)

    process = subprocess.Popen(
        [program, *FLAGS, *gl, f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=fds,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_out)
    os.close(write_in)
    try:
        yield Page(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        process.terminate()
        process.wait()
