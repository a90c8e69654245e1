"""Photos -> posed, undistorted photos: by structure from motion, or with given cameras.

Without given cameras the world frame is that of `world_frame.py`: y points down, like in a camera; with enough GPS
positions it is in metres, otherwise of arbitrary scale. With given cameras it is their frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from pixworld import learned_matching
from pixworld.cameras import Cameras
from pixworld.files import image_to_tensor
from pixworld.photos import resize_mask, resize_photo
from pixworld.sfm import Attempt, OnProgress, Search, points_of, pycolmap, structure_from_motion, triangulate
from pixworld.views import InputError, NamedCamera, Photo, PosedPhoto, Views
from pixworld.world_frame import WorldFrame, world_frame

# The first is enough for most sets. The second, tried when that leaves photos out, finds small and weak features and
# accepts doubtful matches, which geometric verification sorts out in more time. In the third, networks (where they are
# installed) bridge wider steps between photos.
_SEARCHES = (
    Search(800, 4096, 0.0067, 0.8),
    Search(1600, 8192, 0.003, 0.9),
    Search(800, 4096, 0.0067, 0.8, learned=1024),
)
_MOST_LEARNED = 40  # photos: the third would take longer than 5 minutes on two cores
_ENOUGH = 0.9  # of the photos registered: no need for the next search
_FEW_FEATURES = 50  # of a photo: fewer place no camera


class Poses(NamedTuple):
    """What became of the photos."""

    photos: list[PosedPhoto]
    unposed: list[tuple[str, str]]  # name and reason of each photo without a camera
    about: dict[str, Any]  # for the report: where the cameras come from


def poses_from_photos(
    photos: Sequence[Photo], size: int, *, seed: int = 0, device: str = "cpu", on_progress: OnProgress
) -> Poses:
    """Recover the cameras of photos of one place, and undistort the photos.

    The photos have a short side of at most `size` pixels (never enlarged), cropped to valid pixels; masks go along.
    `about` tells the searches that were tried and the frame. Raises InputError when fewer than 2 could be registered.
    """
    if len(photos) < 2:
        raise InputError(
            "Structure from motion needs at least 2 photos of one place; give more photos, or cameras for them."
        )
    attempts: list[Attempt] = []
    searches = []
    for search in _SEARCHES:
        if search.learned and not (len(photos) <= _MOST_LEARNED and learned_matching.available()):
            continue
        tried = {"long_side": search.long_side, "features": search.features, "learned": search.learned}
        searches.append(tried)
        try:
            attempts.append(structure_from_motion(photos, search, seed, on_progress, device))
        except (InputError, torch.OutOfMemoryError) as error:
            if not search.learned:
                raise
            tried["failed"] = str(error)  # what was found before still counts
            continue
        tried["registered"] = len(attempts[-1].registered())
        if tried["registered"] >= _ENOUGH * len(photos):
            break
    best = max(attempts, key=lambda attempt: len(attempt.registered()))  # the first of equals
    reasons = why_unregistered([p.name for p in photos], best)
    if not best.models:
        raise InputError(
            f"No two of the {len(photos)} photos could be registered to each other: they show different places or "
            f"overlap too little (of {reasons[0][0]}: {reasons[0][1]}); take photos of one place in small steps "
            "sideways, or give cameras for them."
        )
    posed, frame = _undistorted(photos, best.models[0], size, seed, on_progress)
    return Poses(posed, reasons, {"source": "structure from motion", "searches": searches, **frame.about})


def poses_from_cameras(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera],
    size: int,
    *,
    points: bool = True,
    seed: int = 0,
    device: str = "cpu",
    on_progress: OnProgress,
) -> Poses:
    """Pair undistorted photos with their cameras by file name, and, where wanted, triangulate points with those poses.

    A camera named without a suffix is that of the photo of the same stem. The photos are in the frame of the cameras.
    Raises InputError when no name matches, or when a camera's image has another aspect than the photo.
    """
    by_name = {camera.name: camera for camera in cameras}
    pairs, left_out = [], []
    for photo in photos:
        camera = by_name.get(photo.name) or by_name.get(PurePath(photo.name).stem)
        if camera is None:
            left_out.append((photo.name, "no camera is named like it"))
        else:
            pairs.append((photo, _fitted_camera(photo, camera.cameras)))
    if not pairs:
        raise InputError(
            f"No camera is named like a photo (cameras: {_some(by_name)}; photos: {_some(p.name for p in photos)}); "
            "file_path must end with the photo's file name."
        )
    clouds = [np.zeros((0, 3))] * len(pairs)
    if points:
        clouds = triangulate([p for p, _ in pairs], [c for _, c in pairs], seed, on_progress, device)
    posed = []
    for i, ((photo, camera), cloud) in enumerate(zip(pairs, clouds)):
        on_progress("undistorting", i, len(pairs))
        posed.append(_posed(photo.name, photo.image, photo.mask, camera, cloud, size))
    on_progress("undistorting", len(pairs), len(pairs))
    return Poses(posed, left_out, {"source": "given cameras"})


def why_unregistered(names: Sequence[str], attempt: Attempt) -> list[tuple[str, str]]:
    """Name and reason of every photo that the largest model of an attempt lacks."""
    main = attempt.registered()
    others = [attempt.registered(i) for i in range(1, len(attempt.models))]
    reasons = []
    for i, name in enumerate(names):
        if i in main:
            continue
        chain = _connected(attempt.matches, i)
        group = next((x for x in others if i in x), None if chain & main or not main else chain)
        partner = int(attempt.matches[i].argmax())
        if attempt.features[i] < _FEW_FEATURES:
            reason = f"it has {attempt.features[i] or 'no'} features (blurred, blank or masked)"
        elif len(chain) == 1:
            reason = "it matches no other photo"
        elif group:
            members = _some(names[j] for j in sorted(group))
            reason = (
                f"it belongs to a second group of {len(group)} photos ({members}) that shares too little with the rest"
            )
        else:
            count = attempt.matches[i, partner]
            reason = f"it matches {names[partner]} best, in {count} points, too few to place it"
        reasons.append((name, reason))
    return reasons


def _connected(matches: np.ndarray, start: int) -> set[int]:
    """Photos that are joined to one by a chain of matches, itself too."""
    found, edge = {start}, [start]
    while edge:
        new = set(np.flatnonzero(matches[edge.pop()]).tolist()) - found
        found |= new
        edge += new
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", .." if len(names) > 3 else "")


def _fitted_camera(photo: Photo, camera: Cameras) -> Cameras:
    """The camera at the photo's size. The sizes may differ by a common scale (and a pixel of rounding)."""
    height, width = photo.image.shape[:2]
    expected = camera.height * width / camera.width
    if abs(expected - height) > max(0.01 * height, width / camera.width):
        raise InputError(
            f"{photo.name} is {width} x {height} pixels, but its camera is for {camera.width} x {camera.height}, "
            "another aspect; give the photos that the cameras were made for."
        )
    return camera.resize(height, width)


