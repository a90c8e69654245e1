"""PixWorld for Blender: photos and prompts to Gaussian splats through a backend.

The scripts of the repository use `importer` and what it imports without the rest, which needs the staged extension
(scripts/build_extension); hence the imports inside the functions.
"""

from __future__ import annotations

from types import ModuleType


def _parts() -> list[ModuleType]:
    """What has something to register, in that order."""
    from . import (
        display,
        editing_operators,
        editing_panel,
        operators,
        panels,
        preferences,
        properties,
        results,
        viewport,
    )

    return [preferences, properties, results, operators, editing_operators, panels, editing_panel, viewport, display]


def register() -> None:
    for part in _parts():
        part.register()


def unregister() -> None:
    for part in reversed(_parts()):
        part.unregister()
