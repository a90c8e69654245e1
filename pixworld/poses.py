"""Photos -> posed, undistorted photos: structure from motion by COLMAP, or triangulation with given cameras.

Without given cameras the world frame is COLMAP's (its scale too, which is arbitrary), turned so that the mean up
direction of the cameras is -y: y points down, like in a camera. With given cameras it is their frame.

One seed gives the same poses again on one machine: features, matches and verification do not depend on the number of
threads. COLMAP's bundle adjustment runs on one thread below 50 000 observations; above, sums may differ in the last
bits from run to run.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from PIL import Image  # before pycolmap: after it, Pillow 13.0 crashes when it writes a PNG

# isort: split
import numpy as np
import pycolmap
import torch
from jaxtyping import Float, UInt8, UInt32

from pixworld.cameras import Cameras
from pixworld.files import image_to_tensor
from pixworld.photos import resize_photo
from pixworld.views import InputError, NamedCamera, Photo, PosedPhoto, Views

pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)  # its progress and warnings go to stderr otherwise
if threading.current_thread() is threading.main_thread():
    # importing it hands SIGTERM to a crash reporter; Python still knows the handler that was there
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)

# Called with (stage, step, steps); the stages are features, matching, mapping, undistorting. It may raise Cancelled.
OnProgress = Callable[[str, int, int], None]


class _Search(NamedTuple):
    """How features are sought and matched."""

    long_side: int  # pixels that photos are scaled down to
    features: int  # in a photo, at most
    contrast: float  # of a feature, at least
    max_ratio: float  # of the angle to the nearest descriptor, to that to the second nearest


# The first is enough for most sets. The second, tried when that leaves photos out, finds small and weak features and
# accepts doubtful matches, which geometric verification sorts out in more time.
_SEARCHES = (_Search(800, 4096, 0.0067, 0.8), _Search(1600, 8192, 0.003, 0.9))
# Known poses tell good matches from bad, so the lax thresholds cost nothing.
_TRIANGULATION = _Search(800, 8192, 0.003, 0.9)
_ENOUGH = 0.9  # of the photos registered: no need for the next search
_ALL_PAIRS = 40  # up to as many photos every pair is matched; above, neighbours by name and ever wider gaps
_NEIGHBOURS = 10
_MIN_MATCHES = 15  # of a pair of photos
_MAX_ANGLE = 0.7  # radians between matching descriptors
_MAX_ERROR_PX = 2.0  # mean reprojection error of the points that are kept, at the size features were sought at


def poses_from_photos(
    photos: Sequence[Photo], size: int, *, seed: int = 0, on_progress: OnProgress
) -> tuple[list[PosedPhoto], list[str]]:
    """Recover the cameras of photos of one place, and undistort the photos.

    Returns the posed photos (short side at most `size` pixels, never enlarged, cropped to valid pixels) and the names
    of the photos that could not be registered. Raises InputError when fewer than 2 could be.
    """
    if len(photos) < 2:
        raise InputError("Structure from motion needs at least 2 photos of one place; give more photos, or --cameras.")
    best: pycolmap.Reconstruction | None = None
    for search in _SEARCHES:
        model = _structure_from_motion(photos, search, seed, on_progress)
        if model and (best is None or model.num_reg_images() > best.num_reg_images()):
            best = model
        if best and best.num_reg_images() >= _ENOUGH * len(photos):
            break
    if best is None:
        raise InputError(
            f"No two of the {len(photos)} photos could be registered to each other: they show different places or "
            "overlap too little; take photos of one place in small steps sideways, or give --cameras."
        )
    return _undistorted(photos, best, size, on_progress)


def poses_from_cameras(
    photos: Sequence[Photo],
    cameras: Sequence[NamedCamera],
    size: int,
    *,
    seed: int = 0,
    on_progress: OnProgress,
) -> tuple[list[PosedPhoto], list[str]]:
    """Pair undistorted photos with their cameras by file name, and triangulate points with those poses.

    A camera named without a suffix is that of the photo of the same stem. Returns the posed photos, in the frame of
    the cameras, and the names of the photos without a camera. Raises InputError when no name matches, or when a
    camera's image has another aspect than the photo.
    """
    by_name = {camera.name: camera for camera in cameras}
    pairs, left_out = [], []
    for photo in photos:
        camera = by_name.get(photo.name) or by_name.get(PurePath(photo.name).stem)
        if camera is None:
            left_out.append(photo.name)
        else:
            pairs.append((photo, _fitted_camera(photo, camera.cameras)))
    if not pairs:
        raise InputError(
            f"No camera is named like a photo (cameras: {_some(by_name)}; photos: {_some(p.name for p in photos)}); "
            "file_path must end with the photo's file name."
        )
    clouds = _triangulate([p for p, _ in pairs], [c for _, c in pairs], seed, on_progress)
    posed = []
    for i, ((photo, camera), points) in enumerate(zip(pairs, clouds)):
        on_progress("undistorting", i, len(pairs))
        posed.append(_posed(photo.name, *resize_photo(photo.image, camera, size), points))
    on_progress("undistorting", len(pairs), len(pairs))
    return posed, left_out


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


def _posed(name: str, image: UInt8[np.ndarray, "h w 3"], camera: Cameras, points: np.ndarray) -> PosedPhoto:
    cloud = torch.from_numpy(points.reshape(-1, 3)).to(torch.float32)
    return PosedPhoto(name, Views(image_to_tensor(image)[None], camera), cloud)


# --- structure from motion


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _grey(image: UInt8[np.ndarray, "h w 3"], long_side: int) -> UInt8[np.ndarray, "h2 w2"]:
    grey = Image.fromarray(image).convert("L")
    scale = min(1.0, long_side / max(grey.size))
    return np.array(grey.resize([round(side * scale) for side in grey.size], Image.Resampling.LANCZOS))


def _extract(database: Path, images: Sequence[np.ndarray], search: _Search, on_progress: OnProgress) -> None:
    """Write the features of grey images (ids 1, 2, ..), a few images at a time for progress and cancelling."""
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = _threads()
    options.sift.max_num_features = search.features
    options.sift.peak_threshold = search.contrast
    names = [_file_name(i) for i in range(1, len(images) + 1)]
    for name, image in zip(names, images):
        Image.fromarray(image).save(database.parent / name, compress_level=1)
    batch = 2 * _threads()
    for start in range(0, len(names), batch):
        on_progress("features", start, len(names))
        pycolmap.extract_features(
            database,
            database.parent,
            image_names=names[start : start + batch],
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
    on_progress("features", len(names), len(names))


def _file_name(image_id: int) -> str:
    return f"{image_id}.png"  # a photo's own name may be anything


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


def _pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of photos to match: all, or in long sequences the neighbours and gaps of powers of two."""
    gaps = set(range(1, count))
    if count > _ALL_PAIRS:
        gaps = {gap for gap in gaps if gap <= _NEIGHBOURS or gap.bit_count() == 1}
    return [(i, j) for i, j in itertools.combinations(range(count), 2) if j - i in gaps]


