"""One name for one thing: every option of every command against one table."""

import argparse
import importlib
from collections import defaultdict

import pytest

from mlx_voxclone.cli import COMMANDS, main, module_of
from mlx_voxclone.cli.options import RENAMED
from mlx_voxclone.settings.config import schema_keys

# What an option means wherever it is (its help begins so), and what it takes.
MEANINGS = {
    "--adapters": ("LoRA adapters: a directory or hf://OWNER/NAME; repeat", {"DIR[=WEIGHT]"}),
    "--base": ("the checkpoint that --model was made from", {"DIR_OR_ID"}),
    "--batch": ("how many are generated at once", {"N"}),
    "--bits": ("quantise the language model and the flow head to 8, 6 or 4 bits", {"N"}),
    "--config": ("YAML file", {"C"}),
    "--device": ("where to compute", {None}),
    "--dry-run": ("check everything, write nothing", {None}),
    "--encoder": ("codec encoder: a .safetensors file or hf://OWNER/NAME", {"FILE"}),
    "--float32": ("write floats, unclipped, instead of 16-bit PCM", {None}),
    "--group-size": ("inputs that share a scale when quantised: 32, 64 or 128", {"N"}),
    "--host": ("address to listen on", {None}),
    "--language": ("language code, such as en or fr", {"CODE"}),
    "--lr": ("peak learning rate", {"X"}),
    "--max-seconds": ("longest duration (seconds)", {"S"}),
    "--max-steps": ("most optimiser steps", {"N"}),
    "--model": ("Voxtral checkpoint: a directory or a Hub id", {"DIR_OR_ID"}),
    "--normalise": ("bring speech to -23 dBFS first", {None}),
    "--only": ("some of ", {"A,B"}),
    "--output": ("", {"DIR", "OUT.wav", "X.safetensors", "FILE"}),  # by the kind of result, below
    "--port": ("port to listen on", {"N"}),
    "--quiet": ("print only errors and the result", {None}),
    "--ref-audio": ("a recording of the voice, 1 to 60 s; repeat", {"WAV"}),
    "--resume": ("continue what an interruption left", {"DIR", None}),
    "--seed": ("same seed, same result on the same device", {"N"}),
    "--set": ("any key of the configuration", {"A.B=VALUE"}),
    "--text": ("the words", {"TEXT"}),
    "--numbers-in-words": ("numbers, dates, amounts and units in words of the language (extra numbers)", {None}),
    "--transcribe": ("transcribe with mlx-whisper", {None}),
    "--verbose": ("print a line for every tensor", {None}),
    "--voice": ("a voice", {"NAME_OR_FILE", "NAME=SOURCE"}),  # to speak with; to add under a name
    "--voices": ("voices to speak with", {"NAME", "DIR"}),
    "--whisper-model": ("Whisper in MLX format: a directory or a Hub id", {"MODEL"}),
}
OUTPUTS = {
    "DIR": "directory to write",
    "OUT.wav": "24 kHz mono WAV to write; replaced if it exists",
    "X.safetensors": "file to write",
    "FILE": "JSON file to write",
}
# Of a self-check the table is what is read, and the file what is sent on.
READ_AND_WRITTEN = {
    "--recordings": {"pairs": "SOURCE", "micro": "DIR"},
    "--json": {"doctor": None, "diff": None, "selfcheck": "FILE"},
}


def options_of(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for other in action.choices.values():
                yield from options_of(other)
        for name in action.option_strings:
            if name not in ("-h", "--help"):
                yield name, action


def uses() -> dict[str, list[tuple[str, argparse.Action]]]:
    """Every option with the commands that have it."""
    found = defaultdict(list)
    for command in COMMANDS:
        for name, action in options_of(importlib.import_module(module_of(command)).main.parser()):
            found[name].append((command, action))
    return found


def test_an_option_means_the_same_in_every_command():
    found = uses()
    shared = {name for name, commands in found.items() if len({command for command, _ in commands}) > 1}
    assert shared == MEANINGS.keys() | READ_AND_WRITTEN.keys()
    for name, (meaning, metavars) in MEANINGS.items():
        for command, action in found[name]:
            assert action.help.startswith(meaning), f"{command} {name}: {action.help}"
            assert action.metavar in metavars, f"{command} {name} {action.metavar}"
        assert len({(str(action.type), str(action.choices)) for _, action in found[name]}) == 1, name
    for command, action in found["--output"]:
        assert action.help.startswith(OUTPUTS[action.metavar]), f"{command}: {action.help}"
    for name, metavars in READ_AND_WRITTEN.items():
        assert {command: action.metavar for command, action in found[name]} == metavars


def test_options_have_the_names_of_keys():
    """A model is called as in a configuration, and no old name is a command's beside the new one."""
    names, keys = uses(), {key.rpartition(".")[2] for key in schema_keys()}
    models = {name for name in names if name.endswith("-model") and name != "--model"}
    assert models == {"--whisper-model", "--speaker-model"}
    assert {name[2:].replace("-", "_") for name in models} <= keys
    for old, new in RENAMED.items():
        assert not {command for command, _ in names[old]} & {command for command, _ in names[new]}, old


def test_every_command_says_something_of_each_option():
    for name, commands in uses().items():
        for command, action in commands:
            assert action.help, f"{command} {name}"
            assert not action.help.endswith("."), f"{command} {name}: {action.help}"


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["prepare", "a", "--output", "b", "--whisper", "tiny"], "--whisper-model"),
        (["encode", "a.wav", "--output", "b", "--voice-audio", "c.wav"], "--ref-audio"),
        (["encode", "a.wav", "--output", "b", "--learning-rate=0.2"], "--lr"),
        (["encode", "a.wav", "--output", "b", "--steps", "3"], "--max-steps"),
        (["evaluate", "a", "--output", "b", "--codec", "m"], "--code-usage"),
        (["bench", "--json", "a.json"], "--output"),
        (["bench", "more", "--json", "a.json"], "--output"),
        (["voices", "add", "ann=a.wav", "--output", "b", "--encodr", "e"], "--encoder"),
    ],
)
def test_an_old_or_misspelt_name_gets_the_nearest(argv, near, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unrecognized arguments: ")
    assert f"; did you mean {near}?" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["say", "--device", "CPU"], "cpu"),
        (["bake", "--for", "vlm"], "vllm"),
        (["voices", "lst"], "list"),
        (["voices", "REMOVE", "--model", "x"], "remove"),
        (["voices", "made"], "voxclone voices list --model made"),
        (["voices", "some/where"], "voxclone voices list --model some/where"),
    ],
)
def test_a_misspelt_choice_gets_the_nearest(argv, near, tmp_path, monkeypatch, capsys):
    """And a directory in the place of an action the line that was meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert f"; did you mean {near}?" in error
    assert error.count("\n") == 1


def test_a_name_that_is_near_nothing_gets_no_hint(capsys):
    assert main(["decode", "x", "--output", "y.wav", "--seed", "3"]) == 2
    assert main(["voices", "zzz"]) == 2
    assert "did you mean" not in capsys.readouterr().err
