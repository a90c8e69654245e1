"""The scenes that gpu_check renders, and what is compared on them."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.functional import normalize

from pixworld.cameras import Cameras, look_at
from pixworld.gaussians import Gaussians

Scene = tuple[Gaussians, Cameras]


@dataclass(frozen=True)
class Case:
    name: str
    scene: Callable[[], Scene]
    options: dict = field(default_factory=dict)  # of render()
    limits: dict = field(default_factory=dict)  # of pixworld.render.cuda, lowered so that its other paths are taken


def random_scene(n: int, batch: tuple[int, ...] = (), views: int = 2, degree: int = 0, size=(29, 37), broken: int = 0):
    """Gaussians of all sizes around, behind and beside cameras with an off-centre principal point; the first `broken`
    ones have NaN opacities."""
    generator = torch.Generator().manual_seed(n + degree)

    def normal(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    scales, opacities = torch.exp(normal(n, 3) - 2), torch.sigmoid(2 * normal(n))
    opacities[..., :broken] = torch.nan
    sh = 0.5 * normal(n, (degree + 1) ** 2, 3)
    gaussians = Gaussians(1.5 * normal(n, 3), normal(n, 4), scales, opacities, sh)
    height, width = size
    K = torch.tensor([[0.9 * width, 0, 0.3 * width], [0, 1.1 * width, 0.65 * height], [0, 0, 1]], dtype=torch.float64)
    up = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    c2w = look_at(2 * normalize(normal(views, 3), dim=-1), torch.zeros_like(up), up)
    return gaussians, Cameras(c2w, K.repeat(*batch, views, 1, 1), height, width)


def aligned_scene(views: int, height: int, width: int, scenes: int = 0, degree: int = 0) -> Scene:
    """One Gaussian a pixel of every view, on a bumpy wall before cameras side by side, as networks predict them; copied
    to `scenes` scenes when that is not 0."""
    generator = torch.Generator().manual_seed(0)
    c2w = torch.eye(4).repeat(views, 1, 1)
    c2w[:, 0, 3] = torch.linspace(-0.3, 0.3, views) if views > 1 else 0
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(views, 1, 1)
    cameras = Cameras(c2w, K, height, width)
    origins, directions = cameras.rays()
    depth = 2 + 0.5 * torch.sin(4 * directions[..., :1]) * torch.cos(3 * directions[..., 1:2])
    means = (origins + depth * directions).reshape(-1, 3)
    n = len(means)
    scales = (0.7 * depth / width).reshape(-1, 1) * torch.exp(0.3 * torch.randn(n, 3, generator=generator))
    quats = normalize(torch.randn(n, 4, generator=generator), dim=-1)
    opacities = 0.3 + 0.6 * torch.rand(n, generator=generator)
    sh = torch.rand(n, (degree + 1) ** 2, 3, generator=generator)
    gaussians = Gaussians(means, quats, scales, opacities, sh)
    if scenes:
        gaussians = gaussians.map(lambda x: x.expand(scenes, *x.shape).clone())
        cameras = Cameras(c2w.repeat(scenes, 1, 1, 1), K.repeat(scenes, 1, 1, 1), height, width)
    return gaussians, cameras


def parity_cases(device: str) -> list[Case]:
    cases = [
        Case(
            f"SH degree {degree}, 2 scenes x 2 views" + ", antialiased" * antialiased,
            lambda degree=degree: random_scene(300, batch=(2,), degree=degree),
            {"antialiased": antialiased, "background": (0.2, 0.5, 0.9), "near": 0.2},
        )
        for degree, antialiased in itertools.product(range(4), (False, True))
    ]
    cases += [
        Case("pixel-aligned", lambda: aligned_scene(2, 20, 30)),
        Case(
            "pixel-aligned, antialiased, eps2d 0.1",
            lambda: aligned_scene(2, 20, 30),
            {"antialiased": True, "eps2d": 0.1},
        ),
        Case("normals", lambda: aligned_scene(2, 20, 30), {"normals": True}),
        Case("one view a scene", lambda: random_scene(333, batch=(3,), views=1)),
        Case("7 Gaussians a scene", lambda: random_scene(7, batch=(5,), views=3)),
        Case("NaN opacities", lambda: random_scene(100, broken=9)),
    ]
    if device == "cuda":
        cases += [
            Case("packed", lambda: aligned_scene(2, 20, 30), limits={"DENSE": 0}),
            Case("packed, antialiased", lambda: aligned_scene(2, 20, 30), {"antialiased": True}, {"DENSE": 0}),
            Case("packed, 3 scenes", lambda: random_scene(300, batch=(3,), degree=1), limits={"DENSE": 0}),
            Case("view by view", lambda: random_scene(300, batch=(2,)), limits={"INDICES": 29 * 37}),
        ]
        if importlib.util.find_spec("numba"):
            cases += [
                Case("pixel-aligned, 4 x 128 x 128", lambda: aligned_scene(4, 128, 128, degree=1)),
                Case("pixel-aligned, 1 x 480 x 704", lambda: aligned_scene(1, 480, 704)),
                Case("random, 20,000 at 240 x 320", lambda: random_scene(20000, size=(240, 320))),
            ]
    return cases
