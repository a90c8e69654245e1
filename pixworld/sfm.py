"""COLMAP behind two calls: structure from motion of photos, and triangulation with given cameras.

One seed gives the same result again on one machine: SIFT, its matches and verification do not depend on the number of
threads (those of networks may). COLMAP's bundle adjustment runs on one thread below 50 000 observations; above, sums
may differ in the last bits from run to run.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image  # before pycolmap: after it, Pillow 13.0 crashes when it writes a PNG

# isort: split
import numpy as np
import pycolmap
from jaxtyping import Bool, Float, Int, UInt8, UInt32

from pixworld import learned_matching
from pixworld.cameras import Cameras
from pixworld.learned_matching import Matcher, Points
from pixworld.photos import resize_mask
from pixworld.views import Photo

pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)  # its progress and warnings go to stderr otherwise
if threading.current_thread() is threading.main_thread():
    # importing it hands SIGTERM to a crash reporter; Python still knows the handler that was there
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)

# Called with (stage, step, steps); stages are features, learned features, matching, mapping. It may raise Cancelled.
OnProgress = Callable[[str, int, int], None]


class Search(NamedTuple):
    """How features are sought and matched: by SIFT, and by networks beside it."""

    long_side: int  # pixels that photos are scaled down to
    features: int  # of SIFT in a photo, at most
    contrast: float  # of such a feature, at least
    max_ratio: float  # of the angle to the nearest descriptor, to that to the second nearest
    learned: int = 0  # points of the network in a photo, at most; 0 is without: see learned_matching.py
    # Of learned matches. Photos of different places have up to 22 of so high a score, ones taken 30 to 45 degrees apart
    # 47 to 92: pairs with fewer than `fewest` do without.
    score: float = 0.5
    fewest: int = 25


class Attempt(NamedTuple):
    """What structure from motion of n photos found; image ids are 1 + the photo's index."""

    models: list[pycolmap.Reconstruction]  # of 2 photos or more, largest first; a photo may be in several
    features: Int[np.ndarray, " n"]  # that SIFT found in each photo
    matches: Int[np.ndarray, "n n"]  # of each pair of photos, geometrically verified

    def registered(self, model: int = 0) -> set[int]:
        """Indices of the photos that a model has cameras for; none where there is no such model."""
        return {i - 1 for i in self.models[model].reg_image_ids()} if model < len(self.models) else set()


# Known poses tell good matches from bad, so the lax thresholds cost nothing.
_TRIANGULATION = Search(800, 8192, 0.003, 0.9)
# Few photos, some of which have few points, may be far apart: networks help, at 3 s a pair, with matches that the poses
# will judge.
_FEW, _FEW_POINTS = 6, 200
_TRIANGULATION_OF_FEW = _TRIANGULATION._replace(learned=2048, score=0.2, fewest=15)
# Up to as many photos every pair is matched; above, neighbours by name and ever wider gaps. Networks take 0.8 s a pair.
_ALL_PAIRS, _ALL_LEARNED_PAIRS = 40, 20
_NEIGHBOURS = 10
_MIN_MATCHES = 15  # of a pair of photos
_MAX_ANGLE = 0.7  # radians between matching descriptors
_MAX_ERROR_PX = 2.0  # mean reprojection error of the points that are kept, at the size features were sought at


