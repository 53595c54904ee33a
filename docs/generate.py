"""Write the generated parts of the documentation: commands, configuration, Python API, package layout, log index.

    python docs/generate.py            # rewrite what has changed
    python docs/generate.py --check    # change nothing; exit code 1 if something is out of date

A page holds a generated part between `<!-- generated: NAME -->` and `<!-- end -->`; the rest is written by hand. The
results are checked in, so that they can be read without a build, and a test keeps them current.
"""

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGE = ROOT / "mlx_voxclone"
MAIN_CONFIG = ROOT / "configs" / "voxtral_speaker.yaml"
DEMO = ROOT / "demo" / "app.py"

_REGION = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_COMMENTED_KEY = re.compile(r"^( *)(?:- )?([A-Za-z_]\w*):(.*)$")


# ---- commands --------------------------------------------------------------------------------------------------------


class _Captured(BaseException):
    """Carries a command's parser, or what it has parsed, out of the command before it runs."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _run_until_captured(command: str, argv: list[str]) -> Any:
    """Call a command's `main`; returns what the patched parser raised. SystemExit of argparse passes."""
    try:
        if command == "demo":
            spec = importlib.util.spec_from_file_location("voxclone_demo_app", DEMO)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            code = module.main(argv)
        else:
            from mlx_voxclone.cli import main

            code = main([command, *argv])
    except _Captured as e:
        return e.value
    raise SystemExit(code)


def command_names() -> list[str]:
    """Every command of `voxclone`, and `demo` for `demo/app.py`."""
    from mlx_voxclone.cli import COMMANDS

    return [*COMMANDS, "demo"]


def parser_of(command: str) -> argparse.ArgumentParser:
    """The argument parser of a command, which is not run."""
    real = argparse.ArgumentParser.parse_known_args

    def capture(self, args=None, namespace=None):
        raise _Captured(self)

    argparse.ArgumentParser.parse_known_args = capture
    try:
        return _run_until_captured(command, [])
    finally:
        argparse.ArgumentParser.parse_known_args = real


def parsed(command: str, argv: list[str]) -> argparse.Namespace:
    """The options of a command line, read by the command's own parser; the command is not run.

    Raises:
        SystemExit: the parser refuses the arguments; its message is on stderr.
    """
    real = argparse.ArgumentParser.parse_args

    def capture(self, args=None, namespace=None):
        raise _Captured(real(self, args, namespace))

    argparse.ArgumentParser.parse_args = capture
    try:
        return _run_until_captured(command, argv)
    finally:
        argparse.ArgumentParser.parse_args = real


@cache
def option_strings(command: str) -> frozenset[str]:
    """All options of a command, those of its actions included."""
    parsers = _with_actions(parser_of(command))
    return frozenset(name for parser in parsers for action in parser._actions for name in action.option_strings)


def _with_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def commands_page() -> str:
    """A section per command: what it does, its usage, a table of its arguments."""
    from mlx_voxclone.cli import COMMANDS

    lines = ["| command | does |", "|---|---|"]
    lines += [f"| [{name}](#{_anchor(name)}) | {_cell(line)} |" for name, line in COMMANDS.items()]
    lines += ["| [demo/app.py](#demoapppy) | a page in the browser to compare voices on |", ""]
    for name in command_names():
        lines += _command(name, parser_of(name))
    return "\n".join(lines)


def _anchor(name: str) -> str:
    return f"voxclone-{name}"


def _command(name: str, parser: argparse.ArgumentParser) -> list[str]:
    lines = [f"## {'demo/app.py' if name == 'demo' else f'voxclone {name}'}", ""]
    lines += [*_description(parser.description or ""), ""]
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not actions:
        return lines + _arguments(parser)
    for action in actions:
        helps = {choice.dest: choice.help for choice in action._choices_actions}
        for verb, inner in action.choices.items():
            lines += [f"### voxclone {name} {verb}", "", *_description(inner.description or helps.get(verb) or ""), ""]
            lines += _arguments(inner)
    return lines


