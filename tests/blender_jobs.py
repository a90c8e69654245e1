"""The task of the service for test_blender.py: it keeps the wire's promises without the model."""

import time

import numpy as np


def reconstruct(fields, arrays, device, on_progress):
    """2000 random Gaussians before an arc of cameras; the photos go back as they came.

    `seed` 1 fails; `seed` 2 goes on until it is cancelled.
    """
    from pixworld.views import InputError

    names, seed = fields["names"], fields["options"]["seed"]
    assert len(names) == len(arrays) and all(a.dtype == np.uint8 for a in arrays.values())
    if seed == 1:
        raise InputError("These photos do not overlap; take more.")
    step = 0
    while step < 3 or seed == 2:
        on_progress("refine", step, 3)
        time.sleep(0.02)
        step += 1
    rng = np.random.default_rng(seed)
    n, v = 2000, len(names)
    quats = rng.normal(size=(n, 4))
    c2w = np.tile(np.eye(4), (v, 1, 1))
    c2w[:, 0, 3] = np.linspace(-0.3, 0.3, v)
    K = np.tile(np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), (v, 1, 1))
    gaussians = {
        "means": rng.uniform((-1, -0.8, 2), (1, 0.8, 4), (n, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": np.exp(rng.normal(-3, 0.5, (n, 3))),
        "opacities": rng.uniform(0, 1, n),
        "sh": rng.normal(0, 0.4, (n, 4, 3)),
    }
    out = {name: array.astype(np.float32) for name, array in gaussians.items()}
    out |= {"c2w": c2w, "K": K, "sizes": np.tile(np.array([80, 96], np.int32), (v, 1))} | arrays
    photos = [{"name": name, "split": "train"} for name in names]
    return {"photos": photos, "report": {"gaussians": n}}, out


OPS = {"reconstruct": reconstruct}


def describe(device):
    return {"device": device, "checkpoint": "none"}