def _write_database(
    database: Path,
    model: pycolmap.Reconstruction,
    images: Sequence[np.ndarray],
    search: _Search,
    on_progress: OnProgress,
) -> None:
    """Extract and match features of the images of a model (ids 1, 2, ..) into a new COLMAP database."""
    with pycolmap.Database.open(database) as db, pycolmap.DatabaseTransaction(db):
        for camera in model.cameras.values():
            db.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            db.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            db.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            db.write_image(image, use_image_id=True)
    _extract(database, images, search, on_progress)
    pairs = _pairs(len(images))
    with pycolmap.Database.open(database) as db, pycolmap.DatabaseTransaction(db):
        descriptors = []
        for image_id in range(1, len(images) + 1):
            values = db.read_descriptors(image_id).data.astype(np.float32)
            descriptors.append(values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6))
        for step, (i, j) in enumerate(pairs):
            on_progress("matching", step, len(pairs))
            matches = _match(descriptors[i], descriptors[j], search.max_ratio)
            if len(matches) >= _MIN_MATCHES:
                db.write_matches(i + 1, j + 1, matches)
    on_progress("matching", len(pairs), len(pairs))


def _structure_from_motion(
    photos: Sequence[Photo], search: _Search, seed: int, on_progress: OnProgress
) -> pycolmap.Reconstruction | None:
    """The largest model of at least 2 photos, image ids being 1 + the photo's index; None when there is none."""
    images = [_grey(photo.image, search.long_side) for photo in photos]
    start = pycolmap.Reconstruction()
    camera_ids: dict[tuple, int] = {}  # photos of one size and EXIF focal length share a camera
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
        _write_database(database, start, images, search, on_progress)
        verifier = pycolmap.GeometricVerifierOptions()
        verifier.num_threads = _threads()
        two_view = pycolmap.TwoViewGeometryOptions()
        two_view.ransac.random_seed = seed
        pycolmap.geometric_verification(database, verifier, two_view_geometry_options=two_view)

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
    model = max(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()), default=None)
    return model if model and model.num_reg_images() >= 2 else None


