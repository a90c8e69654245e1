"""What the user sets, saved in the scene."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from . import results

SOURCES = (
    ("FOLDER", "Photos", "JPEG or PNG photos of one place in a folder, all of them or those that you choose"),
    ("IMAGES", "Loaded Images", "Images that are loaded in this file"),
    ("BACKGROUNDS", "Camera Backgrounds", "Background images of the selected cameras, or else of the active one. Still "
     "images are taken from where their cameras are"),
    ("CLIP", "Movie Clip", "A movie, of which the sharpest frames are used, or an image sequence"),
    ("RENDER", "Scene Render", "The scene as EEVEE shows it to the active camera at frames of its animation: the "
     "layout of the world that is generated"),
    ("NONE", "Prompt Only", "No image: the prompt alone says what is generated"),
)  # fmt: skip
PATHS = (
    ("CAMERA", "Active Camera", "Generate what the active camera sees as it moves over the frame range"),
    ("orbit", "Orbit", "Generate around what the image or the active camera shows"),
    ("arc", "Arc", "Generate from left and right of the image or the active camera"),
    ("dolly", "Dolly", "Generate on a way forward"),
    ("spiral", "Spiral", "Generate on a narrow spiral around the view"),
    ("IMAGES", "Through the Images", "Generate on the way through several images"),
)


def _new_folder(settings: bpy.types.PropertyGroup, context: bpy.types.Context) -> None:
    settings.chosen.clear()


class PixWorldSettings(bpy.types.PropertyGroup):
    source: EnumProperty(name="Source", items=SOURCES, description="Where images come from")
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
    clip: PointerProperty(name="Movie Clip", type=bpy.types.MovieClip)
    images: IntProperty(
        name="Images",
        description="How many frames are used, spread over the sequence or the scene's frame range",
        default=8,
        min=1,
        max=64,
    )
    prompt: StringProperty(name="Prompt", description="What the world shows, in a few words")
    seed: IntProperty(name="Seed", description="The same seed gives the same result", default=0, min=0)

    path: EnumProperty(name="Camera", items=PATHS, description="From where the generated views are seen")
    key_views: IntProperty(
        name="Key Views", description="How many views are generated, spread over the way", default=8, min=1, max=64
    )
    steps: IntProperty(
        name="Steps", description="Steps of generation; more are slower and finer", default=20, min=1, max=1000,
        soft_max=100,
    )  # fmt: skip
    guidance: FloatProperty(
        name="Guidance", description="Strength of the prompt; 1 is the model's own", default=1, min=0, max=100,
        soft_max=10,
    )  # fmt: skip
    view_size: IntProperty(
        name="View Size",
        description="Short side, in pixels, at which views are generated; 0 is that of the model's training. What "
        "images show stays up to 8 times as fine",
        default=0, min=0, max=4096, soft_max=1024,
    )  # fmt: skip

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
    by_photo: BoolProperty(
        name="One Object a Photo",
        description="Give each photo an object of its own with the splats that it shows most, to hide or delete them. "
        "Cycles draws them as one; EEVEE and viewports sort splats within an object only, so they blend a little "
        "wrongly where objects meet",
        default=False,
    )
    previews: BoolProperty(
        name="Live Preview", description="Show some of the splats while they are computed", default=True
    )
    match_training: BoolProperty(
        name="Set Up Render",
        description="After the import, set Cycles and colour management so that Render Image shows the splats exactly, "
        "and, unless the scene's camera was followed, camera and image size",
        default=True,
    )
    picked: StringProperty(name="Selected Result")  # by name: places in Blender's list of objects change
    result: IntProperty(name="Result", get=results.line_of, set=results.pick)
    image: IntProperty(name="Image")


def _used(image: bpy.types.Image) -> bool:
    return image.type == "IMAGE" and image.source == "FILE"


class PixWorldImages(bpy.types.UIList):
    """The images of the file that are photos, each with a tick."""

    bl_idname = "PIXWORLD_UL_images"

    def draw_item(self, context, layout, data, image, icon, active_data, active_property, index=0, flt_flag=0) -> None:
        row = layout.row(align=True)
        row.prop(image, "pixworld_use", text="")
        row.label(text=image.name, icon_value=layout.icon(image))

    def filter_items(self, context, data, name) -> tuple[list[int], list[int]]:
        return [self.bitflag_filter_item if _used(image) else 0 for image in getattr(data, name)], []


def register() -> None:
    bpy.utils.register_class(PixWorldSettings)
    bpy.utils.register_class(PixWorldImages)
    bpy.types.Scene.pixworld = PointerProperty(type=PixWorldSettings)
    bpy.types.Image.pixworld_use = BoolProperty(name="Use", description="Use this image", default=True)


def unregister() -> None:
    del bpy.types.Image.pixworld_use
    del bpy.types.Scene.pixworld
    bpy.utils.unregister_class(PixWorldImages)
    bpy.utils.unregister_class(PixWorldSettings)
