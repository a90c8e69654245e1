"""The buttons of "Edit Splats"; those that hide and delete are here."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty
from mathutils import Matrix

from . import alignment_operators, editing, export, output_operators
from .on_splats import UNDO, OnSplats, active_splats, to_world


class AddEdit(OnSplats, bpy.types.Operator):
    """Hide Gaussians by opacity, size, confidence or a box, thin them out and change their colours. Nothing is lost"""

    bl_idname, bl_label, bl_options = "pixworld.add_edit", "Add Filter", UNDO

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> None:
        editing.add(obj)


class RemoveEdit(OnSplats, bpy.types.Operator):
    """Take this filter off; what it hid comes back"""

    bl_idname, bl_label, bl_options = "pixworld.remove_edit", "Remove Filter", UNDO

    name: StringProperty(name="Modifier")

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> None:
        modifier = next((m for m in editing.edits(obj) if m.name == self.name), None)
        if modifier is None:
            raise ValueError(f"{obj.name} has no filter {self.name!r}.")
        obj.modifiers.remove(modifier)


class AddBox(OnSplats, bpy.types.Operator):
    """Add a box that crops the splats: move, turn and scale it at will"""

    bl_idname, bl_label, bl_options = "pixworld.add_box", "Add Crop Box", UNDO

    fit: EnumProperty(
        name="Fit",
        items=[
            ("SPLATS", "Splats", "Around the splats, strays left out"),
            ("SELECTED", "Selected Objects", "Around the other selected objects"),
            ("COLLECTION", "Collection", "Around the other objects of the active collection"),
        ],
    )
    collection: StringProperty(
        name="Collection", description="The collection that the box is fitted to; the active one when empty"
    )

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> None:
        root = export.root_of(obj)
        if self.fit == "SPLATS":
            arrays = editing.shown(obj)
            if not len(arrays["means"]):
                raise ValueError("No splats are shown; loosen the filters first.")
            low, high = editing.extent(to_world(obj, arrays["means"]), arrays["opacities"])
        else:
            low, high = _bounds(self._others(context, obj))
        box = editing.add_box(f"{obj.name} Box", low, high, Matrix.Identity(4))
        for collection in obj.users_collection:
            collection.objects.link(box)
        if root is not obj:
            world = box.matrix_basis.copy()
            box.parent = root
            box.matrix_parent_inverse = root.matrix_world.inverted()
            box.matrix_basis = world
        free = next((m for m in editing.edits(obj) if editing.value_of(m, "Box") is None), None)
        editing.set_values(free or editing.add(obj), box=box)

    def _others(self, context: bpy.types.Context, obj: bpy.types.Object) -> list[bpy.types.Object]:
        if self.fit == "SELECTED":
            found = [x for x in context.selected_objects if x is not obj]
        else:
            chosen = bpy.data.collections.get(self.collection, context.collection)
            found = [x for x in chosen.all_objects if x is not obj]
        if not found:
            raise ValueError("There is no other object to fit the box to; select some, or choose a collection of some.")
        return found


class ApplyEdits(OnSplats, bpy.types.Operator):
    """Make the filters and colours permanent and take them off"""

    bl_idname, bl_label, bl_options = "pixworld.apply_edits", "Apply", UNDO

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> str:
        return f"{editing.apply(obj):,} Gaussians are left"


class DeleteHidden(OnSplats, bpy.types.Operator):
    """Delete the Gaussians that the filters hide; the filters stay"""

    bl_idname, bl_label, bl_options = "pixworld.delete_hidden", "Delete Hidden", UNDO

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> str:
        return f"{editing.delete_hidden(obj):,} Gaussians are left"


class Decimate(OnSplats, bpy.types.Operator):
    """Keep the Gaussians that matter most, by opacity times area"""

    bl_idname, bl_label, bl_options = "pixworld.decimate", "Decimate", UNDO

    budget: IntProperty(name="Gaussians", description="How many are left, at most", default=100_000, min=1)
    apply: BoolProperty(name="Apply", description="Delete the others for good", default=False)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.budget = max(1, len(active_splats(context).data.points) // 2)
        return context.window_manager.invoke_props_dialog(self)

    def act(self, context: bpy.types.Context, obj: bpy.types.Object) -> str:
        edits = editing.edits(obj)
        editing.set_values(edits[-1] if edits else editing.add(obj), budget=self.budget)
        left = editing.delete_hidden(obj) if self.apply else len(editing.kept(obj))
        return f"{left:,} Gaussians are left"


def _bounds(objects: list[bpy.types.Object]) -> tuple[np.ndarray, np.ndarray]:
    """Corners [3] of the world box around objects; of an Empty or a camera, its origin counts."""
    corners = np.concatenate(
        [
            to_world(x, np.array(x.bound_box))
            if x.data and x.type != "CAMERA"
            else np.array([x.matrix_world.translation])
            for x in objects
        ]
    )
    return corners.min(axis=0), corners.max(axis=0)


CLASSES = (
    AddEdit, RemoveEdit, AddBox, ApplyEdits, DeleteHidden, Decimate,
    *alignment_operators.CLASSES, *output_operators.CLASSES,
)  # fmt: skip


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
