"""The add-on's preferences: where the backend is."""

import bpy

from .backend.protocol import DEFAULT_ADDRESS


class PixWorldPreferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    address: bpy.props.StringProperty(
        name="Backend", description="Address of the backend, which runs on this computer", default=DEFAULT_ADDRESS
    )
    python: bpy.props.StringProperty(
        name="Python",
        description="Python of the PixWorld install that Start Backend runs, for example .venv/bin/python",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.prop(self, "address")
        self.layout.prop(self, "python")
        row = self.layout.row(align=True)
        for operator in ("pixworld.start_backend", "pixworld.stop_backend", "pixworld.test_backend"):
            row.operator(operator)


def get(context: bpy.types.Context) -> PixWorldPreferences:
    return context.preferences.addons[__package__].preferences
