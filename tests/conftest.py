"""Shared set-up: shape checks on every annotated function, small scenes, and what the tests in Blender need."""

from __future__ import annotations

import os

# One torch thread a test process keeps small tensors fast and leaves the cores to parallel tests.
os.environ.setdefault("OMP_NUM_THREADS", "2")

from jaxtyping import install_import_hook

# Not `render.cpu`, `splats.rows`, `data.trace`, `data.patterns`, `data.shadows` and `data.world`: their functions are
# compiled by numba, or its kernels take their types, which a wrapper would break.
CHECKED = """
    adam attribution camera_files cameras checkpoint data.bank data.checks data.frames data.procedural
    data.pseudo_depth data.sampling data.scene_folders data.shards data.sources data.stores data.textures
    data.trace_torch densify depth_hints detail diffusion evaluation exif files free_space frozen_heap gaussians
    generate learned_matching lift losses mesh methods metrics nn photo_target photos poses reconstruct refine
    regenerate render.cuda render.reference sfm sh splats.axes splats.checks splats.codebooks splats.edit
    splats.gltf splats.ply splats.quaternions splats.sog splats.splat splats.spz splats.usd stereo training
    trajectories video view_choice views visibility world_frame
"""
install_import_hook([f"pixworld.{name}" for name in CHECKED.split()], "beartype.beartype")

from pathlib import Path

import blender
import pytest
import torch

from pixworld.cameras import Cameras, look_at
from pixworld.gaussians import Gaussians

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared() -> Path:
    """The photo sets that cannot be bundled; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the development photos (../shared/data) are not on this machine")
    return SHARED


@pytest.fixture
def arc():
    """Factory of v cameras on an arc around the origin, 4 units away."""

    def make(v: int = 4, height: int = 32, width: int = 40, dtype=torch.float32) -> Cameras:
        angle = torch.linspace(-0.5, 0.5, v, dtype=dtype)
        eye = torch.stack([4 * angle.sin(), 0.3 * angle, -4 * angle.cos()], -1)
        c2w = look_at(eye, torch.zeros(3, dtype=dtype), torch.tensor([0.0, -1, 0], dtype=dtype))
        K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], dtype=dtype).repeat(v, 1, 1)
        return Cameras(c2w, K, height, width)

    return make


@pytest.fixture
def cloud():
    """Factory of n random Gaussians in a ball around the origin."""

    def make(n: int = 50, degree: int = 1, seed: int = 0, dtype=torch.float32) -> Gaussians:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        return Gaussians(
            0.6 * normal(n, 3),
            torch.nn.functional.normalize(normal(n, 4), dim=-1),
            0.1 * torch.exp(0.5 * normal(n, 3)),
            torch.sigmoid(normal(n)),
            0.4 * normal(n, (degree + 1) ** 2, 3),
        )

    return make


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    """The zip of the Blender extension."""
    return blender.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def service():
    """A real backend with the tasks of blender_jobs.py; its address."""
    with blender.serve("blender_jobs") as address:
        yield address


@pytest.fixture
def photos(tmp_path):
    """A folder of three small photos."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(("a.jpg", "b.jpg", "c.png")):
        Image.new("RGB", (96, 80), (200, 100, 50 * i)).save(folder / name)
    return folder
