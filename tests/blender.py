"""Blender (bpy as a module) in the tests: every check is a function of its test file, run in a process of its own."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = "bl_ext.user_default.pixworld"


def in_blender(check, folder, *args, seconds=120):
    """Run a check (a function that gets the folder and the arguments as text) in a fresh process; fails with what it
    printed. Its file must call `main` when it is run as a script."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "BLENDER_USER_RESOURCES": str(folder / "user"),
    }
    command = [sys.executable, check.__code__.co_filename, check.__name__, str(folder), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def main(checks):
    """The script's side of `in_blender`; `checks` are the globals of the test file."""
    name, folder, *rest = sys.argv[1:]
    checks[name](Path(folder), *rest)


def build(out):
    """The extension's zip, without wheels: this Python has pyzmq and msgpack."""
    subprocess.run([sys.executable, ROOT / "scripts" / "build_extension", "--no-wheels", "--out", out], check=True)
    (built,) = out.glob("*.zip")
    return built


def install(extension):
    """Install and enable the zip as a user does."""
    import bpy  # first: it makes addon_utils importable
    import addon_utils  # isort: skip

    addon_utils.enable("bl_pkg")
    bpy.ops.extensions.package_install_files(
        filepath=str(extension), repo="user_default", enable_on_install=True, overwrite=True
    )


def module(name):
    """A module of the installed extension."""
    return importlib.import_module(f"{MODULE}.{name}")
