"""The network of the geometry critic, its losses and its validation.

images ── patches ──┐                                                    ┌── depth and confidence of every pixel
camera, registers ──┴─ (attention within a view, across all views) x n ──┼── pose and field of view of every view
                                                                         └── patch features: what the critic is for

Depth and translations share one unknown scale: they are in units of the geometric mean of the scene's depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pixworld.cameras import Cameras
from pixworld.diffusion import to_signal
from pixworld.gaussians import quat_from_matrix, quat_to_matrix
from pixworld.methods.base import Draws, Method
from pixworld.methods.geometry_critic import GeometryCriticConfig, GeometryCriticRecipe
from pixworld.nn.blocks import SwiGLU, attend
from pixworld.nn.encoders.images import resize, to_multiple
from pixworld.views import InputError, OnStep, Scene, Task, Views

BRANCH_START = 0.3  # factor on the matrices that write into the residual stream

FRAMES = 4  # of a scene, in validation


class Geometry(NamedTuple):
    """What the critic says of v views."""

    log_depth: Float[Tensor, "b v h w"]
    confidence: Float[Tensor, "b v h w"]  # above 1
    pose: Float[Tensor, "b v 9"]  # see pose_encoding


class Block(nn.Module):
    """Pre-norm transformer block with QK norm. The norms have no gain, which the matrix after them can take; only the
    queries have one, the temperature."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.temperature = nn.Parameter(torch.ones(d // heads))
        self.out = nn.Linear(d, d, bias=False)
        self.mlp = SwiGLU(d)
        with torch.no_grad():  # nearly the identity at the start
            self.out.weight.mul_(BRANCH_START)
            self.mlp.down.weight.mul_(BRANCH_START)

    def forward(self, x: Float[Tensor, "n l d"], rope: Float[Tensor, "2 l 1 c"]) -> Float[Tensor, "n l d"]:
        qkv = self.qkv(F.layer_norm(x, x.shape[-1:])).unflatten(-1, (3, self.heads, -1))
        q, k = rotate(F.layer_norm(qkv[:, :, :2], qkv.shape[-1:]), rope[:, :, None]).unbind(2)
        q = q * self.temperature.to(q.dtype)
        o = attend(*(rearrange(y, "n l h c -> n h l c") for y in (q, k, qkv[:, :, 2])))
        x = x + self.out(rearrange(o, "n h l c -> n l (h c)"))
        return x + self.mlp(F.layer_norm(x, x.shape[-1:]))


