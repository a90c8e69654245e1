"""A reconstruction as a .blend: splats, photo cameras, and a render set-up in which Render Image shows the scene.

    .venv/bin/python scripts/make_blend.py SCENE.ply --cameras transforms.json --photos DIR --out scene.blend

The file opens in a plain Blender (4.2 or later); the extension is not needed to look at it or to render it. Photos are
packed as backgrounds of their cameras; those that a lens distorted match only as far as the lens was straight.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import bpy
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # blender_addon is no installed package

from blender_addon import cameras, importer, rendering
from pixworld.camera_files import load_cameras
from pixworld.files import atomic
from pixworld.photos import load_photos
from pixworld.splats import load_ply
from pixworld.views import InputError, NamedCamera

JPEG_QUALITY = 88


def photo_cameras(named: Sequence[NamedCamera], photos: Path | None) -> list[importer.PhotoCamera]:
    """Cameras with their photos, where the folder has them, at the size of the camera."""
    images = {} if photos is None else {photo.name: photo.image for photo in load_photos([photos])[0]}
    out = []
    for camera in named:
        size = camera.cameras.width, camera.cameras.height
        encoded = None
        if camera.name in images:
            buffer = io.BytesIO()
            Image.fromarray(images[camera.name]).resize(size, Image.Resampling.LANCZOS).save(
                buffer, "JPEG", quality=JPEG_QUALITY
            )
            encoded = buffer.getvalue()
        c2w, K = camera.cameras.c2w[0].double().numpy(), camera.cameras.K[0].double().numpy()
        out.append(importer.PhotoCamera(camera.name, c2w, K, *size, camera.split or "train", encoded))
    return out


def make_blend(scene: Path, cameras_file: Path, photos: Path | None, out: Path) -> None:
    """Write `out`. Raises InputError when an input cannot be used or `out` cannot be written."""
    g = load_ply(scene)
    gaussians = {name: getattr(g, name).numpy() for name in ("means", "quats", "scales", "opacities", "sh")}
    posed = photo_cameras(load_cameras(cameras_file), photos)

    bpy.ops.wm.read_factory_settings(use_empty=True)
    here = bpy.context.scene
    imported = importer.add_scene(scene.stem, gaussians, posed, here)
    rendering.match_training(here)
    cameras.look_through(imported.cameras[0], here)
    for screen in bpy.data.screens:  # the file opens on the shaded splats
        for area in screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.shading.type = "MATERIAL"
                area.spaces.active.region_3d.view_perspective = "CAMERA"
    bpy.context.preferences.filepaths.save_version = 0  # no backup file beside it
    with atomic(out) as temp:
        bpy.ops.wm.save_as_mainfile(filepath=str(temp.resolve()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path, help="splat PLY")
    parser.add_argument("--cameras", type=Path, required=True, help="transforms.json in the frame of the scene")
    parser.add_argument("--photos", type=Path, help="folder of the photos that the cameras are named after")
    parser.add_argument("--out", type=Path, required=True, help="the .blend to write")
    options = parser.parse_args()
    try:
        make_blend(options.scene, options.cameras, options.photos, options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