def structure_from_motion(
    photos: Sequence[Photo], search: Search, seed: int, on_progress: OnProgress, device: str = "cpu"
) -> Attempt:
    """Find the cameras of photos, in COLMAP's world (its scale is arbitrary). Photos of one size and EXIF focal length
    share a SIMPLE_RADIAL camera at the size that features were sought at."""
    images = [_grey(photo.image, search.long_side) for photo in photos]
    start = pycolmap.Reconstruction()
    camera_ids: dict[tuple, int] = {}
    for i, (photo, image) in enumerate(zip(photos, images)):
        height, width = image.shape
        key = (photo.image.shape[:2], photo.focal_px and round(photo.focal_px))
        if key not in camera_ids:
            camera_ids[key] = len(camera_ids) + 1
            known = photo.focal_px is not None
            focal = photo.focal_px * width / photo.image.shape[1] if known else 1.2 * max(width, height)
            camera = pycolmap.Camera.create_from_model_name(camera_ids[key], "SIMPLE_RADIAL", focal, width, height)
            camera.has_prior_focal_length = known
            start.add_camera_with_trivial_rig(camera)
        start.add_image_with_trivial_frame(
            pycolmap.Image(name=_file_name(i + 1), camera_id=camera_ids[key], image_id=i + 1)
        )
    with tempfile.TemporaryDirectory(prefix="pixworld-sfm-") as folder:
        database = Path(folder) / "database.db"
        learned = _learned_points(photos, search, on_progress, device) if search.learned else None
        _write_database(database, start, images, _masks(photos, images), search, learned, on_progress)
        verifier = pycolmap.GeometricVerifierOptions()
        verifier.num_threads = _threads()
        two_view = pycolmap.TwoViewGeometryOptions()
        two_view.ransac.random_seed = seed
        pycolmap.geometric_verification(database, verifier, two_view_geometry_options=two_view)
        features, matches = _statistics(database, len(photos))

        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = _threads()
        options.random_seed = seed
        options.extract_colors = False
        options.min_model_size = 3
        # below COLMAP's defaults, which are made for large collections: few photos, small steps, plain surfaces
        options.mapper.init_min_tri_angle = 4
        options.mapper.init_min_num_inliers = 40
        options.mapper.abs_pose_min_num_inliers = 15
        # tracks of two photos hold a model of few photos together
        options.triangulation.ignore_two_view_tracks = False
        # for photos whose matches saw no common point yet; it can take minutes, without a callback
        options.structure_less_registration_fallback = False
        registered = itertools.count(2)
        on_progress("mapping", 0, len(photos))
        models = pycolmap.incremental_mapping(
            database,
            folder,
            folder,
            options,
            initial_image_pair_callback=lambda: on_progress("mapping", min(2, len(photos)), len(photos)),
            # a photo may be counted again in a second model
            next_image_callback=lambda: on_progress("mapping", min(next(registered), len(photos)), len(photos)),
        )
    found = [m for m in models.values() if m.num_reg_images() >= 2]
    found.sort(key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)
    return Attempt(found, features, matches)


def triangulate(
    photos: Sequence[Photo],
    cameras: Sequence[Cameras],
    seed: int,
    on_progress: OnProgress,
    device: str = "cpu",
) -> list[Float[np.ndarray, "m 3"]]:
    """World positions of the points seen in each photo, none where nothing could be triangulated. The cameras, one view
    each, are those of the photos at their full size. Few photos, where SIFT finds few points, are searched by networks
    too, where these are installed, on `device`."""

    def told(stage: str, step: int, steps: int) -> None:
        on_progress(f"points for the given cameras: {stage}", step, steps)

    clouds = _triangulate(photos, cameras, _TRIANGULATION, seed, told, device)
    if 1 < len(photos) <= _FEW and min(map(len, clouds)) < _FEW_POINTS and learned_matching.available():
        clouds = _triangulate(photos, cameras, _TRIANGULATION_OF_FEW, seed, told, device)
    return clouds


def _triangulate(
    photos: Sequence[Photo],
    cameras: Sequence[Cameras],
    search: Search,
    seed: int,
    on_progress: OnProgress,
    device: str,
) -> list[Float[np.ndarray, "m 3"]]:
    images = [_grey(photo.image, search.long_side) for photo in photos]
    model = pycolmap.Reconstruction()
    for i, (camera, image) in enumerate(zip(cameras, images), start=1):
        height, width = image.shape
        K = camera.resize(height, width).K[0].double().numpy()
        lens = pycolmap.Camera.create_from_model_name(i, "PINHOLE", K[0, 0], width, height)
        lens.params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        lens.has_prior_focal_length = True
        model.add_camera_with_trivial_rig(lens)
        pose = pycolmap.Rigid3d(camera.w2c[0, :3].double().numpy())
        model.add_image_with_trivial_frame(pycolmap.Image(name=_file_name(i), camera_id=i, image_id=i), pose)
    with tempfile.TemporaryDirectory(prefix="pixworld-sfm-") as folder:
        database = Path(folder) / "database.db"
        learned = _learned_points(photos, search, on_progress, device) if search.learned else None
        _write_database(database, model, images, _masks(photos, images), search, learned, on_progress)
        two_view = pycolmap.TwoViewGeometryOptions()
        two_view.ransac.random_seed = seed
        on_progress("mapping", 0, 1)
        pycolmap.guided_geometric_verification(
            model, database, two_view_geometry_options=two_view, num_threads=_threads()
        )
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = _threads()
        options.random_seed = seed
        options.extract_colors = False
        options.triangulation.ignore_two_view_tracks = False
        model = pycolmap.triangulate_points(model, database, folder, folder, options=options)
        on_progress("mapping", 1, 1)
    model.update_point_3d_errors()
    return [points_of(model, model.images[i]) for i in range(1, len(photos) + 1)]


