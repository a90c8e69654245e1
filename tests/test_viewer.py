"""The viewer: what is served to whom, what is refused, and what a real browser shows of it."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import find_browser, open_browser

from backend import viewer
from backend.viewer import serve, view
from pixworld.camera_files import save_cameras
from pixworld.cameras import Cameras
from pixworld.files import save_image, tensor_to_image
from pixworld.render import render
from pixworld.splats import save_ply
from pixworld.views import InputError, NamedCamera

HEIGHT, WIDTH = 180, 240
ROOT = Path(__file__).parents[1]


@pytest.fixture
def scene(tmp_path, cloud, arc):
    """A folder as `backend reconstruct` leaves it: view-dependent Gaussians, four cameras whose principal point is off
    the centre and whose axes differ in focal length, the last in the middle of what the first sees, and two photos.
    Returns it, the Gaussians and the cameras."""
    g = cloud(150, degree=3)
    g = replace(g, sh=0.3 * g.sh)  # colours within 0..1, which browsers cannot exceed
    cameras = arc(3, HEIGHT, WIDTH)
    K = cameras.K.clone()
    K[:, 0, 2] += 25
    K[:, 1, 2] -= 15
    K[:, 1, 1] *= 1.1
    cameras = replace(cameras, K=K)
    ahead = cameras.c2w[:1].clone()
    ahead[:, :3, 3] += 1.5 * ahead[:, :3, 2]
    cameras = Cameras.cat([cameras, replace(cameras, c2w=ahead, K=K[:1])])
    named = [NamedCamera(f"{i}.png", cameras.select([i]), "holdout" if i == 2 else "train") for i in range(4)]
    save_ply(tmp_path / "scene.ply", g)
    save_cameras(tmp_path / "transforms.json", named, images="photos")
    for i in range(2):
        save_image(tmp_path / "photos" / f"{i}.png", torch.full((3, HEIGHT, WIDTH), 0.25 + 0.5 * i))
    return tmp_path, g, cameras


@contextmanager
def served(*args):
    with serve(*args, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def libraries(tmp_path_factory, monkeypatch):
    """Stand-ins for what npm fetches, where this machine does not have it; the browser test needs the real ones."""
    if not (viewer.PAGE / "vendor").is_dir():
        page = tmp_path_factory.mktemp("page")
        shutil.copytree(viewer.PAGE, page, dirs_exist_ok=True)
        for name in viewer.LIBRARIES:
            (page / "vendor" / name).parent.mkdir(parents=True, exist_ok=True)
            (page / "vendor" / name).write_text("")
        monkeypatch.setattr(viewer, "PAGE", page)


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_serves_the_scene_and_nothing_else(scene, libraries):
    folder, _, cameras = scene
    with served(folder, None, None) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, headers, page = get(server, "/")
        assert status == 200 and b"viewer.js" in page and headers["Content-Type"] == "text/html"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        about = json.loads(get(server, "/scene.json")[2])
        assert about["summary"] == "150 Gaussians, 4 cameras, 2 photos"
        assert about["cameras"][1]["cx"] == WIDTH / 2 + 25 and about["cameras"][2]["split"] == "holdout"
        assert [c["photo"] for c in about["cameras"]] == ["photos/0.jpg", "photos/1.jpg", None, None]
        np.testing.assert_allclose(about["cameras"][1]["c2w"], cameras.c2w[1].flatten(), atol=1e-6)
        assert about["up"][1] < -0.9  # the photos' up in a world where y points down
        assert get(server, "/scene.ply")[2].startswith(b"ply")
        status, headers, photo = get(server, "/photos/1.jpg")
        assert status == 200 and headers["Content-Type"] == "image/jpeg" and photo.startswith(b"\xff\xd8")
        for path in ("/photos/2.jpg", "/transforms.json", "/../transforms.json", "/vendor/..%2fviewer.py"):
            assert get(server, path)[0] == 404
        assert get(server, "/scene.ply", Host="example.com:80")[0] == 403

        (folder / "photos" / "0.png").write_bytes(b"no photo")
        assert get(server, "/photos/0.jpg")[0] == 404


def test_a_splat_file_alone(scene, libraries):
    with served(scene[0] / "scene.ply", None, None) as server:
        about = json.loads(get(server, "/scene.json")[2])
    assert about["cameras"] == [] and about["up"] == [0, -1, 0] and about["summary"] == "150 Gaussians"


def test_what_cannot_be_shown_is_said(scene, libraries):
    folder = scene[0]
    with pytest.raises(InputError, match=r"scene\.ply does not exist"):
        view(folder / "photos", open=False)
    with pytest.raises(InputError, match="is no folder"):
        view(folder, photos=folder / "nowhere", open=False)
    with pytest.raises(InputError, match="--cameras"):
        view(folder / "scene.ply", photos=folder / "photos", open=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="in use; choose another --port"):
            view(folder, port=taken.getsockname()[1], open=False)
    with pytest.raises(InputError, match="cannot be used"):
        view(folder, port=70000, open=False)
    empty = folder / "empty.ply"
    save_ply(empty, scene[1].select(torch.zeros(len(scene[1]), dtype=torch.bool)))
    with pytest.raises(InputError):
        view(empty, open=False)


def test_libraries_that_cannot_be_fetched(tmp_path, monkeypatch):
    page, npm = tmp_path / "page", tmp_path / "npm"
    page.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(viewer.PAGE / name, page)
    npm.write_text("#!/bin/sh\nmkdir node_modules; echo 'npm error code ENOTFOUND' >&2; exit 1")
    npm.chmod(0o755)
    monkeypatch.setattr(viewer, "PAGE", page)
    for found, message in ((None, r"install Node\.js"), (str(npm), r"\(code ENOTFOUND\)")):
        monkeypatch.setattr(shutil, "which", lambda *_, found=found, **__: found)
        with pytest.raises(InputError, match=message):
            viewer.install_libraries()
    assert {x.name for x in page.iterdir()} == {"package.json", "package-lock.json"}  # nothing half-done is left


def test_ctrl_c_ends_it(scene, libraries):
    code = "import sys, pathlib; from backend import viewer; viewer.PAGE = pathlib.Path(sys.argv[1]); "
    code += "viewer.view(pathlib.Path(sys.argv[2]), port=0, open=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, viewer.PAGE, scene[0]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert b"http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == b"" and process.returncode == 0


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2)


SETTLED = "document.body.dataset.drawn && performance.now() - document.body.dataset.drawn > 300"


def test_a_real_browser_shows_it(scene, tmp_path):
    if not (program := find_browser()):
        pytest.skip("no Chromium is on this machine (Debian: apt-get install chromium-headless-shell libgl1-mesa-dri)")
    if not (viewer.PAGE / "vendor").is_dir() and not shutil.which("npm"):
        pytest.skip("the viewer's libraries are not installed, and there is no npm to fetch them")
    folder, g, cameras = scene
    ours = [tensor_to_image(x) for x in render(g, cameras).rgb]
    with served(folder, None, None) as server, open_browser(program, tmp_path / "profile") as page:

        def shot():
            page.wait(SETTLED)
            return page.screenshot()

        page.open(f"http://127.0.0.1:{server.server_port}/", WIDTH, HEIGHT)
        page.wait("document.querySelector('#status')?.textContent.includes('Gaussians')")
        # the panel and the frusta of the other cameras would be in the picture
        page.run("document.querySelector('#frusta').click(); document.querySelector('#panel').style.display = 'none'")
        assert psnr(shot(), ours[0]) > 35  # the view opens at the first photo's camera
        assert psnr(shot(), ours[1]) < 25  # which this tells from others
        page.key("ArrowRight")
        assert psnr(shot(), ours[1]) > 35
        page.run("Object.assign(document.querySelector('#over'), {value: 1}).dispatchEvent(new Event('input'))")
        assert abs(shot().astype(int) - 0.75 * 255).max() < 3  # its photo fills the view

        page.key("ArrowLeft")
        page.run("document.querySelector('#frusta').click()")
        page.click(WIDTH / 2, HEIGHT / 2)
        page.run("document.querySelector('#frusta').click()")
        assert psnr(shot(), ours[3]) > 35  # the camera that was clicked at
        assert page.errors == []
