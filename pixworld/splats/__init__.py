"""Splat files: `load_splats` and `save_splats` choose the format by suffix; a module a format."""

from __future__ import annotations

from pixworld.splats.ply import load_ply, save_ply

__all__ = ["load_ply", "save_ply"]