def points_of(model: pycolmap.Reconstruction, image: pycolmap.Image) -> Float[np.ndarray, "m 3"]:
    """World positions of the sound points seen in an image."""
    ids = {point.point3D_id for point in image.points2D if point.has_point3D()}
    points = [model.points3D[i] for i in sorted(ids)]
    xyz = np.array([p.xyz for p in points if p.error < _MAX_ERROR_PX and p.track.length() >= 2]).reshape(-1, 3)
    pose = image.cam_from_world().matrix()
    return xyz[xyz @ pose[2, :3] + pose[2, 3] > 0]


# --- the database: features and matches


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _grey(image: UInt8[np.ndarray, "h w 3"], long_side: int) -> UInt8[np.ndarray, "h2 w2"]:
    return _smaller(Image.fromarray(image).convert("L"), long_side)


def _smaller(image: Image.Image, long_side: int) -> UInt8[np.ndarray, "..."]:
    scale = min(1.0, long_side / max(image.size))
    return np.array(image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS))


def _masks(photos: Sequence[Photo], images: Sequence[np.ndarray]) -> list[Bool[np.ndarray, "h w"] | None]:
    """The photos' masks at the size that features are sought at."""
    return [None if p.mask is None else resize_mask(p.mask, *image.shape) for p, image in zip(photos, images)]


def _file_name(image_id: int) -> str:
    return f"{image_id}.png"  # a photo's own name may be anything


def _write_database(
    database: Path,
    model: pycolmap.Reconstruction,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    search: Search,
    learned: _Learned | None,
    on_progress: OnProgress,
) -> None:
    """Find and match features of the images of a model (ids 1, 2, ..) in a new COLMAP database."""
    with pycolmap.Database.open(database) as db, pycolmap.DatabaseTransaction(db):
        for camera in model.cameras.values():
            db.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            db.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            db.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            db.write_image(image, use_image_id=True)
    _extract(database, images, masks, search, on_progress)
    pairs = _pairs(len(images), _ALL_PAIRS)
    learned_pairs = set() if learned is None else set(_pairs(len(images), _ALL_LEARNED_PAIRS))
    with pycolmap.Database.open(database) as db, pycolmap.DatabaseTransaction(db):
        descriptors, counts = [], []
        for image_id in range(1, len(images) + 1):
            values = db.read_descriptors(image_id).data.astype(np.float32)
            descriptors.append(values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6))
            counts.append(len(values))
            if learned is not None:  # behind those of SIFT
                sift = db.read_keypoints(image_id)[:, :2]
                db.update_keypoints(image_id, np.concatenate([sift, learned.points[image_id - 1].pixels.cpu()]))
        for step, (i, j) in enumerate(pairs):
            on_progress("matching", step, len(pairs))
            matches = _match(descriptors[i], descriptors[j], search.max_ratio)
            if (i, j) in learned_pairs:
                more = learned.matcher.match(learned.points[i], learned.points[j])
                if len(more) >= search.fewest:
                    matches = np.concatenate([matches, more + np.array([counts[i], counts[j]], np.uint32)])
            if len(matches) >= _MIN_MATCHES:
                db.write_matches(i + 1, j + 1, matches)
    on_progress("matching", len(pairs), len(pairs))


class _Learned(NamedTuple):
    matcher: Matcher
    points: list[Points]  # of each image


