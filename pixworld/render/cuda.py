"""The rasterizer on a GPU: gsplat 1.5.3, and the only file that imports it.

gsplat compiles its kernels on first use, which takes minutes, nvcc and ninja; `backend doctor --build-gsplat` does it
ahead. Without CUDA even its import can fail in misleading ways, so nothing of it is touched before
torch.cuda.is_available().

What gsplat 1.5.3 gets wrong, and what is done about it here (file names are those of its csrc/):

- no Gaussians or no images: the launchers divide by N (ProjectionEWA3DGSFused.cu), the process dies. Not called then.
- an opacity that is NaN: drawn opaque, since fminf drops the NaN. Such Gaussians get opacity 0, as on the CPU.
- backward of the projection sums a warp's gradients by Gaussian and by camera, not by scene. Warps hold two scenes at
  a scene's end, so the sums mix when they hold a Gaussian twice (N < 32) or a camera twice (one view a scene); then
  scenes are rendered one by one.
- packed mode culls every scene by the opacities of the first (ProjectionEWA3DGSPacked.cu). Only used for one scene.
- Gaussians beyond z = 1e10 are dropped by default: far_plane is infinite here.
- 32-bit indices: see INDICES.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.views import InputError

# Images times Gaussians, and images times pixels, in one call. The kernels index with 32 bits up to 4 floats each of
# both (limit 2^29), and (Gaussian, tile) pairs, for which this leaves room for 8 tiles a Gaussian.
INDICES = 2**28

# Images times Gaussians that are worth dense intermediates. Dense, each takes about 52 bytes forward and 44 backward
# (3.2 GB at this size) whether it is visible or not; packed, the visible ones alone take 24 bytes of indices more and
# some scatter and gather. So packed saves memory where few are visible, which is so in large scenes, and costs time.
DENSE = 2**25

# Of memory, for one compiler process. The sources took up to 2.0 GB each when compiled for one architecture (nvcc 13.0,
# g++ 12, torch 2.11); gsplat's default of 10 processes is reported to exhaust 32 GB (its issue 500).
GB_A_JOB = 4


def rasterize(
    means: Float[Tensor, "s n 3"],
    quats: Float[Tensor, "s n 4"],
    scales: Float[Tensor, "s n 3"],
    opacities: Float[Tensor, "s n"],
    colours: Float[Tensor, "s c n 3"],
    w2c: Float[Tensor, "s v 4 4"],
    K: Float[Tensor, "s v 3 3"],
    *,
    width: int,
    height: int,
    eps2d: float,
    near: float,
    antialiased: bool,
) -> Float[Tensor, "s v 5 h w"]:
    """See pixworld.render for the semantics; float32 on one GPU, gradients to all tensors but K, not deterministic.

    Raises RuntimeError without a GPU and InputError when gsplat is absent or cannot be compiled.
    """
    rasterization = load()
    assert means.dtype == torch.float32, f"the CUDA rasterizer computes in float32, not {means.dtype}"
    (s, n), v = means.shape[:2], w2c.shape[1]
    if not s * n * v:
        nothing = sum(x.sum() for x in (means, quats, scales, opacities, colours, w2c))  # so that gradients are zeros
        return means.new_zeros(s, v, 5, height, width) + 0 * nothing

    finite = (means.sum(-1) + quats.sum(-1) + scales.sum(-1) + opacities).detach().isfinite()
    opacities = torch.where(finite, opacities, 0)
    apart = n < 32 or (v == 1 and w2c.requires_grad)

    def part(scenes: slice, views: slice) -> Float[Tensor, "_s _v 5 h w"]:
        seen = colours[scenes, 0] if colours.shape[1] == 1 else colours[scenes, views]
        cameras = w2c[scenes, views]
        blended, alpha, _ = rasterization(
            means[scenes],
            quats[scenes],
            scales[scenes],
            opacities[scenes],
            seen,
            cameras,
            K[scenes, views],
            width,
            height,
            near_plane=near,
            far_plane=math.inf,
            eps2d=eps2d,
            packed=cameras.shape[1] * n > DENSE,
            render_mode="RGB+D",  # Σ w z; render() divides by Σ w
            rasterize_mode="antialiased" if antialiased else "classic",
        )
        return torch.cat([blended, alpha], dim=-1).movedim(-1, -3)

    return _join([_join([part(i, j) for j in views], 1) for i, views in _parts(s, v, n, width * height, apart)], 0)


def _parts(s: int, v: int, n: int, pixels: int, apart: bool) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of scenes, each with slices of their views, that gsplat can take in one call; several scenes at once only
    with all their views, and while they are rendered densely."""
    images = max(1, INDICES // max(n, pixels))
    views = min(v, images)
    scenes = 1 if apart else max(1, min(images, DENSE // n) // v)
    for i in range(0, s, scenes):
        yield slice(i, i + scenes), [slice(j, j + views) for j in range(0, v, views)]


def _join(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


@functools.cache
def load() -> Callable:
    """gsplat.rasterization with its kernels loaded; they are compiled first (minutes) when they never were.

    Raises RuntimeError without a GPU, InputError when gsplat is absent or cannot be compiled.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("the CUDA rasterizer needs an NVIDIA GPU and a torch built for CUDA; use backend='cpu'")
    if importlib.util.find_spec("gsplat") is None:
        raise InputError(
            "gsplat, which renders on the GPU, is not installed; "
            f"run `{sys.executable} -m pip install gsplat==1.5.3 ninja packaging`, or use --device cpu"
        )
    # Always the same ones: torch compares the flags with those of the last build, and compiles anew when they differ.
    os.environ.update(build_environment())
    try:
        from gsplat.cuda._backend import _C
    except Exception as error:  # RuntimeError, ImportError, CalledProcessError ..: whatever the tool chain trips over
        reason = textwrap.shorten(str(error) or type(error).__name__, 120)
        raise InputError(
            f"gsplat's kernels could not be compiled ({reason}); "
            "`backend doctor --build-gsplat` shows why, --device cpu works without"
        ) from error
    if _C is None:
        raise InputError(
            f"gsplat's kernels must be compiled once, and nvcc was not found; install the CUDA toolkit "
            f"{torch.version.cuda} or set CUDA_HOME to it, or use --device cpu"
        )
    from gsplat import rasterization

    return rasterization


def build_environment() -> dict[str, str]:
    """What the compilation of gsplat needs in os.environ; what the user has set there stays."""
    capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    wanted = {
        "MAX_JOBS": str(compile_jobs()),
        "TORCH_CUDA_ARCH_LIST": ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities)),
    }
    if home := cuda_home():
        wanted["CUDA_HOME"] = home
    # pip puts ninja beside python, which is not on PATH when the environment is used without being activated
    path = os.environ.get("PATH", os.defpath)
    beside = str(Path(sys.executable).parent)
    if beside not in path.split(os.pathsep):
        path += os.pathsep + beside
    return {**{k: x for k, x in wanted.items() if not os.environ.get(k)}, "PATH": path}


def cuda_home() -> str | None:
    """Folder of the CUDA toolkit: the one in the environment, that of nvcc on PATH, or the usual one.

    nvcc may be a link to another folder or a script. torch looks for headers beside it all the same, and finds none.
    """
    if chosen := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return chosen
    nvcc = shutil.which("nvcc")
    homes = [path.parent.parent for path in (Path(nvcc), Path(nvcc).resolve())] if nvcc else []
    for home in (*homes, Path("/usr/local/cuda")):
        if (home / "include/cuda_runtime.h").exists():
            return str(home)
    return None


def compile_jobs() -> int:
    """How many compiler processes this machine has cores and free memory for."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration, ValueError):
        free = GB_A_JOB * 1e9 * 2
    return max(1, min(os.cpu_count() or 1, int(free / (GB_A_JOB * 1e9))))
