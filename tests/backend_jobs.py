"""Tasks of the service for test_backend.py: small, but real work in a real worker process."""

import os
import signal
import time

import numpy as np

from backend import worker


def echo(fields, arrays, device, on_progress):
    return {"fields": fields, "pid": os.getpid()}, {name: array * 2 for name, array in arrays.items()}


def count(fields, arrays, device, on_progress):
    for i in range(fields["steps"]):
        on_progress("count", i, fields["steps"])
        time.sleep(0.02)
    return {"steps": fields["steps"]}, {}


def show(fields, arrays, device, report):
    worker.PREVIEW_S = 0.0
    for i in range(fields["count"]):
        report.preview(lambda i=i: {"means": np.full((1, 3), i, np.float32)})
        time.sleep(0.02)
    return {}, {}


def hang(fields, arrays, device, on_progress):
    time.sleep(60)  # and never looks whether it was cancelled


def die(fields, arrays, device, on_progress):
    on_progress("die", 0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(fields, arrays, device, on_progress):
    from pixworld.views import InputError

    raise InputError("these photos do not overlap; take more.")


OPS = {f.__name__: f for f in (echo, count, show, hang, die, fail)}


def describe(device):
    return {"device": device, "checkpoint": "none"}