def _learned_points(photos: Sequence[Photo], search: Search, on_progress: OnProgress, device: str) -> _Learned:
    matcher, points = Matcher(search.learned, search.score, device), []
    for step, photo in enumerate(photos):
        on_progress("learned features", step, len(photos))
        image = _smaller(Image.fromarray(photo.image), search.long_side)
        mask = None if photo.mask is None else resize_mask(photo.mask, *image.shape[:2])
        points.append(matcher.find(image, mask))
    on_progress("learned features", len(photos), len(photos))
    return _Learned(matcher, points)


def _extract(
    database: Path,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    search: Search,
    on_progress: OnProgress,
) -> None:
    """Write the features of grey images (ids 1, 2, ..), a few images at a time for progress and cancelling."""
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = _threads()
    options.sift.max_num_features = search.features
    options.sift.peak_threshold = search.contrast
    reader = pycolmap.ImageReaderOptions()
    folder, mask_folder = database.parent, database.parent / "masks"
    names = [_file_name(i) for i in range(1, len(images) + 1)]
    if any(mask is not None for mask in masks):
        mask_folder.mkdir()
        reader.mask_path = mask_folder
        for name, image, mask in zip(names, images, masks):  # COLMAP passes over an image that has none
            usable = np.ones(image.shape, bool) if mask is None else mask
            Image.fromarray(usable.astype(np.uint8) * 255).save(mask_folder / f"{name}.png", compress_level=1)
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / name, compress_level=1)
    batch = 2 * _threads()
    for start in range(0, len(names), batch):
        on_progress("features", start, len(names))
        pycolmap.extract_features(
            database,
            folder,
            image_names=names[start : start + batch],
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
    on_progress("features", len(names), len(names))


def _nearest(
    a: Float[np.ndarray, "n 128"], b: Float[np.ndarray, "m 128"], max_ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """For every descriptor of a the index of the nearest of b, and whether it is near and clearly the nearest."""
    index, clear = np.zeros(len(a), np.int64), np.zeros(len(a), bool)
    for start in range(0, len(a), 512):  # rows in blocks that stay in the cache
        block = slice(start, start + 512)
        cosine = a[block] @ b.T
        rows = np.arange(len(cosine))
        index[block] = cosine.argmax(axis=1)
        best = cosine[rows, index[block]]
        cosine[rows, index[block]] = -1
        angle, second = (np.arccos(x.clip(-1, 1)) for x in (best, cosine.max(axis=1)))
        clear[block] = (angle < _MAX_ANGLE) & (angle < max_ratio * second)
    return index, clear


def _match(
    a: Float[np.ndarray, "n 128"], b: Float[np.ndarray, "m 128"], max_ratio: float
) -> UInt32[np.ndarray, "matches 2"]:
    """Indices of descriptors that are each other's nearest and pass Lowe's ratio test both ways.

    This is what COLMAP's own CPU matcher does, in a tenth of its time or less.
    """
    if min(len(a), len(b)) < 2:
        return np.zeros((0, 2), np.uint32)
    match, clear = _nearest(a, b, max_ratio)
    rows = np.flatnonzero(clear)
    back, clear = _nearest(b[match[rows]], a, max_ratio)
    rows = rows[clear & (back == rows)]
    return np.stack([rows, match[rows]], axis=1).astype(np.uint32)


def _pairs(count: int, all_pairs: int) -> list[tuple[int, int]]:
    """Pairs of photos to match: all, or in long sequences the neighbours and gaps of powers of two."""
    gaps = set(range(1, count))
    if count > all_pairs:
        gaps = {gap for gap in gaps if gap <= _NEIGHBOURS or gap.bit_count() == 1}
    return [(i, j) for i, j in itertools.combinations(range(count), 2) if j - i in gaps]


def _statistics(database: Path, count: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n n"]]:
    """SIFT features of every image and verified matches of every pair of a database."""
    matches = np.zeros((count, count), np.int64)
    with pycolmap.Database.open(database) as db:
        features = np.array([db.num_descriptors_for_image(i) for i in range(1, count + 1)], np.int64)
        for pair, inliers in zip(*db.read_two_view_geometry_num_inliers()):
            i, j = (image_id - 1 for image_id in pycolmap.pair_id_to_image_pair(pair))
            matches[i, j] = matches[j, i] = inliers
    return features, matches
