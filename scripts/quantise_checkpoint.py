"""Store a trained checkpoint in 8 bits: python scripts/quantise_checkpoint.py RUN/weights pixworld/weights/NAME"""

from __future__ import annotations

from pathlib import Path

import tyro

from pixworld.checkpoint import load_checkpoint, save_checkpoint


def main(source: tyro.conf.Positional[Path], target: tyro.conf.Positional[Path], /) -> None:
    """Read the float checkpoint SOURCE, write TARGET with one scale a row of every matrix."""
    model, _ = load_checkpoint(source)
    save_checkpoint(target, model.config, model.state_dict(), bits=8)
    _, info = load_checkpoint(target)
    size = (target / "model.safetensors").stat().st_size
    print(f"{target}: {size / 2**20:.1f} MB, hash {info['hash']}")


if __name__ == "__main__":
    tyro.cli(main)
