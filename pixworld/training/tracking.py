"""What a run tells of itself: log.jsonl, TensorBoard, sample sheets, throughput and MFU."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pixworld.files import atomic, save_image
from pixworld.training.distributed import Ranks

# Dense bf16 peak in FLOP/s, from the makers' data sheets; the first that is a word of the device's name.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 149.7e12,
    "A6000": 154.8e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


class Log:
    """Writes for the first rank; nothing for the others. Records past `step`, of a run that was killed and goes on
    from a checkpoint, are dropped."""

    def __init__(self, out: Path, step: int, ranks: Ranks):
        self.active, self.sheets, self.board = ranks.first, out / "sheets", None
        if not self.active:
            return
        path = out / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        with atomic(path) as temp:
            temp.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        self.file = path.open("a")
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            print("no TensorBoard files are written; for them: pip install tensorboardX", flush=True)
        else:
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        if self.active:
            self.file.close()
        if self.board:
            self.board.close()

    def write(self, step: int, record: dict[str, float]) -> None:
        if self.active:
            self.file.write(json.dumps({"step": step} | {k: float(f"{v:.5g}") for k, v in record.items()}) + "\n")
            self.file.flush()
        if self.board:
            for name, value in record.items():
                self.board.add_scalar(name, value, step)

    def sheet(self, step: int, picture: Float[Tensor, "3 h w"]) -> None:
        if self.active:
            save_image(self.sheets / f"{step:06d}.png", picture)
        if self.board:
            self.board.add_image("sheet", picture.numpy(), step)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the last line of a killed run
        return float("inf")


class Speed:
    """Scenes and arithmetic a second, since the last `restart`."""

    def __init__(self, flops: float, ranks: Ranks):
        """flops: of a scene."""
        self.flops, self.peak = flops, ranks.world * peak_flops(ranks.device)
        self.restart()

    def restart(self) -> None:
        self.began, self.scenes = time.perf_counter(), 0

    def count(self, scenes: int) -> dict[str, float]:
        self.scenes += scenes
        rate = self.scenes / (time.perf_counter() - self.began)
        return {"samples_per_s": rate, "tflops": rate * self.flops / 1e12, "mfu": rate * self.flops / self.peak}


def peak_flops(device: torch.device) -> float:
    """bf16 FLOP/s of a device: by its name, or, on CPUs and unknown GPUs, the best of a few large matrix products."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAKS.items():
            if re.search(rf"\b{known}\b", name):
                return peak
    n = 8192 if device.type == "cuda" else 1024
    a = torch.ones(n, n, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        total = (a @ a)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    assert total == n
    return 2 * n**3 / best


def line(step: int, steps: int, record: dict[str, float]) -> str:
    """A record for the terminal, as wide as that is."""
    speed = {"samples_per_s": "{:.3g} samples/s", "tflops": "{:.3g} TFLOP/s", "mfu": "MFU {:.1%}"}
    shown = [f"{k}={v:.4g}" for k, v in record.items() if k not in speed]
    shown += [text.format(record[k]) for k, text in speed.items() if k in record]
    return " ".join([f"step {step}/{steps}", *shown])[: shutil.get_terminal_size((200, 24)).columns]
