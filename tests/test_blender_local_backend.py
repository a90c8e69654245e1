"""The backend that the extension starts: how it comes up, and how it ends."""

import os
import sys
import time

import blender
import pytest
from blender import NOBODY, in_blender, install, pump_until, refusal, set_up

pytestmark = blender.needs_bpy


def check_local_backend(folder, extension):
    """Start Backend runs the real service, Test Connection talks to it, Stop Backend ends it; or says why not."""
    import socket

    import bpy

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    operators = install(extension)
    preferences = bpy.context.preferences.addons[blender.MODULE].preferences
    preferences.address = f"tcp://127.0.0.1:{port}"
    operators.session.error, operators.session.notes = "earlier", ["earlier"]
    preferences.python = str(folder / "absent")
    assert "no Python" in refusal(bpy.ops.pixworld.start_backend)
    assert "no Python" in operators.session.error and not operators.session.notes
    text = folder / "text"
    text.write_text("no program")
    preferences.python = str(text)
    assert "choose .venv/bin/python" in refusal(bpy.ops.pixworld.start_backend)
    preferences.python = "/bin/false"
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    pump_until(operators, lambda: operators.session.error, 20)
    assert "code 1 and an empty log" in operators.session.error and "choose .venv" in operators.session.error
    preferences.python = sys.executable
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    process = operators.local.process
    pump_until(operators, lambda: operators.session.connected, 40)
    assert bpy.ops.pixworld.test_backend() == {"FINISHED"}
    assert bpy.ops.pixworld.stop_backend() == {"FINISHED"} and not operators.local.running
    pump_until(operators, lambda: process.poll() is not None, 10)
    assert "no backend answers" in refusal(bpy.ops.pixworld.test_backend)

    preferences.address = "tcp://10.0.0.1:5555"  # not this computer: the backend refuses and ends
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    pump_until(operators, lambda: operators.session.error, 20)
    assert "ended with code" in operators.session.error
    assert any("10.0.0.1" in line for line in operators.local.last_lines) and operators.local.log.is_file()

    other = folder / "python"  # one that has no PixWorld
    other.write_text("#!/bin/sh\necho No module named backend >&2\nexit 1\n")
    other.chmod(0o755)
    preferences.python = str(other)
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    operators.session.error = ""
    pump_until(operators, lambda: operators.session.error, 20)
    assert "PixWorld is not installed" in operators.session.error and "scripts/setup" in operators.session.error


def test_local_backend(tmp_path, extension):
    in_blender(check_local_backend, tmp_path, extension)


def check_stop(folder, extension):
    """A backend that does not want to end holds nobody up, but is gone when the extension is."""
    import bpy

    operators, _settings = set_up(extension, NOBODY)
    blender.module("local_backend").GRACE_S = 1.0
    script = folder / "python"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\ntouch {folder}/up\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    bpy.context.preferences.addons[blender.MODULE].preferences.python = str(script)
    bpy.ops.pixworld.start_backend()
    process, deadline = operators.local.process, time.monotonic() + 10
    while not (folder / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    assert bpy.ops.pixworld.stop_backend() == {"FINISHED"}
    assert "still ending" in refusal(bpy.ops.pixworld.start_backend)
    assert time.monotonic() - began < 0.5 and process.poll() is None and not operators.local.running
    bpy.ops.preferences.addon_disable(module=blender.MODULE)
    assert process.poll() is not None


def test_stopping_waits_for_nobody(tmp_path, extension):
    in_blender(check_stop, tmp_path, extension)


def check_quit(folder, extension):
    """Quit with a backend that was started here."""
    import bpy

    operators, _settings = set_up(extension, NOBODY)
    script = folder / "python"
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    bpy.context.preferences.addons[blender.MODULE].preferences.python = str(script)
    bpy.ops.pixworld.start_backend()
    (folder / "pid").write_text(str(operators.local.process.pid))


def test_quitting_ends_the_backend(tmp_path, extension):
    in_blender(check_quit, tmp_path, extension)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


if __name__ == "__main__":
    blender.main(globals())
