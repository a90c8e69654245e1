"""Batches for training: scenes of a bank, cropped, turned and recoloured. A batch is a function of (seed, step) alone,
so a resumed run sees exactly the data that an uninterrupted one would have seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from einops import rearrange

from pixworld.cameras import Cameras
from pixworld.data.bank import Bank
from pixworld.views import Views


def training_batch(bank: Bank, batch: int, seed: int, step: int, scenes: int) -> Views:
    """`batch` of the first `scenes` scenes with all their frames; every side a multiple of 8 px, the short side that
    of the bank."""
    rng = np.random.default_rng([seed, step])
    views = stack([bank.views(int(i)) for i in rng.choice(scenes, batch, replace=scenes < batch)])
    height, width = views.cameras.height, views.cameras.width
    crop = 8 * int(rng.integers(height // 8, width // 8 + 1))
    views = crop_views(views, int(rng.integers(0, width - crop + 1)), crop)
    if rng.random() < 0.35:
        views = quarter_turn(views)
    if rng.random() < 0.5:
        views = replace(views, images=views.images.flip(1), depth=views.depth.flip(1), cameras=_reversed(views.cameras))
    if rng.random() < 0.5:  # another order of the colour channels; the captions, which name colours, are no longer true
        views = replace(views, images=views.images[:, :, rng.permutation(3).tolist()], text=("",) * batch)
    return replace(views, images=recolour(views.images, rng))


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


def recolour(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Random gamma and exposure a scene, the same for all of its frames [b v 3 h w]."""
    gamma = torch.from_numpy(np.exp(rng.normal(0, 0.25, len(images))).astype(np.float32))
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.1, (len(images), 3))).astype(np.float32))
    out = images.clamp_min(1e-4) ** rearrange(gamma, "b -> b 1 1 1 1") * rearrange(gain, "b c -> b 1 c 1 1")
    return out.clamp(0, 1)


def _reversed(cameras: Cameras) -> Cameras:
    return replace(cameras, c2w=cameras.c2w.flip(1), K=cameras.K.flip(1))