def _rotation_to_up(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes `up` to -y."""
    a, b = up / np.linalg.norm(up), np.array([0.0, -1.0, 0.0])
    axis, cosine = np.cross(a, b), a @ b
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])  # half a turn about x
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def _points_of(model: pycolmap.Reconstruction, image: pycolmap.Image) -> Float[np.ndarray, "m 3"]:
    """World positions of the sound points seen in an image."""
    ids = {point.point3D_id for point in image.points2D if point.has_point3D()}
    points = [model.points3D[i] for i in sorted(ids)]
    xyz = np.array([p.xyz for p in points if p.error < _MAX_ERROR_PX and p.track.length() >= 2]).reshape(-1, 3)
    pose = image.cam_from_world().matrix()
    return xyz[xyz @ pose[2, :3] + pose[2, 3] > 0]


def _undistorted(
    photos: Sequence[Photo], model: pycolmap.Reconstruction, size: int, on_progress: OnProgress
) -> tuple[list[PosedPhoto], list[str]]:
    images = {i - 1: model.images[i] for i in sorted(model.reg_image_ids())}
    poses = {i: image.cam_from_world().inverse().matrix() for i, image in images.items()}  # [3 4], camera to world
    up = -np.mean([pose[:, 1] for pose in poses.values()], axis=0)
    # cameras that look every way up have no common up; their frame is as good as any
    turn = _rotation_to_up(up) if np.linalg.norm(up) > 1e-3 else np.eye(3)
    posed = []
    for step, (i, image) in enumerate(images.items()):
        on_progress("undistorting", step, len(images))
        photo = photos[i]
        height, width = photo.image.shape[:2]
        lens = pycolmap.Camera(model.cameras[image.camera_id].todict())
        lens.rescale(width, height)
        bitmap = pycolmap.Bitmap.from_array(photo.image)
        bitmap, pinhole = pycolmap.undistort_image(pycolmap.UndistortCameraOptions(), bitmap, lens)
        c2w = np.eye(4)
        c2w[:3] = turn @ poses[i]
        camera = _camera(c2w, pinhole.calibration_matrix(), pinhole.height, pinhole.width)
        points = _points_of(model, image) @ turn.T
        posed.append(_posed(photo.name, *resize_photo(bitmap.to_array(), camera, size), points))
    on_progress("undistorting", len(images), len(images))
    return posed, [photo.name for i, photo in enumerate(photos) if i not in images]


def _camera(c2w: np.ndarray, K: np.ndarray, height: int, width: int) -> Cameras:
    tensors = (torch.from_numpy(x).to(torch.float32)[None] for x in (c2w, K))
    return Cameras(*tensors, height=height, width=width)


# --- triangulation with given cameras


def _triangulate(
    photos: Sequence[Photo], cameras: Sequence[Cameras], seed: int, on_progress: OnProgress
) -> list[Float[np.ndarray, "m 3"]]:
    """World positions of the points seen in each photo; none where nothing could be triangulated."""
    images = [_grey(photo.image, _TRIANGULATION.long_side) for photo in photos]
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
        _write_database(database, model, images, _TRIANGULATION, on_progress)
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
    return [_points_of(model, model.images[i]) for i in range(1, len(photos) + 1)]
