"""Random scenes to train on: rooms, streets, things, reliefs and ground seen from above, as plain arrays.

`propose(kind, rng, ...)` draws a scene: a world of things, cameras along a path, and a caption of a small fixed
vocabulary. Everything is decided by the random generator, so a seed is a scene. Whether the cameras see anything
sensible is decided after tracing (`checks`).
"""

from __future__ import annotations

from numpy.random import Generator

from pixworld.data.builder import ADJECTIVES, COLOURS, NOUNS, NUMBERS
from pixworld.data.objects import single, tabletop
from pixworld.data.outdoors import nadir, outdoor
from pixworld.data.reliefs import relief
from pixworld.data.rooms import room
from pixworld.data.world import Scene

KINDS = {"room": 0.36, "outdoor": 0.18, "object": 0.12, "tabletop": 0.15, "relief": 0.08, "nadir": 0.11}
_DRAW = {"room": room, "outdoor": outdoor, "object": single, "tabletop": tabletop, "relief": relief, "nadir": nadir}
_GRAMMAR = (
    "a an with and on of room street garden field ground floor walls backdrop sky clear cloudy light warm cool soft "
    "bright sun evening aerial view large small relief cloth"
)
VOCABULARY: tuple[str, ...] = tuple(
    sorted({*_GRAMMAR.split(), *NOUNS, *NOUNS.values(), *COLOURS, *ADJECTIVES, *NUMBERS} - {""})
)


def propose(kind: str, rng: Generator, views: int, aspect: float, images: int) -> Scene:
    """Draw a scene of one of KINDS with `views` cameras; aspect is height / width, images the size of the library."""
    return _DRAW[kind](rng, views, aspect, images)
