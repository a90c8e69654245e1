"""render/cuda.py: what it asks of gsplat, with a stand-in that draws by the dense reference and refuses what gsplat
1.5.3 gets wrong; and, where there is a GPU, the real thing."""

import math
import sys
import types
from pathlib import Path

import pytest
import torch

from pixworld.render import cuda, reference, render
from pixworld.views import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from gpu_check.parity import check_parity, compare, shoot
from gpu_check.scenes import parity_cases, random_scene
from gpu_check.speed import rasterizer_arguments
from gpu_check.tiles import count, tile_loop

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")


@pytest.fixture
def gsplat(monkeypatch):
    """The stand-in for gsplat.rasterization; the fixture's value lists (scenes, views, packed) of the calls."""
    calls = []

    def rasterization(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, *,
        near_plane, far_plane, eps2d, packed, render_mode, rasterize_mode,
    ):  # fmt: skip
        (b, n), c = means.shape[:2], viewmats.shape[1]
        assert b * n * c > 0, "divides by zero"
        assert not opacities.isnan().any(), "would be drawn opaque"
        assert b == 1 or not packed, "culls by the first scene's opacities"
        assert b == 1 or (n >= 32 and (c > 1 or not viewmats.requires_grad)), "mixes gradients of scenes"
        assert far_plane == math.inf and render_mode == "RGB+D"
        assert b * c * max(n, width * height) <= cuda.INDICES or b * c == 1
        assert Ks.shape == (b, c, 3, 3) and colors.shape in ((b, n, 3), (b, c, n, 3))
        calls.append((b, c, packed))
        colours = colors[:, None] if colors.ndim == 3 else colors
        options = {"eps2d": eps2d, "near": near_plane, "antialiased": rasterize_mode == "antialiased"}
        tensors = (means, quats, scales, opacities, colours, viewmats, Ks)
        planes = reference.rasterize(*tensors, width=width, height=height, **options).movedim(-3, -1)
        return planes[..., :4], planes[..., 4:], {}

    monkeypatch.setattr(cuda, "load", lambda: rasterization)
    return calls


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize(
    ("dense", "indices", "expected"),
    [
        (2**25, 2**28, [(3, 2, False)]),
        (2 * 2 * 40, 2**28, [(2, 2, False), (1, 2, False)]),
        (40, 2**28, [(1, 2, True)] * 3),
        (2**25, 13 * 17, [(1, 1, False)] * 6),
    ],
)
def test_however_it_is_cut_the_pieces_make_the_whole(gsplat, monkeypatch, degree, dense, indices, expected):
    scene = random_scene(40, batch=(3,), degree=degree, size=(13, 17))
    options = {"antialiased": degree > 0, "background": (0.1, 0.5, 0.9), "normals": True}
    whole = shoot(scene, options, "reference", "cpu", torch.float32)
    monkeypatch.setattr(cuda, "DENSE", dense)
    monkeypatch.setattr(cuda, "INDICES", indices)
    pieces = shoot(scene, options, "cuda", "cpu", torch.float32)
    assert max(compare(pieces, whole).values()) < 1e-2
    assert gsplat == expected * 2  # the second time for the normals


def leaves(s, n, v):
    """Arguments of rasterize() that all ask for gradients, but K."""
    gaussians, cameras = (x.to(torch.float32) for x in random_scene(n, batch=(s,), views=v, size=(13, 17)))
    colours = torch.rand(s, 1, n, 3, generator=torch.Generator().manual_seed(0))
    tensors = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colours, cameras.w2c]
    return [*(x.clone().requires_grad_() for x in tensors), cameras.K]


OPTIONS = {"width": 17, "height": 13, "eps2d": 0.3, "near": 0.01, "antialiased": False}


@pytest.mark.parametrize(("s", "n", "v"), [(3, 40, 1), (2, 7, 2), (2, 40, 2)])
def test_pose_gradients_of_scenes_do_not_mix(gsplat, s, n, v):
    ours, theirs = leaves(s, n, v), leaves(s, n, v)
    cuda.rasterize(*ours, **OPTIONS).square().sum().backward()
    reference.rasterize(*theirs, **OPTIONS).square().sum().backward()
    for a, b in zip(ours[:-1], theirs[:-1]):
        assert b.grad.abs().max() > 0
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("s", "n", "v"), [(2, 0, 3), (0, 5, 2), (2, 5, 0)])
def test_nothing_is_never_handed_to_gsplat(gsplat, s, n, v):
    tensors = [torch.rand(s, n, 3), torch.rand(s, n, 4), torch.rand(s, n, 3), torch.rand(s, n)]
    tensors += [torch.rand(s, v, n, 3), torch.rand(s, v, 4, 4)]
    ours = [x.requires_grad_() for x in tensors]
    planes = cuda.rasterize(*ours, torch.rand(s, v, 3, 3), **OPTIONS)
    planes.sum().backward()
    assert planes.shape == (s, v, 5, 13, 17) and not planes.any() and not gsplat
    assert all(x.grad.shape == x.shape and not x.grad.any() for x in ours)


def test_broken_gaussians_vanish(gsplat):
    gaussians, cameras = random_scene(60, broken=9)
    found = shoot((gaussians, cameras), {}, "cuda", "cpu", torch.float32)
    truth = shoot((gaussians.select(torch.arange(9, 60)), cameras), {}, "reference", "cpu", torch.float32)
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert not found[f"d {name}"][:9].any()
        found[f"d {name}"] = found[f"d {name}"][9:]
    assert max(compare(found, truth).values()) < 1e-2


