"""The extension's connection to a backend: found, lost and back, silent, and gone when the extension is disabled."""

import os
import threading
import time

import blender
from blender import NOBODY, in_blender, install, pump_until, serve, set_up

pytestmark = blender.needs_bpy


def check_connection(folder, extension, address, secured, keys, photos):
    import bpy
    import zmq

    from backend import protocol

    operators, settings = set_up(extension, NOBODY)
    jobs, session = blender.module("jobs"), operators.session
    preferences = bpy.context.preferences.addons[blender.MODULE].preferences
    jobs.HEADLESS = False  # as in a window: no button without the handshake

    def until(words, seconds=15):
        deadline = time.monotonic() + seconds
        while words not in (jobs.trouble(bpy.context) or "ready"):
            assert time.monotonic() < deadline, jobs.trouble(bpy.context)
            operators.tick()
            time.sleep(0.01)

    until(f"press Start Backend (the play button), or run `backend serve --bind {NOBODY}`")
    assert not bpy.ops.pixworld.reconstruct.poll() and not bpy.ops.pixworld.generate.poll()
    began = time.monotonic()
    operators.tick()
    assert time.monotonic() - began < 0.05
    preferences.address = address
    until("ready")
    assert bpy.ops.pixworld.reconstruct.poll()

    # a backend that asks for keys
    preferences.address = secured
    until("keys")
    preferences.keys = str(folder / "absent.json")
    until("absent.json")
    preferences.keys = keys
    until("ready")

    # one that is loading, then of another version, then gone for a while with a job, then back
    context = zmq.Context()
    other = context.socket(zmq.ROUTER)
    preferences.keys, preferences.address = "", f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"
    about, silent, submitted = {"version": "0.0", "ready": False}, threading.Event(), []
    stop = threading.Event()

    def answer():
        while not stop.is_set():
            if silent.is_set() or not other.poll(50):
                time.sleep(0.02)
                continue
            who, *frames = other.recv_multipart()
            header, _ = protocol.decode(frames)
            if header["op"] == "hello":
                reply = {"kind": "hello", "request": header["request"], "device": "cpu", **about}
            elif header["op"] == "ping":
                reply = {"kind": "pong", "states": dict.fromkeys(header["jobs"], "running")}
            else:
                submitted.append(header)
                reply = {"kind": "progress", "job": header["job"], "stage": "refine", "step": 1, "steps": 9}
            other.send_multipart([who, *protocol.encode(reply)])

    thread = threading.Thread(target=answer)
    thread.start()
    until("is PixWorld 0.0 and this extension")
    about["version"] = blender.module("backend").__version__
    until("loading its model")
    about["ready"] = True
    until("ready")
    session.client.timeout_s = 1.0
    settings.photos = str(photos)
    bpy.ops.pixworld.reconstruct()
    deadline = time.monotonic() + 20

    def wait_for(done):
        while not done():
            assert time.monotonic() < deadline, (session.stage, session.error)
            operators.tick()
            time.sleep(0.01)

    wait_for(lambda: session.stage == "refine")
    silent.set()
    wait_for(lambda: "answer again" in session.stage)
    job = session.job
    silent.clear()
    wait_for(lambda: session.connected)
    assert session.job == job and len(submitted) == 1
    bpy.ops.pixworld.cancel()
    stop.set()
    thread.join()
    context.destroy(linger=0)


def test_connection(tmp_path, extension, service, photos):
    from backend.access import make_keys

    make_keys(tmp_path / "keys")
    with serve("blender_jobs", tmp_path / "keys") as secured:
        keys = tmp_path / "keys" / "client.json"
        in_blender(check_connection, tmp_path, extension, service, secured, keys, photos)


def check_silence(folder, extension, photos):
    """A backend that takes a job and then says nothing more counts as dead."""
    import bpy
    import zmq

    from backend import __version__, protocol

    context = zmq.Context()
    silent = context.socket(zmq.ROUTER)
    address = f"tcp://127.0.0.1:{silent.bind_to_random_port('tcp://127.0.0.1')}"
    operators, _settings = set_up(extension, address, photos)

    def answer_once():
        who, *frames = silent.recv_multipart()
        header, _ = protocol.decode(frames)
        reply = {"kind": "hello", "request": header["request"], "version": __version__, "ready": True}
        silent.send_multipart([who, *protocol.encode(reply)])

    threading.Thread(target=answer_once, daemon=True).start()
    assert bpy.ops.pixworld.reconstruct() == {"FINISHED"}
    operators.session.client.timeout_s = operators.session.patience_s = 1.0
    pump_until(operators, lambda: operators.session.state != "running", 10)
    assert operators.session.state == "error" and "stopped answering" in operators.session.error
    context.destroy(linger=0)


def test_a_silent_backend_counts_as_dead(tmp_path, extension, photos):
    in_blender(check_silence, tmp_path, extension, photos)


def check_nothing_stays(folder, extension, service):
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    def state():
        lists = {name: getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers)}
        handlers = {name: len(found) for name, found in lists.items() if isinstance(found, list)}
        fds = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]  # none but on Linux
        sockets = sum("socket:" in fd for fd in fds)
        return set(dir(bpy.types)), handlers, hasattr(bpy.types.Scene, "pixworld"), threading.active_count(), sockets

    addon_utils.enable("bl_pkg")
    before = state()
    operators = install(extension)
    assert hasattr(bpy.types, "PIXWORLD_PT_main") and bpy.context.scene.pixworld.views == 8
    preferences = bpy.context.preferences.addons[blender.MODULE].preferences
    preferences.address = service
    assert bpy.ops.pixworld.test_backend() == {"FINISHED"}
    assert "cpu" in operators.session.backend and bpy.app.timers.is_registered(operators.tick)

    script = folder / "python"  # a local process that runs on, whatever its arguments
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    preferences.python = str(script)
    assert bpy.ops.pixworld.start_backend() == {"FINISHED"}
    process = operators.local.process
    assert process.poll() is None
    addon_utils.disable(blender.MODULE)
    assert process.poll() is not None
    assert not bpy.app.timers.is_registered(operators.tick)
    after = state()
    assert after == before, [(a, b) for a, b in zip(after, before) if a != b]

    addon_utils.enable(blender.MODULE)
    assert hasattr(bpy.types, "PIXWORLD_PT_main")


def test_disabling_leaves_nothing(tmp_path, extension, service):
    in_blender(check_nothing_stays, tmp_path, extension, service)


if __name__ == "__main__":
    blender.main(globals())
