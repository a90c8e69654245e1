"""The rasterizers agree: float64 kernels with autograd through the dense reference, float32 with float64."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pixworld.cameras import Cameras, look_at
from pixworld.gaussians import Gaussians
from pixworld.render import render
from pixworld.sh import C0

NAMES = [f.name for f in fields(Gaussians)]


def random_scene(n, *, batch=(), views=2, size=(29, 37), degree=0, seed=0):
    """Gaussians of all sizes around, behind and beside cameras that look inwards, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    gaussians = Gaussians(
        means=1.5 * normal(n, 3),
        quats=normal(n, 4),  # not unit: back ends must not rely on it
        scales=torch.exp(normal(n, 3) - 2),
        opacities=torch.sigmoid(2 * normal(n)),
        sh=0.5 * normal(n, (degree + 1) ** 2, 3),
    )
    eyes = 2 * torch.nn.functional.normalize(normal(views, 3), dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    height, width = size
    K = torch.tensor([[0.9 * width, 0, 0.52 * width], [0, 1.1 * width, 0.47 * height], [0, 0, 1]], dtype=torch.float64)
    return gaussians, Cameras(look_at(eyes, torch.zeros_like(up), up), K.repeat(*batch, views, 1, 1), height, width)


def aligned_scene(size=(21, 34), views=2, seed=0):
    """One Gaussian a pixel on a bumpy surface before almost parallel cameras, as networks predict them; float64."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    c2w = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    c2w[:, 0, 3] = torch.linspace(-0.2, 0.2, views)
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(c2w, K.repeat(views, 1, 1), height, width)
    origins, directions = cameras.rays()
    depth = 3 + torch.rand(views, height, width, generator=generator, dtype=torch.float64)
    means = (origins + depth[..., None] * directions).flatten(0, 2)
    n = len(means)
    uniform = torch.rand(n, 8, generator=generator, dtype=torch.float64)
    scales = depth.flatten()[:, None] / width * (0.2 + uniform[:, :3])
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=-1)
    return Gaussians(means, quats, scales, 0.2 + 0.799 * uniform[:, 3], uniform[:, None, 4:7]), cameras


def run(gaussians, cameras, backend, posed=False, **options):
    """Rendering, and the gradients of a fixed random functional of all its parts; with `posed` that to c2w as well."""
    leaves = gaussians.map(lambda x: x.detach().clone().requires_grad_())
    cameras = replace(cameras, c2w=cameras.c2w.detach().clone().requires_grad_(posed))
    rendering = render(leaves, cameras, backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    loss = 0
    for part in (x for x in rendering if x is not None):
        upstream = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        loss = loss + (part * upstream.to(part)).sum()
    loss.backward()
    gradients = {name: getattr(leaves, name).grad for name in NAMES}
    if posed:
        gradients["c2w"] = cameras.c2w.grad
    return [x.detach() for x in rendering if x is not None], gradients


def relative_error(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def assert_agree(a, b, tolerance):
    for part, x, y in zip(("rgb", "alpha", "depth", "normal"), a[0], b[0]):
        assert relative_error(x.double(), y) < tolerance, part
    assert a[1].keys() == b[1].keys()
    for name, gradient in b[1].items():
        assert relative_error(a[1][name].double(), gradient) < tolerance, name


@pytest.mark.parametrize("degree, antialiased", [(0, False), (1, True), (2, False), (3, True)])
def test_float64_gradients_are_those_of_the_reference(degree, antialiased):
    scene = random_scene(120, batch=(2,), size=(23, 35), degree=degree, seed=degree)
    options = {"antialiased": antialiased, "background": torch.rand(2, 3, dtype=torch.float64)}
    options |= {"posed": True, "normals": degree == 1}
    assert_agree(run(*scene, "cpu", **options), run(*scene, "reference", **options), 1e-9)


@pytest.mark.parametrize("eps2d, antialiased", [(0.1, False), (0.3, True)])
def test_float64_gradients_of_pixel_aligned_scenes(eps2d, antialiased):
    scene = aligned_scene()
    options = {"antialiased": antialiased, "eps2d": eps2d, "posed": True}
    assert_agree(run(*scene, "cpu", **options), run(*scene, "reference", **options), 1e-9)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("scene", ["random", "aligned"])
def test_float32_follows_float64(scene, antialiased):
    gaussians, cameras = random_scene(300, degree=1, seed=3) if scene == "random" else aligned_scene()
    gaussians, cameras = gaussians.to(torch.float32), cameras.to(torch.float32)
    options = {"antialiased": antialiased, "posed": True}
    fast = run(gaussians, cameras, "cpu", **options)
    exact = run(gaussians.to(torch.float64), cameras.to(torch.float64), "cpu", **options)
    assert fast[0][0].dtype == torch.float32
    assert_agree(fast, exact, 1e-4)


@pytest.mark.parametrize("antialiased", [False, True])
def test_camera_gradients_are_finite_differences(antialiased):
    gaussians, cameras = random_scene(40, degree=2, seed=5)
    gaussians = replace(gaussians, scales=gaussians.scales + 0.2, opacities=0.9 * gaussians.opacities)
    weights = torch.rand(2, 29, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(twist):
        """Of cameras moved by twist [2 6]: a rotation, whose generator is exponentiated, and a translation."""
        turn = torch.zeros(2, 4, 4, dtype=torch.float64)
        for k, (i, j) in enumerate([(2, 1), (0, 2), (1, 0)]):
            turn[:, i, j], turn[:, j, i] = twist[:, k], -twist[:, k]
        turn[:, :3, 3] = twist[:, 3:]
        moved = replace(cameras, c2w=cameras.c2w @ torch.linalg.matrix_exp(turn))
        out = render(gaussians, moved, antialiased=antialiased, backend="cpu")
        return ((out.rgb.sum(1) + out.alpha * out.depth) * weights).sum()

    twist = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(twist), twist)
    step = 1e-6
    for at in np.ndindex(2, 6):
        change = torch.zeros(2, 6, dtype=torch.float64)
        change[at] = step
        with torch.no_grad():
            # α jumps at 1/255, and pixels may cross that within the step: hence not to all digits
            difference = (loss(change) - loss(-change)) / (2 * step)
        assert abs(difference - gradient[at]) < 2e-3 * gradient.abs().max(), at


def test_intrinsics_get_no_gradient_and_fixed_cameras_cost_none():
    gaussians, cameras = random_scene(30, degree=1)
    K = cameras.K.clone().requires_grad_()
    leaves = gaussians.map(lambda x: x.clone().requires_grad_())
    render(leaves, replace(cameras, K=K)).rgb.sum().backward()
    assert K.grad is None and leaves.means.grad.any()
    # cameras alone: the Gaussians are fixed
    c2w = cameras.c2w.clone().requires_grad_()
    render(gaussians, replace(cameras, c2w=c2w)).rgb.sum().backward()
    assert c2w.grad.any()
    assert not render(gaussians, cameras).rgb.requires_grad


def test_normals_face_the_camera():
    # discs as flat as paper, seen from both sides; the shortest axis of the second is its x
    axis = torch.tensor([[1.0, 0, 0, 0], [0.5**0.5, 0, -(0.5**0.5), 0]])
    scales = torch.tensor([[1.0, 1.0, 1e-3], [1e-3, 1.0, 1.0]])
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, [0, 2], [0, 2]], c2w[1, 2, 3] = -1, 8.0  # from the other side
    K = torch.tensor([[20.0, 0, 10], [0, 20, 8], [0, 0, 1]]).repeat(2, 1, 1)
    for i in range(2):
        disc = Gaussians(torch.tensor([[0.0, 0, 4]]), axis[[i]], scales[[i]], torch.ones(1), torch.zeros(1, 1, 3))
        rendering = render(disc, Cameras(c2w, K, 16, 20), normals=True)
        expected = (rendering.alpha > 0)[:, None] * torch.tensor([[0.0, 0, -1], [0, 0, 1]])[:, :, None, None]
        torch.testing.assert_close(rendering.normal, expected, atol=1e-6, rtol=0)
    assert render(disc, Cameras(c2w, K, 16, 20)).normal is None


def test_black_can_brighten():
    gaussians, cameras = random_scene(20, degree=1)
    leaf = torch.zeros(20, 4, 3, dtype=torch.float64)
    leaf[:, 0] = -0.5 / C0  # the colour is exactly 0
    leaf.requires_grad_()
    render(replace(gaussians, sh=leaf), cameras).rgb.sum().backward()
    assert leaf.grad[:, 0].any()


def test_a_single_gaussian_by_hand():
    # isotropic, on the axis: alpha at the centre of pixel (x, y) is o exp(-r² / 2(σ² + eps2d))
    K = torch.tensor([[[8.0, 0, 10], [0, 8, 6], [0, 0, 1]]])
    cameras = Cameras(torch.eye(4)[None], K, 12, 20)
    gaussian = Gaussians(
        torch.tensor([[0.0, 0, 2]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.5),
        torch.tensor([0.7]),
        torch.zeros(1, 1, 3),
    )
    rendering = render(gaussian, cameras, background=torch.tensor([1.0, 0, 0]))
    y, x = np.mgrid[:12, :20] + 0.5
    expected = 0.7 * np.exp(-((x - 10) ** 2 + (y - 6) ** 2) / 2 / (2.0**2 + 0.3))
    expected[expected < 1 / 255] = 0
    np.testing.assert_allclose(rendering.alpha[0], expected, atol=1e-6)
    np.testing.assert_allclose(rendering.depth[0], np.where(expected > 0, 2, 0), atol=1e-4)
    np.testing.assert_allclose(rendering.rgb[0, 0], 1 - expected / 2, atol=1e-6)
    np.testing.assert_allclose(rendering.rgb[0, 1], expected / 2, atol=1e-6)


def test_both_passes_draw_the_same_pixels():
    """Of long thin Gaussians, whose alpha is a matter of the last bit. Were a pixel drawn in one pass only, the weights
    of colours and the opacity of the image would differ by 1/255 and more."""
    generator = torch.Generator().manual_seed(0)
    n = 400
    gaussians = Gaussians(
        means=torch.randn(n, 3, generator=generator),
        quats=torch.randn(n, 4, generator=generator),
        scales=torch.tensor([1.0, 1e-3, 1e-3]).repeat(n, 1),
        opacities=torch.rand(n, generator=generator) * 0.05 + 0.01,
        sh=torch.zeros(n, 1, 3).requires_grad_(),
    )
    up, centre = torch.tensor([0.0, 0.0, 1.0]), torch.zeros(1, 3)
    K = torch.tensor([[90.0, 0, 50], [0, 90, 40], [0, 0, 1]])[None]
    out = render(gaussians, Cameras(look_at(torch.tensor([[3.0, 1.0, 0.5]]), centre, up), K, 80, 100), eps2d=0.01)
    out.rgb[:, 0].sum().backward()
    weights = gaussians.sh.grad[:, 0, 0].sum() / C0
    assert weights.item() == pytest.approx(out.alpha.sum().item(), abs=0.5 / 255)


def test_gradients_where_alpha_is_clamped():
    gaussians, cameras = random_scene(1, views=1)
    centred = Gaussians(
        torch.zeros(1, 3).double(),
        gaussians.quats,
        torch.tensor([[9.0, 7.0, 8.0]]).double(),
        torch.ones(1).double(),
        gaussians.sh,
    )
    result = run(centred, cameras, "cpu")
    alpha = result[0][1]
    assert torch.isclose(alpha, torch.tensor(0.999).double()).any() and (alpha < 0.998).any()
    assert_agree(result, run(centred, cameras, "reference"), 1e-9)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_empty_set_shows_the_background(backend):
    gaussians, cameras = random_scene(0, batch=(3,))
    background = torch.rand(3, 3, dtype=torch.float64)
    parts, gradients = run(gaussians, cameras, backend, background=background)
    assert torch.equal(parts[0], background[:, None, :, None, None].expand(3, 2, 3, 29, 37))
    assert not parts[1].any() and not parts[2].any()
    assert gradients["means"].shape == (3, 0, 3)


def test_what_is_behind_or_beside_the_camera_is_not_drawn():
    gaussians, cameras = random_scene(3, views=1)
    eye, forward, right = cameras.c2w[0, :3, 3], cameras.c2w[0, :3, 2], cameras.c2w[0, :3, 0]
    means = torch.stack([eye - forward, eye + 0.005 * forward, eye + forward + 30 * right])
    hidden = Gaussians(means, gaussians.quats, torch.full((3, 3), 0.1).double(), gaussians.opacities, gaussians.sh)
    (_, alpha, _), gradients = run(hidden, cameras, "cpu")
    assert not alpha.any()
    assert all(not g.any() for g in gradients.values())


def test_broken_gaussians_vanish_without_harm():
    gaussians, cameras = random_scene(60)
    bad = gaussians.map(torch.clone)
    for i, (name, value) in enumerate(
        [("means", torch.nan), ("means", torch.inf), ("quats", 0), ("quats", torch.nan), ("scales", torch.nan),
         ("scales", torch.inf), ("scales", 1e200), ("opacities", torch.nan), ("opacities", 0)]
    ):  # fmt: skip
        getattr(bad, name)[i] = value
    keep = torch.arange(60) >= 9
    parts, gradients = run(bad, cameras, "cpu")
    expected, expected_gradients = run(bad.select(keep), cameras, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(parts, expected))
    for name in NAMES:
        assert torch.equal(gradients[name][keep], expected_gradients[name])
        assert not gradients[name][~keep].any()


def test_a_broken_camera_does_not_harm_the_gradients_of_others():
    gaussians, cameras = random_scene(60)
    broken = replace(cameras, c2w=cameras.c2w.clone())
    broken.c2w[1, 0, 3] = torch.nan
    parts, gradients = run(gaussians, broken, "cpu")
    expected, _ = run(gaussians, cameras, "cpu")
    assert torch.equal(parts[0][0], expected[0][0])
    assert not parts[1][1].any()
    assert all(g.isfinite().all() for g in gradients.values())


def test_batches_and_views_are_independent():
    gaussians, cameras = random_scene(80, batch=(2, 3), degree=1)
    together = render(gaussians, cameras)
    assert together.rgb.shape == (2, 3, 2, 3, 29, 37)
    alone = render(gaussians[1, 2], cameras[1, 2].select([1]))
    for a, b in zip(together[:3], alone[:3]):
        assert torch.equal(a[1, 2, 1], b[0])


def test_runs_are_identical_whatever_the_threads():
    scene = random_scene(3000, batch=(2,), size=(48, 70), degree=1)  # 3 chunks of Gaussians a scene
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(*scene, "cpu", posed=True)
        torch.set_num_threads(4)
        with ThreadPoolExecutor(3) as callers:
            results = list(callers.map(lambda _: run(*scene, "cpu", posed=True), range(6)))
    finally:
        torch.set_num_threads(threads)
    for parts, gradients in results:
        assert all(torch.equal(a, b) for a, b in zip(parts, alone[0]))
        assert all(torch.equal(gradients[name], gradient) for name, gradient in alone[1].items())


def _render_in_child(queue, scene):
    queue.put(float(render(*scene).rgb.sum()))


def test_forked_children_can_render():
    scene = random_scene(200)
    expected = float(render(*scene).rgb.sum())  # our threads run now, and are missing in the child
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_render_in_child, args=(queue, scene), daemon=True)
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


def test_a_plain_fork_can_render():
    scene = random_scene(200)
    expected = render(*scene).rgb
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if torch.equal(render(*scene).rgb, expected) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_compiling_is_announced_once_and_shared_with_a_child(tmp_path):
    # with the smallest kernel, as all of them take seconds to compile
    code = """
import numpy as np
from pixworld.render import cpu
from pixworld.render.cpu import compiling
from pixworld.render.cpu.tiles import sort_by_depth
keys, ids = np.array([3, 1, 2, 1 << 20, 1], np.int32), np.arange(5, dtype=np.int32)
sort_by_depth(ids, keys, ids.copy(), keys.copy(), 5)
assert ids.tolist() == [1, 4, 2, 0, 3]
child = bool(compiling._results)
compiling.wait()
if child:  # on Linux, with two cores
    cpu._compile_backward()
    for kernel in (cpu.blend_backward, cpu.project_backward):
        assert sum(kernel.stats.cache_hits.values()) == 1
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[1]
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, check=True)
        said.append(done.stderr.decode().count("compiling the CPU rasterizer, once"))
    assert said == [1, 0]


