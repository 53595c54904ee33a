"""What a configuration's keys mean, for `voxclone config`: the schema, and the comments of the shipped main file."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files import shipped
from mlx_voxclone.settings.config import MEANT, TASKS, RunConfig, schema_keys, section_of, suggest
from mlx_voxclone.settings.fields import AUTO, MOST, is_automatic

_KEY_LINE = re.compile(r"( *)([a-z0-9_]+):(?: [^#]*?| *)(?:\s+# ?(.*))?")
_UNITS = {
    r"\bseconds$|_seconds$": "seconds",
    r"_gb$": "GB",
    r"_db$": "dB",
    r"_sampling_rate$": "Hz",
    r"(^|_)steps$|_every$": "optimiser steps",
    r"(^|_)sizes$|n_fft$": "samples at 24 kHz",
    r"^epochs$": "passes over the data",
}
# The part of the package that a section is for, and the tasks that have it: the longest prefix of a key counts.
_SPEAKER = ("distill", "language", "speaker", "clone")
_USED = {
    "": ("train/run.py", TASKS),
    "voice": ("train/clone/", ("speaker", "clone")),
    "data": ("data/", ("encoder", "language", "speaker", "clone")),
    "encoder": ("train/encoder/", ("encoder", "clone")),
    "encoder.distillation": ("train/whisper/", ("encoder", "clone")),
    "encoder.refine": ("train/clone/", ("clone",)),
    "judge": ("train/judge/", ("clone",)),
    "speaker": ("train/speaker/", _SPEAKER),
    "speaker.lora": ("adapters/", _SPEAKER),
    "distill": ("train/distill/", ("distill",)),
    "bake": ("bake/", ("clone",)),
    "say": ("train/clone/", ("clone",)),
}


@dataclass(frozen=True)
class Explained:
    """One key.

    Attributes:
        kind: of its value, such as `whole number` or `one of vllm | mlx-audio`.
        default: as YAML writes it; `none` where the key must be given.
        bounds: such as `1 to 1024`, or None.
        unit: such as `seconds`, or None.
        comment: what the main configuration says of it.
        used: the tasks that read it, and the part of the package.
    """

    key: str
    kind: str
    default: str
    bounds: str | None
    unit: str | None
    comment: str
    used: str


def configurations() -> dict[str, Path]:
    """The shipped configurations by name: `voxtral_speaker`, ..., then `profiles/mac-32gb`, ..."""
    return {name: shipped.directory() / f"{name}{shipped.SUFFIX}" for name in shipped.names()}


def summaries() -> dict[str, str]:
    """Name -> first sentence of each shipped configuration's heading."""
    return {name: _heading(path.read_text(encoding="utf-8")) for name, path in configurations().items()}


def comments() -> dict[str, str]:
    """Dotted key -> what the main configuration says of it, sections too."""
    found: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    key = None
    for line in configurations()[shipped.MAIN].read_text(encoding="utf-8").splitlines():
        if match := _KEY_LINE.fullmatch(line):
            indent, name, comment = len(match[1]), match[2], match[3]
            stack = [level for level in stack if level[0] < indent] + [(indent, name)]
            key = ".".join(name for _, name in stack)
            found[key] = comment or ""
        elif key is not None and line.startswith(" ") and line.lstrip().startswith("#"):
            found[key] = f"{found[key]} {line.strip('# ')}".strip()
        else:
            key = None
    return found


def explain(key: str) -> Explained | list[Explained]:
    """A key, or every key of a section (not those of the sections inside it).

    Raises:
        ConfigError: there is no such key; the line names the nearest.
    """
    section = _section_of(key)
    said = comments()
    if section is None:
        return _explained(key, said)
    return [_explained(f"{key}.{name}", said) for name in section.model_fields if section_of(section, name) is None]


def sections(key: str = "") -> dict[str, str]:
    """The sections directly inside a section (by default the top), with what the main configuration says of each."""
    section = _section_of(key) if key else RunConfig
    prefix, said = f"{key}." if key else "", comments()
    inside = [prefix + name for name in section.model_fields if section_of(section, name) is not None]
    return {name: said.get(name, "") for name in inside}


def top_keys() -> list[Explained]:
    """The keys outside of all sections."""
    said = comments()
    return [_explained(name, said) for name in RunConfig.model_fields if section_of(RunConfig, name) is None]


