"""The numbers and switches that a user may choose, checked in one place for the command line and for the service; those
of a generation are in pixworld/generate.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixworld.reconstruct import ReconstructOptions

# Smallest and largest value of the numbers that a user may choose.
OPTIONS = {
    "holdout": (0, 10_000),
    "views": (1, 64),
    "size": (16, 8192),
    "refine": (0, 100_000),
    "steps": (1, 10_000_000),
    "sh_degree": (0, 3),
    "budget_seconds": (1, 86_400),
    "max_gaussians": (1, 20_000_000),
    "seed": (0, 2**31 - 1),
}


def make_options(
    *,
    refine: int | None = None,
    budget_seconds: float | None = None,
    max_gaussians: int | None = None,
    exposure: bool = False,
    refine_poses: bool = False,
    early_stop: bool = False,
    **values: Any,
) -> ReconstructOptions:
    """Checked options; `refine` is the number of steps. Raises InputError."""
    from pixworld.reconstruct import ReconstructOptions
    from pixworld.refine import RefineOptions

    check_options(**values, refine=refine, budget_seconds=budget_seconds, max_gaussians=max_gaussians)
    refinement = RefineOptions(refine, budget_seconds, max_gaussians, None, exposure, refine_poses, early_stop)
    return ReconstructOptions(**values, refinement=refinement)


def check_options(**values: Any) -> None:
    """Raises InputError when a number is outside its range of OPTIONS; None is never."""
    from pixworld.views import InputError

    for name, value in values.items():
        low, high = OPTIONS.get(name, (None, None))
        if value is not None and low is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}; choose a number from {low} to {high}.")