def test_autocast_and_half_precision_render_in_float32():
    gaussians, cameras = random_scene(50)
    with torch.autocast("cpu", torch.bfloat16):
        assert render(gaussians.to(torch.float32), cameras).rgb.dtype == torch.float32
        assert render(gaussians.to(torch.bfloat16), cameras).rgb.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the CUDA rasterizer needs an NVIDIA GPU and gsplat")
@pytest.mark.parametrize("antialiased", [False, True])
def test_cuda_follows_the_cpu(antialiased):
    pytest.importorskip("gsplat")
    gaussians, cameras = (x.to(torch.float32) for x in aligned_scene())
    a = run(gaussians.to("cuda"), cameras.to("cuda"), "auto", antialiased=antialiased)
    b = run(gaussians, cameras, "cpu", antialiased=antialiased)
    # Depths that tie in float32 may be blended in another order, so a few pixels may differ.
    for x, y in zip(a[0], b[0]):
        assert ((x.cpu() - y).abs() < 1e-3 * y.abs().max()).float().mean() > 0.995
    for name in NAMES:
        difference = (a[1][name].cpu() - b[1][name]).abs()
        assert (difference < 1e-2 * b[1][name].abs().max()).float().mean() > 0.99, name


def test_cuda_without_a_gpu_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        render(*random_scene(3), backend="cuda")
