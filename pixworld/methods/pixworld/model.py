"""The network of PixWorld, its losses and its inference.

clean views ── patches ──┐                       ┌── head ── depth, Gaussians ──┐
                         ├─ two-stream blocks ───┤                              ├── all Gaussians ── render
noisy views ── patches ──┘   (joint attention)   └── head ── depth, Gaussians ──┘
                                 ▲ text, t
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pixworld import diffusion
from pixworld.cameras import Cameras
from pixworld.depth_hints import with_stereo
from pixworld.gaussians import Gaussians
from pixworld.losses import flow_matching, geometry_perception, log_depth_huber, perceptual, photometric
from pixworld.methods.base import Draws, Method
from pixworld.methods.pixworld import PixWorldConfig, PixWorldRecipe
from pixworld.nn.blocks import Stream, TwoStreamBlock
from pixworld.nn.embeddings import TimeEmbedding, ViewRope, WordEmbedding, ray_map
from pixworld.nn.encoders import load_geometry, load_perceptual, load_text
from pixworld.nn.heads import GaussianHead, lift
from pixworld.render import render
from pixworld.views import InputError, OnStep, Preview, Scene, Task, Views
from pixworld.visibility import out_of_sight

STREAMS = ("clean", "noisy")


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
        rays = 0 if c.cameras == "prope" else 6
        hints = 2 if c.depth_input else 0  # log depth, and where it is known
        channels = {"clean": 3 + hints + rays, "noisy": 3 + rays}
        self.patches = nn.ModuleDict({name: nn.Linear(channels[name] * c.patch**2, c.width) for name in STREAMS})
        if c.positions is not None:
            table = {name: nn.Parameter(0.02 * torch.randn(c.width, *c.positions)) for name in STREAMS}
            self.positions = nn.ParameterDict(table)
        self.time = TimeEmbedding(c.width)
        if c.text == "words":
            self.words = WordEmbedding(c.text_width)
        self.text = nn.Linear(c.text_width, c.width)
        weights = {name: name if c.streams == "two" else "shared" for name in STREAMS}
        self.blocks = nn.ModuleList(TwoStreamBlock(c.width, c.heads, c.gate, weights) for _ in range(c.depth))
        self.heads = nn.ModuleDict({name: GaussianHead(c.width, c.patch, c.sh_degree) for name in STREAMS})
        self.frozen: dict[str, nn.Module] = {}  # text encoder and critics: loaded when first needed, not of the model

    def predict(
        self, clean: Views | None, noisy: Noisy | None, prompts: list[str], correction: float = 1.0
    ) -> Prediction:
        """Gaussians for every view of a batch of scenes, in one forward pass. Either kind of view may be absent.

        Image sides must be multiples of the patch. The clean views' `depth`, where it is not 0, tells the scale;
        of scenes with such depth, that share of the `correction` of it is applied.
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
        trust = torch.ones_like(unit)  # in the predicted correction of depth, for each scene
        if clean is not None:
            image = diffusion.to_signal(clean.images)
            log_hint, known = self._hints(clean, unit)
            trust = torch.where(known.flatten(1).any(dim=1), correction, 1.0)
            hints = [log_hint[:, :, None], known[:, :, None].float()] if self.config.depth_input else []
            inputs["clean"] = torch.cat([image, *hints], dim=2)
            bases.append(image)
            log_depths.append(log_hint)
            times["clean"] = torch.ones(len(image), device=image.device)
        if noisy is not None:
            inputs["noisy"] = noisy.x_t
            bases.append(diffusion.linear_estimate(noisy.x_t, noisy.t))
            log_depths.append(torch.full_like(noisy.x_t[:, :, 0], self.config.depth_prior))
            times["noisy"] = noisy.t

        c = self.config
        if c.cameras != "prope":
            rays = ray_map(local).split([len(p) for p in parts], dim=1)
            inputs = {name: torch.cat([x, r], dim=2) for (name, x), r in zip(inputs.items(), rays, strict=True)}
        rows, device = cameras.height // c.patch, cameras.c2w.device
        with torch.autocast(device.type, torch.bfloat16):
            text, text_mask = self._read(prompts)
            streams = {name: Stream(self._tokens(name, x), self.time(times[name])) for name, x in inputs.items()}
            rope = ViewRope(local, c.patch, c.width // c.heads, torch.bfloat16, project=c.cameras != "rays")
            for block in self.blocks:
                streams = block(streams, rope, text, text_mask)
            maps = [self.heads[name](s.tokens, s.time, rows) for name, s in streams.items()]
        if clean is not None:  # the first of them
            maps[0] = maps[0]._replace(log_depth=trust[:, None, None, None] * maps[0].log_depth)
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

    def _tokens(self, stream: str, x: Float[Tensor, "b v c h w"]) -> Float[Tensor, "b v l d"]:
        p = self.config.patch
        tokens = self.patches[stream](rearrange(x, "b v c (y p) (x q) -> b v (y x) (c p q)", p=p, q=p))
        if self.config.positions is None:
            return tokens
        table, size = self.positions[stream][None], (x.shape[-2] // p, x.shape[-1] // p)
        if table.shape[-2:] != size:
            table = F.interpolate(table, size, mode="bilinear", align_corners=False)
        return tokens + rearrange(table, "1 d y x -> (y x) d")

    def _read(self, prompts: list[str]) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        """Text tokens in the network's width and a mask of the real ones. The empty prompt is one token of zeros, for
        which no encoder is needed."""
        c = self.config
        if c.text == "words":
            tokens, mask = self.words(prompts)
        elif any(prompts):
            encoder = self._frozen("text", lambda: load_text(c.text, _path(c.text_weights), self.text.weight.device))
            with torch.no_grad():
                tokens, mask = encoder(prompts)
            empty = torch.tensor([not p for p in prompts], device=mask.device)
            tokens = torch.where(empty[:, None, None], 0.0, tokens)
            mask = torch.where(empty[:, None], torch.arange(mask.shape[1], device=mask.device) == 0, mask)
        else:
            tokens = torch.zeros(len(prompts), 1, c.text_width, device=self.text.weight.device)
            mask = torch.ones(len(prompts), 1, dtype=torch.bool, device=tokens.device)
        return self.text(tokens), mask

    def _frozen(self, name: str, load: Callable[[], nn.Module]) -> nn.Module:
        if name not in self.frozen:
            self.frozen[name] = load()
        return self.frozen[name]

    def _render(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        clean: Views | None,
        background: Float[Tensor, "b 3"] | None = None,
    ) -> Float[Tensor, "b v 3 h w"]:
        """In the signal range. What no Gaussian covers shows the background, else the mean colour of the clean views
        (black without any)."""
        if background is None and clean is not None:
            background = clean.images.mean((1, 3, 4))
        return diffusion.to_signal(render(gaussians, cameras, eps2d=self.config.eps2d, background=background).rgb)

    def losses(self, views: Views, group: str, draws: Draws) -> dict[str, Tensor]:
        """All terms of `losses.py` on one batch, weighted; see PixWorldRecipe.

        views: ordered frames of b scenes, with captions and, where known, depth. The split into seen and novel, clean
        and noisy views is shared by all ranks of a run, the rest each rank draws for its own scenes.
        """
        r, generator = self.config.recipe, draws.own
        split = draw_split(len(views), r, draws.shared)
        prompts = [
            "" if torch.rand((), generator=generator) < r.text_drop else caption for caption in views.text or ()
        ] or [""] * len(views.images)
        b, device = len(views.images), views.images.device
        t = torch.ones(b, device=device)
        clean = noisy = None
        if len(split.clean):
            clean = views.select(split.clean)
            if clean.depth is not None:
                clean = replace(clean, depth=sample_hints(clean.depth, r, generator))
                if not len(split.noisy):
                    clean = densify_hints(clean, r.stereo, generator)
        if len(split.noisy):
            target = views.select(split.noisy)
            x = diffusion.to_signal(target.images)
            t = diffusion.sample_t(b, generator).to(device)
            noise = torch.randn(x.shape, generator=generator).to(device)
            noisy = Noisy(diffusion.add_noise(x, noise, t), t, target.cameras)

        prediction = self.predict(clean, noisy, prompts)
        shown_clean = split.clean[: r.rendered_clean]
        shown = views.select(torch.cat([split.noisy, shown_clean, split.novel]))
        background = None  # the mean colour, as in inference
        if r.background != "mean" and noisy is None:
            shade = torch.rand(b, 3, generator=generator) if r.background == "random" else torch.zeros(b, 3)
            background = shade.to(device)
        rgb = self._render(prediction.gaussians, shown.cameras, clean, background)
        truth = diffusion.to_signal(shown.images)
        sizes = [len(split.noisy), len(shown_clean), len(split.novel)]
        (noisy_rgb, clean_rgb, novel_rgb), (_, clean_truth, novel_truth) = rgb.split(sizes, 1), truth.split(sizes, 1)

        terms = {}
        if clean is not None:
            terms["recon"] = r.recon_weight * photometric(clean_rgb, clean_truth)
        if len(split.novel):
            terms["novel"] = r.novel_weight * photometric(novel_rgb, novel_truth)
        if noisy is not None:
            flow = flow_matching(noisy_rgb, x, noisy.x_t, t, r.time_floor, r.flow_from)
            terms["flow"] = r.flow_weight * flow
            if r.colour_weight:
                colour = prediction.colour[:, len(split.clean) :]
                terms["colour"] = r.colour_weight * flow_matching(colour, x, noisy.x_t, t, r.time_floor)
        if views.depth is not None and r.depth_weight:
            seen = views.select(torch.cat([split.clean, split.noisy]))
            terms["depth"] = r.depth_weight * log_depth_huber(prediction.depth, seen.depth)
        judged = slice(0, r.judged or b)
        rgb, truth, t = rgb[judged], truth[judged], t[judged]
        if r.perceptual_weight:
            distance = self._frozen(
                "perceptual", lambda: load_perceptual(r.perceptual, _path(r.perceptual_weights), device)
            )
            terms["perceptual"] = r.perceptual_weight * perceptual(rgb, truth, t, r.gate, distance)
        if r.geometry_weight:
            critic = self._frozen("geometry", lambda: load_geometry(r.geometry, _path(r.critic_weights), device))
            features = functools.partial(critic, cameras=shown.cameras[judged])
            terms["geometry"] = r.geometry_weight * geometry_perception(rgb, truth, t, r.gate, features)
        return terms

    @torch.inference_mode()
    def infer(self, task: Task, on_step: OnStep) -> Scene:
        """Clean views only: one forward pass. With targets: Euler steps in which each step's x̂ is the render of the
        predicted Gaussians; the clean views stay pinned. The result is deterministic in `task.seed`.

        `on_step` hears of every step, with its x̂ and the Gaussians that it is rendered from.
        """
        if task.clean is None and task.targets is None:
            raise InputError("there is nothing to work from: give photos, or cameras to generate")
        clean = None if task.clean is None else _batched(task.clean)
        if task.targets is None:
            prediction = self.predict(clean, None, [task.prompt], self.config.correction)
            on_step(1, 1, None)
            return Scene(prediction.gaussians[0], task.clean)

        targets = replace(task.targets, c2w=task.targets.c2w[None], K=task.targets.K[None])
        shape = (1, len(targets), 3, targets.height, targets.width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(task.seed)).to(targets.c2w.device)
        gaussians, step = None, 0

        def preview(i: int, n: int, x_hat: Tensor) -> None:
            on_step(i, n, Preview(diffusion.to_images(x_hat[0]).clamp(0, 1), gaussians[0]))

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal gaussians, step
            step += 1
            noisy = Noisy(x_t, t, targets)
            gaussians = complete(self.predict(clean, noisy, [task.prompt], self.config.correction), task)
            x_hat = self._render(gaussians, targets, clean)
            # Not in the last step: what is returned are the Gaussians of these very images.
            if task.prompt and task.guidance != 1 and step < task.steps:
                free = complete(self.predict(clean, noisy, [""], self.config.correction), task)
                free = self._render(free, targets, clean)
                x_hat = diffusion.guide(x_hat, free, task.guidance)
            return x_hat

        x = diffusion.euler(predict, noise, task.steps, preview)
        generated = Views(diffusion.to_images(x[0]).clamp(0, 1), task.targets)
        shown = generated if task.clean is None else Views.cat([replace(task.clean, depth=None, mask=None), generated])
        return Scene(gaussians[0], shown)


def complete(prediction: Prediction, task: Task) -> Gaussians:
    """The Gaussians of a generation, batched: those of the generated views that would change a clean one are made
    transparent or small, as the network's blur would else hide the photos. Worth 0.7 dB from one view and 1.4 dB from
    two, and a third of the perceptual distance (6 procedural scenes, 8 steps)."""
    gaussians, clean = prediction.gaussians, task.clean
    if clean is None or not task.keep_clean:
        return gaussians
    depth = prediction.depth[0, : len(clean)]
    if clean.mask is not None:
        depth = depth * clean.mask
    views = [(clean.cameras.select(slice(k, k + 1)), z) for k, z in enumerate(depth)]
    changing, largest = out_of_sight(gaussians.map(lambda x: x[0]), views)
    changing[: depth.numel()], largest[: depth.numel()] = False, torch.inf
    opacities = gaussians.opacities.masked_fill(changing, 0)
    return replace(gaussians, opacities=opacities, scales=gaussians.scales.minimum(largest[:, None]))


class Split(NamedTuple):
    """Indices of a step's views."""

    clean: Int[Tensor, " c"]
    noisy: Int[Tensor, " n"]
    novel: Int[Tensor, " m"]  # not seen


def draw_split(views: int, recipe: PixWorldRecipe, generator: torch.Generator) -> Split:
    """Which of `views` frames are clean, noisy and novel in a step. Scenes of few views have fewer of each."""
    r = recipe
    generative = bool(_draw({True: r.generative, False: 1 - r.generative}, generator))
    count = min(_draw(r.generated_views if generative else r.contexts, generator), views)
    clean = min(_draw(r.clean, generator), count - 1) if generative else count
    low, high = r.generative_novel if generative else r.novel
    novel = int(torch.randint(low, high + 1, (), generator=generator))
    order = torch.randperm(views, generator=generator)
    return Split(order[:clean], order[clean:count], order[count : count + novel])


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


def sample_hints(
    depth: Float[Tensor, "b v h w"], recipe: PixWorldRecipe, generator: torch.Generator
) -> Float[Tensor, "b v h w"]:
    """Keep a few pixels of exact depth, noisy and with outliers, as structure from motion knows them; nothing for a
    share of the scenes."""
    b, v, h, w = depth.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    low, high = recipe.hint_counts
    keep = uniform(b, v, h, w) < (low * (high / low) ** uniform(b, 1, 1, 1)) / (h * w)
    keep &= uniform(b, 1, 1, 1) < recipe.hints
    noise = torch.where(uniform(b, v, h, w) < recipe.hint_outliers, 0.5, recipe.hint_noise)
    factor = torch.exp(noise * torch.randn(b, v, h, w, generator=generator))
    return torch.where(keep.to(depth.device), depth * factor.to(depth), 0.0)


def densify_hints(clean: Views, share: float, generator: torch.Generator) -> Views:
    """The views of b scenes with sparse depth; what stereo finds between them is added to a share of the scenes."""
    chosen = torch.rand(len(clean.images), generator=generator) < share
    depth = [with_stereo(scene(clean, i)).depth if x else clean.depth[i] for i, x in enumerate(chosen)]
    return replace(clean, depth=torch.stack(depth))


def scene(views: Views, i: int) -> Views:
    """Images, cameras and depth of one scene of a batch, unbatched."""
    cameras = replace(views.cameras, c2w=views.cameras.c2w[i], K=views.cameras.K[i])
    return Views(views.images[i], cameras, views.depth[i])


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _batched(views: Views) -> Views:
    cameras = replace(views.cameras, c2w=views.cameras.c2w[None], K=views.cameras.K[None])
    depth = None if views.depth is None else views.depth[None]
    return Views(views.images[None], cameras, depth)


def _draw(shares: dict, generator: torch.Generator):
    """One key, with probability proportional to its share."""
    keys, weights = zip(*shares.items(), strict=True)
    return keys[torch.multinomial(torch.tensor(weights), 1, generator=generator)]
