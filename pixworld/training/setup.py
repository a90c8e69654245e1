"""What a run needs before its first step: data, model, folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pixworld.data.bank import build_bank
from pixworld.data.sampling import training_batch
from pixworld.data.sources import Mixture, Source, open_source
from pixworld.methods.base import Method
from pixworld.training import checkpoints
from pixworld.training.config import TrainConfig
from pixworld.training.distributed import Ranks, blocks, place
from pixworld.training.memory import recompute_blocks
from pixworld.training.settings import Settings
from pixworld.views import InputError, Views

PROCEDURAL_SCENES = 4000  # built by `--data procedural` when no bank is there yet
VALIDATION_SCENES = 32  # at the end of the source, never trained on


def open_data(settings: Settings, out: Path, ranks: Ranks, scenes: int = PROCEDURAL_SCENES) -> Source:
    """The source that --data names, at the image size of the method; for "procedural", a bank of `scenes` scenes in
    OUT, which is built when it is not there. Raises InputError."""
    size, patch = settings.method.size, settings.method.patch
    shape = (size, int(size * settings.method.aspect) // patch * patch)
    spec = settings.data
    if spec == "procedural":
        spec = str(out / "bank")
        if ranks.first and not (out / "bank" / "meta.json").exists():
            print(f"building a bank of {scenes} procedural scenes in {spec}", flush=True)
            build_bank(
                out / "bank", scenes=scenes, seed=1, height=shape[0], width=shape[1], views=settings.method.frames
            )
        ranks.barrier()
    source = open_source(spec, frames=settings.method.frames, shape=shape)
    if len(source) <= VALIDATION_SCENES:
        raise InputError(f"the data has {len(source)} scenes; training needs more than {VALIDATION_SCENES}")
    if isinstance(source, Mixture) and len(source.members[-1]) <= VALIDATION_SCENES:
        raise InputError(
            f"the first data named has {len(source.members[-1])} scenes, and validation needs {VALIDATION_SCENES}; "
            "name a larger set first"
        )
    return source


def reader(source: Source, settings: Settings, ranks: Ranks) -> Callable[[int, int], Views]:
    """(step, n) -> n scenes of a step for this rank, on its device. Raises InputError."""
    run, scenes = settings.train, len(source) - VALIDATION_SCENES
    if run.batch % ranks.world:
        raise InputError(f"a batch of {run.batch} cannot be shared by {ranks.world} ranks; --set batch to a multiple")

    def batch(step: int, n: int) -> Views:
        of_all = n * ranks.world
        views = training_batch(
            source, of_all, run.seed, step, scenes, ranks.rank, ranks.world, multiple=settings.method.patch
        )
        return views.to(ranks.device)

    return batch


def validation_scenes(source: Source) -> list[Views]:
    return [source.views(i) for i in range(len(source) - VALIDATION_SCENES, len(source))]


def outline(settings: Settings) -> Method:
    """The model without its numbers, on torch's meta device."""
    with torch.device("meta"):
        return settings.method.build()


def build(settings: Settings, ranks: Ranks, init: Path | None = None) -> Method:
    """The model, alike in all ranks, on its device or shared by the ranks. Raises InputError."""
    torch.manual_seed(settings.train.seed)
    model = settings.method.build()
    if init is not None:
        ranks.say(checkpoints.start_from(model, init))
    if settings.train.gradient_checkpointing == "blocks":
        recompute_blocks(model)
    place(model, ranks)
    return model


def compile_blocks(model: Method, run: TrainConfig, ranks: Ranks) -> None:
    """torch.compile a block at a time: they are alike and share the result; their sizes vary from step to step."""
    if run.compile == "on" or (run.compile == "auto" and ranks.device.type == "cuda"):
        # A kind of step is compiled apart: which streams there are, one view or several, an empty prompt or words. Past
        # torch's own limit of 8 kinds the rest would stay uncompiled.
        torch._dynamo.config.recompile_limit = 64
        for block in blocks(model):
            block.forward = torch.compile(block.forward, dynamic=True)


def find_run(out: Path, resume: bool) -> Path | None:
    """The checkpoint that a run in OUT goes on from; None for one that starts. Raises InputError."""
    latest = checkpoints.latest(out)
    if latest and not resume:
        raise InputError(f"{out} already holds a run; add --resume to continue it, or choose another --out")
    if resume and not latest:
        raise InputError(f"{out} holds no checkpoint to resume from; leave --resume out to start there")
    return latest


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from None
