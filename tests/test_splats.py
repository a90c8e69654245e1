"""Splat files: round trips, damaged files, edits, and the commands on them. Foreign readers: test_splat_readers.py."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import math
import os
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib

import numpy as np
import pytest
import torch
import zstandard
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyData, PlyElement

from backend.convert import convert, info
from pixworld.gaussians import Gaussians, quat_to_matrix
from pixworld.sh import sh_to_rgb
from pixworld.splats import FORMATS, load_ply, load_splats, save_ply, save_splats
from pixworld.splats.axes import flip
from pixworld.splats.codebooks import scalar_codebook, vector_codebook
from pixworld.splats.edit import importance, prune
from pixworld.splats.sog import morton_order
from pixworld.splats.spz import save_spz
from pixworld.views import InputError

USD = importlib.util.find_spec("pxr") is not None


def random_gaussians(n: int, degree: int) -> Gaussians:
    g = torch.Generator().manual_seed(degree)
    return Gaussians(
        means=torch.randn(n, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=-1),
        scales=torch.rand(n, 3, generator=g) * 0.1 + 1e-3,
        opacities=torch.rand(n, generator=g) * 0.98 + 0.01,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=g),
    )


@pytest.mark.parametrize("degree", range(4))
def test_ply_round_trip(tmp_path, degree):
    gaussians = random_gaussians(50, degree)
    save_ply(tmp_path / "deep" / "scene.ply", gaussians, comments=["PixWorld", "two\nlines"])
    loaded = load_ply(tmp_path / "deep" / "scene.ply")
    assert loaded.sh_degree == degree
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(loaded, name), getattr(gaussians, name), rtol=2e-6, atol=1e-6)
    assert sorted(os.listdir(tmp_path / "deep")) == ["scene.ply"]


def test_ply_is_the_canonical_layout(tmp_path):
    gaussians = random_gaussians(7, 2)
    save_ply(tmp_path / "scene.ply", gaussians, comments=["made by a test"])
    ply = PlyData.read(tmp_path / "scene.ply")
    assert [e.name for e in ply.elements] == ["vertex"] and not ply.text and ply.byte_order == "<"
    assert ply.comments == ["made by a test"]
    data = ply["vertex"].data
    assert data.dtype.names == (
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(24)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    )
    assert {data.dtype[name].str for name in data.dtype.names} == {"<f4"}
    # channel-major: coefficient 1 + i of channel c is f_rest_{8 c + i}
    np.testing.assert_array_equal(data["f_rest_9"], gaussians.sh[:, 2, 1].numpy())
    np.testing.assert_array_equal(data["f_rest_16"], gaussians.sh[:, 1, 2].numpy())
    np.testing.assert_array_equal(data["rot_0"], gaussians.quats[:, 0].numpy())
    np.testing.assert_allclose(data["scale_1"], np.log(gaussians.scales[:, 1].numpy()), rtol=1e-6)
    p = gaussians.opacities.numpy()
    np.testing.assert_allclose(data["opacity"], np.log(p / (1 - p)), rtol=1e-4, atol=1e-6)


def test_ply_of_extreme_and_no_gaussians(tmp_path):
    g = random_gaussians(2, 0)
    save_ply(tmp_path / "a.ply", Gaussians(g.means, g.quats, g.scales, torch.tensor([0.0, 1.0]), g.sh))
    torch.testing.assert_close(load_ply(tmp_path / "a.ply").opacities, torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    save_ply(tmp_path / "b.ply", g.select(torch.zeros(2, dtype=torch.bool)))
    assert len(load_ply(tmp_path / "b.ply")) == 0


def test_elements_after_the_vertices_are_left_alone(tmp_path):
    """Some exporters append their camera."""
    gaussians = random_gaussians(20, 1)
    save_ply(tmp_path / "a.ply", gaussians)
    more = b"element intrinsic 2\nproperty float x\nelement face 1\nproperty list uchar int i\nend_header\n"
    content = (tmp_path / "a.ply").read_bytes().replace(b"end_header\n", more)
    (tmp_path / "b.ply").write_bytes(content + bytes(8) + b"\x01" + bytes(4))
    assert torch.equal(load_ply(tmp_path / "b.ply").means, gaussians.means)


def test_huge_and_tiny_rotations_are_normalised(tmp_path):
    gaussians = random_gaussians(2, 0)
    save_ply(tmp_path / "a.ply", gaussians)
    table = PlyData.read(tmp_path / "a.ply")
    for i in range(4):
        table["vertex"][f"rot_{i}"] *= np.array([1e25, 1e-25], np.float32)
    table.write(tmp_path / "b.ply")
    assert torch.allclose(load_ply(tmp_path / "b.ply").quats, gaussians.quats, atol=1e-5)


def test_bad_ply(tmp_path):
    path = tmp_path / "scene.ply"
    save_ply(path, random_gaussians(20, 1))
    whole = path.read_bytes()
    data = PlyData.read(path)["vertex"].data.copy()

    def refuses(content: bytes | PlyData, words: str) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.write(path)
        with pytest.raises(InputError, match=words):
            load_ply(path)

    refuses(b"", "cannot be read as a PLY")
    refuses(b"\x89PNG\r\n\x1a\n\xff\xfe", "cannot be read as a PLY")
    refuses(whole[: len(whole) // 2], "cannot be read as a PLY")
    refuses(whole.replace(b"element vertex 20", b"element vertex -1"), "cannot be read as a PLY")
    header = b"element vertex 0\nproperty float x\nend_header"
    refuses(whole.replace(b"end_header", header), "one `vertex`|cannot be read as a PLY")
    refuses(whole.replace(b"element vertex", b"element face 0\nelement vertex"), "one `vertex`|cannot be read as a PLY")
    refuses(PlyData([PlyElement.describe(repack_fields(data[["x", "y", "z"]]), "vertex")]), "lacks f_dc_0")
    names = [n for n in data.dtype.names if n != "f_rest_8"]
    refuses(PlyData([PlyElement.describe(repack_fields(data[names]), "vertex")]), "8 f_rest")
    data["x"][3] = np.nan
    refuses(PlyData([PlyElement.describe(data, "vertex")]), "not finite")
    data["x"], data["rot_0"], data["rot_1"], data["rot_2"], data["rot_3"] = 0, 0, 0, 0, 0
    refuses(PlyData([PlyElement.describe(data, "vertex")]), "length zero")
    with pytest.raises(InputError, match="does not exist"):
        load_ply(tmp_path / "none.ply")


# --- the fast PLY path against plyfile


@pytest.mark.parametrize("degree", [0, 3])
def test_ply_equals_its_twin(tmp_path, degree):
    """More rows than a slab, through plyfile and through the fast path, in both directions."""
    g = random_gaussians(20_001, degree)
    save_ply(tmp_path / "fast.ply", g)
    data = PlyData.read(tmp_path / "fast.ply")["vertex"].data
    logits, logs = torch.logit(g.opacities.double()), g.scales.double().log()
    rest = g.sh[:, 1:].transpose(1, 2).flatten(1)
    slow = torch.cat([g.means, 0 * g.means, g.sh[:, 0], rest, logits[:, None], logs, g.quats], dim=1)
    fast = np.stack([data[name] for name in data.dtype.names], axis=1)
    np.testing.assert_allclose(fast, slow.numpy(), rtol=1e-6, atol=3e-7)
    PlyData([PlyElement.describe(data, "vertex")], byte_order="<").write(tmp_path / "slow.ply")
    assert (tmp_path / "slow.ply").read_bytes() == (tmp_path / "fast.ply").read_bytes()
    PlyData([PlyElement.describe(data[:50], "vertex")], text=True).write(tmp_path / "text.ply")
    assert_close(load_ply(tmp_path / "text.ply"), load_ply(tmp_path / "fast.ply").map(lambda x: x[:50]), 2e-6)


def test_ply_of_other_layouts(tmp_path):
    """Big-endian, doubles, bytes, no normals, another order of the properties, CRLF-free comments in any encoding."""
    g = random_gaussians(30, 1)
    save_ply(tmp_path / "a.ply", g)
    data = PlyData.read(tmp_path / "a.ply")["vertex"].data
    names = [name for name in reversed(data.dtype.names) if not name.startswith("n")]
    odd = np.empty(30, [("red", "u1"), *((name, "f8" if name == "x" else "f4") for name in names)])
    for name in names:
        odd[name] = data[name]
    for order in "<>":
        PlyData([PlyElement.describe(odd, "vertex")], byte_order=order).write(tmp_path / "b.ply")
        assert_close(load_ply(tmp_path / "b.ply"), load_ply(tmp_path / "a.ply"), 0)
    whole = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "c.ply").write_bytes(whole.replace(b"element vertex", b"comment caf\xe9\nelement vertex"))
    assert_close(load_ply(tmp_path / "c.ply"), load_ply(tmp_path / "a.ply"), 0)


# --- every format


def assert_close(a: Gaussians, b: Gaussians, means=1e-6, quats=None, logs=None, opacities=None, dc=None, bands=None):
    """Largest differences of fields; those not given are held to the tolerance of the means."""

    def at_most(x, y, tolerance):
        assert x.shape == y.shape and (x - y).abs().amax() <= (means if tolerance is None else tolerance)

    signs = torch.where((a.quats * b.quats).sum(-1, keepdim=True) < 0, -1, 1)
    at_most(a.means, b.means, None)
    at_most(a.quats, b.quats * signs, quats)
    at_most(a.scales.log(), b.scales.log(), logs)
    at_most(a.opacities, b.opacities, opacities)
    at_most(a.sh[:, :1], b.sh[:, :1], dc)
    if a.sh_degree:
        at_most(a.sh[:, 1:], b.sh[:, 1:], bands)


def scene(n: int = 300, degree: int = 3) -> Gaussians:
    """Gaussians within what every format can hold: SH bands in -1..1, degree 0 in the range of colours."""
    g = random_gaussians(n, degree)
    return Gaussians(
        g.means, g.quats, g.scales, g.opacities, torch.cat([g.sh[:, :1] / 4, g.sh[:, 1:] / 4], 1).clamp(-1, 1)
    )


# Half a step of each quantiser. The largest component of a quaternion follows from three that are each off by half a
# step e: it is at least 1/2, and off by at most 3 e (0.71 / 0.5).
SMALLEST_THREE = 3 * 1.42
TOLERANCES = {
    "a.ply": {"means": 1e-6},
    "a.glb": {"means": 2e-7},
    "a.gltf": {"means": 2e-7},
    "a.usdc": {"means": 2e-7},
    "a.usda": {"means": 2e-7},
    "a.spz": {
        "means": 2e-6,  # 24 bits over -8..8
        "quats": SMALLEST_THREE * 0.5**0.5 / 511 / 2,
        "logs": 1 / 32,
        "opacities": 1 / 510,
        "dc": 1 / (0.15 * 510) + 1e-6,
        "bands": 8.5 / 128,  # 4 of 8 bits are kept
    },
    "a.splat": {
        "means": 0,
        "quats": 2 / 128,  # rounded by half a step a component, 127 at most, then normalised
        "logs": 1e-6,
        "opacities": 1 / 510 + 1e-7,
        "dc": 1 / 510 / 0.28209 + 1e-6,
    },
    "a.sog": {
        "means": 2e-4,  # 16 bits over ln(1 + |x|) in -1.6..1.6, times 1 + |x|
        "quats": SMALLEST_THREE * 0.5**0.5 / 255,
        "logs": 0.02,  # 1/254 of their range
        "opacities": 1 / 510 + 1e-7,
        "dc": 0.02,
        "bands": 2 / 254,  # no more Gaussians than entries of the palette
    },
}


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("name", TOLERANCES)
def test_round_trip(tmp_path, name, degree):
    if ".usd" in name and not USD:
        pytest.skip("usd-core is not installed")
    g = scene(degree=degree)
    copy = g.map(torch.clone)
    save_splats(tmp_path / name, g, ["a comment", "and another"])
    assert_close(g, copy, 0)  # arguments are not touched
    if name == "a.splat":
        g = g.select((g.scales.prod(-1) * g.opacities).argsort(descending=True, stable=True)).with_sh_degree(0)
    if name == "a.sog":
        g = g.select(morton_order(g.means))
    loaded = load_splats(tmp_path / name)
    assert_close(loaded, g, **TOLERANCES[name])
    assert torch.allclose(loaded.quats.norm(dim=-1), torch.ones(300), atol=1e-6)
    assert os.listdir(tmp_path) == [name]


def test_spz_versions(tmp_path):
    g = scene(100, 2)
    for version in (3, 4):
        save_splats(tmp_path / "a.spz", g, spz_version=version)
        start = (tmp_path / "a.spz").read_bytes()[:8]
        assert start[:2] == b"\x1f\x8b" if version == 3 else start == b"NGSP\4\0\0\0"
        assert_close(load_splats(tmp_path / "a.spz"), g, **TOLERANCES["a.spz"])
    # versions 1 and 2 by hand: 8-bit x y z of the rotation; version 1 has float16 positions
    mirrored = flip(g, (1, -1, -1))
    save_spz(tmp_path / "a.spz", g)
    body = gzip.decompress((tmp_path / "a.spz").read_bytes())
    bits, after_positions, after_rotations = body[13], 16 + 9 * 100, 16 + 20 * 100
    q = mirrored.quats * torch.where(mirrored.quats[:, :1] < 0, -1, 1)
    rotations = (q[:, 1:] * 127.5 + 127.5).round().to(torch.uint8).numpy().tobytes()
    for version in (1, 2):
        positions = mirrored.means.numpy().astype("<f2").tobytes() if version == 1 else body[16:after_positions]
        header = struct.pack("<4sIIBBBB", b"NGSP", version, 100, 2, bits, 0, 0)
        middle = body[after_positions : 16 + 16 * 100]
        content = header + positions + middle + rotations + body[after_rotations:]
        (tmp_path / "b.spz").write_bytes(gzip.compress(content))
        # w follows from x y z, badly where it is small
        loaded = load_splats(tmp_path / "b.spz")
        assert_close(loaded, g, **TOLERANCES["a.spz"] | {"means": 2e-3 if version == 1 else 2e-6, "quats": 0.2})
        clear = q[:, 0] > 0.3
        assert_close(loaded.select(clear), g.select(clear), **TOLERANCES["a.spz"] | {"means": 2e-3, "quats": 0.04})


def test_spz_of_degree_4(tmp_path):
    g = scene(100, 3)
    save_spz(tmp_path / "a.spz", g)
    body = bytearray(gzip.decompress((tmp_path / "a.spz").read_bytes()))
    bands = np.frombuffer(body[-4500:], np.uint8).reshape(100, 45)
    body[12] = 4
    content = body[:-4500] + np.pad(bands, ((0, 0), (0, 27)), constant_values=200).tobytes()
    (tmp_path / "b.spz").write_bytes(gzip.compress(content))
    assert_close(load_splats(tmp_path / "b.spz"), load_splats(tmp_path / "a.spz"), 0)


def test_spz_of_other_axes(tmp_path):
    """A coordinate-system record is honoured; y and z exchanged is refused."""
    g = scene(50, 3)
    save_splats(tmp_path / "a.spz", g, spz_version=4)
    whole = bytearray((tmp_path / "a.spz").read_bytes())
    for system, signs in ((4, (1, 1, 1)), (7, (-1, 1, -1)), (6, (1, -1, -1))):
        record = struct.pack("<III", 0xADBE0003, 4, system)
        changed = whole[:14] + b"\2" + whole[15:16] + struct.pack("<I", 32 + len(record)) + whole[20:32] + record
        (tmp_path / "b.spz").write_bytes(changed + whole[32:])
        assert_close(load_splats(tmp_path / "b.spz"), flip(load_splats(tmp_path / "a.spz"), signs), 0)
    (tmp_path / "b.spz").write_bytes(bytes(changed[:40]) + struct.pack("<I", 9) + whole[32:])
    with pytest.raises(InputError, match="exchanged"):
        load_splats(tmp_path / "b.spz")


def test_gltf_variants(tmp_path):
    """A buffer beside the file, transforms of nodes, and a draft's logarithms of scales."""
    g = scene(40, 1)
    save_splats(tmp_path / "a.gltf", g)
    document = json.loads((tmp_path / "a.gltf").read_text())
    data = bytearray(base64.b64decode(document["buffers"][0]["uri"].partition(",")[2]))
    document["buffers"][0]["uri"] = "the%20data.bin"
    document["nodes"] = [{"children": [1], "translation": [1, 2, 3]}, {"mesh": 0, "scale": [2, 2, 2]}]
    (tmp_path / "the data.bin").write_bytes(data)
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    moved = flip(flip(g, (-1, -1, 1)).transform(2.0, torch.eye(3), torch.tensor([1.0, 2, 3])), (-1, -1, 1))
    assert_close(load_splats(tmp_path / "b.gltf"), moved, 2e-6)
    view = document["bufferViews"][3]
    scales = slice(view["byteOffset"], view["byteOffset"] + view["byteLength"])
    data[scales] = np.log(np.frombuffer(data[scales], "<f4")).tobytes()
    (tmp_path / "the data.bin").write_bytes(data)
    assert_close(load_splats(tmp_path / "b.gltf"), moved, 2e-6)
    document["nodes"][0]["scale"] = [1, 1, 2]
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    with pytest.raises(InputError, match="stretched"):
        load_splats(tmp_path / "b.gltf")


