"""What the panels say in a real Blender."""

from types import SimpleNamespace

import blender
import blender_jobs
from blender import NOBODY, animated_camera, in_blender, refusal, set_up

pytestmark = blender.needs_bpy


def check_drawing(folder, extension):
    """What panels say of a filter that the user has changed, and of a camera that splats are not made for."""
    from unittest.mock import MagicMock

    import bpy

    set_up(extension, NOBODY)
    importer, editing = blender.module("importer"), blender.module("editing")
    display, editing_panel = blender.module("display"), blender.module("editing_panel")
    scene = bpy.context.scene
    imported = importer.add_scene("One", blender_jobs.gaussians(50, 5), [], scene)
    bpy.context.view_layer.objects.active = imported.splats
    edit = editing.add(imported.splats)

    def labels(draw):
        layout = MagicMock()
        draw(layout)
        return [x.kwargs["text"] for x in layout.mock_calls if x[0].endswith("label")]

    draw = editing_panel.EditPanel._edit
    assert not labels(lambda layout: draw(None, layout, edit))
    socket = next(x for x in edit.node_group.interface.items_tree if x.name == "Budget")
    socket.name = "Mine"
    assert "cannot be shown" in labels(lambda layout: draw(None, layout, edit))[0]
    assert "'Budget'" in refusal(lambda: bpy.ops.pixworld.decimate(budget=10))

    preferences = SimpleNamespace(system=SimpleNamespace(ui_scale=1))
    context = SimpleNamespace(scene=scene, region=SimpleNamespace(width=9000), preferences=preferences)

    def display_labels():
        return labels(lambda layout: display.DisplayPanel.draw(SimpleNamespace(layout=layout), context))

    card = {"task": "generate", "photos": [], "cameras": [{}], "settings": {"seed": 3, "prompt": "", "path": "orbit"}}
    about = blender.module("panels").about
    assert about(card)[1] == "Seed 3"  # the orbit has more cameras than the one that it begins at
    card["settings"]["path"] = "CAMERA"
    assert about(card)[1] == "Seed 3, 1 camera"

    mover = animated_camera(scene)
    assert not any("perspective" in x for x in display_labels())
    mover.data.type = "ORTHO"
    assert "mover is orthographic: renders show splats rightly in perspective only" in display_labels()

    eevee = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
    for engine, matched in ((eevee, eevee), ("BLENDER_WORKBENCH", "CYCLES"), ("CYCLES", "CYCLES")):
        scene.render.engine = engine
        assert bpy.ops.pixworld.match_training() == {"FINISHED"} and scene.render.engine == matched
    warned = []
    for aspect in (1, 1.5):
        scene.render.pixel_aspect_y, report = aspect, lambda kind, text: warned.append(text)
        display.AddPasses.act(SimpleNamespace(report=report), scene)
    assert len(warned) == (bpy.app.version < (5, 1, 0)) and all("multilayer EXR" in x for x in warned)
    bpy.context.window.scene = bpy.data.scenes.new("Empty")
    assert "no splats in this scene" in refusal(bpy.ops.pixworld.add_passes)


def test_panels_say_what_is_wrong(tmp_path, extension):
    in_blender(check_drawing, tmp_path, extension)


if __name__ == "__main__":
    blender.main(globals())
