"""Dense depth of posed photos by plane-sweep stereo: the matching cue that a small network does not find by itself.

Each photo is compared with its neighbours at a sweep of depths (Collins 1996, "A space-sweep approach to true
multi-image matching"), by normalised cross-correlation of windows: coarsely over the whole range that the scene's
points span, where semi-global matching decides what is alike at several depths, then around the winner at twice the
size. A depth counts where neighbours' own depths lead back to the pixel and the pixels around agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pixworld.cameras import Cameras
from pixworld.view_choice import camera_distance
from pixworld.views import PosedPhoto

SIZE = 144  # short side of the finest level, pixels
LEVELS = 2  # each twice as large as the one before
SWEEP = 48  # depths of the coarse sweep, even in log depth
REFINE = (-2, -1, 0, 1, 2)  # depths around the winner at the next level, in steps of 0.6 of the level before
WINDOW = 5  # pixels, at the coarsest level; 2 more from the next on
NEIGHBOURS = 4  # photos that each is compared with
STEP, JUMP = 0.1, 0.6  # correlation that it costs if a pixel beside is one of SWEEP away in depth, or farther
SURE = 0.7  # mean correlation that a depth needs: +0.2 to +0.6 dB on procedural scenes over none, 0.85 is less
# By how much a neighbour's depth may differ and still confirm: relative, and in pixels of the view, there and
# back, as 3 % are five pixels between views that are far apart.
TOLERANCE, RETURN = 0.03, 1.0
SUPPORT, AROUND = 0.3, 5  # share of the pixels around, in a window of so many, that must be as deep; speckles are wrong
ALIKE = 0.05  # relative: as deep
FLAT = 1e-4  # variance of grey values, 0..1, that counts as no texture


@torch.no_grad()
def match(
    photos: Sequence[PosedPhoto], on_progress: Callable[[str, int, int], None] = lambda *_: None
) -> list[PosedPhoto]:
    """The photos with `stereo` [1 h w] at a short side of SIZE or less: z where it is confirmed, 0 elsewhere.

    Depths are sought in the range of the points that each photo sees; a photo without any is left as it is.
    """
    seeing = [p for p in photos if len(p.points)]
    if len(seeing) < 2:
        return list(photos)
    sources = neighbours(Cameras.cat([p.views.cameras.resize(1, 1) for p in seeing]), NEIGHBOURS)
    ranges = [_log_range(p) for p in seeing]
    widest = max(high - low for low, high in ranges)
    device = seeing[0].views.images.device
    logs = [torch.full((1, 1, 1), (low + high) / 2, device=device) for low, high in ranges]
    offsets = torch.linspace(-widest / 2, widest / 2, SWEEP, device=device)
    for level in range(LEVELS):
        sizes = [_level_size(p.views.cameras, level) for p in seeing]
        grey = [_resize(p.views.images, *s).mean(1, keepdim=True) for p, s in zip(seeing, sizes)]
        cameras = [p.views.cameras.resize(*s) for p, s in zip(seeing, sizes)]
        logs = [_median(_resize(x[None], *s)[0]) for x, s in zip(logs, sizes)]
        window = WINDOW if level == 0 else WINDOW + 2
        swept = []
        for i, log_depth in enumerate(logs):
            on_progress("stereo", level * len(seeing) + i, LEVELS * len(seeing))
            others = [(grey[j], cameras[j]) for j in sources[i]]
            swept.append(sweep(grey[i], cameras[i], others, log_depth, offsets, window, smooth=level == 0))
        logs, scores = zip(*swept)
        offsets = torch.tensor(REFINE, device=device) * 0.6 * (offsets[1] - offsets[0])
    depth = {}
    for i, photo in enumerate(seeing):
        others = [(logs[j], cameras[j]) for j in sources[i]]
        needed = max(1, len(others) // 2)  # of up to 3 others 1, of 4 2
        sure = (confirmations(logs[i], cameras[i], others) >= needed) & (scores[i] > SURE)
        sure = supported(logs[i], sure)
        if photo.views.mask is not None:
            sure &= _resize(photo.views.mask[:, None].float(), *logs[i].shape[-2:])[:, 0] > 0.99
        depth[photo.name] = torch.where(sure, logs[i].exp(), 0.0)
    on_progress("stereo", LEVELS * len(seeing), LEVELS * len(seeing))
    return [replace(p, stereo=depth.get(p.name)) for p in photos]


def sweep(
    grey: Float[Tensor, "1 1 h w"],
    cameras: Cameras,
    sources: Sequence[tuple[Float[Tensor, "1 1 _ _"], Cameras]],
    log_depth: Float[Tensor, "1 h w"],
    offsets: Float[Tensor, " d"],
    window: int,
    *,
    smooth: bool = False,
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """The log depth among log_depth + offsets (evenly spaced) at which the view looks most like its sources; between
    the offsets by the parabola through the winner and its neighbours; and the winner's mean correlation with its two
    best sources. `cameras` are of one view each. With `smooth`, where all pixels have one log_depth, neighbours are
    asked too."""
    depth = torch.exp(log_depth + offsets[:, None, None])
    # The two best sources count at a pixel, a single one twice: the others may not see it.
    best = second = correlation(grey, cameras, *sources[0], depth, window)
    for i, source in enumerate(sources[1:]):
        score = correlation(grey, cameras, *source, depth, window)
        worse = torch.minimum(best, score)
        second = worse if i == 0 else torch.maximum(second, worse)
        best = torch.maximum(best, score)
    means = (best + second) / 2
    scores = semi_global(means) if smooth else means
    winner = scores.argmax(0)
    inner = winner.clamp(1, len(offsets) - 2)
    before, at, after = (scores.gather(0, (inner + k)[None])[0] for k in (-1, 0, 1))
    bend = (before - 2 * at + after).clamp_max(-1e-4)
    shift = torch.where(winner == inner, (0.5 * (before - after) / bend).clamp(-0.5, 0.5), 0.0)
    return log_depth + offsets[winner] + shift * (offsets[1] - offsets[0]), means.gather(0, winner[None])


def correlation(
    grey: Float[Tensor, "1 1 h w"],
    cameras: Cameras,
    source: Float[Tensor, "1 1 h2 w2"],
    source_cameras: Cameras,
    depth: Float[Tensor, "d h w"],
    window: int,
) -> Float[Tensor, "d h w"]:
    """Normalised cross-correlation, -1..1, of each window of the view with what the source shows if the pixel lies at
    each depth (z); -1 where the source does not see it."""
    column, row, z = _seen_at(cameras, source_cameras, depth)
    grid = torch.stack([2 * column / source_cameras.width - 1, 2 * row / source_cameras.height - 1], dim=-1)
    inside = (z > 0) & (grid.abs().amax(-1) < 1)
    shown = F.grid_sample(source.expand(len(depth), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    mean_a, mean_b = _box(grey, window), _box(shown, window)
    var_a = _box(grey * grey, window) - mean_a**2
    var_b = _box(shown * shown, window) - mean_b**2
    covariance = _box(grey * shown, window) - mean_a * mean_b
    score = covariance * torch.rsqrt((var_a.clamp_min(0) + FLAT) * (var_b.clamp_min(0) + FLAT))
    return torch.where(inside, score[:, 0], -1.0)


def semi_global(scores: Float[Tensor, "d h w"]) -> Float[Tensor, "d h w"]:
    """Scores of each pixel's depths, with those of the pixels on the way to it from four sides (Hirschmüller 2008,
    "Stereo Processing by Semiglobal Matching and Mutual Information", eq. 13): large where both say so."""
    total = torch.zeros_like(scores)
    for dim in (1, 2):
        lines = scores.movedim(dim, 0)
        both = torch.stack([lines, lines.flip(0)], dim=-1)  # there and back in one go
        paths = [both[0]]
        for line in both[1:]:
            paths.append(line + _carried(paths[-1]))
        there, back = torch.stack(paths).unbind(-1)
        total += (there + back.flip(0)).movedim(0, dim)
    return total


def _carried(path: Float[Tensor, "d n 2"]) -> Float[Tensor, "d n 2"]:
    """What the pixels before say of each depth, at most 0: the best of staying, of one step and of a jump."""
    best = path.amax(0)
    carried = torch.maximum(path, best - JUMP)
    carried[1:] = torch.maximum(carried[1:], path[:-1] - STEP)
    carried[:-1] = torch.maximum(carried[:-1], path[1:] - STEP)
    return carried - best


def confirmations(
    log_depth: Float[Tensor, "1 h w"], cameras: Cameras, others: Sequence[tuple[Float[Tensor, "1 _ _"], Cameras]]
) -> Int[Tensor, "1 h w"]:
    """How many other views put each pixel's point at the depth that they found there themselves: the two differ little,
    and the other's point is seen at the pixel."""
    origin, directions = cameras.rays()
    points = origin + log_depth.exp()[..., None] * directions
    pixels = cameras.project(points.reshape(-1, 3))[0]
    count = torch.zeros_like(log_depth, dtype=torch.long)
    for theirs, other in others:
        column, row, z = _seen_at(cameras, other, log_depth.exp())
        inside = (z > 0) & (column >= 0) & (column < other.width) & (row >= 0) & (row < other.height)
        found = theirs[0][row.long().clamp(0, other.height - 1), column.long().clamp(0, other.width - 1)]
        change = found - torch.log(z.clamp_min(1e-9))
        centre = other.positions[0]
        back, _ = cameras.project((centre + change.exp()[..., None] * (points - centre)).reshape(-1, 3))
        near = (back - pixels).norm(dim=-1).reshape(log_depth.shape) < RETURN
        count += inside & near & (change.abs() < TOLERANCE)
    return count