def test_flip_is_the_rotation():
    """A half turn by signs is the half turn by matrices: covariances, and colours from directions that turn along."""
    g, turn = scene(30, 3), torch.tensor([-1.0, -1, 1])
    flipped, turned = flip(g, (-1, -1, 1)), g.transform(1.0, torch.diag(turn), torch.zeros(3))

    def covariance(x):
        half = quat_to_matrix(x.quats) * x.scales[:, None]
        return half @ half.mT

    torch.testing.assert_close(covariance(flipped), covariance(turned))
    torch.testing.assert_close(flipped.sh, turned.sh, atol=1e-6, rtol=0)
    torch.testing.assert_close(sh_to_rgb(flipped.sh, g.means * turn), sh_to_rgb(g.sh, g.means))
    assert_close(flip(flip(g, (1, -1, -1)), (1, -1, -1)), g, 0)
    mirror = flip(g, (1, 1, -1))  # a mirror image keeps covariances and colours as well
    d = torch.diag(torch.tensor([1.0, 1, -1]))
    torch.testing.assert_close(covariance(mirror), d @ covariance(g) @ d)
    torch.testing.assert_close(sh_to_rgb(mirror.sh, g.means @ d), sh_to_rgb(g.sh, g.means))


def test_codebooks():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, generator=g).numpy()
    codebook, index = scalar_codebook(values)
    error = np.abs(codebook[index] - values)
    assert error.max() <= np.ptp(values) / 254 and error.mean() < np.ptp(values) / 1000
    np.testing.assert_array_equal(index, np.abs(codebook - values[:, None]).argmin(1))
    codebook, index = scalar_codebook(np.array([[3.0, 1.0], [1.0, 2.0]], np.float32))
    assert codebook[index].tolist() == [[3, 1], [1, 2]] and len(codebook) == 256
    # 40 clusters of 50 vectors: a palette of 64 finds nearly all of what is between them
    centres = torch.randn(40, 9, generator=g)
    vectors = (centres[:, None] + 0.01 * torch.randn(40, 50, 9, generator=g)).flatten(0, 1)
    palette, label = vector_codebook(vectors, 64)
    assert len(palette) <= 64 and (palette[label] - vectors).square().mean() < 0.1 * vectors.var()
    assert vector_codebook(vectors[:64], 64)[0].equal(vectors[:64])


