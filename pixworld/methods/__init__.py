"""Methods and their presets by name. Importing this leaves torch alone; `config.build()` imports the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pixworld.methods import geometry_critic, pixworld

# Method name in a checkpoint's config.json -> config class.
METHODS: dict[str, type] = {
    "pixworld": pixworld.PixWorldConfig,
    "geometry-critic": geometry_critic.GeometryCriticConfig,
}

# Preset name -> function that returns the full config.
PRESETS: dict[str, Callable[[], Any]] = {
    "pixworld-tiny": pixworld.pixworld_tiny,
    "pixworld-small": pixworld.pixworld_small,
    "pixworld-base": pixworld.pixworld_base,
    "pixworld-paper": pixworld.pixworld_paper,
    "geometry-critic-small": geometry_critic.geometry_critic_small,
}
