"""`backend doctor` on this machine, and on machines made up of scripts on PATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend import doctor

ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Factory of a machine: programs by name and output, the CUDA of its torch, versions of packages."""

    def make(programs: dict[str, str], cuda: str | None, packages: dict[str, str | None]) -> None:
        for name, output in programs.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{output}'\n")
            path.chmod(0o755)
        real = doctor._version
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
        monkeypatch.setattr(doctor, "torch_cuda", lambda: cuda)
        monkeypatch.setattr(doctor, "gpu_usable", lambda: True)
        monkeypatch.setattr(doctor, "_version", lambda name: packages[name] if name in packages else real(name))

    return make


H200 = {"nvidia-smi": "NVIDIA H200, 143771 MiB, 580.159.04, 9.0"}
NVCC = {"nvcc": "Cuda compilation tools, release 13.0, V13.0.88"}
TOOLS = {"ninja": "1.13.0", "c++": "g++ 13.2.0"}


def found() -> dict[str, doctor.Finding]:
    return {f.subject: f for f in doctor.findings()}


def test_on_this_machine_it_is_quick_and_leaves_torch_alone():
    if doctor.torch_cuda() and doctor._nvidia():
        pytest.skip("with a GPU, torch is asked whether it can use it")
    code = "import sys; from backend.doctor import doctor; doctor(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for subject in ("Python", "torch", "GPU", "nvcc", "ninja", "gsplat", "C++ compiler", "CPU", "memory", "disk",
                    "numba cache", "bpy", "Blender", "usd-core"):  # fmt: skip
        assert subject in done.stdout
    assert "could not be checked" not in done.stdout


def test_a_machine_that_has_everything(machine, capsys):
    machine(H200 | NVCC | TOOLS, "13.0", {"torch": "2.11.0+cu130", "gsplat": "1.5.3"})
    findings = found()
    for subject in ("torch", "GPU", "nvcc", "ninja", "C++ compiler"):
        assert not findings[subject].effect
    assert findings["GPU"].found == "NVIDIA H200, 143771 MiB, driver 580.159.04, sm 9.0"
    assert findings["nvcc"].found.startswith("13.0 (")
    assert findings["gsplat"].mend == "backend doctor --build-gsplat"


def test_gsplat_that_torch_compiled_is_found(machine, tmp_path, monkeypatch):
    machine(H200, "13.0", {"gsplat": "1.5.3"})
    origin = tmp_path / "site" / "gsplat" / "__init__.py"
    real = doctor.importlib.util.find_spec
    spec = doctor.importlib.util.spec_from_file_location("gsplat", origin)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec if name == "gsplat" else real(name))
    library = tmp_path / "extensions" / "gsplat_cuda" / "gsplat_cuda.so"
    assert doctor.built_gsplat() is None
    library.parent.mkdir(parents=True)
    library.touch()
    assert doctor.built_gsplat() == library
    assert not found()["gsplat"].effect


@pytest.mark.parametrize(
    ("programs", "cuda", "packages", "subject", "effect", "mend"),
    [
        ({}, None, {"torch": "2.13.0+cpu"}, "GPU", "run on the CPU", ""),
        (H200, None, {"torch": "2.13.0+cpu"}, "torch", "cannot use it", "install --force-reinstall torch==2.13.0"),
        (H200, "13.0", {}, "nvcc", "cannot be compiled", "cuda-toolkit-13-0"),
        (H200 | {"nvcc": "release 12.4, V12.4.1"}, "13.0", {}, "nvcc", "torch is built for CUDA 13.0", "toolkit-13-0"),
        (H200, "13.0", {}, "C++ compiler", "cannot be compiled", "install -y g++"),
        (H200, "13.0", {"gsplat": None}, "gsplat", "cannot render on the GPU", "gsplat==1.5.3 ninja packaging"),
        (H200, "13.0", {"gsplat": "1.4.0"}, "gsplat", "written for", "gsplat==1.5.3"),
        ({}, None, {"numba": None}, "packages", "does not run", "install numba"),
    ],
)
def test_what_is_missing_comes_with_what_mends_it(machine, programs, cuda, packages, subject, effect, mend):
    machine(programs, cuda, packages)
    finding = found()[subject]
    assert effect in finding.effect and mend in finding.mend and "\n" not in finding.mend


def test_a_driver_that_torch_cannot_use(machine, monkeypatch):
    machine(H200, "13.0", {})
    monkeypatch.setattr(doctor, "gpu_usable", lambda: False)
    assert "needs a newer driver than 580.159.04" in found()["GPU"].effect


@pytest.mark.parametrize("script", ["printf '?\\n?, ?\\n'", "exit 3"])
def test_programs_that_babble_or_fail_do_no_harm(machine, tmp_path, script):
    machine(dict.fromkeys((*H200, *NVCC, *TOOLS, "blender"), ""), "13.0", {})
    for program in (tmp_path / "bin").iterdir():
        program.write_text(f"#!/bin/sh\n{script}\n")
    assert not any("could not be checked" in f.found for f in doctor.findings())


def test_a_check_that_raises_is_reported(monkeypatch, capsys):
    def trip():
        raise PermissionError("no")

    monkeypatch.setattr(doctor, "_disk", trip)
    doctor.doctor()
    assert "could not be checked (PermissionError: no)" in capsys.readouterr().out


def test_unusable_is_exit_code_1(machine):
    machine({}, None, {"torch": None})
    with pytest.raises(SystemExit) as exit:
        doctor.doctor(build_gsplat=True)
    assert exit.value.code == 1


@pytest.mark.parametrize(
    ("programs", "cuda", "packages", "message"),
    [
        ({}, None, {"torch": "2.13.0+cpu"}, r"needs a torch that was built for CUDA.*torch==2\.13\.0"),
        ({}, "13.0", {"gsplat": None}, "not installed"),
        ({}, "13.0", {"gsplat": "1.5.3"}, "without nvcc"),
    ],
)
def test_building_is_refused_in_a_sentence(machine, programs, cuda, packages, message):
    from pixworld.views import InputError

    machine(programs, cuda, packages)
    with pytest.raises(InputError, match=message):
        doctor.build()


def test_a_build_that_fails_names_the_log(machine, monkeypatch, tmp_path, capsys):
    import torch

    from pixworld.views import InputError

    if torch.cuda.is_available():
        pytest.skip("on this machine it would succeed")
    machine(NVCC, "13.0", {"gsplat": "1.5.3"})
    real = doctor.importlib.util.find_spec
    spec = doctor.importlib.util.spec_from_file_location("gsplat", tmp_path / "gsplat" / "__init__.py")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec if name == "gsplat" else real(name))
    with pytest.raises(InputError, match=r"could not be compiled \(RuntimeError: .*NVIDIA GPU.*gsplat_cuda\.log"):
        doctor.build()
    assert os.path.getsize(tmp_path / "extensions" / "gsplat_cuda.log") > 0
    assert "of 1 files" in capsys.readouterr().out
