"""Batches for training: scenes of a source, cropped, turned and recoloured. A batch is a function of (seed, step)
alone, so a resumed run sees exactly the data that an uninterrupted one would have seen, as do more ranks together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.data.bank import Bank
from pixworld.data.sources import BankSource, Mixture, Source
from pixworld.views import Views


def training_batch(
    source: Bank | Source,
    batch: int,
    seed: int,
    step: int,
    scenes: int,
    rank: int = 0,
    world: int = 1,
    multiple: int = 8,
) -> Views:
    """`batch` of the first `scenes` scenes, all of one member of a mixture, with `source.frames` frames (1 of photos);
    of these the part of rank `rank`. Every side is a multiple of `multiple` px (the patch); the short side is that of
    `source.shape`, which must be one."""
    assert batch % world == 0, f"{batch} scenes cannot be shared by {world} ranks"
    rng = np.random.default_rng([seed, step])
    source = BankSource(source) if isinstance(source, Bank) else source
    frames, shape = source.frames, source.shape
    if isinstance(source, Mixture):
        source, scenes = source.draw(rng, scenes)
    chosen = rng.choice(scenes, batch, replace=scenes < batch)
    mine = range(rank * batch // world, (rank + 1) * batch // world)
    # a scene has its own generator, so that a rank reads no others
    views = stack([source.sample(int(chosen[k]), np.random.default_rng([seed, step, k]), frames, shape) for k in mine])
    height, width = shape
    short = min(height, width) // multiple
    crop = multiple * int(rng.integers(short, width // multiple + 1))
    views = crop_views(views, int(rng.integers(0, width - crop + 1)), crop)
    if rng.random() < 0.35:
        views = quarter_turn(views)
    if rng.random() < 0.5:
        views = replace(views, images=views.images.flip(1), depth=views.depth.flip(1), cameras=_reversed(views.cameras))
    if rng.random() < 0.5:  # another order of the colour channels; the captions, which name colours, are no longer true
        views = replace(views, images=views.images[:, :, rng.permutation(3).tolist()], text=("",) * len(mine))
    gamma, gain = np.exp(rng.normal(0, 0.25, batch)), np.exp(rng.normal(0, 0.1, (batch, 3)))
    gamma, gain = (torch.from_numpy(x[mine.start : mine.stop].astype(np.float32)) for x in (gamma, gain))
    return replace(views, images=recolour(views.images, gamma, gain))


def stack(scenes: list[Views]) -> Views:
    """Unbatched views of equal size -> one batch."""
    cameras = Cameras(
        torch.stack([s.cameras.c2w for s in scenes]),
        torch.stack([s.cameras.K for s in scenes]),
        scenes[0].cameras.height,
        scenes[0].cameras.width,
    )
    return Views(
        torch.stack([s.images for s in scenes]),
        cameras,
        depth=torch.stack([s.depth for s in scenes]),
        text=tuple(s.text[0] for s in scenes),
    )


def crop_views(views: Views, left: int, width: int) -> Views:
    """Columns left .. left + width of every frame."""
    return replace(
        views,
        images=views.images[..., left : left + width],
        depth=views.depth[..., left : left + width],
        cameras=views.cameras.crop(0, left, views.cameras.height, width),
    )


def quarter_turn(views: Views) -> Views:
    """Frames as a camera held upright (rolled by 90 degrees) takes them: exact, landscape becomes portrait."""
    c, K = views.cameras, views.cameras.K
    turned = K.clone()
    turned[..., 0, 0], turned[..., 1, 1] = K[..., 1, 1], K[..., 0, 0]
    turned[..., 0, 2], turned[..., 1, 2] = K[..., 1, 2], c.width - K[..., 0, 2]
    # New x axis = old y axis, new y axis = minus old x axis.
    roll = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return replace(
        views,
        images=views.images.rot90(1, (-2, -1)),
        depth=views.depth.rot90(1, (-2, -1)),
        cameras=Cameras(c.c2w @ roll, turned, c.width, c.height),
    )


def recolour(
    images: Float[Tensor, "b v 3 h w"], gamma: Float[Tensor, " b"], gain: Float[Tensor, "b 3"]
) -> Float[Tensor, "b v 3 h w"]:
    """Gamma and exposure a scene, the same for all of its frames."""
    out = images.clamp_min(1e-4) ** rearrange(gamma, "b -> b 1 1 1 1") * rearrange(gain, "b c -> b 1 c 1 1")
    return out.clamp(0, 1)


def _reversed(cameras: Cameras) -> Cameras:
    return replace(cameras, c2w=cameras.c2w.flip(1), K=cameras.K.flip(1))
