"""PixWorld for Blender: photos to Gaussian splats through a backend on this computer.

The scripts of the repository use `importer` and what it imports without the rest, which needs the staged extension
(scripts/build_extension); hence the imports inside the functions.
"""

from __future__ import annotations


def register() -> None:
    import bpy

    from . import operators, panels, preferences, properties

    bpy.utils.register_class(preferences.PixWorldPreferences)
    properties.register()
    operators.register()
    bpy.utils.register_class(panels.PixWorldPanel)


def unregister() -> None:
    import bpy

    from . import operators, panels, preferences, properties

    bpy.utils.unregister_class(panels.PixWorldPanel)
    operators.unregister()
    properties.unregister()
    bpy.utils.unregister_class(preferences.PixWorldPreferences)
