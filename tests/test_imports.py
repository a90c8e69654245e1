"""Who may import whom (the architecture page), and what must start quickly."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import backend

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module",
    [
        "backend.server",
        "backend.client",
        "backend.protocol",
        "backend.worker",
        "backend.tasks",
        "backend.cli",
        "pixworld.methods",
    ],
)
def test_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_shipped_client_needs_no_other_room():
    """protocol.py and client.py are copied into the Blender extension with backend/__init__.py."""
    for name in ("__init__", "protocol", "client"):
        source = (ROOT / "backend" / f"{name}.py").read_text()
        modules = set(re.findall(r"^\s*(?:from|import) ([\w.]+)", source, re.MULTILINE))
        outside = {m.split(".")[0] for m in modules if not m.startswith(".")} - set(sys.stdlib_module_names)
        assert outside <= {"numpy", "msgpack", "zmq"}


def imports(package):
    """Pairs of (file relative to the root, imported module) of every import statement."""
    for file in sorted((ROOT / package).rglob("*.py")):
        for module in re.findall(r"^\s*(?:from|import) ([\w.]+)", file.read_text(), re.MULTILINE):
            yield file.relative_to(ROOT).as_posix(), module


def test_gsplat_and_bpy_are_behind_their_doors():
    for package in ("pixworld", "backend", "blender_addon"):
        for file, module in imports(package):
            assert module.split(".")[0] != "gsplat" or file == "pixworld/render/cuda.py", file
            assert module.split(".")[0] != "bpy" or file.startswith("blender_addon/"), file


def test_imports_go_one_way():
    for file, module in imports("pixworld"):
        assert module.split(".")[0] not in ("backend", "blender_addon"), file
    for file, module in imports("backend"):
        assert module.split(".")[0] != "blender_addon", file
    for file, module in imports("blender_addon"):
        assert module.split(".")[0] not in ("backend", "pixworld", "torch"), file


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == backend.__version__
