"""Does the GPU rasterizer agree with the CPU's, and how fast is it? Runs alone on a machine with torch, numpy and nvcc.

On a machine with a GPU and everything installed:

    python scripts/gpu_check.py --out gpu_check.json

On a bare one, without internet: beforehand, where there is internet, put wheels for that machine's Python (3.12 here)
into a folder inside the repository, then take the repository there, at least pixworld/, backend/ and scripts/:

    pip download -d .carried --no-deps --only-binary=:all: --python-version 3.12 \\
        gsplat==1.5.3 jaxtyping wadler-lindig rich markdown-it-py mdurl pygments packaging setuptools ninja
    python3 scripts/gpu_check.py --carried .carried --out "$OUT/gpu_check.json"        # $OUT may be any folder

These are 9 MiB. Packages that the machine has already are not shadowed. numba and llvmlite (61 MiB) may be added;
without them the CPU twins are the dense torch reference and a loop over tiles in torch, and large scenes go unchecked.

It compiles gsplat for the GPU it finds (367 s of CPU time and at most 2 GB a file: 1 to 2 minutes on 16 cores),
compares images and gradients, measures, prints two Markdown tables and writes all numbers as JSON. Exit code 1 when
anything disagrees. `--device cpu` does the same with the numba rasterizer in place of the GPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def carry(folder: Path) -> None:
    """Make the wheels in a folder importable, behind everything that is installed."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        sys.exit(f"gpu_check: there are no wheels in {folder}")
    site = Path(tempfile.mkdtemp(prefix="gpu_check-"))
    for wheel in wheels:
        zipfile.ZipFile(wheel).extractall(site)
    sys.path.append(str(site))
    for scripts in site.glob("*.data/scripts"):  # ninja
        for script in scripts.iterdir():
            script.chmod(0o755)
        os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{scripts}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--carried", type=Path, help="folder of wheels for what this machine lacks")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    parser.add_argument("--only", choices=["parity", "speed"])
    arguments = parser.parse_args()
    if arguments.carried:
        carry(arguments.carried)

    import torch  # only now: the wheels may be what makes these importable
    from gpu_check.parity import check_parity, parity_table
    from gpu_check.scenes import parity_cases
    from gpu_check.speed import speed, speed_table

    from backend.doctor import findings

    report = {"machine": [asdict(f) for f in findings()]}
    for f in report["machine"]:
        print(f"{f['subject']}: {f['found']}")
    if arguments.device == "cuda":
        from pixworld.render import cuda

        start = time.monotonic()
        try:
            cuda.load()
        except (RuntimeError, ValueError) as error:
            cause = f"\n{error.__cause__}" if error.__cause__ else ""
            print(f"gpu_check: {error}{cause}", file=sys.stderr)
            return 1
        report["compile_s"] = time.monotonic() - start
        name = torch.cuda.get_device_name()
        print(f"\ngsplat compiled and loaded in {report['compile_s']:.0f} s for {name}", flush=True)

    failed = []
    if arguments.only != "speed":
        report["parity"] = [check_parity(case, arguments.device) for case in parity_cases(arguments.device)]
        failed = [r["case"] for r in report["parity"] if max(r["errors"].values()) > 1]
        print(f"\n{parity_table(report['parity'])}\n", flush=True)
        print(f"disagree: {'; '.join(failed)}" if failed else "all agree", flush=True)
    if arguments.only != "parity":
        report["speed"] = speed(arguments.device)
        print(f"\n{speed_table(report['speed'], arguments.device)}", flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        temp = arguments.out.with_suffix(".part")
        temp.write_text(json.dumps(report, indent=1))
        temp.replace(arguments.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
