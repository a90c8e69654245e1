"""The Reconstruct button in a real Blender: from photos to a scene, what is said when it fails, work before a job."""

import contextlib
import os
import threading
import time

import blender
import pytest
from blender import NOBODY, in_blender, pump_until, refusal, render_frame, set_up

pytestmark = blender.needs_bpy


@pytest.fixture
def odd_photos(tmp_path):
    """A folder of three small photos, one with an accent in its name, and a file that is none."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "bé.JPG", "c.png"):
        Image.new("RGB", (96, 80), (200, 100, 50)).save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    return folder


def check_reconstruct(folder, extension, service, photos):
    import bpy

    operators, _settings = set_up(extension, service, photos)
    session = operators.session
    assert bpy.ops.pixworld.reconstruct() == {"FINISHED"}
    assert session.state == "running" and not bpy.ops.pixworld.reconstruct.poll()
    seen = set()
    pump_until(operators, lambda: seen.add(session.stage) or session.state != "running")
    assert session.state == "done" and "refine" in seen
    collection = bpy.context.scene.collection.children["PixWorld Scene"]
    (cloud,) = (x for x in collection.objects if x.type == "POINTCLOUD")
    assert len(cloud.data.points) == 2000 and cloud.data.attributes["confidence"].data[-1].value == 3
    cameras = collection.children[0].objects
    assert [x.name for x in cameras] == ["a.jpg", "bé.JPG", "c.png"]
    assert (
        bpy.context.scene.camera == cameras["a.jpg"] and cameras["c.png"].data.background_images[0].image.size[0] == 96
    )
    assert (bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y) == (96, 80)
    assert render_frame(bpy.context.scene, folder)[..., :3].mean() > 0.05

    # twice more: some of the photos, then again after an undo of Blender
    bpy.ops.pixworld.choose_photos(directory=str(photos) + os.sep, files=[{"name": "a.jpg"}, {"name": "c.png"}])
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.state != "running")
    assert len(bpy.context.scene.collection.children["PixWorld Scene.001"].children[0].objects) == 2
    bpy.ops.ed.undo()
    assert "PixWorld Scene.001" not in bpy.data.collections
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.state != "running")
    assert session.state == "done", session.error


def test_reconstruct(tmp_path, extension, service, odd_photos):
    in_blender(check_reconstruct, tmp_path, extension, service, odd_photos)


def check_failures(folder, extension, service, photos):
    import bpy
    import zmq

    from backend import protocol

    operators, settings = set_up(extension, NOBODY, photos)
    session, preferences = operators.session, bpy.context.preferences.addons[blender.MODULE].preferences

    def nothing_came():
        return "PixWorld Scene" not in bpy.data.collections and session.job is None

    assert "no backend answers" in refusal(bpy.ops.pixworld.reconstruct)
    assert session.state == "error" and "no backend answers" in session.error

    settings.photos = ""
    assert "No photos are chosen" in refusal(bpy.ops.pixworld.reconstruct)
    settings.photos = str(folder / "absent")
    assert "is not a folder" in refusal(bpy.ops.pixworld.reconstruct)
    (folder / "empty").mkdir()
    settings.photos = str(folder / "empty")
    assert "0 JPEG or PNG photos" in refusal(bpy.ops.pixworld.reconstruct)
    settings.photos = str(photos)
    preferences.address = "nonsense"
    assert "not an address" in refusal(bpy.ops.pixworld.reconstruct)

    # a backend of another version, which answers anything with its own header
    context = zmq.Context()
    other = context.socket(zmq.ROUTER)
    preferences.address = f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"

    def answer():
        while other.poll(4000):
            who, *_ = other.recv_multipart()
            other.send_multipart([who, protocol.msgpack.packb({"protocol": 99, "header": {}, "arrays": []})])

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    message = refusal(bpy.ops.pixworld.reconstruct)
    assert "protocol 99" in message and "same version" in message
    thread.join()
    context.destroy(linger=0)

    preferences.address = service
    settings.seed = 1  # the task fails
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.state != "running")
    assert session.state == "error" and session.error == "These photos do not overlap; take more."
    assert nothing_came()

    settings.seed = 2  # the task goes on until it is cancelled
    bpy.ops.pixworld.reconstruct()
    pump_until(operators, lambda: session.stage == "refine")
    job = session.job
    assert bpy.ops.pixworld.cancel() == {"FINISHED"}
    assert session.state == "cancelled" and not bpy.ops.pixworld.cancel.poll()
    deadline = time.monotonic() + 10
    while session.client.status(job)["state"] != "cancelled":
        assert time.monotonic() < deadline
    assert nothing_came()

    # a result that comes after another file was opened is dropped
    settings.seed = 3
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "first.blend"))
    bpy.ops.pixworld.reconstruct()
    job = session.job
    bpy.ops.wm.open_mainfile(filepath=str(folder / "first.blend"))
    assert session.job is None and session.state == "cancelled"
    deadline = time.monotonic() + 10
    while session.client.status(job)["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
    for _ in range(20):
        operators.tick()
        time.sleep(0.01)
    assert nothing_came()

    # a result without its arrays
    session.pump = lambda: operators.Event("", "result", {}, {})
    operators.pump()
    assert "cannot be read" in session.error and nothing_came()


def test_failures_are_told(tmp_path, extension, service, odd_photos):
    in_blender(check_failures, tmp_path, extension, service, odd_photos)


def check_long_work(folder, extension, photos):
    """The work before a job goes on a piece at a time, and leaves nothing behind when it is stopped."""
    import bpy

    operators, _settings = set_up(extension, NOBODY)
    session, jobs = operators.session, blender.module("jobs")
    jobs.HEADLESS = False
    left = []

    def work():
        try:
            for i in range(100):
                time.sleep(0.01)
                yield "count", i, 100
        finally:
            left.append(True)

    began = time.monotonic()
    jobs.prepare(work())
    assert time.monotonic() - began < 0.1 and session.busy and session.stage == "count" and session.step < 20
    before = session.step
    operators.tick()
    assert session.step > before and 0 < session.left_s < 10
    bpy.ops.pixworld.cancel()
    assert left and not session.busy and session.state == "cancelled"
    jobs.prepare(work())
    bpy.ops.ed.undo_push(message="a step")
    bpy.ops.ed.undo_push(message="another")
    bpy.ops.ed.undo()  # what the work holds on to may be gone
    assert len(left) == 2 and not session.busy

    def fails():
        yield "look", 0, 1
        raise ReferenceError("StructRNA of type Scene has been removed")

    with contextlib.suppress(ValueError):
        jobs.prepare(fails())
    assert session.state == "error" and "removed" in session.error and not session.busy


def test_work_before_a_job(tmp_path, extension, photos):
    in_blender(check_long_work, tmp_path, extension, photos)


if __name__ == "__main__":
    blender.main(globals())
