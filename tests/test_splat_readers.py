"""Splat files in readers and writers that are not ours: gsply, pygltflib, usd-core, splat-transform, gltf-validator.

The last two are npm packages: `npm install -g @playcanvas/splat-transform gltf-validator`, or their `.bin` on the PATH.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixworld.gaussians import Gaussians, quat_to_matrix
from pixworld.splats import load_splats, save_splats
from pixworld.splats.axes import LUF, RUB, flip

NODE_MODULES = (
    Path(command).resolve().parents[3]
    if (command := shutil.which("splat-transform")) and shutil.which("node")
    else None
)


@pytest.fixture
def scene(cloud) -> Gaussians:
    """Two degrees of SH within the range of SPZ."""
    g = cloud(200, degree=2)
    return Gaussians(g.means, g.quats, g.scales, g.opacities, g.sh.clamp(-1, 1))


def covariance(g: Gaussians) -> torch.Tensor:
    half = quat_to_matrix(g.quats) * g.scales[:, None]
    return half @ half.mT


def assert_same(a: Gaussians, b: Gaussians, tolerance: float = 1e-6, shape: float = 1e-5) -> None:
    """Equal splats in any order, whatever the names of their own axes."""
    assert len(a) == len(b)
    match = torch.cdist(a.means, b.means).argmin(1)
    assert len(match.unique()) == len(a)
    b = b.select(match)
    for name in ("means", "opacities", "sh"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=tolerance)
    assert (covariance(a) - covariance(b)).abs().max() <= shape * covariance(a).abs().max()


# --- gsply


def from_gsply(data) -> Gaussians:
    """gsply keeps the numbers and the axes of the file: ln scales, logits."""
    means, quats, scales, opacities, sh0, bands = (
        torch.from_numpy(np.array(getattr(data, name), np.float32))
        for name in ("means", "quats", "scales", "opacities", "sh0", "shN")
    )
    return Gaussians(means, quats, scales.exp(), opacities.sigmoid(), torch.cat([sh0[:, None], bands], dim=1))


def test_gsply_reads_ply(tmp_path, scene):
    gsply = pytest.importorskip("gsply")
    save_splats(tmp_path / "a.ply", scene)
    assert_same(from_gsply(gsply.plyread(tmp_path / "a.ply")), scene)
    gsply.plywrite(tmp_path / "b.ply", gsply.plyread(tmp_path / "a.ply"))
    assert_same(load_splats(tmp_path / "b.ply"), scene)


@pytest.mark.parametrize("version", [3, 4])
def test_gsply_reads_and_writes_spz(tmp_path, scene, version):
    gsply = pytest.importorskip("gsply")
    save_splats(tmp_path / "a.spz", scene, spz_version=version)
    ours, theirs = load_splats(tmp_path / "a.spz"), gsply.read_spz(tmp_path / "a.spz")
    assert_same(flip(from_gsply(theirs), RUB), ours)
    gsply.write_spz(tmp_path / "b.spz", theirs, version=version)
    assert_same(load_splats(tmp_path / "b.spz"), ours, 2e-4, 5e-3)  # gsply writes 12 fractional bits


def test_gsply_reads_sog(tmp_path, scene, monkeypatch):
    reader = pytest.importorskip("gsply.sog_reader")

    def decode(data: bytes) -> tuple[np.ndarray, int, int]:
        """WebP by Pillow in place of imagecodecs, a wheel of 20 MB."""
        pixels = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))
        return pixels.reshape(-1), pixels.shape[1], pixels.shape[0]

    monkeypatch.setattr(reader, "imagecodecs", object())
    monkeypatch.setattr(reader, "_load_webp_image", decode)
    save_splats(tmp_path / "a.sog", scene)
    assert_same(from_gsply(reader.sogread(tmp_path / "a.sog")), load_splats(tmp_path / "a.sog"), 2e-5)


# --- glTF and USD libraries


@pytest.mark.parametrize("suffix", ["glb", "gltf"])
def test_pygltflib_reads_gltf(tmp_path, scene, suffix):
    pygltflib = pytest.importorskip("pygltflib")
    save_splats(tmp_path / f"a.{suffix}", scene)
    document = pygltflib.GLTF2().load(str(tmp_path / f"a.{suffix}"))
    document.convert_buffers(pygltflib.BufferFormat.BINARYBLOB)
    (primitive,) = document.meshes[0].primitives
    assert primitive.mode == pygltflib.POINTS and document.extensionsUsed == ["KHR_gaussian_splatting"]

    def values(name: str) -> torch.Tensor:
        accessor = document.accessors[getattr(primitive.attributes, name)]
        view = document.bufferViews[accessor.bufferView]
        assert accessor.componentType == pygltflib.FLOAT and accessor.count == len(scene)
        data = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
        return torch.from_numpy(np.frombuffer(data, "<f4").reshape(accessor.count, -1).copy())

    x, y, z, w = values("KHR_gaussian_splatting:ROTATION").unbind(-1)
    found = Gaussians(
        values("POSITION"),
        torch.stack([w, x, y, z], dim=-1),
        values("KHR_gaussian_splatting:SCALE"),
        values("KHR_gaussian_splatting:OPACITY")[:, 0],
        torch.stack(
            [
                values(f"KHR_gaussian_splatting:SH_DEGREE_{degree}_COEF_{i}")
                for degree in range(3)
                for i in range(2 * degree + 1)
            ],
            dim=1,
        ),
    )
    assert_same(flip(found, LUF), scene)
    bounds = document.accessors[primitive.attributes.POSITION]
    assert bounds.min == found.means.amin(0).tolist() and bounds.max == found.means.amax(0).tolist()


@pytest.mark.parametrize("suffix", ["usd", "usda", "usdc"])
def test_usd_core_reads_usd(tmp_path, scene, suffix):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdVol

    save_splats(tmp_path / f"a.{suffix}", scene, ["from a test"])
    stage = Usd.Stage.Open(str(tmp_path / f"a.{suffix}"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and stage.GetRootLayer().comment == "from a test"
    splats = UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim())
    assert splats and splats.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 2
    turns = [(q.GetReal(), *q.GetImaginary()) for q in splats.GetOrientationsAttr().Get()]
    found = Gaussians(
        torch.tensor(np.array(splats.GetPositionsAttr().Get())),
        torch.tensor(turns),
        torch.tensor(np.array(splats.GetScalesAttr().Get())),
        torch.tensor(np.array(splats.GetOpacitiesAttr().Get())),
        torch.tensor(np.array(splats.GetRadianceSphericalHarmonicsCoefficientsAttr().Get())).reshape(-1, 9, 3),
    )
    assert_same(flip(found, RUB), scene)
    low, high = np.array(splats.GetExtentAttr().Get())
    assert (low < found.means.amin(0).numpy()).all() and (high > found.means.amax(0).numpy()).all()


def test_usd_of_other_stages(tmp_path, scene):
    """z up, and a transform above the splats."""
    pytest.importorskip("pxr")
    from pxr import Gf, Usd, UsdGeom

    save_splats(tmp_path / "a.usda", scene)
    stage = Usd.Stage.CreateNew(str(tmp_path / "b.usda"))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    parent = UsdGeom.Xform.Define(stage, "/parent")
    parent.AddTranslateOp().Set(Gf.Vec3d(1, 2, 3))
    parent.AddScaleOp().Set(Gf.Vec3f(2, 2, 2))
    stage.DefinePrim("/parent/splats").GetReferences().AddReference("a.usda")
    stage.GetRootLayer().Save()
    # right, towards the horizon and up (x y z there) are right, forward and up: (x, -z, y) here
    there = flip(scene, RUB).transform(2.0, torch.eye(3), torch.tensor([1.0, 2, 3]))
    to_ours = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert_same(load_splats(tmp_path / "b.usda"), there.transform(1.0, to_ours, torch.zeros(3)), 1e-5)


# --- npm: splat-transform (with Niantic's own SPZ code inside) and the Khronos validator


@pytest.fixture
def splat_transform(tmp_path):
    """Convert(source, target) in the test's folder."""
    if NODE_MODULES is None:
        pytest.skip("splat-transform is not on the PATH: npm install -g @playcanvas/splat-transform")

    def convert(source: str, target: str, *options: str) -> Gaussians:
        command = ["splat-transform", "-q", "-w", *options, source, target]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        return load_splats(tmp_path / target)

    return convert