def test_float64_is_rendered_in_float32(gsplat):
    assert render(*random_scene(5), backend="cuda").rgb.dtype == torch.float32
    with pytest.raises(AssertionError, match="float32"):
        cuda.rasterize(*(x.double() for x in leaves(1, 5, 1)), **OPTIONS)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """torch that claims to have two GPUs, and no gsplat in sys.modules."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: [(9, 0), (8, 6)][i])
    for name in [m for m in sys.modules if m.split(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("MAX_JOBS", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PATH", "/usr/bin")
    cuda.load.cache_clear()
    yield
    cuda.load.cache_clear()


def package(monkeypatch, backend):
    """A gsplat package whose cuda/_backend.py is the text `backend`; nothing is imported before it is needed."""
    gsplat, inner = types.ModuleType("gsplat"), types.ModuleType("gsplat.cuda")
    gsplat.__spec__, gsplat.__path__, inner.__path__ = types.SimpleNamespace(), [], [str(backend.parent)]
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: gsplat.__spec__)
    monkeypatch.setitem(sys.modules, "gsplat", gsplat)
    monkeypatch.setitem(sys.modules, "gsplat.cuda", inner)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_gsplat_is_not_touched(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)  # its import would raise ImportError
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        render(*random_scene(3), backend="cuda")


def test_gsplat_is_missing(pretended_gpu, monkeypatch):
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install gsplat==1\.5\.3 ninja packaging"):
        cuda.load()


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("_C = None", "nvcc was not found"),
        (
            "raise RuntimeError('Error building extension: ' + 'x ' * 500)",
            "could not be compiled .* doctor --build-gsplat",
        ),
        ("raise ImportError('gsplat_cuda.so: cannot open shared object file')", "could not be compiled .*cannot open"),
    ],
)
def test_gsplat_does_not_compile(pretended_gpu, monkeypatch, tmp_path, backend, message):
    (tmp_path / "_backend.py").write_text(backend)
    package(monkeypatch, tmp_path / "_backend.py")
    with pytest.raises(InputError, match=message) as caught:
        cuda.load()
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_what_the_compilation_is_given(pretended_gpu, monkeypatch):
    wanted = cuda.build_environment()
    assert wanted["TORCH_CUDA_ARCH_LIST"] == "8.6;9.0"
    assert 1 <= int(wanted["MAX_JOBS"]) <= 1024
    assert wanted["PATH"].split(":") == ["/usr/bin", str(Path(sys.executable).parent)]
    monkeypatch.setenv("MAX_JOBS", "3")
    assert "MAX_JOBS" not in cuda.build_environment()


def test_the_toolkit_of_an_nvcc_that_is_a_link_is_found(monkeypatch, tmp_path):
    for name in ("toolkit/bin/nvcc", "toolkit/include/cuda_runtime.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(tmp_path / "toolkit/bin/nvcc")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert cuda.cuda_home() == str(tmp_path / "toolkit")


@needs_gpu
@pytest.mark.parametrize("case", parity_cases("cuda"), ids=lambda case: case.name)
def test_the_gpu_follows_the_cpu(case):
    pytest.importorskip("gsplat")
    assert max(check_parity(case, "cuda")["errors"].values()) < 1


@needs_gpu
def test_the_gpu_survives_nothing():
    pytest.importorskip("gsplat")
    found = shoot(random_scene(0), {}, "cuda", "cuda", torch.float32)
    assert not found["alpha"].any() and found["d means"].shape == (0, 3) and not found["d c2w"].any()


@pytest.mark.parametrize("case", parity_cases("cpu")[3:4] + parity_cases("cpu")[-4:], ids=lambda case: case.name)
def test_what_checks_the_gpu_passes_the_cpu(case):
    errors = check_parity(case, "cpu")["errors"]
    assert set(errors) >= {"rgb", "alpha", "depth", "d means", "d quats", "d scales", "d opacities", "d sh", "d c2w"}
    assert max(errors.values()) < 1


def test_what_checks_the_gpu_notices_errors():
    scene = random_scene(60)
    truth = shoot(scene, {}, "reference", "cpu", torch.float64)
    moved = scene[1].transform(1.0, torch.eye(3), torch.tensor([0.02, 0.02, 0.02]))
    other = shoot((scene[0], moved), {}, "reference", "cpu", torch.float64)
    blurred = shoot(scene, {"eps2d": 0.4}, "reference", "cpu", torch.float64)
    assert min(compare(other, truth).values()) > 1 and min(compare(blurred, truth).values()) > 1
    broken = {**truth, "d means": torch.full_like(truth["d means"], torch.nan)}
    assert compare(broken, truth)["d means"] == math.inf


def test_the_loop_over_tiles_is_the_rasterizer():
    gaussians, cameras = random_scene(50, batch=(2,), size=(20, 37))
    arguments = rasterizer_arguments((gaussians, cameras), "cpu", grad=True)
    options = {"width": 37, "height": 20, "eps2d": 0.3, "near": 0.01, "antialiased": False}
    torch.testing.assert_close(
        tile_loop(*arguments, **options), reference.rasterize(*arguments, **options), rtol=1e-3, atol=1e-4
    )


def test_the_pairs_of_one_gaussian_by_hand():
    # as wide as a pixel, in the middle of 40 x 40: σ² = 1 + 0.3, o = 1, so its box reaches √(2 · 1.3 · ln 255) = 3.8
    w2c, K = torch.eye(4)[None, None], torch.tensor([[[[10.0, 0, 20], [0, 10, 20], [0, 0, 1]]]])
    quats, colours = torch.tensor([[[1.0, 0, 0, 0]]]), torch.zeros(1, 1, 1, 3)
    arguments = [torch.tensor([[[0.0, 0, 1]]]), quats, torch.full((1, 1, 3), 0.1), torch.ones(1, 1), colours, w2c, K]
    assert count(arguments, 40, 40) == (1, 8 * 8, 1)  # pixel centres 16.5 .. 23.5, in the tile 16 .. 31
