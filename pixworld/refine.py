"""Refinement: optimise Gaussians against the photos that they were predicted from.

What experiments taught (four real sets at 288 px, every 4th photo held out, PSNR of those):
- Nothing may float where cameras stood: snowmiku gains 3 to 6 dB (800 steps from the prediction), see free_space.py.
  Other entries say "free" where it was so; before, chance decided how much of snowmiku was hidden by what floats.
- The depth of structure-from-motion points, 350 to 900 a photo, is the best regulariser by far: +2.1 dB on snowmiku,
  +0.4 on banana after 200 steps. A smooth-depth prior gave 0.0, photometric warps between neighbours less than their
  cost.
- A step of the means of 4e-3 median depths was too large: 1.2e-3 gave +0.7 on nineveh. It must not be smaller either
  (4e-4: banana falls from 24.4 to 23.8 as it goes on). Scales and opacities want steps twice those of Kerbl et al.
- Dropout of Gaussians: +0.2 on banana, +0.1 on brighton_beach, and what was reached is kept; but -0.9 on nineveh after
  800 steps (28.5 against 29.4 dB), whose photos are 2 degrees apart; so it comes in as photos are farther apart. From
  the prediction nineveh reaches 28.8, 29.7 and 29.9 dB after 15, 30 and 120 s.
- Starting from a third of the predicted Gaussians: +0.2 on brighton_beach, but -1.0 on nineveh. All are kept.
- Starting with opacities of at most 0.5, 450 steps, two seeds: +0.6 dB on snowmiku, +0.3 on brighton_beach, +0.1 on
  nineveh, 0.0 on banana; of at most 0.2: +1.0, +0.4, -0.1. With half of the Gaussians besides: another +0.2 on
  brighton_beach, -0.3 on nineveh. Free, 800 steps, snowmiku: 25.9 without, 25.9 with 0.5, 26.15 with 0.2.
- Growth from 70,000 to 150,000: +1.0 on nineveh, +0.9 on banana, 0.0 on the others, for half as much time again.
- Weight of the scales: 0.05 costs 0.1 to 0.3 dB after as many steps as without, but those take an eighth less time.
- Exposure costs 0.4 to 0.9 dB on held-out photos where exposures do not differ, hence it is an option.
- Depth of stereo beside the points, and a start without what is in the way of other photos: the mean of the sets after
  120 s went from 23.7 to 24.2; it is 25.0 with free space.
- More steps are not better where photos are far apart, after some 60 looks at each: banana 26.1, 26.0, 25.8 and 22.9 dB
  after 450, 900, 1,800 and 3,000 steps (11 photos), snowmiku, free, 25.9 and 25.6 after 800 and 1,600 (18 photos).
  Nineveh, whose photos are 2 degrees apart, goes on gaining.
- Dropout of 0.5 instead of 0.3: -0.2 dB on snowmiku (free, 800 steps, two seeds), -0.4 on banana (1,500, one).
- Twice the weight of depth: 26.0 and 25.3 dB on snowmiku (free, 800 steps, two seeds) against 25.8 and 25.9.
- On nineveh, 800 steps: no depth 28.5, L1 and MSE instead of SSIM 28.1, neither opacity nor scale weight 27.9 dB.
- On nineveh, 650 steps, three seeds of 29.3 to 29.4 dB, it is all the same by 0.1: no coarse photos, 150,000 Gaussians,
  half the step of the opacities or twice that of the colours, a final rate of 0.03. What counts there is how many steps
  the time allows.
- No gain from: averaged weights, opacity-gated noise, a background of the mean colour, low-pass baked into the scales.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.adam import Adam
from pixworld.cameras import Cameras
from pixworld.densify import DEAD, keep, prune_and_split
from pixworld.free_space import FreeSpace
from pixworld.gaussians import Gaussians
from pixworld.photo_target import PhotoTarget
from pixworld.render import render
from pixworld.splats.edit import prune
from pixworld.views import InputError, Views

# Adam's step sizes for each field in unconstrained space; that of the means is in median photo depths.
RATES = {"means": 1.2e-3, "quats": 2e-2, "log_scales": 1e-1, "logit_opacities": 4e-1, "sh": 2.5e-2}
EXPOSURE_RATE = 1e-3  # log gain and offset
POSE_RATE = 2e-3  # radians, and median photo depths
SOFT = 0.5  # opacity at most of a start that is only predicted
FINAL_RATE = 0.1  # of the first, reached exponentially
COARSE = 0.2  # share of the time in which photos are seen at half size
OPACITY_WEIGHT = 0.002  # of the mean opacity: what no photo needs fades
SCALE_WEIGHT = 0.02  # of the mean scale in median photo depths: so does what is large without need
LOG_SCALES = -20.0, 10.0  # what they are kept within
DEPTH_WEIGHT = 0.5  # of the loss of depth where a photo's is known
DROPOUT = 0.3  # share of the Gaussians left out of a step at the end; none at the start
APART = 0.05, 0.15  # distance of neighbouring photos in median depths: none up to the first, in full from the second
MOST_GROWTH = 1.05  # in a round; faster splitting leaves no time to tell the copies apart
CLEARED_EVERY = 20  # steps: what has come into free space is dropped; every 80 one of three seeds kept a haze
GROWTH_ROUNDS, GROWN_AT = 20, 0.6  # share of the time by which the budget of Gaussians is used
PASSES = 60  # looks at each photo that a time allows at most, where photos are far apart
STEPS, MAX_GAUSSIANS = 300, 120_000  # where nothing else is said
JUDGES = 8  # photos that tell whether a refinement that was ended early has become better than its start
CHECKS = 20  # looks at the validation photo in all
MIN_PHOTOS_TO_SPARE_ONE = 8


@dataclass(frozen=True)
class RefineOptions:
    """How to refine; the fields are the CLI's flags."""

    steps: int | None = None  # optimisation steps, one photo each, at most; None is 300, or what the time allows
    budget_seconds: float | None = None  # the schedule is stretched or squeezed to end by then, or after PASSES
    max_gaussians: int | None = None  # the budget that detail grows into; None is 120,000, or the start's number
    sh_degree: int | None = None  # of the result; None keeps that of the start
    exposure: bool = False  # one gain and offset a photo and channel
    poses: bool = False  # correct the photos' cameras
    early_stop: bool = False  # spare one photo, and return what renders it best
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a refinement is."""

    fraction: float  # of its time, 0..1
    step: int
    psnr: float  # of the spared photo, or of the photos just seen (running mean), dB
    gaussians: Callable[[], Gaussians]  # a copy of the present ones


@dataclass(frozen=True)
class Refined:
    gaussians: Gaussians
    cameras: tuple[Cameras, ...]  # of the photos, corrected when options.poses, on the CPU
    gains: Float[Tensor, "photos 2 3"]  # log gain and offset of each photo, relative to their mean
    steps: int  # taken until then; 0 when it is the start


def refine(
    gaussians: Gaussians,
    photos: Sequence[Views],
    options: RefineOptions = RefineOptions(),
    *,
    soft: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Refined:
    """Adam over all fields of unbatched Gaussians, one photo a step.

    photos: one unbatched view each; sizes may differ; masks are respected; depth where it is known (sparse depth of
    structure from motion) holds the surface in place, and says where cameras stood in the open: what floats there is
    dropped (free_space.py). `soft` lowers opacities first, which is right for what was only predicted: what is nearly
    opaque has hardly a gradient, and hides what lies behind it. Deterministic in options.seed, without a time budget.
    When `stop` says so it ends early, with what it has or, if photos looked better in it, the start within the options
    (the first steps shake a scene up); and without a result when on_step raises. Steps whose gradient is not finite are
    skipped, so the result always is. Raises InputError when a photo cannot be spared for early_stop, and when all
    Gaussians float.
    """
    check_early_stop(options, len(photos))
    if options.steps == 0:
        return _unrefined(gaussians, photos)
    with torch.inference_mode(False):
        return _Refinement(gaussians, photos, options, soft).run(on_step, stop, clock)


def check_early_stop(options: RefineOptions, photos: int) -> None:
    """Raises InputError when a photo would have to be spared and cannot."""
    if options.early_stop and photos < MIN_PHOTOS_TO_SPARE_ONE:
        raise InputError(
            f"Early stopping spares one of {MIN_PHOTOS_TO_SPARE_ONE} photos or more; with {photos}, leave it out."
        )


class _Refinement:
    def __init__(self, gaussians: Gaussians, photos: Sequence[Views], options: RefineOptions, soft: bool) -> None:
        self.options = options
        self.photos, self.halves = [PhotoTarget(p) for p in photos], [PhotoTarget(half(p)) for p in photos]
        self.generator = torch.Generator().manual_seed(options.seed)
        self.free_space = FreeSpace.of(photos)
        gaussians = gaussians.select(~self.free_space.holds(gaussians.means))
        if not len(gaussians):
            raise InputError("No Gaussian lies away from where the photos were taken; give a scene and its cameras.")
        depth = median_depth(gaussians, photos)
        self.scale = depth
        sparse = apart(photos, depth)
        self.dropout = DROPOUT * sparse
        self.steps: float = options.steps or STEPS
        if options.steps is None and options.budget_seconds is not None:
            self.steps = PASSES * len(photos) / sparse if sparse else math.inf
        self.budget = options.max_gaussians or max(MAX_GAUSSIANS, len(gaussians))
        gaussians = prune(gaussians, self.budget)
        if options.sh_degree is not None:
            gaussians = gaussians.with_sh_degree(options.sh_degree)
        self.start = _unrefined(gaussians, photos)
        if soft:
            gaussians = replace(gaussians, opacities=gaussians.opacities.clamp_max(SOFT))
        fields = {
            "means": gaussians.means,
            "quats": gaussians.quats,
            "log_scales": gaussians.scales.log().clamp(*LOG_SCALES),
            "logit_opacities": torch.logit(gaussians.opacities, eps=1e-4),
            "sh": gaussians.sh,
        }
        self.fields = {k: v.detach().clone().requires_grad_() for k, v in fields.items()}
        zeros = gaussians.means.new_zeros
        self.gains = zeros(len(photos), 2, 3).requires_grad_(options.exposure)
        self.turns, self.moves = (zeros(len(photos), 3).requires_grad_(options.poses) for _ in range(2))
        rates = RATES | {"means": RATES["means"] * depth, "gains": EXPOSURE_RATE}
        self.optimiser = Adam(rates | {"turns": POSE_RATE, "moves": POSE_RATE * depth})

        self.spared = _most_ordinary(photos) if options.early_stop else None
        self.training = [i for i in range(len(photos)) if i != self.spared]
        self.queue: list[int] = []
        self.taken = 0  # steps
        self.best: tuple[float, Refined] | None = None

    def run(
        self, on_step: Callable[[Progress], None] | None, stop: Callable[[], bool] | None, clock: Callable[[], float]
    ) -> Refined:
        started, fraction, seen, checks = clock(), 0.0, None, 0
        while fraction < 1:
            if stop is not None and stop():
                return self.better() if self.taken else self.start
            photo_psnr = self.step(fraction)
            before, fraction = fraction, self.taken / self.steps
            if self.options.budget_seconds is not None:
                fraction = max(fraction, (clock() - started) / self.options.budget_seconds)
            self.grow(before, fraction)
            if self.spared is None:
                seen = photo_psnr if seen is None else 0.9 * seen + 0.1 * photo_psnr
            elif seen is None or fraction >= checks / CHECKS:
                seen, checks = self.check(), checks + 1
            if on_step is not None:
                on_step(Progress(min(fraction, 1.0), self.taken, seen, self.gaussians))
        return self.end()

    def end(self) -> Refined:
        if self.spared is not None:
            self.check()
        return self.best[1] if self.best else self.result()

    def better(self) -> Refined:
        """Of the end and the start, in the spared photo or JUDGES of them."""
        judges = torch.linspace(0, len(self.photos) - 1, JUDGES).long().unique().tolist()
        judges = judges if self.spared is None else [self.spared]
        return max(self.end(), self.start, key=lambda refined: sum(self.score(refined, i) for i in judges))

    @torch.no_grad()
    def score(self, refined: Refined, i: int) -> float:
        """PSNR of a photo, as it was exposed and from where it was taken."""
        device = refined.gaussians.means.device
        rgb = render(refined.gaussians, refined.cameras[i].to(device)).rgb
        return self.photos[i].psnr(_exposed(rgb, refined.gains[i].to(device)).clamp(0, 1))

    def step(self, fraction: float) -> float:
        """One step of Adam; returns the PSNR of the photo it looked at."""
        self.queue = self.queue or [
            self.training[i] for i in torch.randperm(len(self.training), generator=self.generator)
        ]
        i = self.queue.pop()
        photo = (self.halves if fraction < COARSE else self.photos)[i]
        current = _activate(self.fields)
        rendered = render(self.dropped(current, fraction), self.cameras(i, photo.cameras))
        rgb = self.exposed(i, rendered.rgb)
        loss = photo.image_loss(rgb) + DEPTH_WEIGHT * photo.depth_loss(rendered.depth)
        loss = loss + OPACITY_WEIGHT * current.opacities.mean() + SCALE_WEIGHT / self.scale * current.scales.mean()
        learned = self.fields | {"gains": self.gains, "turns": self.turns, "moves": self.moves}
        learned = {name: x for name, x in learned.items() if x.requires_grad}
        for x in learned.values():
            x.grad = None
        loss.backward()
        if all(x.grad.sum().isfinite() for x in learned.values()):  # a sum finds what isfinite().all() does
            self.optimiser.step(learned, FINAL_RATE**fraction)
            self.fields["log_scales"].data.clamp_(*LOG_SCALES)  # splitting hardly moves them
        self.taken += 1
        if self.taken % CLEARED_EVERY == 0:
            self.clear()
        return photo.psnr(rgb.detach())

    def clear(self) -> None:
        """Drop what has come to where nothing may float."""
        kept = self.grounded()
        if not kept.all():
            self.fields = keep(self.fields, self.optimiser, kept)

    def grounded(self) -> Bool[Tensor, " n"]:
        """True for what does not float; if all did, for all."""
        held = self.free_space.holds(self.fields["means"])
        return ~held | held.all()

    def grow(self, before: float, fraction: float) -> None:
        """Drop the dead and split the living, in even rounds by the same factor each, up to the budget."""
        done, now = (min(GROWTH_ROUNDS, int(x / GROWN_AT * GROWTH_ROUNDS)) for x in (before, fraction))
        if now > done:
            rows = len(self.fields["means"])
            factor = min(MOST_GROWTH, (self.budget / rows) ** (1 / (GROWTH_ROUNDS - done)))
            rows = round(rows * factor ** (now - done))
            self.fields = prune_and_split(self.fields, self.optimiser, rows, self.generator)

    def dropped(self, gaussians: Gaussians, fraction: float) -> Gaussians:
        """DropGaussian (Park et al. 2025): a share, drawn at random, is left out, the others are more opaque instead.
        What no photo but one supports is then worth little."""
        share = self.dropout * fraction
        if not share:
            return gaussians
        kept = torch.rand(len(gaussians), generator=self.generator) >= share
        kept = kept.to(gaussians.opacities) / (1 - share)
        return replace(gaussians, opacities=(gaussians.opacities * kept).clamp_max(1))

    def cameras(self, i: int, cameras: Cameras) -> Cameras:
        """The photo's cameras, corrected: c2w [exp(turn) | move]."""
        if not self.options.poses:
            return cameras
        x, y, z = self.turns[i].unbind()
        zero = torch.zeros_like(x)
        twist = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        motion = torch.cat([torch.linalg.matrix_exp(twist), self.moves[i][:, None]], dim=1)
        return replace(cameras, c2w=cameras.c2w @ torch.cat([motion, cameras.c2w[0, 3:]]))

    def exposed(self, i: int, rgb: Tensor) -> Tensor:
        """As the photo shows it: colour by colour, a gain and an offset relative to the mean of all photos."""
        if not self.options.exposure:
            return rgb
        return _exposed(rgb, self.gains[i] - self.gains.mean(0))

    @torch.no_grad()
    def gaussians(self) -> Gaussians:
        current = _activate(self.fields).select(self.grounded())
        return replace(current, quats=F.normalize(current.quats, dim=-1))

    @torch.no_grad()
    def check(self) -> float:
        """PSNR of the spared photo; what gave the best one is kept."""
        photo = self.photos[self.spared]
        rgb = render(self.gaussians(), photo.cameras).rgb.clamp(0, 1)
        score = photo.psnr(rgb)
        if self.best is None or score > self.best[0]:
            self.best = (score, self.result())
        return score

    @torch.no_grad()
    def result(self) -> Refined:
        gaussians = self.gaussians()
        cameras = (self.cameras(i, p.cameras).to("cpu") for i, p in enumerate(self.photos))
        gains = (self.gains - self.gains.mean(0)).detach().cpu()
        return Refined(gaussians.select(gaussians.opacities > DEAD), tuple(cameras), gains, self.taken)


