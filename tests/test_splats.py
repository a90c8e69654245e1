"""Splat files."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyData, PlyElement

from pixworld.gaussians import Gaussians
from pixworld.splats import load_ply, save_ply
from pixworld.views import InputError


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
    for second in (b"face", b"vertex"):
        header = b"element " + second + b" 0\nproperty float x\nend_header"
        refuses(whole.replace(b"end_header", header), "exactly one `vertex`|cannot be read as a PLY")
    refuses(PlyData([PlyElement.describe(repack_fields(data[["x", "y", "z"]]), "vertex")]), "lacks f_dc_0")
    names = [n for n in data.dtype.names if n != "f_rest_8"]
    refuses(PlyData([PlyElement.describe(repack_fields(data[names]), "vertex")]), "8 f_rest")
    data["x"][3] = np.nan
    refuses(PlyData([PlyElement.describe(data, "vertex")]), "not finite")
    data["x"], data["rot_0"], data["rot_1"], data["rot_2"], data["rot_3"] = 0, 0, 0, 0, 0
    refuses(PlyData([PlyElement.describe(data, "vertex")]), "length zero")
    with pytest.raises(InputError, match="does not exist"):
        load_ply(tmp_path / "none.ply")
