"""The Python API: signatures and docstrings of `mlx_voxclone` and its exceptions."""

import importlib
import inspect
import re
from typing import Any

from generators.markdown import cell, plain


def python_page() -> str:
    """What `mlx_voxclone` and its exceptions offer, from signatures and docstrings."""
    import mlx_voxclone

    lines: list[str] = []
    for name in _public(mlx_voxclone):
        if name == "errors":
            continue  # below
        lines += _member(f"mlx_voxclone.{name}", getattr(mlx_voxclone, name), level=2)
    errors = importlib.import_module("mlx_voxclone.errors")
    lines += ["## Exceptions", "", "In `mlx_voxclone.errors`. The message is one line: what, where, what to do.", ""]
    lines += ["| exception | is a | means |", "|---|---|---|"]
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__:
            line = (inspect.getdoc(value) or "").partition("\n\n")[0]
            lines.append(f"| `{name}` | `{value.__bases__[0].__name__}` | {cell(line)} |")
    return "\n".join([*lines, ""])


def _public(module: Any) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "").startswith(module.__name__)
        ]
    return [name for name in names if not name.startswith("__")]


def _member(name: str, value: Any, level: int) -> list[str]:
    lines = [f"{'#' * level} {name}", ""]
    if inspect.ismodule(value) and not callable(value):
        lines += [*_docstring(value), ""]
        for inner in _public(value):
            lines += _member(f"{name}.{inner}", getattr(value, inner), level + 1)
        return lines
    if not callable(value):
        return [*lines, f"`{value!r}`", ""]
    lines += ["```python", *_signature(name.rpartition(".")[2], value), "```", "", *_docstring(value), ""]
    if inspect.isclass(value):
        for inner, member in vars(value).items():
            if inner.startswith("_"):
                continue
            if isinstance(member, property):
                lines += [f"{'#' * (level + 1)} {name}.{inner}", "", *_docstring(member), ""]
            elif callable(member) or isinstance(member, classmethod | staticmethod):
                lines += _member(f"{name}.{inner}", getattr(value, inner), level + 1)
    return lines


def _signature(name: str, value: Any) -> list[str]:
    """How it is called: on one line where that is short, else a line per parameter; modules' names are left out."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return [f"{name}(...)"]
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    whole = _short(str(signature.replace(parameters=kept)))
    if len(name) + len(whole) <= 100:
        return [f"{name}{whole}"]
    parameters: list[str] = []
    for parameter in kept:
        if parameter.kind is parameter.KEYWORD_ONLY and not any(row.startswith("*") for row in parameters):
            parameters.append("*")
        parameters.append(_short(str(parameter)))
    returns = _short(str(inspect.Signature(return_annotation=signature.return_annotation)).removeprefix("()"))
    return [f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"]


def _short(text: str) -> str:
    text = re.sub(r" at 0x[0-9a-f]+", "", text).replace("'", "")
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z]\w*)|\b(?:numpy|np)\.(?=ndarray)", "", text)


def _docstring(value: Any) -> list[str]:
    """A docstring as Markdown; the entries under `Args:`, `Returns:`, `Raises:` become a list."""
    lines: list[str] = []
    inside = False
    for line in (inspect.getdoc(value) or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Yields|Attributes):", line):
            inside = True
            lines += [f"**{line.removesuffix(':')}**", ""]
        elif inside and re.match(r" {2,4}\w[\w.*, ]*(\(.*\))?: ", line):
            name, _, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {plain(rest)}")
        else:
            inside = inside and (not line or line.startswith(" "))
            lines.append(f"  {plain(line.strip())}" if inside and line else plain(line) if line else "")
    return lines
