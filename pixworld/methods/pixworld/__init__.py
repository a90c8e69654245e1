"""PixWorld (Gao et al. 2026): reconstruction and generation as one pixel-space diffusion on rendered views."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pixworld.methods.pixworld.model import PixWorld


@dataclass(frozen=True)
class PixWorldRecipe:
    """How a training scene is split into clean, noisy and novel views, and what the loss terms weigh.

    The defaults are those of `pixworld-small`, which trains on two CPU cores; `PAPER_RECIPE` is the paper's.
    """

    contexts: dict[int, float] = field(default_factory=lambda: {2: 0.25, 4: 0.55, 6: 0.2})  # views seen -> share
    generative: float = 0.4  # share of steps with noisy views; the others are pure reconstruction
    generated_views: dict[int, float] = field(default_factory=lambda: {4: 1.0})  # clean + noisy ones of such a step
    clean: dict[int, float] = field(default_factory=lambda: {0: 0.2, 1: 0.5, 2: 0.2, 3: 0.1})  # clean ones of these
    rendered_clean: int = 1  # clean views that are rendered and compared, at most
    novel: tuple[int, int] = (3, 3)  # fewest and most views that are rendered and compared but not seen
    generative_novel: tuple[int, int] = (1, 1)  # the same in a step with noisy views, all of which are rendered
    # What holes show in steps without noisy views: with "mean", of the clean views, pixels in doubt are left open; with
    # "random", all Gaussians become opaque. See LOG.md beside the weights.
    background: Literal["black", "mean", "random"] = "black"
    text_drop: float = 0.2
    # Scenes whose clean views carry sparse depth, as structure from motion gives it: log-uniform counts, with noise.
    hints: float = 0.8
    hint_counts: tuple[int, int] = (8, 600)  # a view
    hint_noise: float = 0.02  # relative
    hint_outliers: float = 0.03
    # Of the scenes with hints, in steps without noisy views, the share that stereo densifies, as in reconstruction.
    stereo: float = 0.75
    time_floor: float = 0.25  # of 1 - t in the velocity loss, so that its weight stays under 16
    flow_from: float = 0.0  # t from which L_FM is taken on renders; 0 is always, as published
    gate: float = 0.3  # t above which perceptual and geometry loss count
    judged: int = 2  # scenes of a batch that these two are taken on, which cost more than the network; 0 is all
    recon_weight: float = 0.25
    novel_weight: float = 0.75
    flow_weight: float = 0.25
    colour_weight: float = 0.25  # the flow-matching loss again, on the colour map before lifting; not in the paper
    depth_weight: float = 0.2
    perceptual_weight: float = 0.1
    perceptual: str = "st-lpips-alex"  # see nn/encoders; VGG-16 takes three times as long as AlexNet
    geometry_weight: float = 0.0
    geometry: str = "geometry-critic-small"  # the critic
    critic_weights: str = ""  # file or folder of the critic's weights, where they do not ship
    perceptual_weights: str = ""  # the same of the perceptual distance


# As published: 4 to 8 views, few of them clean, 4 to 8 novel ones, weights 0.1 (perceptual), 1.0 (depth) and 0.1
# (geometry, by pi3), 1 - t at least 0.05 (the floor of Li & He 2025; the paper says that it clamps, not where).
PAPER_RECIPE = PixWorldRecipe(
    contexts={4: 0.25, 5: 0.2, 6: 0.2, 7: 0.15, 8: 0.2},
    generative=0.9,
    generated_views={4: 0.2, 5: 0.2, 6: 0.2, 7: 0.2, 8: 0.2},
    clean={0: 0.1, 1: 0.45, 2: 0.3, 3: 0.15},
    rendered_clean=8,
    novel=(4, 8),
    generative_novel=(4, 8),
    background="mean",
    hints=0.0,
    stereo=0.0,
    time_floor=0.05,
    judged=0,
    recon_weight=1.0,
    novel_weight=1.0,
    flow_weight=1.0,
    colour_weight=0.0,
    depth_weight=1.0,
    perceptual="lpips-vgg",
    geometry_weight=0.1,
    geometry="pi3",
)


@dataclass(frozen=True)
class PixWorldConfig:
    """Everything that decides the network's shape, activations and training."""

    method: Literal["pixworld"] = "pixworld"
    width: int = 256  # d
    depth: int = 8  # two-stream blocks
    heads: int = 4
    patch: int = 8  # pixels
    size: int = 64  # short side of the images that it is trained on, pixels
    aspect: float = 1.5  # their long side over the short one
    frames: int = 8  # of a scene that a training step takes its views from
    streams: Literal["two", "shared"] = "two"  # whether clean and noisy views have blocks of their own
    cameras: Literal["prope", "rays", "both"] = "both"  # inside attention, as input (Plücker), or both
    depth_input: bool = True  # clean tokens read the depth that comes with their views
    positions: tuple[int, int] | None = None  # rows and columns of a learned table of patch positions, a stream
    text: Literal["words", "minilm", "umt5", "t5"] = "minilm"  # see nn/encoders; "words" learns a table of its own
    text_width: int = 384
    text_weights: str = ""  # folder of the text encoder's weights, where they do not come with a package
    sh_degree: int = 0
    gate: float = 0.3  # residual gates at the start of training; 0 is adaLN-Zero as published
    depth_prior: float = 0.3  # log depth, in units of the scene, where no hint tells it
    scale_range: tuple[float, float] = (0.15, 4.0)  # of a Gaussian, in pixel footprints; see the fifth run in the LOG
    # Of the predicted correction of the log depth, what inference (never training) applies in scenes whose depth is
    # known in places. With 0.6, `pixworld-small` loses 0.1 dB on procedural scenes and gains up to 2 dB on refined
    # photos; see its LOG.
    correction: float = 1.0
    scale_start: float = 0.5
    opacity_start: float = 0.6
    eps2d: float = 0.1  # low-pass of training renders, square pixels; 0.3 would blur images this small
    recipe: PixWorldRecipe = field(default_factory=PixWorldRecipe)

    def build(self) -> PixWorld:
        from pixworld.methods.pixworld.model import PixWorld

        return PixWorld(self)


