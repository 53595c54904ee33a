"""YAML files with `include`: what a file says, over what it includes, and which file said it.

Knows nothing of the schema (`settings/config.py`). Only `yaml.safe_load` reads; every error is one line with the file
and, where YAML itself is broken, the line number.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files import shipped
from mlx_voxclone.files.foreign import refuse_stand_in
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.files.plain import read_plain, reason_of

MAX_YAML = 1 << 18  # bytes of a configuration; the longest of ours has 14,000
MAX_PARTS = 20_000  # values of a configuration, what aliases repeat counted each time
_TAG = "tag:yaml.org,2002:"
_KEY_TAGS = (f"{_TAG}str", f"{_TAG}merge")  # `<<: *anchor` merges
# Numbers that everybody reads as YAML 1.1 does. It also knows 0500 (320), 1_000, 1:30 (90), 0x1f and 0b11.
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)")
_UNUSUAL = re.compile(r"[-+]?(0[0-9]+|0[xob][0-9a-fA-F_]+|[0-9]+_[0-9_]*)")  # of which YAML makes text or a number


def read_with_includes(path: Path, including: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """A file's content over that of its `include: other.yaml` (relative to it), and which file set each dotted key.

    Where there is no such file, `include` may name a configuration that comes with the package.

    Raises:
        ConfigError: missing, unreadable or broken file, a key given twice, an include that is missing or circular.
    """
    content = _read_yaml(path)
    below = content.pop("include", None)
    if below is None:
        return content, dict.fromkeys(dotted(content), str(path))
    if not isinstance(below, str):
        raise ConfigError(f"{path}: include: expected the path of one file; got {shown(below)}")
    try:
        target = shipped.find(expanded(below), path.parent)
    except ConfigError as e:
        raise ConfigError(f"{path}: include: {e}") from None
    chain = (*including, path.resolve())
    if target.resolve() in chain:
        raise ConfigError(f"{path}: include: {below} includes this file again")
    if not target.is_file():
        raise ConfigError(
            f"{path}: include: {target} does not exist (the path is relative to the including file)"
            f"{shipped.hint(below)}"
        )
    base, sources = read_with_includes(target, chain)
    sources.update(dict.fromkeys(dotted(content), str(path)))
    return merge(base, content), sources


def _read_yaml(path: Path) -> dict[str, Any]:
    refuse_stand_in(path, ConfigError)
    try:
        text = read_plain(path, MAX_YAML).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file{shipped.hint(path)}") from None
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: not readable as text ({reason_of(e)})") from None
    content = parse_yaml(text, lambda line: str(path) if line is None else f"{path}:{line}")
    if content is None:
        raise ConfigError(f"{path}: the file is empty; it must hold at least `task:`")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}:1: expected `key: value` lines at the top; got {shown(content)}")
    return content


def parse_yaml(text: str, place: Callable[[int | None], str]) -> Any:
    """What a YAML text says. `place` names a line of it (from 1; None: unknown) at the start of a message.

    Raises:
        ConfigError: broken YAML, a value YAML cannot make, a number or a date that YAML reads as few do, a key that is
            no text or stands there twice, a part that contains itself, aliases that repeat parts without measure.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _check(node, place, {}, ())
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as e:
        mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None)
        reason = " ".join(str(problem or e).split())
        raise ConfigError(f"{place(mark.line + 1 if mark else None)}: not valid YAML ({reason})") from None
    except RecursionError:
        raise ConfigError(f"{place(None)}: not valid YAML (nested too deeply)") from None
    except ValueError as e:  # such as the date 2024-13-45
        raise ConfigError(f"{place(None)}: not valid YAML ({e})") from None


def _check(
    node: yaml.Node | None, place: Callable[[int | None], str], sizes: dict[int, int], above: tuple[int, ...]
) -> int:
    """Keys are text; and YAML keeps the last of two equal keys without a word, but the first was surely meant too.

    Values are what they look like (`_check_value`). Returns the number of values in the part, which twenty lines of
    aliases to aliases bring to a million; `sizes` holds those of the parts seen already.
    """
    if id(node) in above:
        raise ConfigError(f"{place(node.start_mark.line + 1)}: this part contains itself")
    if node is None or id(node) in sizes:
        return sizes.get(id(node), 0)
    above, size = (*above, id(node)), 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_check(item, place, sizes, above) for item in node.value)
    elif isinstance(node, yaml.ScalarNode):
        _check_value(node, place)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            here = place(key.start_mark.line + 1)
            if key.tag not in _KEY_TAGS or not key.value:
                got = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                raise ConfigError(f"{here}: keys are text, for example seed; got {got} (quotes make text of a word)")
            if key.value in keys:
                raise ConfigError(f"{here}: {key.value}: this key appears twice")
            keys.add(key.value)
            size += 1 + _check(value, place, sizes, above)
    if size > MAX_PARTS:
        raise ConfigError(
            f"{place(node.start_mark.line + 1)}: more than {MAX_PARTS} values begin here, those that aliases (*name)"
            " repeat counted each time"
        )
    sizes[id(node)] = size
    return size


def _check_value(node: yaml.ScalarNode, place: Callable[[int | None], str]) -> None:
    """A number is written as everybody reads it; a date is not taken for a text, nor a text for a date."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "str" and node.style is not None:  # in quotes
        return
    usual = {"int": _DECIMAL, "float": _FLOAT}.get(kind)
    if usual.fullmatch(text) if usual else kind != "timestamp" and not (kind == "str" and _UNUSUAL.fullmatch(text)):
        return
    here = place(node.start_mark.line + 1)
    if kind == "timestamp":
        yaml.safe_load(text)  # a ValueError where it is none
        raise ConfigError(f"{here}: {text[:40]} is a date to YAML; put it in quotes if it is text")
    raise ConfigError(
        f"{here}: {text[:40]} is a number that YAML reads {_reading(node)}; write it in plain decimal"
        f" (500, 0.5, 1e-5), or in quotes if it is text"
    )


def _reading(node: yaml.ScalarNode) -> str:
    if node.tag == f"{_TAG}str":
        return "as text"
    try:
        return f"as {shown(yaml.safe_load(node.value))}"
    except (ValueError, yaml.YAMLError):
        return "in a way of its own"


def dotted(content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of nested mappings, sections before what they hold."""
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings key by key, anything else (lists too) replaced as a whole."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            value = merge(result[key], value)
        elif value is None and isinstance(result.get(key), Mapping):
            continue  # a section with every line commented out takes nothing away
        result[key] = value
    return result


def shown(value: Any) -> str:
    """A value for a message: as YAML writes it, cut to one short line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python writes out no number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
