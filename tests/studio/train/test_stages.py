"""Every part of a training that the library knows has words on the page, in every language: a new one fails here."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mlx_voxclone
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.studio.model import machine
from mlx_voxclone.studio.train.outcome import outcome, reason
from mlx_voxclone.studio.train.watch import _BEGIN, BASE, ENCODER, PARTS, SPEAKER
from mlx_voxclone.studio.web.languages import languages, texts, words_in
from mlx_voxclone.train.clone.deliver import WORSE, Measured, choose

PACKAGE = Path(mlx_voxclone.__file__).parent
# First words of lines that a training for one voice says, and that change nothing of the part it is at.
SILENT = {"warning", "speaker.preserve", "saving step", "interrupted", "the adapters are kept"}
OTHER_TASKS = {"distill", "sweep", "fetching"}  # of `voxclone train` that the studio does not begin
# Lines whose first words are put in when they are said, and what these may be.
PUT_IN = {
    "config.adapts": "speaker",
    "name": "encoder",
    "line": "warning",
    "WITHOUT_PAIRS": "warning",
    "_NOT_PRESERVED": "speaker.preserve",
    "_told": "prior",
}


def calls(*places: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in the sources of some places, with the name of its module."""
    for place in places:
        path = PACKAGE / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            module = ".".join(["mlx_voxclone", *file.relative_to(PACKAGE).with_suffix("").parts])
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield module, node


def value(module: str, node: ast.expr) -> str | None:
    """A constant of a module, also by its name; None for what is made when it is called."""
    try:
        return eval(ast.unparse(node), dict(vars(importlib.import_module(module))))
    except (NameError, AttributeError):
        return None


def beginning(node: ast.expr) -> str:
    """The first words of a line that is said: those before a colon, or all that stands before what is put in."""
    if isinstance(node, ast.BinOp):
        return beginning(node.left)
    if isinstance(node, ast.Constant):
        return str(node.value).partition(":")[0]
    if isinstance(node, ast.JoinedStr):
        first = node.values[0]
        if isinstance(first, ast.FormattedValue):
            return PUT_IN[ast.unparse(first.value).partition("(")[0]]
        return str(first.value).partition(":")[0].strip()
    return PUT_IN[ast.unparse(node).partition("(")[0]]


def said() -> set[str]:
    """First words of all lines that a training says."""
    found = set()
    for _, call in calls("train"):
        name = ast.unparse(call.func)
        if (name == "say" or name.endswith(".say")) and call.args:
            found.add(beginning(call.args[0]))
    return found - {""}


def test_every_line_of_a_training_belongs_to_a_part_or_to_none():
    known = {begin.removesuffix(":") for begin in _BEGIN}
    found = said()
    assert {"data", "pairs", "encoder", "codes", "teacher", "speaker", "delivered", "say", "bake", "report"} <= found
    assert not found - known - SILENT - OTHER_TASKS, "a part of the page that they belong to (`watch._BEGIN`)"
    assert not known - found, "nothing says this any more"


@pytest.mark.parametrize("code", languages())
def test_every_part_and_every_stage_has_words(code):
    there = texts(code)
    assert set(_BEGIN.values()) <= set(PARTS)
    for part in PARTS:
        assert there[f"train.part.{part}"]
        assert there[f"train.doing.{part}"]
    stages = {BASE, *load_run_config("mac-16gb").stages}
    assert {ENCODER, SPEAKER} <= stages
    for stage in stages:
        assert there[f"train.stage.{stage.partition('-')[0]}"]


def test_every_stage_that_doctor_tries_has_words():
    named = set()
    for module, call in calls("doctor"):
        kind = ast.unparse(call.func)
        if kind in ("Forecast", "EncoderTraining") and call.args:
            named.add(value(module, call.args[0]))
    named.discard(None)
    assert {"pairs", "base encoder", "speaker"} <= named
    for code in languages():
        for name in named:
            part = machine._NAMES.get(name, name)
            assert part in machine.PARTS
            assert texts(code)[f"model.part.{part}"]


def measured(name: str, **values: float) -> Measured:
    return Measured(name, None, {key: np.array([value, value + 0.01, value]) for key, value in values.items()})


def reasons() -> Iterator[str]:
    """Every sentence that the library gives for what it delivers."""
    low, high = ({name: value for name in (*WORSE, "code_loss")} for value in (0.1, 0.5))
    yield choose(measured("zero-shot"), measured("adapted"), 2.0, 1.0)[1]
    for name in WORSE:
        yield choose(measured("zero-shot", **low), measured("adapted", **{**low, name: 0.5}), None, 1.0)[1]
    yield choose(measured("zero-shot", **low), measured("adapted", **{**low, "code_loss": 0.5}), None, 1.0)[1]
    yield choose(measured("zero-shot", **high), measured("adapted", **low), None, 1.0)[1]
    yield choose(measured("zero-shot"), measured("adapted"), None, 1.0)[1]


def test_every_reason_of_a_delivery_is_told_in_the_pages_language():
    german, english = words_in("de"), words_in("en")
    for why in reasons():
        told = reason(why, german)
        assert told not in (why, reason(why, english)), why
        assert not re.search(r"\d\.\d|_|adapt|nats|->", told), told


def test_an_outcome_that_is_not_there_is_none(tmp_path):
    assert outcome(tmp_path) is None
