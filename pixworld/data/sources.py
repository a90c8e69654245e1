"""What training and validation draw scenes from: banks, scene folders, shards, photos, and mixtures of them.

Scenes are read when they are drawn. One that cannot be used is named once, counted, and another takes its place. Which
one depends on the draw and the files alone, not on what was met before, so that a resumed run sees the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F

from pixworld.cameras import Cameras
from pixworld.data.bank import Bank
from pixworld.data.frames import decode
from pixworld.data.scene_folders import Clip, Entry, find_photos, find_scenes, load_clip
from pixworld.data.stores import Folder, Tar
from pixworld.views import InputError, Views

FRAMES, SHAPE = 8, (64, 96)  # of a sample, where neither the caller nor a bank says it
CACHED_CLIPS = 256  # whose cameras are kept in memory
NAMED = 20  # scenes that were skipped; further ones are only counted
HOPELESS = 100  # bad scenes at the start that end the search for a good one


@runtime_checkable
class Source(Protocol):
    frames: int  # of a scene in a batch
    shape: tuple[int, int]  # height, width in a batch

    def __len__(self) -> int:
        """The number of scenes, bad ones included."""

    def views(self, i: int) -> Views:
        """Scene i as validation sees it, the same every time: at most `frames` frames, at `shape`."""

    def sample(self, i: int, rng: np.random.Generator, frames: int, shape: tuple[int, int]) -> Views:
        """Frames of scene i in path order, unbatched: `frames` of them (one of a photo), a random stride apart, at
        `shape` (height, width). Depth is 0 where it is unknown. Where the scene cannot be used, those of another one.
        Raises InputError when no scene can be used."""

    def report(self) -> str:
        """How many scenes there are, and what could not be used."""


def open_source(spec: str, frames: int | None = None, shape: tuple[int, int] | None = None) -> Source:
    """Open what `spec` names: a bank folder, a folder of scene folders (see scene_folders), a .tar shard or a folder of
    them, a folder of photos; or several with commas between, each with an optional weight: "bank:2,re10k,photos:0.5".

    `frames` and `shape` (height, width) are those of a batch; without them, those of the first bank, or else 8 and 64 x
    96. Scenes of a mixture are numbered so that those of the first member come last, where validation takes its own.
    Raises InputError.
    """
    members, weights = [], []
    for part in spec.split(","):
        path, weight = _weighted(part.strip())
        members.append(_open(path))
        weights.append(weight)
    bank = next((m.bank for m in members if isinstance(m, BankSource)), None)
    if bank is not None:
        frames = frames or bank.meta["views"]
        shape = shape or (bank.meta["height"], bank.meta["width"])
    for member in members:
        member.frames, member.shape = frames or FRAMES, shape or SHAPE
    return members[0] if len(members) == 1 else Mixture(members, weights)


class BankSource:
    """The scenes of a bank of procedural scenes."""

    def __init__(self, bank: Bank):
        self.bank = bank
        self.frames: int = bank.meta["views"]
        self.shape: tuple[int, int] = bank.meta["height"], bank.meta["width"]

    def __len__(self) -> int:
        return len(self.bank)

    def views(self, i: int) -> Views:
        return self.sample(i, np.random.default_rng(0), self.frames, self.shape)

    def sample(self, i: int, rng: np.random.Generator, frames: int, shape: tuple[int, int]) -> Views:
        """Nothing is drawn where all of a scene's frames are wanted at their own size."""
        views = self.bank.views(i)
        if frames > len(views):
            raise InputError(f"the bank's scenes have {len(views)} frames, {frames} are wanted; build another bank.")
        if frames < len(views):
            start = int(rng.integers(0, len(views) - frames + 1))
            views = views.select(slice(start, start + frames))
        if shape == (views.cameras.height, views.cameras.width):
            return views
        if min(shape) > 1.5 * min(views.cameras.height, views.cameras.width):  # a little is the crop of another shape
            raise InputError(
                f"the bank's images are {views.cameras.height} x {views.cameras.width} px, and {shape[0]} x {shape[1]} "
                "are wanted; build a larger one."
            )
        return _resized(views, shape)

    def report(self) -> str:
        return f"{len(self)} procedural scenes"