def supported(log_depth: Float[Tensor, "1 h w"], sure: Bool[Tensor, "1 h w"]) -> Bool[Tensor, "1 h w"]:
    """Where a pixel is sure and enough of those around it are as deep."""
    half = AROUND // 2
    padded = F.pad(torch.where(sure, log_depth, torch.inf)[None], (half,) * 4, value=torch.inf)
    around = F.unfold(padded, AROUND).reshape(AROUND**2, *log_depth.shape[1:])
    alike = ((around - log_depth).abs() < ALIKE).float().mean(0)
    inside = F.avg_pool2d(torch.ones_like(log_depth), AROUND, 1, half)  # at the border there are fewer
    return sure & (alike > SUPPORT * inside)


def _seen_at(cameras: Cameras, other: Cameras, depth: Float[Tensor, "d h w"]) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row and z in another view, each [d h w], of the pixels' points at the depths."""
    origin, directions = cameras.rays()  # [1 h w 3]; a point is origin + z direction
    projection = other.K[0] @ other.w2c[0, :3]
    slope = directions[0] @ projection[:, :3].T  # [h w 3]
    start = origin[0] @ projection[:, :3].T + projection[:, 3]
    x, y, z = (start[..., k] + depth * slope[..., k] for k in range(3))
    return x / z.clamp_min(1e-9), y / z.clamp_min(1e-9), z


