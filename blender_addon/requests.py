"""From what the user has set to what the backend is asked for, and the shot card: all that the result depends on.

Cameras are sent in the world of `WORLD`, so that what comes back stands in Blender's world where its cameras are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import bpy
import numpy as np

from . import cameras, export, sources
from .backend import __version__
from .sources import Source, Steps

WORLD = cameras.Y_DOWN_TO_Z_UP  # the backend's world, y down, in Blender's
CARD = "pixworld_card"  # the custom property that holds a shot card as JSON: of the splats, or the root of several
KEPT = (
    "source", "photos", "images", "prompt", "seed", "path", "key_views", "steps", "guidance", "view_size", "views",
    "size", "refine", "by_photo",
)  # fmt: skip


class Request(NamedTuple):
    """A job to be, and what its result needs."""

    task: str
    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]
    world: np.ndarray | None  # [4 4] the frame of the result in Blender's world, where it is known
    card: dict[str, Any]
    changed: list[str]  # images that are not what they were when the card that is run again was made
    scene: str  # the name of the one that the result is for


class Named(NamedTuple):
    """Cameras in Blender's world, each with the name of an image or one of its own."""

    names: list[str]
    path: cameras.Path


def compose(task: str, scene: bpy.types.Scene, again: dict[str, Any] | None = None) -> Generator[Steps, None, Request]:
    """The request for "reconstruct" or "generate" that the scene's settings make; `again` is a shot card whose cameras
    are taken. Raises ValueError with a sentence for the user."""
    settings = scene.pixworld
    given = yield from sources.collect(settings, scene)
    fields: dict[str, Any] = {"names": [x.name for x in given], "previews": settings.previews}
    if task == "reconstruct":
        _check_photos(given)
        fields["options"] = {name: getattr(settings, name) for name in ("views", "size", "refine", "seed")}
        fields["by_photo"] = settings.by_photo
    else:
        _check_generate(settings, given)
        options = {name: getattr(settings, name) for name in ("steps", "seed")} | {"views": settings.key_views}
        fields["options"] = options | ({"size": settings.view_size} if settings.view_size else {})
        fields |= {"prompt": settings.prompt.strip(), "guidance": settings.guidance}
        fields["trajectory"] = "" if settings.path in ("CAMERA", "IMAGES") else settings.path
    if again is not None and again["cameras"] and not any(x.camera for x in given):
        named = _from_card(again["cameras"])
    elif task == "reconstruct":
        named = _own(given)
    else:
        named = yield from _along(settings, scene, given)
    digests = yield from sources.in_thread(lambda: [hashlib.blake2b(x.data, digest_size=8).hexdigest() for x in given])
    photos = [{"name": x.name, "origin": x.origin, "digest": d} for x, d in zip(given, digests)]
    before = {x["name"]: x["digest"] for x in (photos if again is None else again["photos"])}
    changed = [x["name"] for x in photos if before.get(x["name"]) != x["digest"]]
    arrays = {f"photo/{i}": x.data for i, x in enumerate(given)}
    if named is not None:
        fields["camera_names"] = named.names
        arrays |= {"c2w": np.linalg.inv(WORLD) @ named.path.c2w, "K": named.path.K, "sizes": named.path.sizes}
    card = {"task": task, "extension": __version__, "made": time.strftime("%Y-%m-%d %H:%M:%S")}
    card |= {"settings": settings_of(settings), "photos": photos, "cameras": [] if named is None else _to_card(named)}
    return Request(task, fields, arrays, None if named is None else WORLD, card, changed, scene.name)


def settings_of(settings: bpy.types.PropertyGroup) -> dict[str, Any]:
    """What a shot card keeps of the settings."""
    chosen, clip = [file.name for file in settings.chosen], settings.clip.name if settings.clip else ""
    return {name: getattr(settings, name) for name in KEPT} | {"chosen": chosen, "clip": clip}


def restore(settings: bpy.types.PropertyGroup, kept: dict[str, Any]) -> None:
    """Set everything as a shot card says."""
    for name in KEPT:
        settings.property_unset(name)  # what an older card does not know
        if name in kept:
            setattr(settings, name, kept[name])
    settings.chosen.clear()
    for name in kept["chosen"]:
        settings.chosen.add().name = name
    settings.clip = bpy.data.movieclips.get(kept["clip"])


def card_of(item: bpy.types.Object) -> dict[str, Any] | None:
    """The shot card of a result; None when it has none that can be read."""
    try:
        card = json.loads(item[CARD])
        return card if isinstance(card, dict) and {"task", "settings", "photos", "cameras"} <= card.keys() else None
    except (KeyError, TypeError, ValueError):
        return None


