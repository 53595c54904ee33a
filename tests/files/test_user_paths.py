"""`~` and `$HOME` in every option and key that takes a path."""

import argparse
import importlib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from mlx_voxclone.cli import COMMANDS, common, module_of
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.cache import cache_root
from mlx_voxclone.files.paths import expanded, expanded_part
from mlx_voxclone.settings.config import RunConfig, load_run_config, parse_set, schema_keys

NO_PATHS = {
    "mlx-audio:ID",  # expanded behind the colon: tests/data/recognise
    "KEY",
    "N",
    "X",
    "S",
    "F",
    "HZ",
    "SIZE",
    "A.B=VALUE",
    "A,B",
    "NAME",
    "CODE",
    "TEXT",
    "OWNER/NAME",
    None,
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_what_a_shell_would_make_of_it(home, tmp_path):
    for path in ("~/a b", "$HOME/a b", "${HOME}/a b"):
        assert expanded(path) == f"{home}/a b"
    assert expanded("~") == str(home)
    assert expanded(Path("~/x")) == f"{home}/x"
    assert expanded("x/$DATA") == f"x/{tmp_path}/data"
    for path in ("hf://a/b~$HOME", "x/~/y", "./~/x", "a~", "100$", "a$.wav", "mistralai/Voxtral-4B-TTS-2603", ""):
        assert expanded(path) == path


def test_names_that_only_look_so(tmp_path):
    for name in ("Ke$ha.wav", "~old.wav", "~$draft.txt"):
        with pytest.raises(ConfigError):
            expanded(name)
        (tmp_path / name).touch()
        assert expanded(name) == name


def test_a_directory_that_a_mistake_has_made_is_not_taken(home, tmp_path):
    (tmp_path / "~" / "x").mkdir(parents=True)
    (tmp_path / "$HOME" / "x").mkdir(parents=True)
    assert expanded("~/x") == expanded("$HOME/x") == f"{home}/x"


@pytest.mark.parametrize("path", ["$NOWHERE/x", "a/${NOWHERE}/x", "$EMPTY/x"])
def test_unknown_variables(path, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(ConfigError, match=r"the environment has no variable \$(NOWHERE|EMPTY) for"):
        expanded(path)


def test_unknown_user():
    with pytest.raises(ConfigError, match=r"no home directory is known for ~nosuchuser; write \./~nosuchuser"):
        expanded("~nosuchuser/x")


def test_paths_with_a_name_or_a_weight(home):
    assert expanded_part("ann=~/a.wav") == f"ann={home}/a.wav"
    assert expanded_part("ann=$HOME/a=b.wav") == f"ann={home}/a=b.wav"
    assert expanded_part("~/adapters=0.5") == f"{home}/adapters=0.5"
    assert expanded_part("a=b") == "a=b"


# Options


def parsers() -> list[common.Parser]:
    return [importlib.import_module(module_of(name)).main.parser() for name in COMMANDS]


def actions(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for other in {id(other): other for other in action.choices.values()}.values():
                yield from actions(other)
        elif action.nargs != 0:
            yield parser, action


def test_every_option_that_takes_a_path_expands_it(monkeypatch):
    """Each option is told by its metavar: a new one must be a path (`cli/common.py`) or stand in NO_PATHS here."""
    home, tried = str(Path("~").expanduser()), 0
    found = parsers()
    monkeypatch.setenv("HOME", home)
    for parser, action in (pair for each in found for pair in actions(each)):
        known = common.PATHS | common.NAMED_PATHS | NO_PATHS
        assert action.metavar in known or action.choices, f"{parser.prog} {action.dest}: {action.metavar}"
        if action.metavar not in common.PATHS | common.NAMED_PATHS:
            continue
        for given in ("~/x", "$HOME/x"):
            given = f"n={given}" if action.metavar.startswith("NAME=") else given
            value = value_of(parser, action, given)
            assert str(value[0] if isinstance(value, list) else value) == given.replace("~", home).replace(
                "$HOME", home
            )
            tried += 1
    assert tried > 70


def value_of(parser: common.Parser, action: argparse.Action, given: str):
    """What an option becomes, the required others given as well."""
    line = []
    for other in parser._actions:
        if other is action or (other.required and not other.choices):
            value = [given if other is action else "x=y"]
            line += [other.option_strings[0], *value] if other.option_strings else value
    if parser._mutually_exclusive_groups and "--voice" in line and action.dest == "ref_audio":
        del line[line.index("--voice") :][:2]
    for group in parser._mutually_exclusive_groups:
        if group.required and not any(a.option_strings[0] in line for a in group._group_actions):
            line += [group._group_actions[0].option_strings[0], "x"]
    return getattr(parser.parse_args(line), action.dest)


def test_paths_that_cannot_be_are_one_line(capsys):
    assert importlib.import_module("mlx_voxclone.cli.more.micro").main(["--output=$NOWHERE/x"]) == 2
    assert capsys.readouterr().err.startswith("error: the environment has no variable $NOWHERE for $NOWHERE/x")


# Keys


def annotation(key: str) -> object:
    model = RunConfig
    *sections, name = key.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    return model.model_fields[name]


def holds_path(found: object) -> bool:
    if found is Path:
        return True
    return any(holds_path(part) for part in get_args(found))


def test_every_key_that_takes_a_path_expands_it(home, tmp_path):
    """Of the whole schema: what is of type Path, and the names of models, which can be directories."""
    path = tmp_path / "c.yaml"
    path.write_text("task: clone\n")
    keys = []
    for key in schema_keys():
        field = annotation(key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        if holds_path(field.annotation) or key == "model" or key.endswith("_model"):
            keys.append(key)
    assert {"output", "model", "data.path", "data.cache", "bake.output", "encoder.weights", "distill.pairs"} <= set(
        keys
    )
    assert len(keys) >= 17
    for key in keys:
        for given in ("~/x", "$HOME/x", "${HOME}/x"):
            overrides = parse_set([f"{key}={given}"])
            if key == "speaker.listen.whisper_model":
                overrides["speaker.listen.speaker_model"] = "x"
            value = load_run_config(path, overrides)
            for part in key.split("."):
                value = getattr(value, part)
            assert str(value[0] if isinstance(value, list) else value) == f"{home}/x", (key, given)
        with pytest.raises(ConfigError, match=rf"command line: {key}.*no variable \$NOWHERE"):
            load_run_config(path, {key: "$NOWHERE/x"})


def test_include_and_the_cache(home, tmp_path, monkeypatch):
    home.mkdir()
    (home / "base.yaml").write_text("seed: 5\n")
    (tmp_path / "c.yaml").write_text("include: ~/base.yaml\ntask: encoder\n")
    assert load_run_config(tmp_path / "c.yaml").seed == 5
    monkeypatch.setenv("VOXCLONE_CACHE", "$HOME/cache")
    assert cache_root() == home / "cache"
