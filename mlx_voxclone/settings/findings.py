"""What pydantic finds wrong with a configuration, in one line of plain words."""

from typing import Any

from pydantic import ValidationError

from mlx_voxclone.files.yaml_files import shown

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "path_type": "a path",
    "is_instance_of": "a path",
    "model_type": "a section of keys",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def describe(failure: ValidationError) -> tuple[str, str]:
    """The first of pydantic's findings: its dotted key, and one line with that key, what was expected, what is there
    instead, and how many more findings there are."""
    errors = failure.errors()
    first = errors[0]
    key = ""
    for part in first["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return key, f"{key}{': ' if key else ''}{_expectation(first)}{more}"


def _expectation(error: Any) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    got = shown(value)
    if kind == "missing":
        return "missing; this key has no default"
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        name, word = _BOUNDS[kind]
        return f"must be {word} {context[name]:g}; got {got}"
    if kind == "literal_error":
        return f"expected one of {context['expected']}; got {got}".replace("'", "")
    if kind == "string_pattern_mismatch":
        return f"only a-z, 0-9, _ and - (servers request voices in lower case); got {got}"
    if kind == "string_too_short":
        return "expected some text; got none (to leave it unset, use null or remove the line)"
    if kind == "extra_forbidden":  # those of a file were refused before: of one, only a dot inside a key comes here
        dot = "." in str(error["loc"][-1])
        return "write the sections as nested lines, not as one dotted key" if dot else "unknown key"
    if kind in ("too_short", "too_long"):
        n = context.get("min_length", context.get("max_length"))
        return f"expected {'at least ' if kind != 'too_long' else 'at most '}{n} value{'s' * (n != 1)}; got {got}"
    from_word = isinstance(value, bool) and kind == "string_type"
    quotes = " (YAML reads yes, no, on and off as true or false: put it in quotes)" if from_word else ""
    return f"expected {_EXPECTED.get(kind, error['msg'])}; got {got}{quotes}"
