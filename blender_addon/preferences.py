"""The add-on's preferences: where the backend is."""

from __future__ import annotations

import bpy

from .backend.protocol import DEFAULT_ADDRESS


class PixWorldPreferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    address: bpy.props.StringProperty(
        name="Backend", description="Address of the backend, on this computer or another", default=DEFAULT_ADDRESS
    )
    python: bpy.props.StringProperty(
        name="Python",
        description="Python of the PixWorld install that Start Backend runs here, for example .venv/bin/python",
        subtype="FILE_PATH",
    )
    keys: bpy.props.StringProperty(
        name="Keys",
        description="The client.json that `backend keys` made; a backend on another computer wants it",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        from . import panels

        column = self.layout.column()
        column.use_property_split = True
        for name in ("address", "python", "keys"):
            column.prop(self, name)
        row = self.layout.row(align=True)
        for operator in ("pixworld.start_backend", "pixworld.stop_backend", "pixworld.test_backend"):
            row.operator(operator)
        panels.draw_connection(self.layout, context)


def get(context: bpy.types.Context) -> PixWorldPreferences:
    return context.preferences.addons[__package__].preferences


def register() -> None:
    bpy.utils.register_class(PixWorldPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(PixWorldPreferences)
