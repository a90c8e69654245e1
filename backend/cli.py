"""The command line: `backend COMMAND`, a function each."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from backend.client import BackendError
from backend.convert import convert, info
from backend.evaluate import evaluate
from backend.generate import generate
from backend.progress import Stages, interruptible
from backend.protocol import DEFAULT_ADDRESS, ProtocolError
from backend.refine import refine
from backend.train import train
from backend.viewer import view

Device = Literal["auto", "cpu", "cuda"]


def reconstruct(
    photos: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    cameras: Path | None = None,
    holdout: int = 0,
    views: int = 8,
    size: int = 512,
    init: Literal["pixworld", "sfm"] = "pixworld",
    refine: int | None = None,
    budget_seconds: float | None = None,
    max_gaussians: int | None = None,
    exposure: bool = False,
    refine_poses: bool = False,
    early_stop: bool = False,
    checkpoint: Path | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Reconstruct a scene from photos: scene.ply, transforms.json, report.json and preview.png.

    Args:
        photos: a folder of photos, photo files (JPEG or PNG), or a video
        out: folder for the results
        cameras: transforms.json of the photos' cameras; without it they are found by structure from motion
        holdout: keep every N-th photo out and measure on it; 0 keeps none
        views: photos that the model sees at once, at most
        size: short side in pixels at which photos are refined and measured, never enlarged
        init: what is refined: the model's prediction, or points of structure from motion with lifted pixels
        refine: optimisation steps after the prediction, one photo each; without it 300, or as many as the time allows,
            but no more than 60 a photo where photos are far apart. Ctrl-C while they run keeps what there is, or the
            prediction if that was better
        budget_seconds: refine until then at most; the schedule fits itself in
        max_gaussians: the budget that detail grows into; without it 120,000, or the prediction's number if that is more
        exposure: allow each photo a gain and an offset of its own
        refine_poses: correct the cameras while refining
        early_stop: spare one photo while refining, and keep what renders it best
        checkpoint: folder of a trained model; without it the one that comes with the package
        seed: of everything random
        device: where to compute
    """
    from backend.folders import reconstruct_folder
    from backend.options import make_options

    options = make_options(
        holdout=holdout,
        views=views,
        size=size,
        init=init,
        refine=refine,
        budget_seconds=budget_seconds,
        max_gaussians=max_gaussians,
        exposure=exposure,
        refine_poses=refine_poses,
        early_stop=early_stop,
        checkpoint=checkpoint,
        seed=seed,
        device=device,
    )
    with Stages() as stages, interruptible(lambda: stages.stage == "refine") as stop:
        report = reconstruct_folder(photos, out, cameras, options, stages, on_refine=stages.on_refine, stop=stop)
    for skipped in report["skipped"]:
        print(f"skipped {skipped['name']}: {skipped['reason']}", file=sys.stderr)
    for unposed in report["unregistered"]:
        print(f"no camera was found for {unposed['name']}: {unposed['reason']}", file=sys.stderr)
    held = f" ({len(report['per_image'])} more held out)" if report["per_image"] else ""
    print(f"{out}/scene.ply: {report['gaussians']} Gaussians from {report['views']} photos{held}")
    if stop() and not report["refinement"]["steps"]:
        print("The refinement was ended before it got better: what is kept is the start.", file=sys.stderr)
    if report.get("psnr") is not None:
        print(
            f"held-out PSNR {report['psnr']:.2f} dB (before refinement {report['feedforward_psnr']:.2f}, "
            f"copy of the nearest photo {report['baseline_nearest_view_psnr']:.2f})"
        )
        if report["psnr"] < report["baseline_nearest_view_psnr"]:
            why = "the cameras may be of other photos" if cameras else "the photos may be too far apart"
            print(f"That is worse than a copy: {why}.", file=sys.stderr)


def render(scene: tyro.conf.Positional[Path], /, cameras: Path, out: Path) -> None:
    """Render a splat file: one PNG a camera, named like the camera's image, and video.mp4 of cameras of one size.

    Args:
        scene: the splat file, of any format that `backend convert` reads
        cameras: transforms.json of the cameras
        out: folder for the images
    """
    from backend.folders import render_folder

    with Stages() as stages:
        names = render_folder(scene, cameras, out, stages)
    print(f"{out}: {', '.join(names) if len(names) < 5 else f'{names[0]} .. {names[-1]}, {len(names)} files'}")


def serve(bind: str = DEFAULT_ADDRESS, device: Device = "auto", keys: Path | None = None) -> None:
    """Serve Blender and other clients until Ctrl-C: on this machine, or, with keys, wherever they are.

    Args:
        bind: address to listen at; without keys only this machine's own (127.0.0.1, localhost, [::1], ipc://) are taken
        device: where to compute
        keys: folder of `backend keys`; only clients that have its client.json are let in, and all is encrypted
    """
    from backend.server import serve as run

    run(bind, device, keys=keys)


def keys(folder: tyro.conf.Positional[Path], /) -> None:
    """Make the keys of a service that other machines may reach: server.json stays, client.json goes to the clients.

    Args:
        folder: where to write them, for `backend serve --keys`
    """
    from backend.access import CLIENT, SERVER, make_keys

    make_keys(folder)
    print(f"{folder}/{SERVER} is for `backend serve --keys {folder}`; copy {folder}/{CLIENT} to the clients' machines")


def doctor(build_gsplat: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False) -> None:
    """Say what this machine has, what will be slow or missing, and the command that mends it.

    Args:
        build_gsplat: compile gsplat's CUDA kernels now, instead of on first use
    """
    from backend.doctor import doctor as run

    run(build_gsplat)


COMMANDS = {
    "reconstruct": reconstruct,
    "generate": generate,
    "refine": refine,
    "render": render,
    "convert": convert,
    "info": info,
    "view": view,
    "serve": serve,
    "keys": keys,
    "train": train,
    "evaluate": evaluate,
    "doctor": doctor,
}


def main(args: list[str] | None = None) -> None:
    """Run `backend ...`."""
    run_command(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="backend", description=__doc__, args=args))


def run_command(command: Callable[[], object], name: str = "backend") -> None:
    """Run a command. What the user can mend is one sentence on stderr and exit code 2; an interruption is 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary files go as with Ctrl-C
    try:
        command()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except (BackendError, ProtocolError) as error:
        _refuse(name, error)
    except Exception as error:
        # only now: these imports load torch, which `serve` and `--help` do without
        from torch import OutOfMemoryError

        from pixworld.views import Cancelled, InputError

        if isinstance(error, InputError):
            _refuse(name, error)
        if isinstance(error, Cancelled):
            sys.exit(130)
        if isinstance(error, MemoryError | OutOfMemoryError):
            _refuse(name, "memory ran out; use fewer photos or a smaller --size")
        raise


def _refuse(name: str, message: object) -> None:
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(2)
