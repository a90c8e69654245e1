"""What the user sets, saved in the scene."""

import bpy
from bpy.props import BoolProperty, CollectionProperty, IntProperty, PointerProperty, StringProperty


def _new_folder(settings: bpy.types.PropertyGroup, context: bpy.types.Context) -> None:
    settings.chosen.clear()


class PixWorldSettings(bpy.types.PropertyGroup):
    photos: StringProperty(
        name="Photos",
        description="Folder with JPEG or PNG photos of one place, taken from different positions",
        subtype="DIR_PATH",
        update=_new_folder,
    )
    chosen: CollectionProperty(
        name="Chosen Photos",
        description="Photos of the folder that are used; all when empty",
        type=bpy.types.OperatorFileListElement,
    )
    views: IntProperty(
        name="Views", description="Photos that the model sees at once, at most", default=8, min=1, max=64
    )
    size: IntProperty(
        name="Size",
        description="Short side, in pixels, at which photos are refined; never enlarged",
        default=512,
        min=64,
        max=8192,
        soft_max=2048,
        subtype="PIXEL",
    )
    refine: IntProperty(
        name="Refine",
        description="Optimisation steps after the prediction; 0 is fastest",
        default=300,
        min=0,
        max=100_000,
        soft_max=5000,
    )
    seed: IntProperty(name="Seed", description="The same seed gives the same result", default=0, min=0)
    match_training: BoolProperty(
        name="Set Up Render",
        description="After the import, set camera, image size, Cycles and colour management so that Render Image shows "
        "the splats exactly",
        default=True,
    )


def register() -> None:
    bpy.utils.register_class(PixWorldSettings)
    bpy.types.Scene.pixworld = PointerProperty(type=PixWorldSettings)


def unregister() -> None:
    del bpy.types.Scene.pixworld
    bpy.utils.unregister_class(PixWorldSettings)