@pytest.mark.parametrize("name", ["a.ply", "3.spz", "4.spz", "a.splat", "a.sog"])
def test_splat_transform_reads(tmp_path, scene, splat_transform, name):
    save_splats(tmp_path / name, scene, spz_version=4 if name == "4.spz" else 3)
    # it takes the bytes of rotations in .splat for (value - 127.5) / 127.5, half a step from what the viewer does
    shape = 2e-2 if name == "a.splat" else 1e-5
    assert_same(splat_transform(name, "theirs.ply"), load_splats(tmp_path / name), shape=shape)


@pytest.mark.parametrize(
    ("name", "options", "tolerance", "shape"),
    [
        ("a.glb", (), 1e-6, 1e-5),
        ("3.spz", ("--spz-version", "3"), 0.07, 0.2),
        ("4.spz", ("--spz-version", "4"), 0.07, 0.2),
        ("a.sog", ("-g", "cpu"), 0.03, 0.1),
    ],
)
def test_splat_transform_writes(tmp_path, scene, splat_transform, name, options, tolerance, shape):
    if name == "a.sog":
        scene = scene.with_sh_degree(0)  # its palettes for so few Gaussians are coarse
    save_splats(tmp_path / "a.ply", scene)
    assert_same(splat_transform("a.ply", name, *options), scene, tolerance, shape)


@pytest.mark.parametrize("suffix", ["glb", "gltf"])
def test_khronos_validator(tmp_path, scene, suffix):
    """It does not know the extension yet: all that it finds are the extension's own name and attributes."""
    if NODE_MODULES is None or not (NODE_MODULES / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not beside splat-transform: npm install -g gltf-validator")
    save_splats(tmp_path / f"a.{suffix}", scene)
    program = (
        "require(process.argv[1]).validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[2])),"
        "{maxIssues: 0}).then(r => console.log(JSON.stringify(r.issues.messages)))"
    )
    command = ["node", "-e", program, NODE_MODULES / "gltf-validator", tmp_path / f"a.{suffix}"]
    issues = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert all("KHR_gaussian_splatting" in issue["pointer"] + issue["message"] for issue in issues)
    assert {issue["code"] for issue in issues} == {"UNSUPPORTED_EXTENSION", "MESH_PRIMITIVE_INVALID_ATTRIBUTE"}