def test_formats_are_named(tmp_path):
    for name in ("a.obj", "a"):
        with pytest.raises(InputError, match="does not exist"):
            load_splats(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="use one of"):
            load_splats(tmp_path / name)
    for suffix in FORMATS:
        if suffix in (".usd", ".usda", ".usdc") and not USD:
            continue
        with pytest.raises(InputError, match="does not exist"):
            load_splats(tmp_path / f"none{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(InputError, match="is a folder"):
            load_splats(tmp_path / f"folder{suffix}")


def test_usd_without_usd_core(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(InputError, match="usd-core"):
        save_splats(tmp_path / "a.usda", scene(3))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.usda", b"#usda 1.0\n( defaultPrim = "), ("a.usdc", b"PXR-USDC" + bytes(60))]
)
def test_usd_says_what_is_wrong_without_its_source_code(tmp_path, name, content):
    pytest.importorskip("pxr.UsdVol", reason="usd-core is not installed")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=r"damaged or no USD file \(.*(Expected|too small).*\); export it again"
    ) as error:
        load_splats(tmp_path / name)
    assert "pxrInternal" not in str(error.value) and "line 1" not in str(error.value)


# --- damaged files

LOADER = """
import resource, sys
from pathlib import Path
from pixworld.splats import load_splats
from pixworld.views import InputError
good, bad = (sorted(Path(folder).iterdir()) for folder in sys.argv[1:])
for path in good:
    load_splats(path)  # everything that is imported or compiled once
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (192 << 20),) * 2)
for path in bad:
    try:
        load_splats(path)
        print("LOADED", path.name)
    except InputError as error:
        print("refused", path.name, "|", str(error).replace(str(path), "FILE"))
    except BaseException as error:
        print("RAISED", path.name, repr(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux")
def test_damaged_files_are_refused_in_little_memory(tmp_path):
    """Each gives one InputError in a process that may take 192 MB more than loading a good file of each format took."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.mkdir()
    for suffix in (".ply", ".spz", ".splat", ".sog", ".glb", ".gltf", *([".usdc"] if USD else [])):
        save_splats(good / f"a{suffix}", scene(64, 1))
    save_splats(good / "4.spz", scene(64, 1), spz_version=4)
    PlyData([PlyElement.describe(PlyData.read(good / "a.ply")["vertex"].data, "vertex")], text=True).write(
        good / "t.ply"
    )
    count = 0
    for name, content in damaged(good):
        (bad / name).write_bytes(content)
        count += 1
    code = [sys.executable, "-c", textwrap.dedent(LOADER), good, bad]
    result = subprocess.run(code, capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(__file__)))
    lines = result.stdout.splitlines()
    assert [x for x in lines if not x.startswith("refused")] == [] and len(lines) == count, result.stderr[-2000:]
    for line in lines:
        assert line.split("| ")[1].startswith(("FILE ", "/")) and len(line) < 400, line


