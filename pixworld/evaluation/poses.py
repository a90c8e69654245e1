"""Camera poses estimated on frames by structure from motion: whether what was rendered is one rigid scene, seen from
where it was asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.files import tensor_to_image
from pixworld.sfm import Search, structure_from_motion
from pixworld.views import Photo

THRESHOLDS = (30, 15, 5)  # degrees

# Frames are enlarged to this short side, in whole multiples: features are small there. COLMAP posed 8 true photos of
# 64 px to AUC@30 0.47 as they are and 0.96 enlarged 4 times (nineveh_panel17; snowmiku 0.01 and 0.20, banana 0.03 and
# 0.54; 6 procedural scenes 0.06 and 0.50).
SIDE = 256
# Below this short side of the frames, in pixels, even the true ones are not posed well enough to compare with.
MIN_SIDE = 48

_SEARCH = Search(1600, 8192, 0.003, 0.9)  # the lax one of poses.py, which is made for difficult sets


def estimate_poses(
    frames: Float[Tensor, "v 3 h w"], cameras: Cameras, seed: int = 0
) -> tuple[Float[Tensor, "v 4 4"], Bool[Tensor, " v"]]:
    """c2w of frames, in a world and scale of their own, and which could be registered; of `cameras` only the focal
    lengths are used. Frames of one colour have no features and are not found."""
    factor = max(1, -(-SIDE // min(frames.shape[-2:])))
    if factor > 1:
        frames = F.interpolate(frames, scale_factor=factor, mode="bicubic", align_corners=False)
    photos = [
        Photo(f"{i}", tensor_to_image(frame), focal_px=factor * K[0, 0].item())
        for i, (frame, K) in enumerate(zip(frames, cameras.K, strict=True))
    ]
    attempt = structure_from_motion(photos, _SEARCH, seed, lambda *_: None)
    c2w, found = torch.eye(4).repeat(len(photos), 1, 1), torch.zeros(len(photos), dtype=torch.bool)
    for i in attempt.registered():
        pose = attempt.models[0].images[i + 1].cam_from_world().inverse().matrix()
        c2w[i, :3], found[i] = torch.from_numpy(pose).float(), True
    return c2w, found
