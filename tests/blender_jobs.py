"""The tasks of the service for the tests of Blender: they keep the wire's promises without the model.

Their seeds: 1 fails, 2 goes on until it is cancelled; any other gives random Gaussians.
"""

import io
import time

import numpy as np

FIELDS = {
    "reconstruct": {"names", "options", "camera_names", "previews", "by_photo"},
    "generate": {"names", "prompt", "trajectory", "options", "guidance", "camera_names", "previews"},
    "regenerate": {"prompt", "options", "guidance", "previews"},
    "export": {"format"},
    "mesh": {"options"},
}
GAUSSIANS = ("means", "quats", "scales", "opacities", "sh")


def gaussians(n, seed):
    """Random Gaussians before the identity camera."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    out = {
        "means": rng.uniform((-1, -0.8, 2), (1, 0.8, 4), (n, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": np.exp(rng.normal(-3, 0.5, (n, 3))),
        "opacities": rng.uniform(0, 1, n),
        "sh": rng.normal(0, 0.4, (n, 4, 3)),
    }
    return {name: array.astype(np.float32) for name, array in out.items()}


def work(fields, stage, report, n):
    from pixworld.views import InputError

    seed = fields["options"]["seed"]
    if seed == 1:
        raise InputError("These photos do not overlap; take more.")
    step = 0
    while step < 3 or seed == 2:
        report(stage, step, 3)
        if fields.get("previews") and hasattr(report, "preview"):
            report.preview(lambda more=step: gaussians(n // 10 + more, seed))
        time.sleep(0.02)
        step += 1


def cameras_of(fields, arrays):
    """The cameras of the message by name, checked."""
    names = fields.get("camera_names", [])
    shapes = {"c2w": ("<f8", (4, 4)), "K": ("<f8", (3, 3)), "sizes": ("<i4", (2,))} if names else {}
    for key, (dtype, shape) in shapes.items():
        assert arrays[key].dtype.str == dtype and arrays[key].shape == (len(names), *shape)
    return {name: tuple(arrays[key][i] for key in shapes) for i, name in enumerate(names)}


def given(fields, arrays):
    assert len(set(fields["names"])) == len(fields["names"])
    assert not any(set(name) & set("/\\:") or name[0] == "." for name in fields["names"])
    files = [arrays[f"photo/{i}"] for i in range(len(fields["names"]))]
    assert all(file.dtype == np.uint8 and len(file) > 8 for file in files)
    return files


def result(names, splits, views, files, made):
    c2w, K, sizes = (np.stack(x) for x in zip(*views))
    out = made | {"c2w": c2w, "K": K, "sizes": sizes.astype(np.int32)}
    out |= {f"photo/{i}": file for i, file in enumerate(files)}
    photos = [{"name": name, "split": split} for name, split in zip(names, splits)]
    skipped = [{"name": "blurred.jpg", "reason": "it is too blurred"}] if len(names) == 2 else []
    return {"photos": photos, "report": {"gaussians": len(made["means"]), "skipped": skipped}}, out


def reconstruct(fields, arrays, device, report):
    """2000 Gaussians; the photos go back as they came, at their cameras or, without, on an arc. By photo, each has the
    Gaussians of a slab of x, all but the second; what is left of the middle belongs to none."""
    assert fields.keys() <= FIELDS["reconstruct"]
    names, files, cameras = fields["names"], given(fields, arrays), cameras_of(fields, arrays)
    work(fields, "refine", report, 2000)
    views = []
    for x, name in zip(np.linspace(-0.3, 0.3, len(names)), names):
        c2w = np.eye(4)
        c2w[0, 3] = x
        views.append(cameras.get(name, (c2w, np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), np.array([80, 96]))))
    made = gaussians(2000, fields["options"]["seed"])
    made["confidence"] = np.linspace(0, len(names), 2000, dtype=np.float32)
    if fields.get("by_photo"):
        slab = np.floor((made["means"][:, 0] + 1) / 2 * len(names)).clip(0, len(names) - 1).astype(np.int32)
        made["photo"] = np.where((slab == 1) | (np.abs(made["means"][:, 0]) < 0.1), -1, slab).astype(np.int32)
    return result(names, ["train"] * len(names), views, files, made)


def generate(fields, arrays, device, report):
    """1000 Gaussians before the first camera, seen from every camera that is sent."""
    from PIL import Image

    assert fields.keys() <= FIELDS["generate"] and fields["trajectory"] in ("", "orbit", "arc", "dolly", "spiral")
    assert isinstance(fields["guidance"], float) and (fields["prompt"] or fields["names"])
    files, cameras = given(fields, arrays), cameras_of(fields, arrays)
    work(fields, "generate", report, 1000)
    identity = np.eye(4), np.array([[50.0, 0, 32], [0, 50, 32], [0, 0, 1]]), np.array([64, 64])
    names = [*fields["names"], *(name for name in cameras if name not in fields["names"])] or ["view"]
    views = [cameras.get(name, identity) for name in names]
    made = gaussians(1000, fields["options"]["seed"])
    first = views[0][0]
    made["means"] = (made["means"] @ first[:3, :3].T + first[:3, 3]).astype(np.float32)
    for _, _, size in views[len(files) :]:
        file = io.BytesIO()
        Image.new("RGB", (int(size[1]), int(size[0])), (90, 90, 90)).save(file, "JPEG")
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    splits = ["given" if name in fields["names"] else "generated" for name in names]
    return result(names, splits, views, files, made)


def regenerate(fields, arrays, device, report):
    """500 other Gaussians inside the box."""
    assert fields.keys() <= FIELDS["regenerate"] and arrays["box"].dtype.str == "<f8" and arrays["box"].shape == (4, 4)
    assert all(arrays[name].dtype.str == "<f4" for name in GAUSSIANS) and len(arrays["c2w"])
    work(fields, "generate", report, 500)
    made = gaussians(500, fields["options"]["seed"])
    inside = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    made["means"] = (inside @ arrays["box"][:3, :3].T + arrays["box"][:3, 3]).astype(np.float32)
    return {"report": {"gaussians": 500}}, made


def export(fields, arrays, device, report):
    assert fields["format"] in ("ply", "spz", "splat", "sog", "glb", "usd")
    assert all(arrays[name].dtype.str == "<f4" for name in GAUSSIANS)
    return {}, {"file": np.frombuffer(f"{fields['format']} of {len(arrays['means'])}".encode(), np.uint8)}


def mesh(fields, arrays, device, report):
    """The bounds of the Gaussians."""
    assert isinstance(fields["options"]["resolution"], int)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    low, high = arrays["means"].min(axis=0), arrays["means"].max(axis=0)
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6]]
    faces += [[0, 6, 4], [1, 5, 7], [1, 7, 3]]
    vertices = (low + corners * (high - low)).astype(np.float32)
    return {}, {"vertices": vertices, "faces": np.array(faces, np.int32)}


OPS = {"reconstruct": reconstruct, "generate": generate, "regenerate": regenerate, "export": export, "mesh": mesh}


def describe(device):
    return {"device": device, "checkpoint": "none", "hash": "0123456789ab"}
