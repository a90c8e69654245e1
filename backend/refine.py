"""`backend refine`: optimise a splat file against photos whose cameras are known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import tyro

from backend.progress import Stages, interruptible


def refine(
    scene: tyro.conf.Positional[Path],
    /,
    photos: Path,
    cameras: Path,
    out: Path,
    steps: int | None = None,
    budget_seconds: float | None = None,
    max_gaussians: int | None = None,
    sh_degree: int | None = None,
    exposure: bool = False,
    poses: bool = False,
    early_stop: bool = False,
    size: int = 512,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Refine a splat file against photos. Ctrl-C ends it early and keeps what it has, or the start if that was better;
    run it on OUT to go on.

    What floats in the open space that the photos were taken from is dropped.

    Args:
        scene: the splat file to start from
        photos: folder of the undistorted photos: `photos` in the folder of `backend reconstruct`
        cameras: their cameras in the frame of the scene: `transforms.json` there; what it holds out is measured
        out: splat file to write; may be the scene itself. Corrected cameras go beside it, as OUT.transforms.json
        steps: optimisation steps, one photo each; without it 300, or as many as the time allows, but no more than 60 a
            photo where photos are far apart
        budget_seconds: refine until then at most; the schedule fits itself in
        max_gaussians: the budget that detail grows into; without it 120,000, or the scene's number if that is more
        sh_degree: 0 to 3, of the result; without it that of the scene. View-dependent colour needs many photos
        exposure: allow each photo a gain and an offset of its own
        poses: correct the cameras
        early_stop: spare one photo, and keep what renders it best
        size: short side in pixels that photos are refined at, never enlarged
        seed: of everything random
        device: where to compute
    """
    from backend.folders import output_folder
    from backend.options import check_options
    from pixworld.camera_files import load_cameras, save_cameras
    from pixworld.photos import load_photos
    from pixworld.reconstruct import choose_device, mean_psnr, photo_view, pose_apart
    from pixworld.refine import RefineOptions
    from pixworld.refine import refine as run
    from pixworld.splats import format_of, load_splats, save_splats
    from pixworld.stereo import match
    from pixworld.views import InputError, NamedCamera

    check_options(
        steps=steps,
        budget_seconds=budget_seconds,
        max_gaussians=max_gaussians,
        sh_degree=sh_degree,
        size=size,
        seed=seed,
    )
    format_of(out)
    to = choose_device(device)
    gaussians = load_splats(scene)
    if not len(gaussians):
        raise InputError(f"{scene} holds no Gaussians; give a reconstructed scene.")
    with output_folder(out.parent) as folder:
        save_splats(folder / out.name, gaussians)  # what cannot be written is better known before the work
        with Stages() as stages, interruptible(lambda: stages.stage == "refine") as stop:
            loaded, skipped = load_photos([photos])
            named = load_cameras(cameras)
            spared = {x.name for x in named if x.split == "holdout"}
            held = {p.name for p in loaded if {p.name, Path(p.name).stem} & spared}
            if len(held) == len(loaded):
                raise InputError(f"{cameras} marks all of these photos as held out; give others.")
            posed, unposed, _ = pose_apart(loaded, named, held, size, seed=seed, device=to, on_progress=stages)
            for name, reason in [*skipped, *unposed]:
                print(f"skipped {name}: {reason}", file=sys.stderr)
            train, test = ([p for p in posed if (p.name in held) == apart] for apart in (False, True))
            options = RefineOptions(steps, budget_seconds, max_gaussians, sh_degree, exposure, poses, early_stop, seed)
            views = [photo_view(p).to(to) for p in match(train, stages)]
            refined = run(gaussians.to(to), views, options, on_step=stages.on_refine, stop=stop)
            stages("measure", 0, 1)
            seen = [p.views.to(to) for p in test or train]
            scores = [mean_psnr(g.to(to), seen) for g in (gaussians, refined.gaussians)]
        save_splats(folder / out.name, refined.gaussians.to("cpu"), ["PixWorld: refined"])
        if poses:
            corrected = [NamedCamera(p.name, c) for p, c in zip(train, refined.cameras)]
            name = f"{out.stem}.transforms.json"
            save_cameras(folder / name, corrected, images=photos.resolve().as_posix())
    print(f"{out}: {len(refined.gaussians)} Gaussians after {refined.steps} steps on {len(train)} photos")
    print(f"PSNR of {'held-out' if test else 'these'} photos: {scores[0]:.2f} dB before, {scores[1]:.2f} dB now")
    if not refined.steps:
        print("It was ended before it got better: what is kept is the start.", file=sys.stderr)
    if scores[1] < scores[0]:
        print("It got worse: refinement first shakes a scene up. Give it more steps or seconds.", file=sys.stderr)
