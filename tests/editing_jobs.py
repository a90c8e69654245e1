"""The tasks of the service for test_blender_buttons.py: the real ones, but for the model's, which is random here."""

import numpy as np

from backend.tasks.export import export
from backend.tasks.mesh import mesh


def regenerate(fields, arrays, device, report):
    """500 Gaussians in and around the box; `prompt` says how many cameras and Gaussians came."""
    from pixworld.views import InputError

    if fields["prompt"] == "fail":
        raise InputError("no camera sees the box; move it into their view.")
    assert fields["options"] == {"steps": 3, "seed": 4} and fields["guidance"] == 2 and not fields["previews"]
    assert arrays["box"].dtype == np.float64 and arrays["box"][3].tolist() == [0, 0, 0, 1]
    assert arrays["c2w"].shape == (3, 4, 4) and (arrays["c2w"][:, 3] == (0, 0, 0, 1)).all()
    rng = np.random.default_rng(fields["options"]["seed"])
    cube = np.c_[rng.uniform(-1.2, 1.2, (500, 3)), np.ones(500)]
    out = {
        "means": (cube @ arrays["box"].T)[:, :3],
        "quats": np.tile([1, 0, 0, 0], (500, 1)),
        "scales": np.full((500, 3), 0.05),
        "opacities": np.full(500, 0.9),
        "sh": rng.normal(0, 0.4, (500, 4, 3)),
    }
    return {"report": {}}, {name: array.astype(np.float32) for name, array in out.items()}


OPS = {"export": export, "mesh": mesh, "regenerate": regenerate}


def describe(device):
    return {"device": device, "checkpoint": "none", "hash": "0" * 12}