def record(item: bpy.types.Object, change: dict[str, Any], about: Mapping[str, object]) -> None:
    """Add to the shot card of splats, or of the root that holds theirs, what was generated anew in them; `about` is the
    backend's answer to "hello"."""
    holder = item if CARD in item else export.root_of(item)
    card = card_of(holder)
    if card is not None and holder.library is None:
        change |= {"made": time.strftime("%Y-%m-%d %H:%M:%S"), "backend": backend_of(about)}
        holder[CARD] = json.dumps(card | {"regenerated": [*card.get("regenerated", []), change]})


def backend_of(about: Mapping[str, object]) -> dict[str, object]:
    """What a shot card says of the backend."""
    return {name: about.get(name) for name in ("version", "device", "checkpoint", "hash")}


# --- what is asked for


def _is_movie(source: Source) -> bool:
    return not source.name.lower().endswith(tuple(sources.PHOTO_SUFFIXES))


def _check_photos(given: Sequence[Source]) -> None:
    if not given:
        raise ValueError("A reconstruction needs photos; choose a source of them.")
    if len(given) < 2 and not _is_movie(given[0]):
        raise ValueError("There is 1 photo; a reconstruction needs at least 2. To make a world of one, press Generate.")


def _check_generate(settings: bpy.types.PropertyGroup, given: Sequence[Source]) -> None:
    if not given and not settings.prompt.strip():
        raise ValueError("There is nothing to generate from; write a prompt or choose images.")
    if any(_is_movie(x) for x in given):
        raise ValueError("A world is not generated from a movie; reconstruct it, or choose images.")
    posed = any(x.camera for x in given)
    if settings.path == "CAMERA" and len(given) > 1 and not posed:
        raise ValueError(
            f"It is not known where the active camera stands to {len(given)} images; choose one image, which is placed "
            "at its first key view, or go through the images."
        )
    if settings.path == "IMAGES" and len(given) < 2:
        raise ValueError("A way through the images needs at least 2 of them; choose more, or another camera.")


def _own(given: Sequence[Source]) -> Named | None:
    """The images' own cameras, if they have them."""
    posed = [x for x in given if x.camera]
    return Named([x.name for x in posed], _joined([x.camera for x in posed])) if posed else None


def _along(
    settings: bpy.types.PropertyGroup, scene: bpy.types.Scene, given: Sequence[Source]
) -> Generator[Steps, None, Named | None]:
    """The images' own cameras, then those that are generated along: the scene's, if that is what is wanted. Where a
    built-in path starts at no image of known place, it starts at the scene's camera."""
    own = _own(given)
    if settings.path == "CAMERA":
        views = settings.key_views + (len(given) if own else min(len(given), 1))  # those of the images are no new ones
        path = yield from cameras.follow(None, scene, cameras.key_frames(scene, views))
        if views > 1 and np.abs(path.c2w - path.c2w[0]).max() < 1e-6:
            raise ValueError(
                f"The camera {scene.camera.name} does not move from frame {scene.frame_start} to {scene.frame_end}; "
                "animate it, or choose a built-in camera."
            )
        if own:
            new = [np.abs(own.path.c2w - c2w).max(axis=(1, 2)).min() > 1e-6 for c2w in path.c2w]
            path = cameras.Path(*(array[new] for array in path))
        if not len(path.c2w):
            raise ValueError("Every key view is an image already; use fewer images or a longer frame range.")
    elif own or len(given) > 1 or scene.camera is None:
        return own
    else:
        path = yield from cameras.follow(None, scene, [None])
    added = Named([f"key_{i:03d}" for i in range(len(path.c2w))], path)
    return added if own is None else Named(own.names + added.names, _joined([own.path, path]))


def _joined(paths: Sequence[cameras.Path]) -> cameras.Path:
    return cameras.Path(*(np.concatenate(arrays) for arrays in zip(*paths)))


def _to_card(named: Named) -> list[dict[str, Any]]:
    return [
        {"name": name, "c2w": c2w.tolist(), "K": K.tolist(), "size": size.tolist()}
        for name, c2w, K, size in zip(named.names, *named.path)
    ]


def _from_card(kept: Sequence[dict[str, Any]]) -> Named:
    c2w, K, sizes = (np.array([x[key] for x in kept]) for key in ("c2w", "K", "size"))
    return Named([x["name"] for x in kept], cameras.Path(c2w, K, sizes.astype(np.int32)))