def _activate(fields: dict[str, Tensor]) -> Gaussians:
    """As they are rendered, which quaternions need not be unit for."""
    return Gaussians(
        fields["means"],
        fields["quats"],
        fields["log_scales"].exp(),
        torch.sigmoid(fields["logit_opacities"]),
        fields["sh"],
    )


def _exposed(rgb: Float[Tensor, "*b 3 h w"], gains: Float[Tensor, "2 3"]) -> Float[Tensor, "*b 3 h w"]:
    gain, offset = gains[..., None, None]
    return rgb * gain.exp() + offset


def _unrefined(gaussians: Gaussians, photos: Sequence[Views]) -> Refined:
    return Refined(gaussians, tuple(p.cameras.to("cpu") for p in photos), torch.zeros(len(photos), 2, 3), 0)


def half(photo: Views) -> Views:
    """At half the size; of the depths that meet in a pixel, the nearest is kept."""
    height, width = (max(16, side // 2) for side in photo.images.shape[-2:])
    images = F.interpolate(photo.images, (height, width), mode="area")  # like the mask, so that nothing bleeds over it
    mask, depth = photo.mask, photo.depth
    if mask is not None:
        mask = F.interpolate(mask[:, None].float(), (height, width), mode="area")[:, 0] > 0.99
    if depth is not None:
        disparity = torch.where(depth > 0, 1 / depth, 0.0)
        disparity = F.adaptive_max_pool2d(disparity, (height, width))
        depth = torch.where(disparity > 0, 1 / disparity, 0.0)
    return Views(images, photo.cameras.resize(height, width), depth, mask)


def median_depth(gaussians: Gaussians, photos: Sequence[Views]) -> float:
    """Median z of the Gaussians in front of the cameras: the scene's length scale."""
    means = gaussians.means[:: max(1, len(gaussians) // 5000)]
    depth = torch.cat([p.cameras.project(means)[1].flatten() for p in photos])
    depth = depth[depth > 0]
    return depth.median().item() if len(depth) else 1.0


def apart(photos: Sequence[Views], depth: float) -> float:
    """0 where photos are so dense that any view lies between its neighbours, 1 where they are far apart; see APART."""
    if len(photos) < 2:
        return 1.0
    centres = torch.cat([p.cameras.positions for p in photos])
    nearest = torch.cdist(centres, centres).fill_diagonal_(float("inf")).min(dim=1).values
    low, high = APART
    return min(1.0, max(0.0, (nearest.median().item() / depth - low) / (high - low)))


def _most_ordinary(photos: Sequence[Views]) -> int:
    """The photo whose nearest neighbour is as far as is usual: what it shows is neither a copy nor unseen."""
    centres = torch.cat([p.cameras.positions for p in photos])
    nearest = torch.cdist(centres, centres).fill_diagonal_(float("inf")).min(dim=1).values
    return int((nearest - nearest.median()).abs().argmin())
