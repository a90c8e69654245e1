"""`backend refine`: optimise a splat file against photos whose cameras are known."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import tyro


def refine(
    scene: tyro.conf.Positional[Path],
    /,
    photos: Path,
    cameras: Path,
    out: Path,
    steps: int = 300,
    budget_seconds: float | None = None,
    max_gaussians: int = 120_000,
    sh_degree: int | None = None,
    exposure: bool = False,
    poses: bool = False,
    early_stop: bool = False,
    size: int = 512,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Refine a splat file against photos. Ctrl-C ends it early and keeps what it has; run it on OUT to go on.

    Args:
        scene: the splat file to start from
        photos: folder of the undistorted photos
        cameras: their cameras, in the frame of the scene: transforms.json or another camera file
        out: splat file to write; may be the scene itself. Corrected cameras go beside it, as OUT.transforms.json
        steps: optimisation steps, one photo each, at most
        budget_seconds: end by then, whatever the steps
        max_gaussians: let detail grow up to as many Gaussians; 0 keeps their number
        sh_degree: 0 to 3, of the result; without it that of the scene. View-dependent colour needs many photos
        exposure: allow each photo a gain and an offset of its own
        poses: correct the cameras
        early_stop: spare one photo, and keep what renders it best
        size: short side in pixels that photos are refined at, never enlarged
        seed: of everything random
        device: where to compute
    """
    from pixworld.camera_files import load_cameras, save_cameras
    from pixworld.photos import load_photos
    from pixworld.poses import poses_from_cameras
    from pixworld.reconstruct import choose_device, photo_view
    from pixworld.refine import RefineOptions
    from pixworld.refine import refine as run
    from pixworld.splats import format_of, load_splats, save_splats
    from pixworld.views import InputError, NamedCamera

    if steps < 1:
        raise InputError(f"--steps {steps} does nothing; give 1 or more.")
    if sh_degree is not None and not 0 <= sh_degree <= 3:
        raise InputError(f"--sh-degree {sh_degree} is unknown; give 0 to 3.")
    format_of(out)
    to = choose_device(device)
    gaussians = load_splats(scene).to(to)
    if not len(gaussians):
        raise InputError(f"{scene} holds no Gaussians; give a reconstructed scene.")
    loaded, skipped = load_photos([photos])
    posed, unposed, _ = poses_from_cameras(loaded, load_cameras(cameras), size, seed=seed, on_progress=_silent)
    for name, reason in [*skipped, *unposed]:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    options = RefineOptions(steps, budget_seconds, max_gaussians, sh_degree, exposure, poses, early_stop, seed)
    views = [photo_view(p).to(to) for p in posed]
    with _interruptible() as stopped, _bar() as on_step:
        refined = run(gaussians, views, options, on_step=on_step, stop=stopped)
    save_splats(out, refined.gaussians.to("cpu"), ["PixWorld: refined"])
    if poses:
        corrected = [NamedCamera(p.name, c.to("cpu")) for p, c in zip(posed, refined.cameras)]
        save_cameras(out.with_suffix(".transforms.json"), corrected, images=photos.resolve().as_posix())
    print(f"{out}: {len(refined.gaussians)} Gaussians after {refined.steps} steps on {len(posed)} photos")


def _silent(stage: str, step: int, steps: int) -> None:
    pass


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """While the block runs, a first Ctrl-C is a wish to end that the yielded function tells; a second interrupts."""
    asked = threading.Event()

    def on_interrupt(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar() -> Iterator[Callable[[object], None]]:
    """Progress on stderr with the PSNR: a bar on a terminal, a line every tenth elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    text = TextColumn("{task.description}")
    with Progress(text, BarColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("refine", total=1.0)
        tenths = 0

        def on_step(progress) -> None:
            nonlocal tenths
            said = f"refine, step {progress.step}, {progress.psnr:.2f} dB"
            bar.update(task, completed=progress.fraction, description=said)
            if not console.is_terminal and int(10 * progress.fraction) > tenths:
                tenths = int(10 * progress.fraction)
                print(f"{said}, {10 * tenths} %", file=sys.stderr, flush=True)

        yield on_step
