"""What users read is in plain words: the options' help, and the messages of errors."""

import ast
import importlib
import re

from places import ROOT

from mlx_voxclone.cli import COMMANDS, FRONT, MORE, module_of

PRIVATE = re.compile(
    r"\b(hears?|tells?|asks|foretold|ears|opponents?|anew|mend(ed)?|nobody|perceives?|in the small|come to|behind)\b",
    re.I,
)


def helps():
    for name in COMMANDS:
        parser = importlib.import_module(module_of(name)).main.parser()
        yield name, parser.format_help()
    yield from (FRONT | MORE).items()


def messages():
    """The literal parts of every message that an error is raised with, or that `message` or `say` prints."""
    for path in sorted((ROOT / "mlx_voxclone").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else node
            if isinstance(call, ast.Call) and (call is not node or getattr(call.func, "id", "") in ("message", "say")):
                for argument in call.args:
                    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
                    text = "{}".join(p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str))
                    yield f"{path.name}:{node.lineno}", text


def test_help_and_messages_are_in_plain_words():
    read = [*helps(), *messages()]
    assert len(read) > 500
    assert not [(place, found[0]) for place, text in read if (found := PRIVATE.search(text))]


def test_each_command_has_one_line():
    for name, line in (FRONT | MORE).items():
        assert line[0].islower(), name
        assert not line.endswith("."), name
        assert len(f"  {name:<8}  {line}") <= 110, name
