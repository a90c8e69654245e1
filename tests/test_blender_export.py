"""Export from a real Blender: the PLY that it writes."""

import blender
import numpy as np
from blender import FIELDS, gaussians_in_cube, in_blender, moved_splats, refusal

pytestmark = blender.needs_bpy


def check_export(folder):
    """A PLY of the splats as edited, in three kinds of axes; nothing of it when it cannot be written."""
    import bpy
    from mathutils import Matrix

    from blender_addon import editing, export

    root, cloud, own = moved_splats(gaussians_in_cube(degree=3))
    np.savez(folder / "own.npz", **own)
    edit = editing.add(cloud)
    cloud.matrix_basis = Matrix.Identity(4)
    bpy.context.view_layer.update()

    def save(name, frame):
        export.write_ply(folder / name, export.placed(editing.shown(cloud), export.frame_of(cloud, frame)))

    save("scene.ply", "SCENE")
    editing.set_values(edit, minimum_opacity=0.5)
    cloud.location = (1, 0, 0)
    bpy.context.view_layer.update()
    save("edited.ply", "SCENE")
    save("blender.ply", "BLENDER")
    save("world.ply", "WORLD")
    np.savez(folder / "frames.npz", world=np.array(cloud.matrix_world))
    root.scale = (1, 2, 1)
    bpy.context.view_layer.update()
    assert "not stretched" in refusal(save, "stretched.ply", "WORLD")
    assert "cannot be written" in refusal(save, "absent/scene.ply", "SCENE")
    assert sorted(x.name for x in folder.glob("*.ply")) == ["blender.ply", "edited.ply", "scene.ply", "world.ply"]
    assert not list(folder.glob(".*"))


def test_export(tmp_path):
    import torch

    from pixworld.gaussians import Gaussians, quat_to_matrix
    from pixworld.splats import load_splats, save_ply

    in_blender(check_export, tmp_path)
    own = Gaussians(*(torch.from_numpy(np.load(tmp_path / "own.npz")[name]) for name in FIELDS))
    save_ply(tmp_path / "ours.ply", own)
    assert (tmp_path / "scene.ply").read_bytes() == (tmp_path / "ours.ply").read_bytes()

    def assert_close(name, wanted):
        got = load_splats(tmp_path / name)
        assert len(got) == len(wanted)
        for field in ("means", "scales", "opacities", "sh"):
            torch.testing.assert_close(getattr(got, field), getattr(wanted, field), atol=3e-5, rtol=3e-5)
        torch.testing.assert_close(quat_to_matrix(got.quats), quat_to_matrix(wanted.quats), atol=3e-5, rtol=0)

    left = own.select(own.opacities >= 0.5)
    assert 1000 < len(left) < 2000
    assert_close("edited.ply", left.transform(1.0, torch.eye(3), torch.tensor([1.0, 0, 0])))
    world = torch.from_numpy(np.load(tmp_path / "frames.npz")["world"]).float()
    scale = float(torch.det(world[:3, :3])) ** (1 / 3)
    assert abs(scale - 0.7) < 1e-5
    placed = left.transform(scale, world[:3, :3] / scale, world[:3, 3])
    assert_close("blender.ply", placed)
    y_down = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert_close("world.ply", placed.transform(1.0, y_down, torch.zeros(3)))


if __name__ == "__main__":
    blender.main(globals())
