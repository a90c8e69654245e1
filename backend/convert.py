"""`backend convert` and `backend info`: splat files from one format to another, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np

_BINS, _BAR = 10, 30  # of a histogram: rows, and the length of the longest bar
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def convert(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    /,
    max_gaussians: int | None = None,
    min_opacity: float | None = None,
    crop: tuple[float, float, float, float, float, float] | None = None,
    sh_degree: int | None = None,
    spz_version: Literal[3, 4] = 3,
) -> None:
    """Convert a splat file to the format of OUT's suffix: .ply .spz .splat .sog .glb .gltf .usd .usda .usdc.

    Args:
        source: the file to read, of one of these formats
        out: the file to write; it may be the source, which is replaced at the end
        max_gaussians: keep those of greatest opacity times mean projected area
        min_opacity: drop those with less opacity, 0 to 1
        crop: keep those with their centre in this box: minimum x y z, maximum x y z
        sh_degree: cut view-dependent colour to this degree, 0 to 3
        spz_version: version of an .spz file; more readers know 3, 4 is smaller and quicker to load
    """
    from pixworld.splats import format_of, load_splats, save_splats
    from pixworld.splats.edit import prune
    from pixworld.views import InputError

    if max_gaussians is not None and max_gaussians < 1:
        raise InputError(f"--max-gaussians {max_gaussians} leaves nothing; give 1 or more.")
    if min_opacity is not None and not 0 <= min_opacity <= 1:
        raise InputError(f"--min-opacity {min_opacity:g} is no opacity; give 0 to 1.")
    if sh_degree is not None and not 0 <= sh_degree <= 3:
        raise InputError(f"--sh-degree {sh_degree} is unknown; give 0 to 3.")
    if crop is not None and not all(low < high for low, high in zip(crop[:3], crop[3:])):
        raise InputError("--crop needs a minimum below the maximum on every axis: min x y z, then max x y z.")
    format_of(out)
    before = load_splats(source)
    after = prune(before, max_gaussians, min_opacity, crop)
    if len(before) and not len(after):
        raise InputError(f"None of the {len(before)} Gaussians of {source} would be left; ask for less.")
    if sh_degree is not None and sh_degree < after.sh_degree:
        after = after.with_sh_degree(sh_degree)
    source_bytes = source.stat().st_size
    save_splats(out, after, [f"PixWorld: converted from {source.name}"], spz_version)
    print(
        f"{out}: {len(after)} of {len(before)} Gaussians, SH degree {after.sh_degree}; "
        f"{_bytes(source_bytes)} became {_bytes(out.stat().st_size)}"
    )


def info(file: tyro.conf.Positional[Path], /) -> None:
    """Show what is in a splat file: counts, bounds, SH degree, and how opacities and scales are distributed.

    Args:
        file: a splat file of any format that `convert` reads
    """
    import numpy as np

    from pixworld.splats import format_of, load_splats

    g = load_splats(file)
    table = Table(title=str(file), title_justify="left", show_header=False)
    table.add_row("format", format_of(file).name)
    table.add_row("file", _bytes(file.stat().st_size))
    table.add_row("Gaussians", f"{len(g):,}")
    table.add_row("SH degree", str(g.sh_degree))
    fields = (g.means, g.quats, g.scales, g.opacities, g.sh)
    table.add_row("memory", f"{_bytes(sum(x.numel() * x.element_size() for x in fields))} as float32")
    if len(g):
        means, scales, sh = g.means.numpy(), g.scales.numpy(), g.sh.numpy()
        for axis, values in zip("xyz", means.T):
            low, first, last, high = np.percentile(values, (0, 1, 99, 100))
            table.add_row(f"{axis}", f"{low:.4g} .. {high:.4g}   (98 % in {first:.4g} .. {last:.4g})")
        if g.sh_degree:
            bands = np.sqrt((sh[:, 1:] ** 2).mean())
            table.add_row("view-dependent colour", f"{bands:.3g} (root mean square of the SH bands above 0)")
        logs = np.log10(scales)
        _add_distribution(table, "opacity", g.opacities.numpy(), np.linspace(0, 1, _BINS + 1))
        _add_distribution(table, "scale, largest axis", scales.max(axis=1), 10 ** _bins(logs.max(axis=1)))
        _add_distribution(table, "scale, smallest axis", scales.min(axis=1), 10 ** _bins(logs.min(axis=1)))
    Console().print(table)


def _bins(values: np.ndarray) -> np.ndarray:
    """Edges of bins over the middle 99.8 % of values; the ends catch the rest."""
    import numpy as np

    low, high = np.percentile(values, (0.1, 99.9))
    return np.linspace(low, max(high, low + 1e-3), _BINS + 1)


def _add_distribution(table: Table, name: str, values: np.ndarray, edges: np.ndarray) -> None:
    import numpy as np

    table.add_section()
    points = np.percentile(values, _PERCENTILES)
    table.add_row(name, "   ".join(f"{p} %: {x:.3g}" for p, x in zip(_PERCENTILES, points)))
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    for low, high, count in zip(edges[:-1], edges[1:], counts):
        bar = "█" * round(_BAR * count / counts.max())
        table.add_row(f"  {low:.3g} .. {high:.3g}", f"{bar:<{_BAR}} {count:,} ({count / len(values):.1%})")


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