# name -> d, blocks, heads, patch, short side of the images; parameters, without a text encoder that is loaded
SIZES = {
    "tiny": (128, 4, 2, 8, 64),  # 3.8 M: tests, comparisons of recipes
    "small": (256, 8, 4, 8, 64),  # 22.5 M: what ships
    "base": (640, 16, 10, 16, 256),  # 277 M: one GPU
    "paper": (1024, 24, 16, 16, 336),  # 1.044 B
}


def _config(size: str, **fields: Any) -> PixWorldConfig:
    width, depth, heads, patch, short = SIZES[size]
    return PixWorldConfig(width=width, depth=depth, heads=heads, patch=patch, size=short, **fields)


def pixworld_tiny() -> PixWorldConfig:
    """Trains in minutes; recipes are compared with it."""
    return _config("tiny", text="words", text_width=128)


def pixworld_small() -> PixWorldConfig:
    """What ships: trained here on two CPU cores. weights/pixworld-small/LOG.md tells how, and what was learned."""
    return _config("small")


def pixworld_base() -> PixWorldConfig:
    """For one GPU: the paper's losses at 256 px, with the depth and the ray input that help the small one."""
    recipe = replace(PAPER_RECIPE, perceptual="st-lpips-vgg", geometry="geometry-critic-small", hints=0.8, stereo=0.75)
    return _config("base", frames=16, sh_degree=1, eps2d=0.3, recipe=recipe)


def pixworld_paper() -> PixWorldConfig:
    """As published (Table 6): 336 x 448 px, 4 to 8 views, PRoPE, text 4096 wide, adaLN-Zero, SH of degree 2.

    35 + 1 channels a pixel: colour 3, SH 24, opacity 1, scale 3, rotation 4; depth. Colour is a residual on the image,
    which is our choice, as the activations are.
    """
    return _config(
        "paper",
        aspect=448 / 336,
        frames=16,
        cameras="prope",
        depth_input=False,
        positions=(21, 28),
        text="umt5",
        text_width=4096,
        sh_degree=2,
        gate=0.0,
        eps2d=0.3,
        recipe=PAPER_RECIPE,
    )