class Scenes:
    """Scenes, or photos, that are files."""

    def __init__(self, name: str, entries: Sequence[Entry], damage: Sequence[str] = ()):
        self.name, self.entries, self.damage = name, entries, damage
        self.frames, self.shape = FRAMES, SHAPE
        self.bad: dict[int, str] = {}  # scene -> why it could not be used at least once
        self._some_good = False
        self._load = lru_cache(CACHED_CLIPS)(load_clip)
        for sentence in damage:
            _warn(sentence)

    def __len__(self) -> int:
        return len(self.entries)

    def views(self, i: int) -> Views:
        def middle(clip: Clip, count: int) -> Views:
            stride = min(sum(clip.stride) // 2, _widest(clip, count))
            first = (len(clip.frames) - 1 - stride * (count - 1)) // 2
            return read_views(clip, range(first, first + stride * count, stride), self.shape)

        return self._first(chain(range(i, len(self)), range(i - 1, -1, -1)), self.frames, min(self.shape), middle)

    def sample(self, i: int, rng: np.random.Generator, frames: int, shape: tuple[int, int]) -> Views:
        span, start, top, left = rng.random(4).tolist()

        def draw(clip: Clip, count: int) -> Views:
            least, most = (min(x, _widest(clip, count)) for x in clip.stride)
            stride = least + int(span * (most - least + 1))
            first = int(start * (len(clip.frames) - stride * (count - 1)))
            return read_views(clip, range(first, first + stride * count, stride), shape, (top, left))

        return self._first(chain(_downwards(i, rng), range(i + 1, len(self))), frames, min(shape), draw)

    def report(self) -> str:
        sentences = [f"{self.name}: {len(self)} scenes, of which {len(self.bad)} could not be used", *self.damage]
        sentences += [f"skipped {self.entries[i].name}: {self.bad[i]}" for i in list(self.bad)[:NAMED]]
        return "\n".join(sentences + [f"and {len(self.bad) - NAMED} more"] * (len(self.bad) > NAMED))

    def _first(self, order: Iterable[int], frames: int, side: int, draw: Callable[[Clip, int], Views]) -> Views:
        """What is drawn from the first scene of an order that can be used. Raises InputError."""
        for failed, i in enumerate(order):
            if failed == HOPELESS and not self._some_good:
                break
            try:
                clip = self._load(self.entries[i], side)
                count = 1 if self.entries[i].kind == "photo" else frames
                if len(clip.frames) < count:
                    raise InputError(f"it has {len(clip.frames)} frames, {count} are wanted")
                views = draw(clip, count)
                self._some_good = True
                return views
            except MemoryError:
                raise
            except Exception as error:  # the decoders raise many kinds on broken files
                self._skip(i, str(error) or type(error).__name__)
        i, reason = next(iter(self.bad.items()))
        raise InputError(f"No scene of {self.name} can be used; of {self.entries[i].name}: {reason}.")

    def _skip(self, i: int, reason: str) -> None:
        if i in self.bad:
            return
        self.bad[i] = reason
        if len(self.bad) <= NAMED:
            _warn(f"skipped {self.entries[i].name}: {reason}")
        elif len(self.bad) == NAMED + 1:
            _warn(f"more scenes of {self.name} were skipped; from here on they are only counted")


class Mixture:
    """Several sources; a batch comes from one of them. Scenes of the first member have the last numbers."""

    def __init__(self, members: Sequence[Source], weights: Sequence[float]):
        self.members, self.weights = list(reversed(members)), np.array(list(reversed(weights)))
        self.frames, self.shape = members[0].frames, members[0].shape
        self._starts = np.cumsum([0, *(len(m) for m in self.members)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def draw(self, rng: np.random.Generator, scenes: int) -> tuple[Source, int]:
        """A member by its weight, and how many of its scenes are among the first `scenes` of all."""
        counts = np.clip(scenes - self._starts[:-1], 0, np.diff(self._starts))
        share = self.weights * (counts > 0)
        k = int(rng.choice(len(share), p=share / share.sum()))
        return self.members[k], int(counts[k])

    def views(self, i: int) -> Views:
        member, i = self._at(i)
        return member.views(i)

    def sample(self, i: int, rng: np.random.Generator, frames: int, shape: tuple[int, int]) -> Views:
        member, i = self._at(i)
        return member.sample(i, rng, frames, shape)

    def report(self) -> str:
        return "\n".join(member.report() for member in reversed(self.members))

    def _at(self, i: int) -> tuple[Source, int]:
        k = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self.members[k], i - int(self._starts[k])


def read_views(
    clip: Clip, frames: Sequence[int], shape: tuple[int, int], position: tuple[float, float] = (0.5, 0.5)
) -> Views:
    """Some frames of a clip as unbatched views, in units of their path's extent; all show the same part of the image.
    See frames.decode."""
    chosen = [clip.frames[i] for i in frames]
    decoded = [decode(frame, shape, position) for frame in chosen]
    c2w = torch.stack([torch.eye(4) if frame.camera is None else frame.camera.c2w[0] for frame in chosen])
    images, K, depth = (torch.stack(x) for x in zip(*decoded, strict=True))
    return normalised(Views(images, Cameras(c2w, K, *shape), depth, text=(clip.caption,)))


def normalised(views: Views) -> Views:
    """The scene seen from its first camera, with the farthest other camera (where there is one elsewhere) at distance
    1: real sets come in arbitrary units."""
    c2w = views.cameras.c2w.double()
    c2w = torch.linalg.inv(c2w[0]) @ c2w
    extent = c2w[:, :3, 3].norm(dim=-1).max().item()
    unit = extent if extent > 1e-9 else 1.0
    c2w[:, :3, 3] /= unit
    return replace(views, cameras=replace(views.cameras, c2w=c2w.float()), depth=views.depth / unit)


def _downwards(i: int, rng: np.random.Generator) -> Iterator[int]:
    """i, and what to try in its place: ever lower numbers, far apart, as a bad stretch may be long and the scenes at
    the end are for validation."""
    yield i
    while i > 0:
        i = int(rng.integers(0, i))
        yield i


def _widest(clip: Clip, count: int) -> int:
    """The largest stride at which `count` frames fit into a clip."""
    return max(1, (len(clip.frames) - 1) // max(1, count - 1))


def _resized(views: Views, shape: tuple[int, int]) -> Views:
    """The middle of every frame, covering `shape`."""
    height, width = views.cameras.height, views.cameras.width
    scale = max(shape[0] / height, shape[1] / width)
    size = max(shape[0], round(height * scale)), max(shape[1], round(width * scale))
    top, left = (size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2
    window = ..., slice(top, top + shape[0]), slice(left, left + shape[1])
    images = F.interpolate(views.images, size, mode="bilinear", antialias=True)
    depth = F.interpolate(views.depth[None], size, mode="nearest-exact")[0]
    cameras = views.cameras.resize(*size).crop(top, left, *shape)
    return replace(views, images=images[window], depth=depth[window], cameras=cameras)


def _weighted(part: str) -> tuple[Path, float]:
    """A path and its weight, 1 where none is given."""
    path, _, weight = part.rpartition(":")
    try:
        weight = float(weight)
    except ValueError:
        path, weight = part, 1.0
    if not path or not 0 < weight < math.inf:
        raise InputError(f"{part!r} is not a data set; give PATH or PATH:WEIGHT with a weight above 0")
    return Path(path), weight


def _open(path: Path) -> BankSource | Scenes:
    if (path / "meta.json").is_file() and (path / "captions.json").is_file():
        return BankSource(Bank(path))
    entries, damage = find_entries(path)
    return Scenes(path.name, entries, damage)


def find_entries(path: Path) -> tuple[list[Entry], list[str]]:
    """The scenes, or, where there are none, the photos of a folder, a shard or a folder of shards; and a sentence for
    each damaged shard. Raises InputError when there is nothing."""
    if not path.exists():
        raise InputError(
            f"{path} does not exist; give a bank (python -m pixworld.data.bank {path} --scenes 8000 --seed 1 builds "
            "one), a folder of scene folders, .tar shards or photos."
        )
    tars = [path] if path.is_file() else sorted(path.glob("*.tar"))
    stores = [Tar(x) for x in tars] if tars else [Folder(path)]
    entries = [entry for store in stores for entry in find_scenes(store)]
    entries = entries or [entry for store in stores for entry in find_photos(store)]
    damage = [f"shard {x.path.name}: {x.damage}; what stands before that is used" for x in stores if x.damage]
    if not entries:
        raise InputError(
            f"{path} holds no scenes{f' ({damage[0]})' if damage else ''}; give a bank, scene folders "
            "(transforms.json, COLMAP or RealEstate10K), .tar shards of them, or photos."
        )
    return entries, damage


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
