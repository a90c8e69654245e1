"""Cameras in a real Blender against its own projection: those of photos, and the path of one that moves."""

import blender
import numpy as np
from blender import in_blender

pytestmark = blender.needs_bpy


# --- of photos


def check_cameras(folder):
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Matrix, Vector

    from blender_addon import cameras

    scene = bpy.context.scene
    rng = np.random.default_rng(0)

    def error_px(camera, K, c2w, width, height):
        """Largest distance between Blender's projection of points (single precision) and ours."""
        pixels = rng.uniform(0, (width, height), (20, 2))
        local = np.linalg.inv(K) @ np.c_[pixels, np.ones(20)].T * rng.uniform(2, 4, 20)
        points = (c2w @ np.r_[local, np.ones((1, 20))]).astype(np.float32)
        seen = [world_to_camera_view(scene, camera, Vector(p[:3])) for p in points.T]
        exact = K @ (np.linalg.inv(c2w) @ points)[:3]
        pixels = (exact[:2] / exact[2]).T
        return np.abs([(p.x * width, (1 - p.y) * height) for p in seen] - pixels).max()

    root = bpy.data.objects.new("root", None)
    scene.collection.objects.link(root)
    worst = 0.0
    for i in range(40):
        width, height = ((128, 96), (72, 120), (100, 100), (128, 40))[i % 4]
        fx = rng.uniform(0.8, 1.5) * width
        fy = fx * rng.uniform(0.8, 1.25) if i % 3 == 0 else fx
        cx, cy = (0.5 + rng.uniform(-0.3, 0.3, 2)) * (width, height)
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        c2w = np.eye(4)
        c2w[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        c2w[:3, :3] *= np.linalg.det(c2w[:3, :3])
        c2w[:3, 3] = rng.uniform(-0.5, 0.5, 3)
        camera = cameras.make(f"camera {i}", c2w, K, width, height, scene.collection)
        camera.parent = root
        turn = cameras.upright([c2w])
        assert np.allclose(turn[:3, :3] @ -c2w[:3, 1], (0, 0, 1), atol=1e-6)
        assert np.allclose(turn @ turn.T, np.eye(4)) and np.linalg.det(turn) > 0
        root.matrix_basis = Matrix(turn)
        cameras.look_through(camera, scene)
        bpy.context.view_layer.update()
        worst = max(worst, error_px(camera, K, turn @ c2w, width, height))
        got, *size = cameras.intrinsics_of(camera, scene.render)
        assert np.allclose(got, K, atol=1e-4) and size == [width, height]
        assert np.allclose(cameras.pose_of(camera), turn @ c2w, atol=1e-6)
    print(f"photo cameras: {worst:.1e} px")
    assert worst < 1e-4

    data = camera.data
    data.lens, data.sensor_width, data.sensor_height, data.shift_x, data.shift_y = 30, 36, 20, 0.1, -0.07
    render = scene.render
    render.resolution_percentage = 25
    for fit in ("AUTO", "HORIZONTAL", "VERTICAL"):
        for size in ((640, 480), (480, 640)):
            data.sensor_fit = fit
            render.resolution_x, render.resolution_y = size
            render.pixel_aspect_x, render.pixel_aspect_y = 1.2, 1
            K, width, height = cameras.intrinsics_of(camera, render)
            assert error_px(camera, K, cameras.pose_of(camera), width, height) < 1e-4
    data.type = "ORTHO"
    try:
        cameras.intrinsics_of(camera, render)
    except ValueError as error:
        assert "perspective" in str(error)
    else:
        raise AssertionError("an orthographic camera has no K")

    # a scene that no window shows
    other = bpy.data.scenes.new("other")
    other.camera = bpy.data.objects.new("mover", bpy.data.cameras.new("mover"))
    other.collection.objects.link(other.camera)
    for frame, x in ((1, 0), (10, 5)):
        other.camera.location.x = x
        other.camera.keyframe_insert("location", frame=frame)
    assert bpy.context.scene == scene
    assert np.allclose(cameras.path_of(None, other, [1, 10]).c2w[:, 0, 3], (0, 5))


def test_cameras_are_exact(tmp_path):
    print(in_blender(check_cameras, tmp_path))


# --- a path


def projected(scene, camera, points):
    """What world_to_camera_view does, in double precision from the numbers that Blender keeps: places in the image from
    its top left, in units of its sides. (Blender's own rounds a place to 6e-8 of the image, which is 2e-4 px of 3840,
    and its view frame to as much again.)"""
    data, render = camera.data, scene.render
    sides = np.array([render.resolution_x * render.pixel_aspect_x, render.resolution_y * render.pixel_aspect_y])
    tall = data.sensor_fit == "VERTICAL" or (data.sensor_fit == "AUTO" and sides[1] > sides[0])
    sensor = data.sensor_height if data.sensor_fit == "VERTICAL" else data.sensor_width
    unit = sensor / data.lens / sides[int(tall)]  # of the plane at distance 1, per pixel
    low = unit * (np.array([data.shift_x, data.shift_y]) * sides[int(tall)] - sides / 2)
    pose = np.array(camera.matrix_world, np.float64)
    pose[:3, :3] /= np.linalg.norm(pose[:3, :3], axis=0)
    local = np.linalg.solve(pose, np.c_[points, np.ones(len(points))].T).T
    uv = (local[:, :2] / -local[:, 2:3] - low) / (unit * sides)
    return np.c_[uv[:, 0], 1 - uv[:, 1]]


def check_path(folder):
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    from blender_addon import cameras

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene, rng = bpy.context.scene, np.random.default_rng(0)
    render = scene.render
    scene.frame_start, scene.frame_end = 10, 30
    assert cameras.key_frames(scene, 3) == [10, 20, 30] and cameras.key_frames(scene, 1) == [10]
    assert len(cameras.key_frames(scene, 64)) == 21
    worst = {"bpy's own": 0.0, "in double": 0.0}
    for i in range(30):
        size = ((512, 512), (640, 480), (480, 640), (3840, 2160), (1080, 1920))[i % 5]
        render.resolution_percentage = (100, 50, 25)[i % 3]  # of which no fraction of a pixel is left
        render.resolution_x, render.resolution_y = (side * 100 // render.resolution_percentage for side in size)
        render.pixel_aspect_x, render.pixel_aspect_y = ((1, 1), (1.2, 1), (1, 1.5))[i % 3]
        data = bpy.data.cameras.new("camera")
        camera = bpy.data.objects.new("camera", data)
        parent, target = (bpy.data.objects.new(name, None) for name in ("parent", "target"))
        for thing in (camera, parent, target):
            scene.collection.objects.link(thing)
        data.sensor_fit = ("AUTO", "HORIZONTAL", "VERTICAL")[(i // 3) % 3]
        data.sensor_width, data.sensor_height = rng.uniform(10, 40, 2)
        data.shift_x, data.shift_y = rng.uniform(-0.3, 0.3, 2)
        parent.rotation_euler, parent.scale = rng.uniform(-3, 3, 3), [rng.uniform(0.3, 3)] * 3
        target.location = rng.uniform(-2, 2, 3)
        camera.parent = parent
        for frame in (10, 30):
            data.lens = rng.uniform(15, 120)
            data.keyframe_insert("lens", frame=frame)
            for thing in (camera, parent):
                thing.location = rng.uniform(-4, 4, 3)
                thing.keyframe_insert("location", frame=frame)
        camera.rotation_euler = rng.uniform(-3, 3, 3)
        if i % 2:
            camera.constraints.new("TRACK_TO").target = target
        scene.camera = camera
        scene.frame_set(12)
        frames = [10, 17, 30]
        path = cameras.path_of(None, scene, frames)
        assert scene.frame_current == 12
        for frame, c2w, K, (height, width) in zip(frames, *path):
            assert (width, height) == size
            scene.frame_set(frame)
            pixels = np.c_[rng.uniform(0, size, (10, 2)), np.ones(10)]
            points = (c2w @ np.r_[(np.linalg.inv(K) @ pixels.T) * rng.uniform(2, 6, 10), np.ones((1, 10))])[:3].T
            points = points.astype(np.float32).astype(np.float64)
            ours = K @ (np.linalg.inv(c2w) @ np.c_[points, np.ones(10)].T)[:3]
            ours = (ours[:2] / ours[2]).T
            blenders = np.array([world_to_camera_view(scene, camera, Vector(p)) for p in points])[:, :2]
            for name, seen in (
                ("bpy's own", np.c_[blenders[:, 0], 1 - blenders[:, 1]]),
                ("in double", projected(scene, camera, points)),
            ):
                worst[name] = max(worst[name], np.abs(seen * size - ours).max())
    print(f"world_to_camera_view: {worst} px")
    assert worst["in double"] < 1e-6
    assert worst["bpy's own"] < 1e-2  # single precision throughout

    def refused(words):
        try:
            cameras.path_of(None, scene, [10])
        except ValueError as error:
            assert all(word in str(error) for word in (camera.name, *words)), error
        else:
            raise AssertionError("nothing was refused")

    data.type = "ORTHO"
    refused(["orthographic", "Perspective"])
    data.type = "PANO"
    refused(["panoramic", "Perspective"])
    data.type = "PERSP"
    camera.constraints.clear()
    parent.scale = (1, 3, 1)
    refused(["skewed"])

    # a marker changes the camera, an image behind one has the camera's lens
    other = bpy.data.objects.new("other", bpy.data.cameras.new("other"))
    scene.collection.objects.link(other)
    scene.timeline_markers.new("cut", frame=20).camera = other
    scene.timeline_markers.new("start", frame=1).camera = other
    assert np.allclose(cameras.path_of(None, scene, [25]).c2w[0], cameras.FLIP)
    render.resolution_x, render.resolution_y, render.resolution_percentage = 400, 200, 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1
    K = cameras.path_of(other, scene, [10]).K[0]
    background = other.data.background_images.new()
    background.image = bpy.data.images.new("square", 100, 100)
    for method, points in (
        ("FIT", ((100, 0), (300, 200))),
        ("CROP", ((0, -100), (400, 300))),
        ("STRETCH", ((0, 0), (400, 200))),
    ):
        background.frame_method = method
        view = cameras.behind(other, background, scene)
        assert view.sizes.tolist() == [[100, 100]]
        rays = np.linalg.inv(K) @ np.c_[np.array(points, float), np.ones(2)].T  # of the image's corners
        corners = view.K[0] @ rays
        assert np.allclose(corners[:2] / corners[2], [[0, 100], [0, 100]]), method


def test_path_is_exact(tmp_path):
    print(in_blender(check_path, tmp_path))


if __name__ == "__main__":
    blender.main(globals())
