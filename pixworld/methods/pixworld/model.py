"""The network of PixWorld, its losses and its inference.

clean views ── patches ──┐                       ┌── head ── depth, Gaussians ──┐
                         ├─ two-stream blocks ───┤                              ├── all Gaussians ── render
noisy views ── patches ──┘   (joint attention)   └── head ── depth, Gaussians ──┘
                                 ▲ text, t
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixworld import diffusion
from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians
from pixworld.losses import flow_matching, log_depth_huber, photometric
from pixworld.methods.base import Method
from pixworld.methods.pixworld import PixWorldConfig, PixWorldRecipe
from pixworld.nn.blocks import Stream, TwoStreamBlock
from pixworld.nn.embeddings import TimeEmbedding, ViewRope, WordEmbedding, ray_map
from pixworld.nn.heads import GaussianHead, lift
from pixworld.render import render
from pixworld.views import InputError, OnStep, Scene, Task, Views

STREAM_CHANNELS = {"clean": 3 + 2 + 6, "noisy": 3 + 6}  # image, depth hint and its mask, rays


class Noisy(NamedTuple):
    """Noisy views: x_t in -1..1 at one time t a scene."""

    x_t: Float[Tensor, "b v 3 h w"]
    t: Float[Tensor, " b"]
    cameras: Cameras


class Prediction(NamedTuple):
    """Pixel-aligned output for the clean views, then the noisy ones."""

    gaussians: Gaussians  # [b (v h w) ..], world
    depth: Float[Tensor, "b v h w"]  # z, scene units
    colour: Float[Tensor, "b v 3 h w"]  # -1..1, before lifting


class PixWorld(Method):
    def __init__(self, config: PixWorldConfig):
        super().__init__()
        self.config = c = config
        self.patches = nn.ModuleDict(
            {name: nn.Linear(channels * c.patch**2, c.width) for name, channels in STREAM_CHANNELS.items()}
        )
        self.time = TimeEmbedding(c.width)
        self.words = WordEmbedding(c.text_width)
        self.text = nn.Linear(c.text_width, c.width)
        self.blocks = nn.ModuleList(TwoStreamBlock(c.width, c.heads, c.gate) for _ in range(c.depth))
        self.heads = nn.ModuleDict({name: GaussianHead(c.width, c.patch, c.sh_degree) for name in STREAM_CHANNELS})

    def predict(self, clean: Views | None, noisy: Noisy | None, prompts: list[str]) -> Prediction:
        """Gaussians for every view of a batch of scenes, in one forward pass. Either kind of view may be absent.

        Image sides must be multiples of the patch. The clean views' `depth`, where it is not 0, tells the scale.
        """
        parts = [x.cameras for x in (clean, noisy) if x is not None]
        cameras = Cameras.cat(parts)
        if cameras.height % self.config.patch or cameras.width % self.config.patch:
            raise ValueError(
                f"image sides must be multiples of {self.config.patch}, got {cameras.height, cameras.width}"
            )
        unit = scene_unit(clean, cameras)
        local = normalise(cameras, unit)

        inputs, bases, log_depths, times = {}, [], [], {}
        if clean is not None:
            image = diffusion.to_signal(clean.images)
            log_hint, known = self._hints(clean, unit)
            inputs["clean"] = torch.cat([image, log_hint[:, :, None], known[:, :, None].float()], dim=2)
            bases.append(image)
            log_depths.append(log_hint)
            times["clean"] = torch.ones(len(image), device=image.device)
        if noisy is not None:
            inputs["noisy"] = noisy.x_t
            bases.append(diffusion.linear_estimate(noisy.x_t, noisy.t))
            log_depths.append(torch.full_like(noisy.x_t[:, :, 0], self.config.depth_prior))
            times["noisy"] = noisy.t

        rays = ray_map(local).split([len(p) for p in parts], dim=1)
        device = cameras.c2w.device
        with torch.autocast(device.type, torch.bfloat16):
            tokens, text_mask = self.words(prompts)
            text = self.text(tokens)
            streams = {
                name: Stream(self.patches[name](self._patchify(torch.cat([x, r], dim=2))), self.time(times[name]))
                for (name, x), r in zip(inputs.items(), rays, strict=True)
            }
            rope = ViewRope(local, self.config.patch, self.config.width // self.config.heads, torch.bfloat16)
            for block in self.blocks:
                streams = block(streams, rope, text, text_mask)
            rows = cameras.height // self.config.patch
            maps = [self.heads[name](s.tokens, s.time, rows) for name, s in streams.items()]
        c = self.config
        return Prediction(
            *lift(
                type(maps[0])(*(torch.cat(x, dim=1) for x in zip(*maps, strict=True))),
                torch.cat(bases, dim=1),
                torch.cat(log_depths, dim=1),
                cameras,
                unit,
                scale_range=c.scale_range,
                scale_start=c.scale_start,
                opacity_start=c.opacity_start,
            )
        )

    def _hints(
        self, clean: Views, unit: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b v h w"], Bool[Tensor, "b v h w"]]:
        """Log depth in units, interpolated from the known pixels of each view, and which those are. The prior stands in
        for scenes without any; for a view without any, the unit (their median) does."""
        if clean.depth is None:
            known = torch.zeros_like(clean.images[:, :, 0], dtype=torch.bool)
            return torch.full_like(clean.images[:, :, 0], self.config.depth_prior), known
        known = clean.depth > 0
        log_depth = torch.log(torch.where(known, clean.depth / unit[:, None, None, None], 1.0))
        blind = ~known.flatten(1).any(dim=1)
        return torch.where(blind[:, None, None, None], self.config.depth_prior, fill(log_depth, known)), known

    def _patchify(self, x: Float[Tensor, "b v c h w"]) -> Float[Tensor, "b v l p"]:
        p = self.config.patch
        return rearrange(x, "b v c (y p) (x q) -> b v (y x) (c p q)", p=p, q=p)

    def losses(self, views: Views, group: str, generator: torch.Generator) -> dict[str, Tensor]:
        """L_recon on clean and novel views, L_FM on rendered noisy views, L_depth; see PixWorldRecipe.

        views: ordered frames of b scenes, with depth and captions; the split is drawn from `generator`.
        """
        r = self.config.recipe
        device = views.images.device
        generative = _draw({True: r.generative, False: 1 - r.generative}, generator)
        count = r.generated_views if generative else _draw(r.contexts, generator)
        n_clean = _draw(r.clean, generator) if generative else count
        order = torch.randperm(len(views), generator=generator)
        seen, novel = order[:count], order[count : count + r.novel]

        prompts = [
            "" if torch.rand((), generator=generator) < r.text_drop else caption for caption in views.text or ()
        ] or [""] * len(views.images)
        clean = noisy = None
        if n_clean:
            clean = views.select(seen[:n_clean])
            clean = replace(clean, depth=sparse_hints(clean.depth, r, generator))
        if n_clean < count:
            target = views.select(seen[n_clean:])
            x = diffusion.to_signal(target.images)
            t = diffusion.sample_t(len(x), generator).to(device)
            noise = torch.randn(x.shape, generator=generator).to(device)
            noisy = Noisy(diffusion.add_noise(x, noise, t), t, target.cameras)

        prediction = self.predict(clean, noisy, prompts)
        # All noisy views are rendered (they carry the flow-matching loss), one clean view, and the novel ones; the
        # latter fewer when there are noisy ones, to keep the cost of a step even.
        rendered_clean = seen[:1] if n_clean else seen[:0]
        novel = novel if noisy is None else novel[:1]
        index = torch.cat([seen[n_clean:], rendered_clean, novel])
        shown = views.select(index)
        rgb = diffusion.to_signal(render(prediction.gaussians, shown.cameras, eps2d=self.config.eps2d).rgb)
        truth = diffusion.to_signal(shown.images)

        n_noisy = count - n_clean
        terms = {"recon": photometric(rgb[:, n_noisy:], truth[:, n_noisy:])}
        if noisy is not None:
            colour = prediction.colour[:, n_clean:]
            terms["flow"] = r.flow_weight * flow_matching(rgb[:, :n_noisy], x, noisy.x_t, noisy.t, r.time_floor)
            terms["colour"] = r.colour_weight * flow_matching(colour, x, noisy.x_t, noisy.t, r.time_floor)
        if views.depth is not None:
            terms["depth"] = r.depth_weight * log_depth_huber(prediction.depth, views.select(seen).depth)
        return terms

    @torch.inference_mode()
    def infer(self, task: Task, on_step: OnStep) -> Scene:
        """Clean views only: one forward pass. With targets: Euler steps in which each step's x̂ is the render of the
        predicted Gaussians; the clean views stay pinned. The result is deterministic in `task.seed`."""
        if task.clean is None and task.targets is None:
            raise InputError("there is nothing to work from: give photos, or cameras to generate")
        clean = None if task.clean is None else _batched(task.clean)
        if task.targets is None:
            prediction = self.predict(clean, None, [task.prompt])
            on_step(1, 1, None)
            return Scene(prediction.gaussians[0], task.clean)

        targets = replace(task.targets, c2w=task.targets.c2w[None], K=task.targets.K[None])
        shape = (1, len(targets), 3, targets.height, targets.width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(task.seed)).to(targets.c2w.device)
        gaussians = None

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal gaussians
            noisy = Noisy(x_t, t, targets)
            gaussians = self.predict(clean, noisy, [task.prompt]).gaussians
            x_hat = diffusion.to_signal(render(gaussians, targets, eps2d=self.config.eps2d).rgb)
            if task.prompt and task.guidance != 1:
                free = self.predict(clean, noisy, [""]).gaussians
                free = diffusion.to_signal(render(free, targets, eps2d=self.config.eps2d).rgb)
                x_hat = diffusion.guide(x_hat, free, task.guidance)
            return x_hat

        x = diffusion.euler(predict, noise, task.steps, on_step)
        generated = Views(diffusion.to_images(x[0]).clamp(0, 1), task.targets)
        shown = generated if task.clean is None else Views.cat([replace(task.clean, depth=None, mask=None), generated])
        return Scene(gaussians[0], shown)


def scene_unit(clean: Views | None, cameras: Cameras) -> Float[Tensor, " b"]:
    """The length that the network calls 1: the median known depth of the clean views; where none is known, the
    largest distance of a camera from the first one (1 when there is only one place)."""
    offsets = cameras.positions - cameras.positions[:, :1]
    baseline = offsets.norm(dim=-1).amax(dim=1)
    unit = torch.where(baseline > 1e-6, baseline, 1.0)
    if clean is not None and clean.depth is not None:
        known = torch.where(clean.depth > 0, clean.depth, torch.nan).flatten(1)
        median = known.nanmedian(dim=1).values
        unit = torch.where(median.isnan(), unit, median)
    return unit


def normalise(cameras: Cameras, unit: Float[Tensor, " b"]) -> Cameras:
    """The same cameras seen from the first one, lengths divided by the unit."""
    c2w = cameras.select(slice(0, 1)).w2c @ cameras.c2w
    c2w = torch.cat([c2w[..., :3], c2w[..., 3:] / _lengths(unit, c2w)], dim=-1)
    return replace(cameras, c2w=c2w)


def _lengths(unit: Tensor, c2w: Tensor) -> Tensor:
    """Divisor of the translation column [b 1 4 1]: the unit for x, y, z and 1 for the homogeneous row."""
    return torch.cat([unit[:, None].expand(-1, 3), torch.ones_like(unit)[:, None]], dim=-1)[:, None, :, None].to(c2w)


def fill(values: Float[Tensor, "b v h w"], known: Bool[Tensor, "b v h w"]) -> Float[Tensor, "b v h w"]:
    """Interpolate sparse values by pull-push (Gortler et al. 1996): averages of known pixels on ever coarser grids, and
    back down into the pixels that are unknown. 0 where a view knows nothing."""
    weight = known.to(values)
    levels = [(values * weight, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in levels[-1]))
    filled = torch.zeros_like(levels[-1][0])
    for total, weight in reversed(levels):
        filled = F.interpolate(filled, total.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, total / weight.clamp_min(1e-9), filled)
    return filled


def sparse_hints(
    depth: Float[Tensor, "b v h w"], recipe: PixWorldRecipe, generator: torch.Generator
) -> Float[Tensor, "b v h w"]:
    """Keep a few pixels of exact depth, noisy and with outliers, like the points of structure from motion."""
    b, _, h, w = depth.shape
    low, high = recipe.hint_counts
    count = low * (high / low) ** torch.rand(b, generator=generator)
    share = torch.where(torch.rand(b, generator=generator) < recipe.hints, count / (h * w), 0.0)
    uniform, wild, normal = (
        torch.rand(depth.shape, generator=generator),
        torch.rand(depth.shape, generator=generator),
        torch.randn(depth.shape, generator=generator),
    )
    factor = torch.exp(torch.where(wild < recipe.hint_outliers, 0.5, recipe.hint_noise) * normal)
    keep = uniform < share[:, None, None, None]
    return torch.where(keep.to(depth.device), depth * factor.to(depth), 0.0)


def _batched(views: Views) -> Views:
    cameras = replace(views.cameras, c2w=views.cameras.c2w[None], K=views.cameras.K[None])
    depth = None if views.depth is None else views.depth[None]
    return Views(views.images[None], cameras, depth)


def _draw(shares: dict, generator: torch.Generator):
    """One key, with probability proportional to its share."""
    keys, weights = zip(*shares.items(), strict=True)
    return keys[torch.multinomial(torch.tensor(weights), 1, generator=generator)]
