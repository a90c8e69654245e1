"""USD ParticleField3DGaussianSplat (OpenUSD 26.03 or later): `.usd`, `.usda`, `.usdc`. Needs the package usd-core.

Positions, orientations, scales (linear) and opacities (0..1) are float arrays; the SH coefficients of a particle follow
one another, in the order of splat PLY. The stage is y-up with x right and z towards the viewer, as USD's cameras see it
(ours: y down, z forward), in metres.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from pixworld.files import atomic
from pixworld.gaussians import Gaussians
from pixworld.splats.axes import RUB, flip, placed
from pixworld.splats.checks import open_splats, sound_gaussians
from pixworld.views import InputError

_TYPE = "ParticleField3DGaussianSplat"


def _pxr(path: Path) -> SimpleNamespace:
    """USD's modules. Raises InputError where usd-core is missing or too old."""
    try:
        from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdVol, Vt
    except ImportError:
        UsdVol = None
    if not hasattr(UsdVol, _TYPE):
        raise InputError(f"{path} needs USD 26.03 or later: {sys.executable} -m pip install 'usd-core>=26.3'.")
    return SimpleNamespace(Gf=Gf, Sdf=Sdf, Tf=Tf, Usd=Usd, UsdGeom=UsdGeom, UsdVol=UsdVol, Vt=Vt)


def save_usd(path: Path, gaussians: Gaussians, comments: Sequence[str] = ()) -> None:
    """Write an unbatched set of finite Gaussians as the prim /splats; comments become the comment of the layer.

    Raises InputError when the file cannot be written or usd-core is missing.
    """
    pxr = _pxr(path)
    g = flip(gaussians.detach().to("cpu", torch.float32), RUB)
    means, scales, opacities, sh = (x.contiguous().numpy() for x in (g.means, g.scales, g.opacities, g.sh))
    xyzw = g.quats[:, [1, 2, 3, 0]].numpy()  # as Gf.Quatf lies in memory
    with atomic(path) as temp:
        stage = pxr.Usd.Stage.CreateNew(str(temp))
        pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
        pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        splats = getattr(pxr.UsdVol, _TYPE).Define(stage, "/splats")
        stage.SetDefaultPrim(splats.GetPrim())
        stage.GetRootLayer().comment = "\n".join(comments)
        vectors = pxr.Vt.Vec3fArray.FromNumpy
        splats.CreatePositionsAttr(vectors(means))
        splats.CreateOrientationsAttr(pxr.Vt.QuatfArray.FromNumpy(np.ascontiguousarray(xyzw)))
        splats.CreateScalesAttr(vectors(scales))
        splats.CreateOpacitiesAttr(pxr.Vt.FloatArray.FromNumpy(opacities))
        splats.CreateRadianceSphericalHarmonicsDegreeAttr(g.sh_degree)
        splats.CreateRadianceSphericalHarmonicsCoefficientsAttr(vectors(sh.reshape(-1, 3)))
        if len(g):
            reach = 3 * scales.max(axis=1, keepdims=True)  # three standard deviations, where splats are cut off
            extent = np.stack([(means - reach).min(0), (means + reach).max(0)])
            splats.CreateExtentAttr(vectors(extent))
        stage.GetRootLayer().Save()


def load_usd(path: Path) -> Gaussians:
    """Read the splats of a USD file (float arrays), where their transforms put them.

    Raises InputError when it is not a sound one or usd-core is missing.
    """
    pxr = _pxr(path)
    open_splats(path).close()
    try:
        stage = pxr.Usd.Stage.Open(str(path))
    except pxr.Tf.ErrorException as error:
        reason = " ".join(error.args[0].commentary.split())  # str() of it tells lines of USD's own source
        raise InputError(f"{path} is damaged or no USD file ({reason[:200]}); export it again.") from None
    cache = pxr.UsdGeom.XformCache()
    parts = []
    for prim in stage.Traverse():
        if prim.GetTypeName() == _TYPE:
            world = np.array(cache.GetLocalToWorldTransform(prim)).T  # row vectors
            try:
                parts.append(placed(_part(path, prim), world))
            except ValueError as error:
                raise InputError(f"{path} cannot be read: {error}.") from None
    if not parts:
        raise InputError(f"{path} holds no {_TYPE}; export it as splats.")
    gaussians = Gaussians.cat(parts)
    if pxr.UsdGeom.GetStageUpAxis(stage) == pxr.UsdGeom.Tokens.z:
        upright = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        gaussians = gaussians.transform(1.0, upright, torch.zeros(3))
    return flip(gaussians, RUB)


def _part(path: Path, prim) -> Gaussians:
    def values(name: str, width: int) -> np.ndarray:
        found = prim.GetAttribute(name).Get()
        if found is None:
            raise InputError(f"{path} has splats without {name} in single precision; export it again.")
        return np.array(found, np.float32).reshape(-1, width)

    means, scales = values("positions", 3), values("scales", 3)
    opacities, coefficients = values("opacities", 1), values("radiance:sphericalHarmonicsCoefficients", 3)
    # numpy sees a Gf.Quatf as x y z w
    quats = np.asarray(prim.GetAttribute("orientations").Get()).reshape(-1, 4)[:, [3, 0, 1, 2]]
    degree = prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get()
    k = (degree + 1) ** 2
    if not 0 <= degree <= 3 or any(len(x) != len(means) for x in (scales, opacities, quats)):
        raise InputError(f"{path} has splats of SH degree {degree} or arrays that differ in length; export it again.")
    if len(coefficients) != k * len(means):
        raise InputError(f"{path} has {len(coefficients)} SH coefficients for {len(means)} splats of degree {degree}.")
    return sound_gaussians(path, means, quats, scales, opacities[:, 0], coefficients.reshape(-1, k, 3))
