"""Methods and their presets by name. Importing this leaves torch alone; `config.build()` imports the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pixworld.methods import pixworld

# Method name in a checkpoint's config.json -> config class.
METHODS: dict[str, type] = {"pixworld": pixworld.PixWorldConfig}

# Preset name -> function that returns the full config.
PRESETS: dict[str, Callable[[], Any]] = {
    "pixworld-small": pixworld.pixworld_small,
}
