"""The extension's zip: what ships, and the wheels of a platform."""

import tomllib
import zipfile

import blender
from blender import ROOT

pytestmark = blender.needs_bpy


def test_zip_holds_what_ships(extension):
    import backend

    with zipfile.ZipFile(extension) as archive:
        names = set(archive.namelist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
        for name in ("__init__", "protocol", "client"):
            assert archive.read(f"backend/{name}.py") == (ROOT / "backend" / f"{name}.py").read_bytes()
    assert "backend/server.py" not in names and not any("__pycache__" in name for name in names)
    assert manifest["version"] == backend.__version__
    assert set(manifest["permissions"]) == {"network", "files"}


def test_stage_lists_the_wheels_of_a_platform(tmp_path):
    import runpy

    stage = runpy.run_path(str(ROOT / "scripts" / "build_extension"))["stage"]
    wheels = [tmp_path / f"msgpack-1.0-{tag}-win_amd64.whl" for tag in ("cp313-cp313", "cp311-cp311")]
    for wheel in wheels:
        wheel.write_bytes(b"")
    stage(tmp_path / "staged", "windows-x64", wheels)
    manifest = tomllib.loads((tmp_path / "staged" / "blender_manifest.toml").read_text())
    assert manifest["platforms"] == ["windows-x64"]
    assert manifest["wheels"] == sorted(f"./wheels/{wheel.name}" for wheel in wheels)
    assert all((tmp_path / "staged" / name).is_file() for name in manifest["wheels"])
