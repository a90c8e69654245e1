"""What is given and what is held out: the papers' protocols on banks of procedural scenes and on posed photo sets.

| protocol | given, of a bank's scene | given, of a photo set | held out |
|---|---|---|---|
| nvs-2, nvs-4, nvs-8 | that many frames, evenly along the path | as many photos, spread out | all others |
| gen-1-first | frame 0 of 8 | the same, of 8 photos that follow each other by name | the 7 others |
| gen-1-bidirectional | frame 4 of 8 | " | the 7 others |
| gen-2-interpolate | frames 0 and 7 of 8 | " | the 6 between |
| gen-2-extrapolate | frames 3 and 4 of 8 | " | 3 before, 3 behind |

The paper names its four settings of generation without defining them; these definitions are ours. Scenes of a bank that
are longer than 8 frames give 8 evenly along the path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pixworld import learned_matching
from pixworld.camera_files import load_cameras
from pixworld.cameras import Cameras
from pixworld.data.bank import Bank
from pixworld.depth_hints import with_stereo
from pixworld.evaluation import no_hints, point_hints
from pixworld.files import image_to_tensor
from pixworld.photos import load_photos
from pixworld.reconstruct import model_shape, model_view
from pixworld.sfm import triangulate
from pixworld.stereo import match
from pixworld.view_choice import farthest_points
from pixworld.views import InputError, PosedPhoto, Views

FRAMES = 8  # of a sample of generation, given ones too


class Protocol(NamedTuple):
    views: int  # that are given
    generated: tuple[int, ...] = ()  # which of FRAMES are given where the others are generated; none: reconstruction


PROTOCOLS = {
    "nvs-2": Protocol(2),
    "nvs-4": Protocol(4),
    "nvs-8": Protocol(8),
    "gen-1-first": Protocol(1, (0,)),
    "gen-1-bidirectional": Protocol(1, (4,)),
    "gen-2-interpolate": Protocol(2, (0, 7)),
    "gen-2-extrapolate": Protocol(2, (3, 4)),
}


@dataclass(frozen=True)
class Sample:
    """One scene: what a model sees of it, and what it is compared with. No batch axes."""

    name: str
    given: Views  # with the sparse depth that goes in as a hint, and the caption, if any
    held: Views  # the truth
    exact: Float[Tensor, "g h w"] | None = None  # z of the given views, where it is known

    @property
    def prompt(self) -> str:
        return self.given.text[0] if self.given.text else ""

    @property
    def cameras(self) -> Cameras:
        """The given ones, then the held-out ones."""
        return Cameras.cat([self.given.cameras, self.held.cameras])


class Samples(NamedTuple):
    """Scenes of one protocol, loaded as they are asked for."""

    about: str  # the data in words, for the table
    count: int
    load: Callable[[], Iterator[Sample]]


def open_samples(
    data: Path, protocol: Protocol, *, scenes: int, points: int, size: int, patch: int, seed: int
) -> Samples:
    """Samples of a bank (its first scenes, at their own size, with about `points` known depths a given view), or of a
    folder of photo sets, each with a transforms.json (short side `size`, sides multiples of `patch`).

    Of a photo set the hints of reconstruction are points triangulated from the given photos alone; generation has none.
    Raises InputError.
    """
    data = Path(data)
    if (data / "meta.json").is_file():
        return _bank_samples(data, protocol, scenes, points, seed)
    sets = [data] if (data / "transforms.json").is_file() else sorted(x.parent for x in data.glob("*/transforms.json"))
    if not sets:
        raise InputError(
            f"{data} is neither a bank of scenes nor a folder of photo sets; give one with a meta.json, or one whose "
            "folders hold photos and a transforms.json."
        )
    sets = sets[:scenes]
    by = "by SIFT and networks" if learned_matching.available() else "by SIFT alone"
    hints = "no depth" if protocol.generated else f"points triangulated ({by}), and stereo, from them alone"
    about = (
        f"{_counted(len(sets), 'photo set')} of {data.resolve().name}, short side {size} px, given photos with {hints}"
    )
    return Samples(about, len(sets), lambda: (photo_sample(x, protocol, size, patch, seed) for x in sets))


def _bank_samples(folder: Path, protocol: Protocol, scenes: int, points: int, seed: int) -> Samples:
    bank = Bank(folder)
    scenes = min(scenes, len(bank))
    height, width = bank.arrays["images"].shape[2:4]
    about = (
        f"{_counted(scenes, 'procedural scene')} of {folder.resolve().name} (seed {bank.meta['seed']}, which a model "
        f"must not have been trained on), {height} x {width} px, given views with "
    )
    about += f"{points} points of known depth each, exact to 2 %" if points else "no depth"
    about += ", and stereo" if points and not protocol.generated else ""

    def load() -> Iterator[Sample]:
        for i in range(scenes):
            yield split(f"scene {i:04d}", bank.views(i), protocol, points, seed)

    split("scene 0000", bank.views(0), protocol, points, seed)  # so that a bank that is too short is refused at once
    return Samples(about, scenes, load)


def split(name: str, scene: Views, protocol: Protocol, points: int, seed: int) -> Sample:
    """A sample of a scene whose frames, in path order, have exact depth. Raises InputError when it has too few."""
    if protocol.generated:
        _enough(name, len(scene), FRAMES)
        scene, given = scene.select(_evenly(len(scene), FRAMES)), list(protocol.generated)
    else:
        _enough(name, len(scene), protocol.views + 1)
        given = _evenly(len(scene), protocol.views)
    held = [i for i in range(len(scene)) if i not in given]
    seen = scene.select(given)
    known = replace(seen, depth=(point_hints(points, seed) if points else no_hints)(seen.depth))
    if points and not protocol.generated:
        known = with_stereo(known)
    return Sample(name, known, scene.select(held), seen.depth)


def photo_sample(folder: Path, protocol: Protocol, size: int, patch: int, seed: int) -> Sample:
    """A sample of a folder of undistorted photos of one size and their transforms.json. Raises InputError."""
    cameras = {x.name: x.cameras for x in load_cameras(folder / "transforms.json")}
    photos = [p for p in load_photos([folder])[0] if p.name in cameras]
    shapes = Counter(p.image.shape[:2] for p in photos)
    if len(shapes) != 1 or any(p.mask is not None for p in photos):
        raise InputError(f"{folder} needs photos of one size, without masks, whose names are in its transforms.json.")
    if protocol.generated:
        _enough(folder.name, len(photos), FRAMES)
        first = int(np.random.default_rng(seed).integers(len(photos) - FRAMES + 1))
        photos, given = photos[first : first + FRAMES], list(protocol.generated)
    else:
        _enough(folder.name, len(photos), protocol.views + 1)
        path = Cameras.cat([cameras[p.name].resize(*p.image.shape[:2]) for p in photos])
        given = farthest_points(path, protocol.views)

    own = [cameras[p.name].resize(*p.image.shape[:2]) for p in photos]
    shape = model_shape(own[0], size, patch)

    def views(indices: list[int], clouds: list[np.ndarray]) -> Views:
        posed = [
            PosedPhoto(photos[i].name, Views(image_to_tensor(photos[i].image)[None], own[i]), own[i].c2w.new_tensor(x))
            for i, x in zip(indices, clouds, strict=True)
        ]
        return Views.cat([model_view(p, *shape) for p in match(posed)])

    held = [i for i in range(len(photos)) if i not in given]
    nothing = [np.zeros((0, 3))] * len(photos)
    clouds = nothing[: len(given)]
    if not protocol.generated:
        clouds = triangulate([photos[i] for i in given], [own[i] for i in given], seed, lambda *_: None)
    seen = views(given, clouds)
    return Sample(
        folder.name,
        replace(seen, depth=None) if protocol.generated else seen,
        replace(views(held, nothing[: len(held)]), depth=None),
    )


def _evenly(total: int, count: int) -> list[int]:
    """`count` of `total` indices, both ends among them."""
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def _enough(name: str, there: int, needed: int) -> None:
    if there < needed:
        raise InputError(
            f"{name} has {there} views, and this protocol needs {needed}; choose another or longer scenes."
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