def _undistorted(
    photos: Sequence[Photo], model: pycolmap.Reconstruction, size: int, seed: int, on_progress: OnProgress
) -> tuple[list[PosedPhoto], WorldFrame]:
    """The photos that a model has cameras for, without lens distortion, in the world frame."""
    images = {i - 1: model.images[i] for i in sorted(model.reg_image_ids())}
    poses = {i: image.cam_from_world().inverse().matrix() for i, image in images.items()}  # [3 4], camera to world
    frame = world_frame(np.stack(list(poses.values())), [photos[i].gps for i in poses], seed)
    posed = []
    for step, (i, image) in enumerate(images.items()):
        on_progress("undistorting", step, len(images))
        photo = photos[i]
        height, width = photo.image.shape[:2]
        lens = pycolmap.Camera(model.cameras[image.camera_id].todict())
        lens.rescale(width, height)
        bitmap, pinhole = _undistort(photo.image, lens)
        mask = None if photo.mask is None else _undistort(photo.mask.astype(np.uint8) * 255, lens)[0] > 127
        c2w = np.eye(4)
        c2w[:3, :3] = frame.rotation @ poses[i][:, :3]
        c2w[:3, 3] = frame.scale * frame.rotation @ poses[i][:, 3] + frame.translation
        tensors = (torch.from_numpy(x).to(torch.float32)[None] for x in (c2w, pinhole.calibration_matrix()))
        camera = Cameras(*tensors, height=pinhole.height, width=pinhole.width)
        points = frame.scale * points_of(model, image) @ frame.rotation.T + frame.translation
        posed.append(_posed(photo.name, bitmap, mask, camera, points, size))
    on_progress("undistorting", len(images), len(images))
    return posed, frame


def _undistort(image: UInt8[np.ndarray, "..."], lens: pycolmap.Camera) -> tuple[np.ndarray, pycolmap.Camera]:
    """An image (colour or grey) as a pinhole camera would take it, cropped to what the lens saw."""
    bitmap, pinhole = pycolmap.undistort_image(
        pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(image), lens
    )
    return bitmap.to_array(), pinhole


def _posed(
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"] | None,
    camera: Cameras,
    points: Float[np.ndarray, "m 3"],
    size: int,
) -> PosedPhoto:
    image, camera = resize_photo(image, camera, size)
    usable = None if mask is None else torch.from_numpy(resize_mask(mask, *image.shape[:2]))[None]
    cloud = torch.from_numpy(points.reshape(-1, 3)).to(torch.float32)
    return PosedPhoto(name, Views(image_to_tensor(image)[None], camera, mask=usable), cloud)