def _heading(text: str) -> str:
    """The first sentence of the comment that a file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        lines.append(line.strip("# "))
    return re.split(r"(?<=\.)\s", " ".join(lines), maxsplit=1)[0]


def _section_of(key: str) -> type[BaseModel] | None:
    """The model of a section, None for a key that is a value. Raises ConfigError for neither."""
    model: type[BaseModel] | None = RunConfig
    parts = key.split(".")
    if (meant := shipped.meant(key)) is not None:
        raise ConfigError(
            f"{key}: is the name of a configuration, not a key; `voxclone config --print {meant}` prints it"
        )
    for i, part in enumerate(parts):
        if model is None:
            above = ".".join(parts[:i])
            raise ConfigError(f"{key}: unknown key; {above} is a value and has no keys")
        if part not in model.model_fields:
            hint = suggest(model, parts[:i], part, parts[i + 1 :])
            if not hint.startswith(MEANT) and (near := shipped.nearest(key)) is not None:
                hint = f"{MEANT} the configuration {near}? `voxclone config --print {near}` prints it"
            raise ConfigError(f"{key}: unknown key; {hint}")
        model = section_of(model, part)
    return model


def _explained(key: str, said: dict[str, str]) -> Explained:
    *above, name = key.split(".")
    model: Any = RunConfig
    for part in above:
        model = section_of(model, part)
    field = model.model_fields[name]
    kind = _kind(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
    return Explained(
        key=key,
        kind=f"{AUTO}, or {kind}" if is_automatic(field) else kind,
        default="none" if field.is_required() else _default(key),
        bounds=_bounds(field.annotation, field.metadata),
        unit=next((unit for pattern, unit in _UNITS.items() if re.search(pattern, name)), None),
        comment=said.get(key, ""),
        used=_used(key),
    )


def _default(key: str) -> str:
    value: Any = RunConfig(task="clone").model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    if isinstance(value, str):
        return yaml.safe_dump(value, width=1000).removesuffix("\n...\n").strip()
    return json.dumps(value)


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value is, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        kinds = list(dict.fromkeys(_kind(part) for part in arguments if part is not type(None)))
        return " or ".join(kinds) + (", or null" if type(None) in arguments else "")
    if origin is Literal:
        return "one of " + " | ".join(map(str, arguments))
    if origin is list:
        limits = _limits(metadata)
        several = f"list of {limits['max_length']}" if len({*limits.values()}) == 1 and len(limits) == 2 else "list"
        kind, bounds = _kind(arguments[0]), _bounds(arguments[0])
        return f"{several}, each {'' if kind.startswith('one of') else 'a '}{kind}{f', {bounds}' if bounds else ''}"
    return {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}[annotation]


def _limits(metadata: Sequence[Any]) -> dict[str, Any]:
    """Bounds, lengths and pattern among the metadata of a type, by pydantic's names; the last of each counts."""
    found: dict[str, Any] = {}
    for part in metadata:
        if isinstance(part, FieldInfo):
            found |= _limits(part.metadata)
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            if getattr(part, name, None) is not None:
                found[name] = getattr(part, name)
    return found


def _bounds(annotation: Any, metadata: Sequence[Any] = ()) -> str | None:
    """The bounds of a number or the form of a text, such as `1 to 1024` or `above 0, at most 600`; None: none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounds(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        return next((bounds for part in arguments if (bounds := _bounds(part)) is not None), None)
    limits = _limits(metadata)
    if annotation not in (int, float):
        return limits.get("pattern")
    low = [(limits.get(name, -1e30), word) for name, word in (("ge", "at least"), ("gt", "above"))]
    high = [(limits.get(name, 1e30), word) for name, word in (("lt", "below"), ("le", "at most"))]
    low, high = [pair for pair in low if pair[0] > -1e30], [pair for pair in high if pair[0] < MOST]
    if [word for _, word in low + high] == ["at least", "at most"]:
        return f"{_plain(low[0][0])} to {_plain(high[0][0])}"
    tightest = ([max(low)] if low else []) + ([min(high)] if high else [])
    return ", ".join(f"{word} {_plain(value)}" for value, word in tightest) or None


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else f"{number:g}"


def _used(key: str) -> str:
    """The tasks that read a key, and the part of the package that does."""
    place, tasks = _USED[max((p for p in _USED if not p or key == p or key.startswith(f"{p}.")), key=len)]
    named = "every task" if len(tasks) == len(TASKS) else f"task{'s' * (len(tasks) > 1)} {', '.join(tasks)}"
    return f"{named} (mlx_voxclone/{place})"


def all_keys() -> list[str]:
    """Every key that is a value."""
    sections_too = list(schema_keys())
    return [key for key in sections_too if not any(other.startswith(f"{key}.") for other in sections_too)]
