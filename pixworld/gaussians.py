"""3D Gaussians with activated values, and the few operations every room needs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixworld.sh import degree_of, rotate_sh


@dataclass(frozen=True)
class Gaussians:
    """A batch of Gaussian sets. `*b` is any batch shape, n the count, k = (degree + 1)^2 SH coefficients.

    Always activated: log scales and logit opacities exist only in files and inside network heads.
    """

    means: Float[Tensor, "*b n 3"]  # world, scene units
    quats: Float[Tensor, "*b n 4"]  # wxyz, unit
    scales: Float[Tensor, "*b n 3"]  # standard deviations along the rotated axes, scene units, > 0
    opacities: Float[Tensor, "*b n"]  # 0..1
    sh: Float[Tensor, "*b n k 3"]  # colour = 0.5 + sum of bands, sRGB-encoded

    def __post_init__(self) -> None:
        n = self.means.shape[:-1]
        for field, tail in (("quats", (4,)), ("scales", (3,)), ("opacities", ())):
            if getattr(self, field).shape != n + tail:
                raise ValueError(f"Gaussians.{field} is {tuple(getattr(self, field).shape)}, expected {(*n, *tail)}")
        if self.sh.shape[:-2] != n or self.sh.shape[-1] != 3:
            raise ValueError(f"Gaussians.sh is {tuple(self.sh.shape)}, expected {(*n, 'k', 3)}")
        degree_of(self.sh.shape[-2])

    def __len__(self) -> int:
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        return degree_of(self.sh.shape[-2])

    def map(self, f) -> Gaussians:
        """Apply f to every field."""
        return Gaussians(*(f(getattr(self, x.name)) for x in fields(self)))

    def to(self, *args, **kwargs) -> Gaussians:
        return self.map(lambda x: x.to(*args, **kwargs))

    def detach(self) -> Gaussians:
        return self.map(Tensor.detach)

    def __getitem__(self, index) -> Gaussians:
        """Index the batch axes (not the Gaussians): `g[0]` is the first scene of a batch."""
        if self.means.ndim < 3:
            raise IndexError("these Gaussians have no batch axis; use select() to pick Gaussians")
        return self.map(lambda x: x[index])

    def select(self, keep: Bool[Tensor, " n"] | Tensor | slice) -> Gaussians:
        """Keep a subset of an unbatched set, by mask, indices or a slice."""
        return self.map(lambda x: x[keep])

    def with_sh_degree(self, degree: int) -> Gaussians:
        """Truncate the SH bands, or pad them with zeros."""
        k = (degree + 1) ** 2
        pad = self.sh.new_zeros(*self.sh.shape[:-2], max(0, k - self.sh.shape[-2]), 3)
        return replace(self, sh=torch.cat([self.sh[..., :k, :], pad], dim=-2))

    def transform(self, scale: float, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, " 3"]) -> Gaussians:
        """Apply the similarity x -> scale * rotation @ x + translation, to orientation and SH bands as well."""
        rotation = rotation.to(self.means)
        return Gaussians(
            means=scale * self.means @ rotation.T + translation.to(self.means),
            quats=multiply_quats(quat_from_matrix(rotation).expand_as(self.quats), self.quats),
            scales=self.scales * scale,
            opacities=self.opacities,
            sh=rotate_sh(self.sh, rotation),
        )

    @staticmethod
    def cat(parts: list[Gaussians]) -> Gaussians:
        """Concatenate along the Gaussian axis; lower SH degrees are padded with zeros."""
        degree = max(p.sh_degree for p in parts)
        parts = [p.with_sh_degree(degree) for p in parts]
        batch = parts[0].means.ndim - 2
        return Gaussians(*(torch.cat([getattr(p, f.name) for p in parts], dim=batch) for f in fields(Gaussians)))


def multiply_quats(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Hamilton product a b of wxyz quaternions: the rotation b followed by a."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def quat_to_matrix(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices of wxyz quaternions, which need not be unit."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quat_from_matrix(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 4"]:
    """Unit wxyz quaternions of rotation matrices, stable for every angle.

    Each candidate divides by a different component (Shepperd's method); the one with the largest divisor is kept.
    """
    m = rotation
    d = m.diagonal(dim1=-2, dim2=-1)
    trace = d.sum(-1)
    four = torch.stack([1 + trace, *(1 + 2 * d[..., i] - trace for i in range(3))], dim=-1)  # 4 w^2, 4 x^2, ...
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = torch.stack(
        [
            torch.stack([four[..., 0], wx, wy, wz], -1),
            torch.stack([wx, four[..., 1], xy, xz], -1),
            torch.stack([wy, xy, four[..., 2], yz], -1),
            torch.stack([wz, xz, yz, four[..., 3]], -1),
        ],
        dim=-2,
    )
    best = four.argmax(-1)[..., None, None].expand(*four.shape[:-1], 1, 4)
    return torch.nn.functional.normalize(candidates.gather(-2, best).squeeze(-2), dim=-1)
