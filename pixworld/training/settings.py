"""The resolved configuration of a run: preset, then `--set field=value`, kept in the run's folder as run.json."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from pixworld.files import write_json
from pixworld.methods import METHODS, PRESETS
from pixworld.training.config import RUNS, TrainConfig
from pixworld.views import InputError

FILE = "run.json"


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's result, but for the start weights."""

    preset: str
    data: str
    train: TrainConfig
    method: Any  # config of the method


def preset_settings(preset: str, data: str) -> Settings:
    """A preset as it is. Raises InputError."""
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return Settings(preset, data, RUNS.get(preset, TrainConfig()), PRESETS[preset]())


def override(settings: Settings, assignment: str) -> Settings:
    """`field=value`, the field dotted where it lies deeper (recipe.generative=0.2), of the run or of the method.

    Lists and tables are JSON: recipe.hint_counts=[1,600]. Raises InputError.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise InputError(f"--set {assignment}: write field=value, for example --set batch=8")
    for part in ("train", "method"):
        if path in flat(getattr(settings, part)):
            try:
                return replace(settings, **{part: _with(getattr(settings, part), path, text)})
            except msgspec.MsgspecError as error:
                raise InputError(f"--set {assignment}: {error}; give another value") from None
    names = [*flat(settings.train), *flat(settings.method)]
    near = difflib.get_close_matches(path, names, 3, 0.5) + [n for n in names if n.endswith("." + path)]
    hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"there are {', '.join(names)}"
    raise InputError(f"--set {assignment}: preset {settings.preset} has no field {path!r}; {hint}")


def resolve(
    preset: str, data: str, overrides: Sequence[str] = (), steps: int | None = None, saved: Settings | None = None
) -> Settings:
    """A preset with overrides. With `saved`, of a run that goes on, these start from it and may change nothing but the
    place of the data.

    Raises InputError.
    """
    settings = preset_settings(preset, data)
    if saved is not None:
        moved = _folders(data) == _folders(saved.data)
        saved = replace(saved, data=data if moved else saved.data)
        settings = replace(saved, preset=preset, data=data)
    for assignment in [*overrides, *([] if steps is None else [f"steps={steps}"])]:
        settings = override(settings, assignment)
    if settings.method.size % settings.method.patch:
        raise InputError(
            f"size = {settings.method.size} is no multiple of patch = {settings.method.patch}; --set one that is"
        )
    if saved is not None and settings != saved:
        before, now = flat(saved), flat(settings)
        field = next(name for name in before if before[name] != now[name])
        raise InputError(
            f"this run has {field.removeprefix('train.').removeprefix('method.')} = {before[field]}, and a resumed run "
            f"cannot change it to {now[field]}; leave it out, or start another run with --init from this one's weights"
        )
    return settings


def flat(config: Any) -> dict[str, Any]:
    """Dotted field names and values of nested dataclasses."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out |= {f"{f.name}.{k}": v for k, v in flat(value).items()} if is_dataclass(value) else {f.name: value}
    return out


def save_settings(out: Path, settings: Settings) -> None:
    write_json(out / FILE, msgspec.to_builtins(settings, str_keys=True))


def load_settings(out: Path) -> Settings:
    """The settings that a run was started with. Raises InputError."""
    path = out / FILE
    try:
        raw = msgspec.json.decode(path.read_bytes())
        method = msgspec.convert(raw["method"], METHODS[raw["method"]["method"]], strict=False)
        settings = Settings(raw["preset"], raw["data"], msgspec.convert(raw["train"], TrainConfig), method)
        other = _unlike(raw, settings)
    except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); the run cannot be resumed without it") from None
    if other:
        raise InputError(
            f"{path} is of another version: it differs in {', '.join(other)}; start another run with --init from its "
            "weights."
        )
    return settings


def _unlike(raw: dict[str, Any], config: Any, path: str = "") -> list[str]:
    """Dotted names of what is only in one of a file and the dataclass that was read from it."""
    names = {f.name for f in fields(config)}
    out = [path + name for name in sorted(names ^ raw.keys())]
    for name in sorted(names & raw.keys()):
        if is_dataclass(getattr(config, name)):
            out += _unlike(raw[name], getattr(config, name), f"{path}{name}.")
    return out


def _folders(data: str) -> list[str]:
    """The data's names without their places."""
    return [Path(part).name for part in data.split(",")]


def _with(config: Any, path: str, text: str) -> Any:
    """A copy whose field at a dotted path is `text`, as the type that the field is annotated with."""
    name, _, rest = path.partition(".")
    if rest:
        return replace(config, **{name: _with(getattr(config, name), rest, text)})
    kind = get_type_hints(type(config), include_extras=True)[name]
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise msgspec.ValidationError(f"it is one of {', '.join(get_args(kind))}")
    value = msgspec.json.decode(text) if text.startswith(("[", "{")) else text
    return replace(config, **{name: msgspec.convert(value, kind, strict=False)})
