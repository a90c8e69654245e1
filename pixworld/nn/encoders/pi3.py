"""pi3 (Wang et al. 2025, "Permutation-Equivariant Visual Geometry Learning") and Pi3X, which also reads cameras."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.nn.encoders.images import normalise, to_multiple
from pixworld.nn.encoders.vit import (
    HEAD,
    NO_TURN,
    AxialRope,
    Block,
    PatchEmbed,
    Turn,
    VisionTransformer,
    axial_angles,
    grid_positions,
    rotate_halves,
    vit_sizes,
)
from pixworld.nn.encoders.weights import count, fit, read_weights

# The rest of the checkpoints: heads, normalisation constants, and Pi3X's branch for given depth.
IGNORED = (
    *(f"{head}_{part}." for head in ("point", "conf", "camera", "metric") for part in ("decoder", "head")),
    *("metric_token", "image_mean", "image_std", "depth_encoder.", "depth_emb"),
)
INJECTED_AFTER = (1, 9, 17, 25, 33)  # blocks of Pi3X that poses are told after
STILL = 0.02  # Pi3X: where all cameras are this near to the first one, translations are not normalised


class Pi3(nn.Module):
    """DINOv2 patches and registers; even blocks attend within a view, odd ones across all. No view is special."""

    def __init__(self, sizes: dict[str, int | bool], width: int, hidden: int, depth: int, registers: int):
        super().__init__()
        self.encoder = VisionTransformer(**sizes)
        self.decoder = nn.ModuleList(Block(width, hidden, qk_norm=True) for _ in range(depth))
        self.register_token = nn.Parameter(torch.zeros(1, 1, registers, width))

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras | None = None) -> Float[Tensor, "b v l d"]:
        """Patch tokens of the last two blocks, side by side."""
        x = normalise(to_multiple(images, self.encoder.patch))
        return self.decode(self.encode(x), *x.shape[-2:], poses=None)

    def encode(self, images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v l d"]:
        return self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def decode(
        self, patches: Float[Tensor, "b v l d"], height: int, width: int, poses: Float[Tensor, "b v 4 4"] | None
    ) -> Float[Tensor, "b v l d2"]:
        b, v = patches.shape[:2]
        rows, columns = height // self.encoder.patch, width // self.encoder.patch
        specials = self.register_token.shape[2]
        x = torch.cat([self.register_token.expand(b, v, -1, -1), patches], dim=2)
        positions = grid_positions(rows, columns, specials, x.device)
        within, across = AxialRope(positions), AxialRope(positions.repeat(v, 1))
        for i, block in enumerate(self.decoder):
            before = x
            if i % 2 == 0:
                x = rearrange(block(x.flatten(0, 1), within), "(b v) n d -> b v n d", b=b)
            else:
                x = rearrange(block(x.flatten(1, 2), across), "b (v n) d -> b v n d", v=v)
            if poses is not None and i in INJECTED_AFTER:
                inject = self.pose_inject_blk[INJECTED_AFTER.index(i)]
                told = inject(x[:, :, specials:].flatten(1, 2), CameraRope(poses, rows, columns))
                told = rearrange(told, "b (v n) d -> b v n d", v=v)
                x = torch.cat([x[:, :, :specials], x[:, :, specials:] + told], dim=2)
        return torch.cat([before, x], dim=-1)[:, :, specials:]


class Pi3x(Pi3):
    """pi3 that is told rays and poses, where cameras are given (poses where there are two views or more)."""

    def __init__(
        self, sizes: dict[str, int | bool], width: int, hidden: int, depth: int, registers: int, injected: int
    ):
        super().__init__(sizes, width, hidden, depth, registers)
        self.ray_embed = PatchEmbed(width, sizes["patch"], channels=2)
        self.pose_inject_blk = nn.ModuleList(PoseBlock(width, hidden, qk_norm=True) for _ in range(injected))

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras | None = None) -> Float[Tensor, "b v l d"]:
        x = normalise(to_multiple(images, self.encoder.patch))
        height, width = x.shape[-2:]
        patches, poses = self.encode(x), None
        if cameras is not None:
            rays = pixel_rays(cameras.resize(height, width)).to(x)
            patches = patches + self.ray_embed(rays.flatten(0, 1)).unflatten(0, rays.shape[:2])
            if len(cameras) > 1:
                poses = relative_poses(cameras).to(x)
        return self.decode(patches, height, width, poses)


class PoseBlock(Block):
    """Both branches read the same tokens; the sum is what is added to them."""

    def forward(self, x: Float[Tensor, "n l d"], turn: Turn = NO_TURN) -> Float[Tensor, "n l d"]:
        return self.ls1(self.attn(self.norm1(x), turn)) + self.ls2(self.mlp(self.norm2(x)))


class CameraRope(Turn):
    """PRoPE without intrinsics: half of a head's channels, in groups of four, are turned by the world-to-camera matrix
    P of their view (q by Pᵀ, k and v by P⁻¹, the output by P), a quarter by the column and a quarter by the row of the
    patch (from 0, turned backwards)."""

    def __init__(self, poses: Float[Tensor, "b v 4 4"], rows: int, columns: int):
        w2c = torch.linalg.inv(poses)
        self.P, self.P_t, self.P_inv = w2c, w2c.mT, poses
        positions = grid_positions(rows, columns, 0, poses.device).flip(-1) - 1  # column, row
        cos, sin = axial_angles(positions.repeat(poses.shape[1], 1), HEAD // 2)
        self.cos, self.sin = cos, -sin

    def _turn(self, x: Tensor, matrix: Tensor, sin: Tensor) -> Tensor:
        camera, patch = x.chunk(2, dim=-1)
        camera = rearrange(camera, "b h (v n) (g c) -> b h v n g c", v=matrix.shape[1], c=4)
        camera = torch.einsum("bvij,bhvngj->bhvngi", matrix.to(x.dtype), camera)
        return torch.cat([camera.flatten(-2).flatten(2, 3), rotate_halves(patch, self.cos, sin)], dim=-1)

    def queries(self, q: Float[Tensor, "b h l c"]) -> Float[Tensor, "b h l c"]:
        return self._turn(q, self.P_t, self.sin)

    def keys(self, k: Float[Tensor, "b h l c"]) -> Float[Tensor, "b h l c"]:
        return self._turn(k, self.P_inv, self.sin)

    values = keys

    def outputs(self, o: Float[Tensor, "b h l c"]) -> Float[Tensor, "b h l c"]:
        return self._turn(o, self.P, -self.sin)


def pixel_rays(cameras: Cameras) -> Float[Tensor, "b v 2 h w"]:
    """x / z and y / z of the rays through the pixel centres, in the camera."""
    y, x = torch.meshgrid(
        *(torch.arange(n, device=cameras.K.device) + 0.5 for n in (cameras.height, cameras.width)), indexing="ij"
    )
    K = cameras.K[..., None, None]
    return torch.stack([(x - K[:, :, 0, 2]) / K[:, :, 0, 0], (y - K[:, :, 1, 2]) / K[:, :, 1, 1]], dim=2)


def relative_poses(cameras: Cameras) -> Float[Tensor, "b v 4 4"]:
    """Camera-to-world relative to the first view; the mean distance of the others from it is 1."""
    poses = cameras.select(slice(0, 1)).w2c @ cameras.c2w
    distance = poses[:, 1:, :3, 3].norm(dim=-1)
    unit = torch.where(distance.amax(dim=1) < STILL, 1.0, distance.mean(dim=1))
    return torch.cat([poses[..., :3], poses[..., 3:] / _column(unit)], dim=-1)


def _column(unit: Float[Tensor, " b"]) -> Float[Tensor, "b 1 4 1"]:
    return torch.stack([unit, unit, unit, torch.ones_like(unit)], dim=-1)[:, None, :, None]


def load_pi3(path: Path) -> nn.Module:
    state = read_weights(path)
    with torch.device("meta"):
        model = Pi3(**_sizes(state))
    return fit(model, state, path, IGNORED)


def load_pi3x(path: Path) -> nn.Module:
    state = read_weights(path)
    with torch.device("meta"):
        model = Pi3x(**_sizes(state), injected=count(state, "pose_inject_blk."))
    return fit(model, state, path, IGNORED)


def _sizes(state: dict[str, Tensor]) -> dict:
    hidden, width = state["decoder.0.mlp.fc1.weight"].shape
    return {
        "sizes": vit_sizes(state, "encoder."),
        "width": width,
        "hidden": hidden,
        "depth": count(state, "decoder."),
        "registers": state["register_token"].shape[2],
    }