def neighbours(cameras: Cameras, count: int) -> list[list[int]]:
    """For each camera [v] the nearest others in position and viewing direction."""
    distance = camera_distance(cameras, cameras).fill_diagonal_(torch.inf)
    return distance.argsort(dim=1)[:, : min(count, len(distance) - 1)].tolist()


def _log_range(photo: PosedPhoto) -> tuple[float, float]:
    """Log depth of the points that a photo sees, without the outermost ones, and a margin around."""
    _, z = photo.views.cameras.project(photo.points)
    z = z[z > 0].log()
    low, high = z.quantile(0.02).item(), z.quantile(0.98).item()
    return low - 0.15, high + 0.3


def _level_size(cameras: Cameras, level: int) -> tuple[int, int]:
    short = min(cameras.height, cameras.width)
    scale = min(SIZE, short) / short / 2 ** (LEVELS - 1 - level)
    return round(cameras.height * scale), round(cameras.width * scale)


def _resize(x: Float[Tensor, "n c h w"], height: int, width: int) -> Float[Tensor, "n c h2 w2"]:
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def _median(x: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Of 3 x 3 pixels: a lone wrong winner would lead the next level astray."""
    patches = F.unfold(F.pad(x[None], (1, 1, 1, 1), mode="replicate"), 3)
    return patches.median(dim=1).values.reshape(x.shape)


def _box(x: Float[Tensor, "n 1 h w"], window: int) -> Float[Tensor, "n 1 h w"]:
    """Mean over a square window; the border repeats. Shifted sums: torch's pooling takes several times as long here."""
    half = window // 2
    for dim, pad in ((-2, (0, 0, half, half)), (-1, (half, half, 0, 0))):
        padded, size = F.pad(x, pad, mode="replicate"), x.shape[dim]
        total = padded.narrow(dim, 0, size).clone()
        for k in range(1, window):
            total += padded.narrow(dim, k, size)
        x = total / window
    return x
