"""What goes into a method and what comes out: Views, Task, Scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.gaussians import Gaussians


class Cancelled(Exception):
    """Raised by an `on_step` callback to stop the work that called it."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one sentence that says what is wrong and what to do."""


@dataclass(frozen=True)
class Views:
    """Images and the cameras that took them."""

    images: Float[Tensor, "*b v 3 h w"]  # 0..1, sRGB-encoded
    cameras: Cameras
    depth: Float[Tensor, "*b v h w"] | None = None  # z, scene units, 0 where unknown (may be sparse)
    mask: Bool[Tensor, "*b v h w"] | None = None  # True where the image may be used
    text: tuple[str, ...] | None = None  # a caption a scene

    def __post_init__(self) -> None:
        if self.images.shape[-2:] != (self.cameras.height, self.cameras.width):
            raise ValueError(
                f"images are {tuple(self.images.shape[-2:])}, cameras {(self.cameras.height, self.cameras.width)}"
            )
        if self.images.shape[:-3] != self.cameras.c2w.shape[:-2]:
            raise ValueError(f"images {tuple(self.images.shape)} and cameras {tuple(self.cameras.c2w.shape)} differ")

    def __len__(self) -> int:
        return len(self.cameras)

    def to(self, *args, **kwargs) -> Views:
        return replace(
            self,
            images=self.images.to(*args, **kwargs),
            cameras=self.cameras.to(*args, **kwargs),
            depth=None if self.depth is None else self.depth.to(*args, **kwargs),
            # a mask follows the device but stays bool
            mask=None if self.mask is None else self.mask.to(self.images.to(*args, **kwargs).device),
        )

    def select(self, views) -> Views:
        """Pick views by a slice, indices or a mask."""
        return replace(
            self,
            images=self.images[..., views, :, :, :],
            cameras=self.cameras.select(views),
            depth=None if self.depth is None else self.depth[..., views, :, :],
            mask=None if self.mask is None else self.mask[..., views, :, :],
        )

    @staticmethod
    def cat(parts: list[Views]) -> Views:
        """Concatenate along the view axis. An optional field is kept when every part has it."""

        def joined(name: str) -> Tensor | None:
            values = [getattr(p, name) for p in parts]
            return None if any(x is None for x in values) else torch.cat(values, dim=-3)

        images = torch.cat([p.images for p in parts], dim=-4)
        cameras = Cameras.cat([p.cameras for p in parts])
        return Views(images, cameras, joined("depth"), joined("mask"), parts[0].text)


class Preview(NamedTuple):
    """What a generation looks like so far."""

    images: Float[Tensor, "v 3 h w"]  # the views that are generated, 0..1
    gaussians: Gaussians  # unbatched


# Called with (step, steps, preview) as long work goes on; it may raise Cancelled.
OnStep = Callable[[int, int, Preview | None], None]


@dataclass(frozen=True)
class Photo:
    """One photo as it came from a file: upright, not posed, lens distortion still in it."""

    name: str  # file name, unique in the set
    image: Any  # uint8 array [h w 3], sRGB
    focal_px: float | None = None  # from EXIF, in pixels of `image`
    mask: Any = None  # bool array [h w], True where the image may be used; None is everywhere
    gps: tuple[float, float, float] | None = None  # from EXIF: latitude, longitude in degrees, altitude in metres


@dataclass(frozen=True)
class NamedCamera:
    """One camera of a camera file; the photos of a set may differ in size."""

    name: str  # file name of its image, without folders
    cameras: Cameras  # exactly one view, no batch axis
    split: str | None = None  # "train", "holdout" or not said


@dataclass(frozen=True)
class PosedPhoto:
    """One posed, undistorted photo at the size it is refined and measured at."""

    name: str
    views: Views  # exactly one view, no batch axis
    points: Float[Tensor, "m 3"]  # world positions of the structure-from-motion points seen in it (m may be 0)
    stereo: Float[Tensor, "1 h2 w2"] | None = None  # z by stereo, 0 where it is not sure; of a size of its own


@dataclass(frozen=True)
class Task:
    """What to infer. Reconstruction has clean views only; text-to-3D has targets only; image-to-3D has both."""

    clean: Views | None = None  # known views; their depth, where given, is a (sparse) hint of scene scale
    targets: Cameras | None = None  # cameras whose images are to be generated
    prompt: str = ""
    seed: int = 0
    steps: int = 20
    guidance: float = 1.0
    keep_clean: bool = True  # nothing that is generated may hide what the clean views see


@dataclass(frozen=True)
class Scene:
    """What a method made, and from what."""

    gaussians: Gaussians
    views: Views  # the views the Gaussians were predicted at: clean ones first, then generated ones
    info: dict[str, Any] = field(default_factory=dict)  # method, checkpoint, seed, prompt, seconds, ...
