"""Do two rasterizers agree, in images and in gradients?"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gpu_check.scenes import Case, Scene
from pixworld.cameras import Cameras
from pixworld.render import cuda, render

# Of the difference to the float64 truth. Images: 99.5 % of the values, absolute for rgb and alpha, relative to the
# largest for depth; the rest are pixels where two Gaussians tie in depth, or one ends (α = 1/255), in float32.
# Gradients: of the norm, and 99 % of the values relative to the root mean square.
IMAGE, NORM, VALUE = 1e-3, 2e-2, 2e-2


def shoot(scene: Scene, options: dict, backend: str, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The rendering and the gradients of a fixed random functional of it, float64 on the CPU."""
    gaussians, cameras = scene
    leaves = gaussians.map(lambda x: x.to(device, dtype, copy=True).requires_grad_())
    c2w = cameras.c2w.to(device, dtype, copy=True).requires_grad_()
    cameras = Cameras(c2w, cameras.K.to(device, dtype), cameras.height, cameras.width)
    options = {k: torch.tensor(x, device=device) if k == "background" else x for k, x in options.items()}
    rgb, alpha, depth, normal = render(leaves, cameras, backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    loss = 0
    # Where almost nothing is hit, the gradients of depth are huge, and the normal turns with the last Gaussian.
    for part in (rgb, alpha, depth * alpha.detach()):
        loss = loss + (part * torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part)).sum()
    loss.backward()
    solid = alpha > 0.05
    found = {"rgb": rgb, "alpha": alpha, "depth": torch.where(solid, depth, 0)}
    if normal is not None:
        found["normal"] = torch.where(solid[..., None, :, :], normal, 0)
    found |= {f"d {name}": getattr(leaves, name).grad for name in ("means", "quats", "scales", "opacities", "sh")}
    found["d c2w"] = c2w.grad[..., :3, :]
    return {name: x.detach().double().cpu() for name, x in found.items()}


def compare(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each part in units of its tolerance."""
    errors = {}
    for name in truth:
        difference = (found[name] - truth[name]).abs().flatten()
        if name == "depth":  # which pixels count as solid may differ at the border
            both = ((found[name] > 0) & (truth[name] > 0)).flatten()
            difference = difference[both] / truth[name].max()
        if name.startswith("d "):
            rms = truth[name].square().mean().sqrt().clamp_min(1e-30)
            norm = difference.square().mean().sqrt() / rms
            errors[name] = max(float(norm) / NORM, quantile(difference, 0.99) / float(rms) / VALUE)
        else:
            errors[name] = quantile(difference, 0.995) / IMAGE
        if not found[name].isfinite().all():
            errors[name] = float("inf")
    return errors


def quantile(x: Tensor, q: float) -> float:
    """torch.quantile refuses more than 2^24 values."""
    return float(x.sort().values[min(len(x) - 1, int(q * len(x)))]) if len(x) else 0.0


def check_parity(case: Case, backend: str) -> dict:
    """Compare a back end in float32 with float64: the dense reference's, or the numba rasterizer's for large scenes.

    `errors` are in units of the tolerance, and so is `cpu_float32`, what the numba rasterizer reaches in float32.
    """
    scene = tuple(x.to(torch.float32) for x in case.scene())  # all see the same numbers
    whole = (scene[0].map(lambda x: x.nan_to_num(0)), scene[1])  # opacity 0 is the truth for NaN
    dense = len(scene[0]) * scene[1].height * scene[1].width < 2e6
    truth = shoot(whole, case.options, "reference" if dense else "cpu", "cpu", torch.float64)
    usual = {name: getattr(cuda, name) for name in case.limits}
    vars(cuda).update(case.limits)
    try:
        found = shoot(scene, case.options, backend, backend, torch.float32)
    finally:
        vars(cuda).update(usual)
    result = {"case": case.name, "errors": compare(found, truth)}
    if backend != "cpu" and importlib.util.find_spec("numba"):
        result["cpu_float32"] = compare(shoot(whole, case.options, "cpu", "cpu", torch.float32), truth)
    return result


def parity_table(results: list[dict]) -> str:
    """Errors in units of their tolerance; in brackets those of the CPU's float32."""
    parts = list(dict.fromkeys(part for r in results for part in r["errors"]))
    lines = ["| errors, 1 is the tolerance | " + " | ".join(parts) + " |", "|---|" + "---|" * len(parts)]
    for r in results:
        cells = []
        for part in parts:
            twin = r.get("cpu_float32", {}).get(part)
            value = r["errors"].get(part)
            cells.append("" if value is None else f"{value:.2g}" + ("" if twin is None else f" ({twin:.2g})"))
        lines.append(f"| {r['case']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
