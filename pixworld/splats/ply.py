"""Splat PLY: the layout of Kerbl et al. 2023, which every splat tool reads.

One `vertex` element, little-endian float32: x y z, nx ny nz (zero), f_dc_0..2, f_rest_* (channel-major: all of red,
then green, then blue; none at degree 0), opacity (logit), scale_0..2 (ln), rot_0..3 (wxyz).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from plyfile import PlyData, PlyElement

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.views import InputError

# opacities are clamped to this distance from 0 and 1, where the logit is infinite; it is below float32's step at 1
_OPACITY_MARGIN = 1e-7


def _properties(degree: int) -> list[str]:
    rest = 3 * ((degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def save_ply(path: Path, gaussians: Gaussians, comments: Sequence[str] = ()) -> None:
    """Write an unbatched set of finite Gaussians. Comments become `comment` lines (one line of ASCII each).

    Raises InputError when the file cannot be written.
    """
    assert gaussians.means.ndim == 2, "save_ply writes one scene, without batch axes"
    g = gaussians.map(lambda x: x.detach().double().cpu())
    means = g.means
    columns = torch.cat(
        [
            means,
            torch.zeros_like(means),
            g.sh[:, 0],
            rearrange(g.sh[:, 1:], "n k c -> n (c k)"),
            torch.logit(g.opacities.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN))[:, None],
            g.scales.log(),
            g.quats,
        ],
        dim=-1,
    )
    assert columns.isfinite().all(), "Gaussians must be finite, with scales above 0"
    names = _properties(gaussians.sh_degree)
    table = columns.to(torch.float32).numpy()
    vertices = np.ascontiguousarray(table).view([(name, "<f4") for name in names]).reshape(-1)
    lines = [" ".join(comment.split()).encode("ascii", "replace").decode() for comment in comments]
    with atomic(path) as temp:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=lines).write(temp)


def load_ply(path: Path) -> Gaussians:
    """Read a splat PLY (binary or text, SH degree 0 to 3). Raises InputError when it is not a sound one."""
    path = Path(path)
    try:
        ply = PlyData.read(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a splat PLY.") from None
    except Exception as error:  # plyfile lets many kinds through on files that are no PLY
        raise InputError(f"{path} cannot be read as a PLY file ({error}); export it again.") from error
    if [element.name for element in ply.elements] != ["vertex"]:
        raise InputError(f"{path} must hold exactly one `vertex` element and nothing else; export it as a 3DGS PLY.")
    data = ply["vertex"].data
    rest = sum(name.startswith("f_rest_") for name in data.dtype.names)
    if rest not in (0, 9, 24, 45):
        raise InputError(f"{path} has {rest} f_rest properties; 0, 9, 24 or 45 (SH degree 0 to 3) can be read.")
    degree = {0: 0, 9: 1, 24: 2, 45: 3}[rest]
    wanted = [name for name in _properties(degree) if name not in ("nx", "ny", "nz")]
    missing = [name for name in wanted if name not in data.dtype.names]
    if missing:
        raise InputError(f"{path} is no splat file: it lacks {', '.join(missing[:4])}; export it as a 3DGS PLY.")
    try:
        table = np.stack([data[name].astype(np.float32) for name in wanted], axis=-1)
    except (TypeError, ValueError) as error:  # list properties
        raise InputError(f"{path} is no splat file ({error}); export it as a 3DGS PLY.") from error
    if not np.isfinite(table).all():
        raise InputError(f"{path} holds values that are not finite; export it again.")
    means, dc, bands, opacity, scales, quats = torch.from_numpy(table).split([3, 3, rest, 1, 3, 4], dim=-1)
    lengths = quats.norm(dim=-1, keepdim=True)
    if (lengths == 0).any():
        raise InputError(f"{path} holds rotations of length zero; export it again.")
    gaussians = Gaussians(
        means=means.contiguous(),
        quats=quats / lengths,
        scales=scales.exp(),
        opacities=opacity.squeeze(-1).sigmoid(),
        sh=torch.cat([dc[:, None], rearrange(bands, "n (c k) -> n k c", c=3)], dim=1),
    )
    if not gaussians.scales.isfinite().all():
        raise InputError(f"{path} holds scales too large for a splat; scale_* must be natural logarithms.")
    return gaussians
