"""The configuration's keys: type, bounds and default from the schema, meaning from the main file's comments."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from generators.markdown import ROOT, cell, plain

MAIN_CONFIG = ROOT / "configs" / "voxtral_speaker.yaml"

_COMMENTED_KEY = re.compile(r"^( *)(?:- )?([A-Za-z_]\w*):(.*)$")


def configuration_page() -> str:
    """A table per section of the schema: key, type and bounds, default, and the comment of the main file."""
    from mlx_voxclone.settings.config import RunConfig

    comments = _comments(MAIN_CONFIG.read_text(encoding="utf-8"))
    lines: list[str] = []
    for prefix, model in _sections(RunConfig, ""):
        properties = model.model_json_schema()["properties"]
        rows = []
        for name, field in model.model_fields.items():
            if _is_section(field.annotation):
                continue
            default = "required" if field.is_required() else f"`{_yaml(field.get_default(call_default_factory=True))}`"
            key, schema = f"{prefix}{name}", properties[name]
            rows.append(f"| `{key}` | {cell(_type(schema))} | {cell(default)} | {cell(comments.get(key, ''))} |")
        title = prefix.rstrip(".") or "Top level"
        lines += [f"## {title}", ""]
        if comment := comments.get(prefix.rstrip(".")):
            lines += [plain(comment[0].upper() + comment[1:] + "."), ""]
        if rows:
            lines += ["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _is_section(annotation: Any) -> bool:
    from pydantic import BaseModel

    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sections(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            yield from _sections(field.annotation, f"{prefix}{name}.")


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return text if not isinstance(value, float) or value in (0, 1) else f"{value:g}" if value < 1e-3 else text


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema's type and bounds in words."""
    if "anyOf" in schema:
        kinds = [_type(kind) for kind in schema["anyOf"]]
        return ", or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        inner = _type(schema.get("items", {}))
        least, most = schema.get("minItems"), schema.get("maxItems")
        return f"{least} values: {inner}" if least is not None and least == most else f"list: {inner}"
    if kind == "string":
        return "path" if schema.get("format") == "path" else "text"
    word = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "null": "`null`"}.get(kind)
    if word is None:
        return "any"
    return f"{word}{_bounds(schema)}" if kind in ("integer", "number") else word


def _bounds(schema: dict[str, Any]) -> str:
    least = schema.get("minimum", schema.get("ge"))
    above = schema.get("exclusiveMinimum", schema.get("gt"))
    most = schema.get("maximum", schema.get("le"))
    below = schema.get("exclusiveMaximum", schema.get("lt"))
    words = []
    if above is not None:
        words.append(f"above {_number(above)}")
    elif least is not None and least > -1e30:
        words.append(f"from {_number(least)}")
    if below is not None and below < 1e15:
        words.append(f"below {_number(below)}")
    elif below is None and most is not None and most < 1e15:
        words.append(f"up to {_number(most)}")
    return f" {' '.join(words)}" if words else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def _comments(text: str) -> dict[str, str]:
    """Dotted key -> the comment on its line and on the comment lines under it, of a YAML file."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := _COMMENTED_KEY.match(line):
            indent, key, rest = len(match[1]), match[2], match[3]
            path = [(n, name) for n, name in path if n < indent] + [(indent, key)]
            _, mark, comment = rest.partition(" #")
            if mark:
                found[".".join(name for _, name in path)] = comment.strip()
        elif path and re.match(r"^ +# ", line):
            dotted = ".".join(name for _, name in path)
            found[dotted] = f"{found.get(dotted, '')} {line.strip().removeprefix('#').strip()}".strip()
    return found
