"""Pinhole cameras in OpenCV convention, and the paths they can take."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """v pinhole cameras that share an image size; `*b` is any batch shape."""

    c2w: Float[Tensor, "*b v 4 4"]  # camera to world, x right, y down, z forward
    K: Float[Tensor, "*b v 3 3"]  # pixels; the centre of the top-left pixel is (0.5, 0.5)
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.c2w.shape[-2:] != (4, 4) or self.K.shape != (*self.c2w.shape[:-2], 3, 3):
            raise ValueError(f"Cameras need c2w [*b v 4 4], K [*b v 3 3]; got {self.c2w.shape} and {self.K.shape}")

    def __len__(self) -> int:
        return self.c2w.shape[-3]

    @property
    def w2c(self) -> Float[Tensor, "*b v 4 4"]:
        """World to camera, by transposing the rotation (c2w is rigid)."""
        rotation = self.c2w[..., :3, :3].mT
        out = torch.zeros_like(self.c2w)
        out[..., :3, :3] = rotation
        out[..., :3, 3] = -(rotation @ self.c2w[..., :3, 3:]).squeeze(-1)
        out[..., 3, 3] = 1
        return out

    @property
    def positions(self) -> Float[Tensor, "*b v 3"]:
        return self.c2w[..., :3, 3]

    def to(self, *args, **kwargs) -> Cameras:
        return replace(self, c2w=self.c2w.to(*args, **kwargs), K=self.K.to(*args, **kwargs))

    def __getitem__(self, index) -> Cameras:
        """Index the leading batch axis."""
        if self.c2w.ndim < 4:
            raise IndexError("these Cameras have no batch axis; use select() to pick views")
        return replace(self, c2w=self.c2w[index], K=self.K[index])

    def select(self, views) -> Cameras:
        """Pick views by a slice, indices or a mask."""
        return replace(self, c2w=self.c2w[..., views, :, :], K=self.K[..., views, :, :])

    @staticmethod
    def cat(parts: list[Cameras]) -> Cameras:
        """Concatenate along the view axis; all parts share an image size."""
        if len({(p.height, p.width) for p in parts}) != 1:
            raise ValueError("Cameras of different image sizes cannot be concatenated")
        c2w, K = torch.cat([p.c2w for p in parts], dim=-3), torch.cat([p.K for p in parts], dim=-3)
        return replace(parts[0], c2w=c2w, K=K)

    def resize(self, height: int, width: int) -> Cameras:
        """The same views sampled at another image size."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0], dtype=self.K.dtype, device=self.K.device)
        return replace(self, K=self.K * scale[:, None], height=height, width=width)

    def crop(self, top: int, left: int, height: int, width: int) -> Cameras:
        """The views of a window of the image (which may reach outside it)."""
        shift = torch.zeros(3, 3, dtype=self.K.dtype, device=self.K.device)
        shift[0, 2], shift[1, 2] = left, top
        return replace(self, K=self.K - shift, height=height, width=width)

    def transform(self, scale: float, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, " 3"]) -> Cameras:
        """Apply the similarity x -> scale * rotation @ x + translation to the world."""
        c2w = self.c2w.clone()
        rotation = rotation.to(c2w)
        c2w[..., :3, :3] = rotation @ self.c2w[..., :3, :3]
        c2w[..., :3, 3] = scale * self.positions @ rotation.T + translation.to(c2w)
        return replace(self, c2w=c2w)

    def rays(self) -> tuple[Float[Tensor, "*b v h w 3"], Float[Tensor, "*b v h w 3"]]:
        """World origins and directions through the pixel centres; directions have z = 1 in the camera, so
        origin + depth * direction is the point at that z-depth."""
        dtype, device = self.c2w.dtype, self.c2w.device
        y, x = torch.meshgrid(
            torch.arange(self.height, dtype=dtype, device=device) + 0.5,
            torch.arange(self.width, dtype=dtype, device=device) + 0.5,
            indexing="ij",
        )
        K = self.K[..., None, None, :, :]
        local = torch.stack(
            [
                (x - K[..., 0, 2]) / K[..., 0, 0],
                (y - K[..., 1, 2]) / K[..., 1, 1],
                torch.ones_like(x).expand(*K.shape[:-4], self.height, self.width),
            ],
            dim=-1,
        )
        directions = torch.einsum("...ij,...hwj->...hwi", self.c2w[..., :3, :3], local)
        origins = self.positions[..., None, None, :].expand_as(directions)
        return origins, directions

    def project(self, points: Float[Tensor, "*b n 3"]) -> tuple[Float[Tensor, "*b v n 2"], Float[Tensor, "*b v n"]]:
        """Pixel coordinates and z-depth of world points in every view."""
        local = points[..., None, :, :] @ self.w2c[..., :3, :3].mT + self.w2c[..., None, :3, 3]
        depth = local[..., 2]
        pixels = local @ self.K.mT
        return pixels[..., :2] / pixels[..., 2:], depth

    def in_frame(
        self, points: Float[Tensor, "n 3"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
        """Of a single camera: the indices of the world points before it that fall into its image, the row and column of
        the pixel that each falls into, and its z-depth. Whether another one hides it is not asked."""
        pixels, z = (x[0] for x in self.project(points))
        column, row = pixels.floor().long().unbind(-1)
        seen = (z > 0) & (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        which = seen.nonzero().squeeze(-1)
        return which, row[which], column[which], z[which]


def look_at(
    eye: Float[Tensor, "*v 3"], target: Float[Tensor, "*#v 3"], up: Float[Tensor, "*#v 3"]
) -> Float[Tensor, "*v 4 4"]:
    """c2w of cameras at `eye` that look at `target`; `up` points to the top of the image."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    c2w = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(*eye.shape[:-1], 1, 1)
    c2w[..., :3, :] = torch.stack([right, down, forward, eye], dim=-1)
    return c2w
