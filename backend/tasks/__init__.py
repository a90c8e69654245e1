"""What the service does: a task a module, whose docstring says what goes in and what comes out.

A task takes (fields, arrays, device, report) and returns (fields, arrays) of its result, plain data of protocol.py. It
raises ProtocolError or InputError where they cannot be used. Heavy imports are inside functions.
"""

from __future__ import annotations

from backend.protocol import Header
from backend.tasks.export import export
from backend.tasks.generate import generate
from backend.tasks.mesh import mesh
from backend.tasks.reconstruct import reconstruct
from backend.tasks.regenerate import regenerate

OPS = {
    "reconstruct": reconstruct,
    "generate": generate,
    "regenerate": regenerate,
    "export": export,
    "mesh": mesh,
}


def describe(device: str) -> Header:
    """The device and the checkpoint that jobs will use. Raises InputError."""
    import torch

    from pixworld.checkpoint import BUNDLED, weights_hash
    from pixworld.reconstruct import choose_device

    device = choose_device(device)
    name = f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device
    return {"device": name, "checkpoint": BUNDLED.name, "hash": weights_hash(BUNDLED)}