class GeometryCritic(Method):
    def __init__(self, config: GeometryCriticConfig):
        super().__init__()
        self.config = c = config
        self.patches = nn.Linear(3 * c.patch**2, c.width)
        # A camera token and registers, those of the first view (the reference) apart from those of the others.
        self.specials = nn.Parameter(0.02 * torch.randn(2, 1 + c.registers, c.width))
        self.blocks = nn.ModuleList(Block(c.width, c.heads) for _ in range(2 * c.depth))
        self.norm = nn.LayerNorm(2 * c.width)
        self.depth = nn.Linear(2 * c.width, 2 * c.patch**2)
        self.pose = nn.Sequential(nn.Linear(2 * c.width, c.width), nn.GELU(), nn.Linear(c.width, 9))
        for layer in (self.depth, self.pose[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # the identity, and a field of view of one radian
            self.pose[-1].bias.copy_(torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 1, 1]))

    def tokens(self, images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v n d"]:
        """Normalised tokens of the last block within views and the last across them, side by side: the camera's, the
        registers', then the patches' in rows. Image sides must be multiples of the patch."""
        c, (b, v, _, h, w) = self.config, images.shape
        assert h % c.patch == 0 and w % c.patch == 0, (h, w)
        patches = rearrange(to_signal(images), "b v c (y p) (x q) -> b v (y x) (c p q)", p=c.patch, q=c.patch)
        with torch.autocast(images.device.type, torch.bfloat16):
            x = self.patches(patches)
            specials = self.specials[[0] + [1] * (v - 1)].to(x.dtype).expand(b, -1, -1, -1)
            x = torch.cat([specials, x], dim=2)
            rope = rope_2d(h // c.patch, w // c.patch, 1 + c.registers, c.width // c.heads, x)
            within = x
            for i in range(0, len(self.blocks), 2):
                within = rearrange(
                    self.blocks[i](rearrange(x, "b v n d -> (b v) n d"), rope), "(b v) n d -> b v n d", b=b
                )
                across = rearrange(within, "b v n d -> b (v n) d")
                x = rearrange(self.blocks[i + 1](across, rope.repeat(1, v, 1, 1)), "b (v n) d -> b v n d", v=v)
        return self.norm(torch.cat([within, x], dim=-1).float())

    def forward(self, images: Float[Tensor, "b v 3 h w"]) -> Geometry:
        """images: 0..1; sides are multiples of the patch. Poses are relative to the first view."""
        c = self.config
        tokens = self.tokens(images)
        maps = self.depth(tokens[:, :, 1 + c.registers :])
        rows = images.shape[-2] // c.patch
        maps = rearrange(maps, "b v (y x) (c p q) -> c b v (y p) (x q)", c=2, y=rows, p=c.patch, q=c.patch)
        return Geometry(maps[0], 1 + maps[1].exp(), self.pose(tokens[:, :, 0]))

    def features(self, images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v l d"]:
        """Patch features of all views jointly, of images (0..1) of any size: they are shrunk to the short side that the
        critic was trained on, and to multiples of its patch. Differentiable in the images."""
        c = self.config
        shrink = min(1.0, c.size / min(images.shape[-2:]))
        return self.tokens(to_multiple(images, c.patch, shrink))[:, :, 1 + c.registers :]

    def losses(self, views: Views, group: str, draws: Draws) -> dict[str, Tensor]:
        """Scale-invariant log depth with learned confidence, and pose, of random frames in random order."""
        r = self.config.recipe
        low, high = r.frames
        count = min(int(torch.randint(low, high + 1, (), generator=draws.shared)), len(views))
        views = views.select(torch.randperm(len(views), generator=draws.own)[:count])
        said = self(spoil(views.images, r, draws.own))

        known = views.depth > 0
        log_depth = torch.where(known, views.depth, 1.0).log()
        error = torch.where(known, said.log_depth - log_depth, 0.0)
        error = (error - scene_mean(error, known)).abs()
        terms = error * said.confidence - r.confidence * said.confidence.log()
        wanted = pose_encoding(views.cameras, scene_mean(log_depth, known).exp().flatten())
        translation, rotation, fov = (said.pose - wanted).abs().split([3, 4, 2], dim=-1)
        return {
            "depth": terms[known].mean(),
            "translation": r.translation_weight * translation.sum(-1).mean(),
            "rotation": r.rotation_weight * rotation.sum(-1).mean(),
            "fov": r.fov_weight * fov.sum(-1).mean(),
        }

    @torch.inference_mode()
    def validate(self, scenes: Sequence[Views]) -> dict[str, float]:
        """Of four frames along every scene: AbsRel and the share within a factor of 1.25 of depth, after one scale a
        scene (the median ratio); the areas under the curve of rotation errors, and of the worse of rotation and
        direction of translation (Wang et al. 2023, "PoseDiffusion"), over all pairs of views."""
        device = self.patches.weight.device
        rows, angles = [], []
        for scene in scenes:
            scene = scene.select(torch.linspace(0, len(scene) - 1, FRAMES).long())
            said = self(scene.images[None].to(device))
            known = scene.depth > 0
            depth, truth = said.log_depth[0].exp().cpu()[known], scene.depth[known]
            ratio = depth / truth
            ratio = ratio / ratio.median()
            close = torch.maximum(ratio, 1 / ratio) < 1.25
            rows.append(torch.stack([(ratio - 1).abs().mean(), close.float().mean()]))
            angles.append(torch.stack(pair_errors(pose_matrices(said.pose[0].cpu()), scene.cameras.w2c)))
        absrel, delta = torch.stack(rows).mean(0).tolist()
        rotation, translation = torch.cat(angles, dim=1)
        worse = torch.maximum(rotation, translation)
        return {
            "absrel": absrel,
            "delta1": delta,
            "rotation_auc_5": auc(rotation, 5.0),
            "pose_auc_30": auc(worse, 30.0),
            "pose_auc_5": auc(worse, 5.0),
        }

    def infer(self, task: Task, on_step: OnStep) -> Scene:
        raise InputError("a geometry critic makes no scenes; choose a checkpoint of another method")


def rope_2d(rows: int, columns: int, specials: int, width: int, like: Tensor) -> Float[Tensor, "2 n 1 width"]:
    """Cosines and sines of a view's tokens (Su et al. 2021, in two dimensions; base 100 as in VGGT). Patches count from
    1; the special tokens are at 0 and are not turned. Channel i pairs with i + width / 2."""
    frequencies = 100.0 ** -(torch.arange(width // 4, device=like.device) / (width // 4))
    y, x = torch.meshgrid(*(torch.arange(1, n + 1, device=like.device) for n in (rows, columns)), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in (y, x)], dim=-1)
    angles = F.pad(angles, (0, 0, specials, 0)).repeat(1, 2)[:, None]
    return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


def rotate(x: Float[Tensor, "n l *k c"], rope: Float[Tensor, "2 l *#k c"]) -> Float[Tensor, "n l *k c"]:
    """Turn channel pairs (i, i + c / 2) by the angles of their token."""
    first, second = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat([-second, first], dim=-1) * rope[1]


def spoil(
    images: Float[Tensor, "b v 3 h w"], recipe: GeometryCriticRecipe, generator: torch.Generator
) -> Float[Tensor, "b v 3 h w"]:
    """Blur and noise in some of the frames, of strengths of their own."""
    b, v, _, h, w = images.shape
    factor = 1 + (recipe.blur - 1) * torch.rand((), generator=generator).item()
    blurred = resize(resize(images, round(h / factor), round(w / factor)), h, w)
    spoilt, mix, sigma = (torch.rand(b, v, 1, 1, 1, generator=generator).to(images) for _ in range(3))
    noise = torch.randn(images.shape, generator=generator).to(images)
    worse = torch.lerp(images, blurred, mix) + recipe.noise * sigma**2 * noise
    return torch.where(spoilt < recipe.spoilt, worse, images).clamp(0, 1)


def scene_mean(values: Float[Tensor, "b v h w"], known: Tensor) -> Float[Tensor, "b 1 1 1"]:
    """Mean over the known pixels of each scene; 0 where nothing is known."""
    known = known.to(values)
    return (values * known).sum((1, 2, 3), keepdim=True) / known.sum((1, 2, 3), keepdim=True).clamp_min(1)


def pose_encoding(cameras: Cameras, unit: Float[Tensor, " b"]) -> Float[Tensor, "b v 9"]:
    """Translation (in units), quaternion (wxyz, w >= 0) of world-to-camera relative to the first view, and vertical and
    horizontal field of view in radians (absT_quaR_FoV of VGGT, with the quaternion's real part first)."""
    w2c = cameras.w2c @ cameras.c2w[:, :1]
    quat = quat_from_matrix(w2c[..., :3, :3])
    quat = torch.where(quat[..., :1] < 0, -quat, quat)
    size = torch.tensor([cameras.height, cameras.width]).to(w2c)
    focal = torch.stack([cameras.K[..., 1, 1], cameras.K[..., 0, 0]], dim=-1)
    return torch.cat([w2c[..., :3, 3] / unit[:, None, None], quat, 2 * torch.atan(size / (2 * focal))], dim=-1)


def pose_matrices(pose: Float[Tensor, "*v 9"]) -> Float[Tensor, "*v 4 4"]:
    """World-to-camera matrices of pose encodings."""
    w2c = torch.eye(4).to(pose).repeat(*pose.shape[:-1], 1, 1)
    w2c[..., :3, :3] = quat_to_matrix(pose[..., 3:7])
    w2c[..., :3, 3] = pose[..., :3]
    return w2c


def pair_errors(
    a: Float[Tensor, "v 4 4"], b: Float[Tensor, "v 4 4"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Degrees between the relative rotations, and between the directions of the relative translations, of all pairs of
    views of two sets of world-to-camera matrices, which may differ by a similarity."""
    i, j = torch.triu_indices(len(a), len(a), 1)
    x, y = (m[j] @ torch.linalg.inv(m[i]) for m in (a, b))
    trace = (x[:, :3, :3] * y[:, :3, :3]).sum((1, 2))
    cosine = F.cosine_similarity(x[:, :3, 3], y[:, :3, 3], dim=-1)
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos()), torch.rad2deg(cosine.clamp(-1, 1).acos())


def auc(degrees: Float[Tensor, " n"], threshold: float) -> float:
    """Area under the curve of the share of errors below an angle, for angles 0 .. threshold, in 0..1; exact."""
    return (1 - degrees / threshold).clamp_min(0).mean().item()
