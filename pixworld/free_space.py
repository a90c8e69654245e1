"""Where nothing may float: around the cameras.

What one photo alone shows may lie at any depth, and behind the subject of another that is often where a third one was
taken: a haze and streaks in front of every view from there. FreeNeRF (Yang et al. 2023) penalises density near the
cameras, within their photos; here nothing may be near them in any direction, since photos that look elsewhere put it
there. What a photo sees in the nearer half of its depths stays, and what three see before the end of theirs: those may
be a bare wall that a camera stood at.

Held-out PSNR of snowmiku, whose 18 photos surround it, refined by 800 steps from the prediction, in dB:
- Without: 22.5, 23.0 and 20.0 (three seeds). With it: 25.6 to 26.2 (five). Of the 88,000 predicted Gaussians it drops
  a hundred: what floats has come there while they are refined.
- On the other three sets, whose cameras do not stand behind each other's subjects, it holds none at the start.
- SHARE of 0.3: 22.9, 0.5: 25.6, 0.7: 25.9 (one seed, when everything in the balls went). Photos that see a point at
  any depth, three of them or one in its nearer half, let it stay: 24.5 to 26.1 (three), since photos with a near
  backdrop see what floats far behind it.
- In a drawn room whose bare wall a camera stands at, dropping everything in the balls took the wall away: its photo
  came out at 1.9 dB instead of 17.8. It stays now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.views import Views

SHARE = 0.6  # of the distance to the nearest known surface
OUTLIERS = 0.01  # share of a photo's known points that are nearer than what counts as its nearest
POINTS = 500  # of a photo's that are looked at
FEWEST = 20  # of a photo's: with fewer, nothing is known of what its camera stood before
SEEN = 3  # photos with a point in their frame and no farther than their known ones: then it stays
PAIRS = 2**24  # of points and cameras at once, which bounds the memory


@dataclass(frozen=True)
class FreeSpace:
    """A ball around each photo's camera."""

    cameras: tuple[Cameras, ...]  # one view each
    radii: Float[Tensor, " c"]  # in their unit
    depths: Float[Tensor, "c 2"]  # each photo's median and largest known z-depth; infinite where none is known

    @staticmethod
    def of(photos: Sequence[Views]) -> FreeSpace:
        """photos: one unbatched view each, with z-depth where it is known, 0 elsewhere. What counts is how far a camera
        is from the known points of every photo: what stands close beside it may be in the photo of another only."""
        cameras = tuple(p.cameras for p in photos)
        centres = _centres(cameras)
        radii, depths = torch.full_like(centres[:, 0], torch.inf), torch.full_like(centres[:, :2], torch.inf)
        for i, photo in enumerate(photos):
            points = known_points(photo)
            if len(points) < FEWEST:
                radii[i] = 0
            else:
                radii = radii.minimum(SHARE * _distances(centres, points).quantile(OUTLIERS, dim=1))
                known = photo.depth[photo.depth > 0]
                depths[i] = torch.stack([known.median(), known.max()])
        return FreeSpace(cameras, radii, depths)

    @torch.no_grad()
    def holds(self, means: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """True where a point is inside a ball and has fewer than SEEN votes of the photos."""
        centres = _centres(self.cameras)
        parts = means.split(max(1, PAIRS // len(centres)))
        held = torch.cat([(_distances(x, centres) < self.radii).any(dim=1) for x in parts])
        inside = held.nonzero().squeeze(-1)
        if len(inside):
            votes = (_votes(c, depths, means[inside]) for c, depths in zip(self.cameras, self.depths))
            held[inside] = sum(votes) < SEEN
        return held


def known_points(photo: Views) -> Float[Tensor, "n 3"]:
    """World points of the pixels whose depth is known, POINTS at most, evenly picked."""
    if photo.depth is None:
        return photo.images.new_zeros(0, 3)
    origins, directions = photo.cameras.rays()
    known = (photo.depth > 0).nonzero()
    picked = torch.linspace(0, max(0, len(known) - 1), min(len(known), POINTS), device=known.device).long()
    known = known[picked].unbind(-1)  # the step is not whole, so that it does not run down a column of the image
    return origins[known] + photo.depth[known][:, None] * directions[known]


def _centres(cameras: Sequence[Cameras]) -> Float[Tensor, "c 3"]:
    return torch.cat([c.positions for c in cameras]).detach()


def _distances(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> Float[Tensor, "n m"]:
    """Without the matrix product, whose float32 differences are noise far from the origin."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _votes(cameras: Cameras, depths: Float[Tensor, "2"], points: Float[Tensor, "n 3"]) -> Int[Tensor, " n"]:
    """SEEN for what a photo sees nearer than its middle, 1 for what it sees up to its end, 0 for all else."""
    middle, end = depths
    pixels, z = (x[0] for x in cameras.project(points))
    size = pixels.new_tensor([cameras.width, cameras.height])
    seen = (z > 0) & ((pixels >= 0) & (pixels < size)).all(dim=-1)
    return seen * torch.where(z < middle, SEEN, (z <= end).int())