def damaged(good):
    """(name, content) of files that no reader may accept."""
    whole = {path.name: path.read_bytes() for path in good.iterdir()}
    for name, content in whole.items():
        if name != "a.splat":  # which has no header: half of it is a file of half as many
            yield f"half-{name}", content[: len(content) // 2]
        yield f"empty-{name}", b""
        yield f"noise-{name}", np.random.default_rng(0).bytes(5000)
        if not name.endswith((".usdc", ".gltf", "t.ply")):
            yield f"cut-{name}", content[:-3]

    ply = whole["a.ply"]
    element, end = b"element vertex 64\n", b"end_header\n"
    for i, count in enumerate((b"1099511627776", b"65", b"63", b"-1", b"1e3", b"99999999999999999999")):
        yield f"count{i}.ply", ply.replace(b"vertex 64", b"vertex " + count)
    yield "textcount.ply", whole["t.ply"].replace(b"vertex 64", b"vertex 1099511627776")
    yield "before.ply", ply.replace(element, b"property float q\n" + element)
    yield "twice.ply", ply.replace(end, b"element vertex 0\nproperty float x\n" + end)
    yield "first.ply", ply.replace(element, b"element face 1\nproperty list uchar int vertex_indices\n" + element)
    yield "short.ply", ply.replace(end, b"element face 1\nproperty uchar x\n" + end)[:-4]
    yield "list.ply", ply.replace(b"property float nx", b"property list uchar float nx")
    yield "same.ply", ply.replace(b"property float ny", b"property float nx")
    yield "lines.ply", b"ply\n" + b"comment x\n" * 100_000
    yield "line.ply", b"ply\n" + b"x" * 1_000_000
    for value in (math.nan, math.inf):
        yield f"{value}.ply", ply[: -4 * 26] + struct.pack("<f", value) + ply[-4 * 26 + 4 :]
    yield "huge.ply", ply[:-20] + struct.pack("<f", 1000.0) + ply[-16:]  # exp overflows

    def zeros(compressor, megabytes):
        part = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
        rest = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
        return part + rest * (megabytes - 1) + compressor.flush()

    def spz(n, version=3, degree=0, bits=12, body=b""):
        packer = zlib.compressobj(9, wbits=31)
        header = struct.pack("<4sIIBBBB", b"NGSP", version, n, degree, bits, 0, 0)
        return packer.compress(header + body) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(packer, 1000)

    yield "bomb.spz", spz(10)
    yield "bomb-declared.spz", spz(50_000_000)
    yield "most.spz", spz(2**32 - 1)
    yield "version.spz", spz(10, version=5)
    yield "degree.spz", spz(10, degree=9)
    yield "bits.spz", spz(10, bits=200)
    v4 = whole["4.spz"]
    for i, (at, field) in enumerate(((8, 2**32 - 1), (8, 65), (8, 63), (4, 9), (16, 2**31), (16, 0), (32, 2**40))):
        yield (
            f"field{i}-4.spz",
            v4[:at] + struct.pack("<I" if field < 2**32 else "<Q", field) + v4[at + (4 if field < 2**32 else 8) :],
        )
    bomb = zstandard.ZstdCompressor().compress(bytes(300 << 20))
    sizes = struct.unpack_from("<12Q", v4, 32)
    toc = struct.pack("<12Q", len(bomb), *sizes[1:])
    yield "bomb-4.spz", v4[:32] + toc + bomb + v4[32 + 96 + sizes[0] :]
    n = 60_000_000
    yield "bomb-declared-4.spz", v4[:8] + struct.pack("<I", n) + v4[12:32] + toc + bomb + v4[32 + 96 + sizes[0] :]

    yield "odd.splat", whole["a.splat"] + b"x"
    yield "nan.splat", struct.pack("<f", math.nan) + whole["a.splat"][4:]
    yield "negative.splat", whole["a.splat"][:12] + struct.pack("<f", -1) + whole["a.splat"][16:]
    yield "turn.splat", whole["a.splat"][:28] + b"\x80" * 4 + whole["a.splat"][32:]

    def sog(change=lambda meta, files: None):
        with zipfile.ZipFile(good / "a.sog") as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        meta = json.loads(files["meta.json"])
        change(meta, files)
        if meta:
            files["meta.json"] = json.dumps(meta).encode()
        path = good.parent / "changed.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path.read_bytes()

    def wide(meta, files):  # 16384 x 16384 pixels, says the header: 1 GB, twice
        image = files["quats.webp"]
        assert image[12:16] == b"VP8L"
        bits = int.from_bytes(image[21:25], "little") | 0xFFFFFFF
        files["quats.webp"] = image[:21] + bits.to_bytes(4, "little") + image[25:]

    changes = {
        "count": lambda meta, files: meta.update(count=2**40),
        "count-text": lambda meta, files: meta.update(count="64"),
        "count-negative": lambda meta, files: meta.update(count=-1),
        "count-more": lambda meta, files: meta.update(count=4000),
        "version": lambda meta, files: meta.update(version=3),
        "missing": lambda meta, files: files.pop("scales.webp"),
        "codebook": lambda meta, files: meta["scales"].update(codebook=[0.0]),
        "codebook-nan": lambda meta, files: meta["sh0"].update(codebook=[math.nan] * 256),
        "palette": lambda meta, files: meta["shN"].update(count=3),
        "palette-most": lambda meta, files: meta["shN"].update(count=2**40),
        "bounds": lambda meta, files: meta["means"].update(mins=[1]),
        "bands": lambda meta, files: meta["shN"].update(bands=7),
        "path": lambda meta, files: meta["scales"].update(files=["/etc/passwd"]),
        "wide": wide,
        "noise": lambda meta, files: files.update({"sh0.webp": b"RIFF" + bytes(100)}),
        "bomb": lambda meta, files: (meta.clear(), files.update({"meta.json": bytes(256 << 20)})),
        "bomb-image": lambda meta, files: files.update({"sh0.webp": bytes(256 << 20)}),
    }
    for name, change in changes.items():
        yield f"{name}.sog", sog(change)

    def gltf(change):
        document = json.loads(whole["a.gltf"])
        change(document)
        return json.dumps(document).encode()

    accessor = {"count": 2**40, "componentType": 1, "type": "VEC9", "byteOffset": -4, "bufferView": 99}
    for key, value in accessor.items():
        yield f"{key}.gltf", gltf(lambda d, item={key: value}: d["accessors"][3].update(item))
    view = {"byteOffset": -8, "byteLength": -1, "byteStride": 2**40, "buffer": 7}
    for key, value in view.items():
        yield f"view-{key}.gltf", gltf(lambda d, item={key: value}: d["bufferViews"][3].update(item))
    yield (
        "stride.gltf",
        gltf(lambda d: (d["bufferViews"][3].update(byteStride=0), d["accessors"][3].update(count=2**40))),
    )
    many = {"nodes": [{"mesh": 0}] * 20_000, "scenes": [{"nodes": list(range(20_000))}]}
    yield "many.gltf", gltf(lambda d: d.update(many))
    yield "view.gltf", gltf(lambda d: d["accessors"][3].pop("bufferView"))
    yield "length.gltf", gltf(lambda d: d["buffers"][0].update(byteLength=2**40))
    for i, uri in enumerate(("../a.bin", "/etc/passwd", "https://example.org/a.bin", "none.bin", "data:,x")):
        yield f"uri{i}.gltf", gltf(lambda d, uri=uri: d["buffers"][0].update(uri=uri))
    yield "loop.gltf", gltf(lambda d: d["nodes"][0].update(children=[0]))
    yield "nothing.gltf", gltf(lambda d: d["meshes"][0]["primitives"][0].pop("extensions"))
    yield (
        "kernel.gltf",
        gltf(lambda d: d["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"].update(kernel="cone")),
    )
    yield "scale.gltf", gltf(lambda d: d["meshes"][0]["primitives"][0]["attributes"].popitem())
    yield "deep.gltf", b"[" * 200_000
    yield "list.gltf", b"[1, 2]"
    glb = whole["a.glb"]
    yield "length.glb", glb[:8] + struct.pack("<I", 2**32 - 1) + glb[12:]
    yield "chunk.glb", glb[:12] + struct.pack("<I", 2**32 - 1) + glb[16:]
    yield "version.glb", glb[:4] + struct.pack("<I", 1) + glb[8:]


# --- edits and commands


def test_prune():
    g = scene(200, 2)
    assert_close(prune(g), g, 0)
    kept = prune(g, max_gaussians=20, min_opacity=0.3, crop=(-1.0, -1.0, -1.0, 1.0, 1.0, 0.5))
    inside = (g.means.abs() <= 1).all(-1) & (g.means[:, 2] <= 0.5) & (g.opacities >= 0.3)
    best = importance(g).where(inside, -1.0).topk(20).indices.sort().values
    assert_close(kept, g.select(best), 0)
    # a ball's shadow is a disc, and a needle's is nearly nothing
    ball = Gaussians(
        g.means[:3],
        g.quats[:3],
        torch.tensor([[2.0] * 3, [2.0, 1e-6, 1e-6], [2.0, 2.0, 1e-6]]),
        torch.ones(3),
        g.sh[:3],
    )
    expected = torch.tensor([4 * math.pi, 0, 2 * math.pi])
    torch.testing.assert_close(importance(ball), expected, atol=1e-3, rtol=0.012)


def test_convert_and_info(tmp_path, capsys):
    save_splats(tmp_path / "a.ply", scene(200, 3))
    box = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    convert(tmp_path / "a.ply", tmp_path / "b.spz", max_gaussians=40, min_opacity=0.2, crop=box, sh_degree=1)
    g = load_splats(tmp_path / "b.spz")
    assert len(g) == 40 and g.sh_degree == 1 and g.opacities.min() > 0.19 and g.means.abs().max() <= 1
    assert "b.spz: 40 of 200 Gaussians, SH degree 1" in capsys.readouterr().out
    convert(tmp_path / "a.ply", tmp_path / "a.ply", max_gaussians=7, sh_degree=3)
    assert len(load_splats(tmp_path / "a.ply")) == 7
    info(tmp_path / "b.spz")
    shown = capsys.readouterr().out
    assert all(x in shown for x in ("SPZ", "40", "opacity", "largest axis", "█")) and "nan" not in shown
    save_splats(tmp_path / "none.ply", scene(1).select(torch.zeros(1, dtype=torch.bool)))
    info(tmp_path / "none.ply")
    before = sorted(os.listdir(tmp_path))
    for options, words in (
        ({"crop": (9.0, 9.0, 9.0, 10.0, 10.0, 10.0)}, "would be left"),
        ({"crop": (1.0, 0.0, 0.0, 0.0, 1.0, 1.0)}, "minimum below"),
        ({"max_gaussians": 0}, "leaves nothing"),
        ({"min_opacity": 2.0}, "no opacity"),
        ({"sh_degree": 4}, "unknown"),
    ):
        with pytest.raises(InputError, match=words):
            convert(tmp_path / "a.ply", tmp_path / "c.ply", **options)
    with pytest.raises(InputError, match="by its name"):
        convert(tmp_path / "a.ply", tmp_path / "c.obj")
    assert sorted(os.listdir(tmp_path)) == before