def _description(text: str) -> list[str]:
    """A parser's description as Markdown: paragraphs, and indented lines as code."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        for indented, rows in groupby(paragraph.splitlines(), lambda row: row.startswith("  ")):
            if indented:
                lines += ["```text", *(row.removeprefix("  ") for row in rows), "```", ""]
            else:
                lines += [*map(_plain, rows), ""]
    return lines[:-1]


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    required = {id(a) for group in parser._mutually_exclusive_groups if group.required for a in group._group_actions}
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        value = _value(action)
        name = f"{names} {value}".strip() if names else value
        needed = action.required if action.option_strings else action.nargs not in ("?", "*")
        note = "required" if needed else "one of these is required" if id(action) in required else _default(action)
        rows.append(f"| {name} | {note} | {_cell(_help(action))} |")
    return ["| argument | default | meaning |", "|---|---|---|", *rows, ""]


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return " ".join(f"`{choice}`" for choice in action.choices)
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    name = name if isinstance(name, str) else " ".join(name)
    return f"`{name}{' ...' if action.nargs in ('*', '+') else ''}`"


def _default(action: argparse.Action) -> str:
    value = action.default
    hidden = value is None or value is False or value == [] or value == argparse.SUPPRESS
    return "" if hidden else f"`{value}`"


def _help(action: argparse.Action) -> str:
    text = re.sub(r"%\(default\)s", str(action.default), action.help or "").replace("%%", "%")
    told = "several" in text or "repeated" in text
    return f"{text}; may be repeated" if isinstance(action, argparse._AppendAction) and not told else text


def _plain(text: str) -> str:
    """Text in which Markdown sees no HTML; what stands between backticks stays."""
    parts = text.split("`")
    return "`".join(p if k % 2 else p.replace("<", "&lt;").replace("*", r"\*") for k, p in enumerate(parts))


def _cell(text: str) -> str:
    return _plain(text).replace("|", r"\|").replace("\n", " ")


# ---- configuration ---------------------------------------------------------------------------------------------------


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
            rows.append(f"| `{key}` | {_cell(_type(schema))} | {_cell(default)} | {_cell(comments.get(key, ''))} |")
        title = prefix.rstrip(".") or "Top level"
        lines += [f"## {title}", ""]
        if comment := comments.get(prefix.rstrip(".")):
            lines += [_plain(comment[0].upper() + comment[1:] + "."), ""]
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


# ---- Python API ------------------------------------------------------------------------------------------------------


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
            lines.append(f"| `{name}` | `{value.__bases__[0].__name__}` | {_cell(line)} |")
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
            lines.append(f"- `{name}`: {_plain(rest)}")
        else:
            inside = inside and (not line or line.startswith(" "))
            lines.append(f"  {_plain(line.strip())}" if inside and line else _plain(line) if line else "")
    return lines


# ---- package layout --------------------------------------------------------------------------------------------------


def package_page() -> str:
    """The package's folders with the first paragraph of their docstrings."""
    lines = ["| folder | holds |", "|---|---|"]
    for folder in sorted(path.parent for path in PACKAGE.rglob("__init__.py")):
        if folder == PACKAGE:
            continue
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        name = folder.relative_to(PACKAGE).as_posix()
        lines.append(f"| `{name}/` | {_cell(docstring.partition(chr(10) * 2)[0])} |")
    return "\n".join([*lines, ""])


# ---- log -------------------------------------------------------------------------------------------------------------


def log_entries(text: str) -> list[tuple[str, str, str]]:
    """(date, title, verdict) of each entry of the log, in its order; the verdict is empty where there is none."""
    found = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        date, _, title = heading.strip().partition(" ")
        verdict = re.match(r"\s*\*Verdict: (.*?)\*\n", body, re.DOTALL)
        found.append((date, title, " ".join(verdict[1].split()) if verdict else ""))
    return found


def heading_anchor(heading: str) -> str:
    """The fragment of a heading, as both GitHub and Python-Markdown make it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def verdicts_page() -> str:
    """The log's entries with their verdicts."""
    lines = ["| date | entry | verdict |", "|---|---|---|"]
    for date, title, verdict in log_entries((DOCS / "LOG.md").read_text(encoding="utf-8")):
        lines.append(f"| {date} | [{_cell(title)}](LOG.md#{heading_anchor(f'{date} {title}')}) | {_cell(verdict)} |")
    return "\n".join([*lines, ""])


# ---- writing ---------------------------------------------------------------------------------------------------------

PARTS = {
    "commands": commands_page,
    "configuration": configuration_page,
    "python": python_page,
    "package": package_page,
    "verdicts": verdicts_page,
}


def current(text: str) -> str:
    """A page's text with its generated parts as they should be."""
    return _REGION.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]().strip()}\n\n{match[4]}", text)


def pages() -> list[Path]:
    """The pages with generated parts."""
    return [path for path in sorted(DOCS.rglob("*.md")) if _REGION.search(path.read_text(encoding="utf-8"))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something is out of date")
    options = parser.parse_args()
    stale = {path: new for path in pages() if (new := current(path.read_text("utf-8"))) != path.read_text("utf-8")}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date' if options.check else 'written'}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
