"""Held-out measurement. Here: novel views of scenes whose every frame is known, as the training loop measures itself;
`run.py`: the protocols of `backend evaluate`, with baselines, poses and a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.data.sampling import stack
from pixworld.gaussians import Gaussians
from pixworld.methods.base import Method
from pixworld.metrics import psnr, ssim
from pixworld.render import render
from pixworld.view_choice import nearest
from pixworld.views import Task, Views

# Depth that the clean views carry into the model, from exact depth [v h w].
Hints = Callable[[Tensor], Tensor | None]


def no_hints(_depth: Float[Tensor, "v h w"]) -> None:
    """Images and poses alone."""


def point_hints(points: int, seed: int = 0) -> Hints:
    """About `points` pixels a view, exact to 2 %, as structure from motion would give."""

    def hints(depth: Float[Tensor, "v h w"]) -> Float[Tensor, "v h w"]:
        generator = torch.Generator().manual_seed(seed)
        keep = torch.rand(depth.shape, generator=generator) < points / depth[0].numel()
        noise = 1 + 0.02 * torch.randn(depth.shape, generator=generator)
        return torch.where(keep, depth * noise, 0.0)

    return hints


def nearest_views(views: Views, context: Sequence[int], targets: Sequence[int]) -> Float[Tensor, "b v 3 h w"]:
    """The baseline: each target is the context photo whose camera is nearest in position, or, at equal distance, in
    viewing direction."""
    best = nearest(views.cameras.select(targets), views.cameras.select(context))
    images = views.images[:, context]
    return images.gather(1, best[..., None, None, None].expand(-1, -1, *images.shape[2:]))


def novel_views(
    model: Method, scenes: Sequence[Views], context: Sequence[int], hints: Hints = no_hints
) -> dict[str, float]:
    """Mean PSNR and SSIM of the frames outside `context`, and the PSNR of copying the nearest context frame.

    scenes: unbatched views with exact depth. The renders use the low-pass that the model was trained with; holes show
    the mean colour of the context, as in training.
    """
    rows = []
    for scene in scenes:
        views = stack([scene])
        targets = [i for i in range(len(scene)) if i not in context]
        gaussians = infer(model, scene.select(list(context)), hints=hints)
        truth = scene.images[targets]
        background = scene.images[list(context)].mean((0, 2, 3))
        cameras = scene.cameras.select(targets)
        shown = render(gaussians, cameras, eps2d=model.config.eps2d, background=background).rgb.clamp(0, 1)
        near = nearest_views(views, context, targets)[0]
        rows.append(torch.stack([psnr(shown, truth), ssim(shown, truth), psnr(near, truth)], -1))
    mean = torch.cat(rows).mean(0)
    return {"psnr": mean[0].item(), "ssim": mean[1].item(), "nearest": mean[2].item()}


def infer(
    model: Method, clean: Views, targets: Cameras | None = None, hints: Hints = no_hints, steps: int = 10
) -> Gaussians:
    """Gaussians [n ..] of one scene from its clean views, without progress; see Method.infer."""
    device = next(model.parameters()).device
    targets = None if targets is None else targets.to(device)
    text = clean.text[0] if clean.text else ""
    task = Task(replace(clean, depth=hints(clean.depth)).to(device), targets, prompt=text, steps=steps)
    return model.infer(task, lambda *_: None).gaussians.to(clean.images.device)


def sample_sheet(model: Method, scenes: Sequence[Views]) -> Float[Tensor, "3 h w"]:
    """A picture for the eye, three rows a scene: true frames; renders of what is predicted from frames 0, 2, 5, 7;
    frame 0, then frames 2, 5, 7 generated from it and the caption, then depth of the second row's even frames."""
    rows = []
    for scene in scenes:
        eps2d = model.config.eps2d
        seen = render(infer(model, scene.select([0, 2, 5, 7])), scene.cameras, eps2d=eps2d)
        targets = scene.cameras.select([2, 5, 7])
        made = render(infer(model, scene.select([0]), targets), targets, eps2d=eps2d).rgb
        near, far = seen.depth.quantile(0.05), seen.depth.quantile(0.95)
        depth = ((seen.depth - near) / (far - near)).clamp(0, 1)[::2, None].expand(-1, 3, -1, -1)
        rows += [scene.images, seen.rgb, torch.cat([scene.images[:1], made, depth])]
    return rearrange(torch.stack(rows).clamp(0, 1), "row v c h w -> c (row h) (v w)").cpu()
