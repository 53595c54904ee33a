"""The commands of `voxclone`: their parsers, and a section with a table of arguments for each."""

import argparse
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import Any

from generators.markdown import ROOT, cell, plain

DEMO = ROOT / "demo" / "app.py"


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
    lines += [f"| [{name}](#{_anchor(name)}) | {cell(line)} |" for name, line in COMMANDS.items()]
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
                lines += [*map(plain, rows), ""]
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
        rows.append(f"| {name} | {note} | {cell(_help(action))} |")
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
