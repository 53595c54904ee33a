"""The options that several commands share: one name, one meaning, one metavar.

A command adds them with `add_shared`; its `note` says what the option is for there.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_voxclone.data.options import WHISPER_MODEL
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.widths import GROUP_SIZE, Quantisation

DEFAULT_MODEL = "mistralai/Voxtral-4B-TTS-2603"
DEVICES = ("auto", "gpu", "cpu")
BY_CONFIGURATION = "(default: the configuration's)"


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 2^63 - 1 expected, got {text!r}")
    return int(text)


SHARED: dict[str, dict[str, Any]] = {
    "--model": {
        "default": DEFAULT_MODEL,
        "metavar": "DIR_OR_ID",
        "help": "Voxtral checkpoint: a directory or a Hub id",
    },
    "--base": {"metavar": "DIR_OR_ID", "help": "the checkpoint that --model was made from"},
    "--output": {"required": True, "metavar": "DIR", "help": "directory to write"},
    "--encoder": {"metavar": "FILE", "help": "codec encoder: a .safetensors file or hf://OWNER/NAME"},
    "--adapters": {
        "action": "append",
        "default": [],
        "metavar": "DIR[=WEIGHT]",
        "help": "LoRA adapters: a directory or hf://OWNER/NAME; repeat to add several; WEIGHT 0.5 applies half of the"
        " change",
    },
    "--voice": {"metavar": "NAME_OR_FILE", "help": "a voice"},
    "--ref-audio": {
        "action": "append",
        "metavar": "WAV",
        "help": "a recording of the voice, 1 to 60 s; repeat to use several together",
    },
    "--text": {"metavar": "TEXT", "help": "the words"},
    "--language": {"metavar": "CODE", "help": "language code, such as en or fr"},
    "--numbers-in-words": {
        "action": "store_true",
        "help": "numbers, dates, amounts and units in words of the language (extra numbers)",
    },
    "--transcribe": {"action": "store_true", "help": "transcribe with mlx-whisper (extra transcribe)"},
    "--whisper-model": {
        "default": WHISPER_MODEL,
        "metavar": "MODEL",
        "help": "Whisper in MLX format: a directory or a Hub id",
    },
    "--normalise": {"action": "store_true", "help": "bring speech to -23 dBFS first; servers keep the level"},
    "--max-seconds": {"type": float, "metavar": "S", "help": "longest duration (seconds)"},
    "--max-steps": {"type": int, "metavar": "N", "help": "most optimiser steps"},
    "--lr": {"type": float, "metavar": "X", "help": "peak learning rate"},
    "--config": {
        "metavar": "C",
        "help": "YAML file, or the name of a shipped configuration, such as voxtral_speaker or mac-32gb",
    },
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "A.B=VALUE",
        "help": "any key of the configuration; may be repeated",
    },
    "--bits": {
        "type": int,
        "metavar": "N",
        "help": "quantise the language model and the flow head to 8, 6 or 4 bits (default: as they are stored)",
    },
    "--group-size": {
        "type": int,
        "metavar": "N",
        "help": "inputs that share a scale when quantised: 32, 64 or 128 (default: 64)",
    },
    "--float32": {"action": "store_true", "help": "write floats, unclipped, instead of 16-bit PCM"},
    "--json": {"action": "store_true", "help": "print everything as JSON"},
    "--verbose": {"action": "store_true", "help": "print a line for every tensor"},
    "--dry-run": {"action": "store_true", "help": "check everything, write nothing"},
    "--seed": {"type": _seed, "default": 0, "metavar": "N", "help": "same seed, same result on the same device"},
    "--device": {
        "choices": DEVICES,
        "default": "auto",
        "help": "where to compute: auto takes the GPU (Metal or CUDA) when there is one",
    },
    "--quiet": {"action": "store_true", "help": "print only errors and the result"},
}
# Names that options had, and the ones that say the same now.
RENAMED = {
    "--whisper": "--whisper-model",
    "--voice-audio": "--ref-audio",
    "--learning-rate": "--lr",
    "--steps": "--max-steps",
    "--codec": "--code-usage",
    "--json": "--output",
}


def add_shared(parser: "argparse._ActionsContainer", *names: str, note: str = "", **changes: Any) -> None:
    """Add options of `SHARED` to a parser or a group of it.

    Args:
        note: put behind the help of each; its own punctuation leads.
        changes: keywords of `add_argument` in the place of the shared ones.
    """
    for name in names:
        keywords = SHARED[name] | changes
        parser.add_argument(name, **(keywords | {"help": keywords["help"] + note}))


def quantisation(parser: "argparse.ArgumentParser", options: argparse.Namespace) -> Quantisation | None:
    """What `--bits` and `--group-size` ask for, or an error of the parser; None: not quantised."""
    if options.bits is None:
        if options.group_size is not None:
            parser.error("--group-size is of quantised weights; give --bits 8, 6 or 4")
        return None
    try:
        return Quantisation(options.bits, GROUP_SIZE if options.group_size is None else options.group_size)
    except ConfigError as e:
        parser.error(f"--{str(e).replace('_', '-', 1)}")


def encoder_path(given: str | None) -> Path | None:
    """The encoder file of `--encoder`, fetched from the Hub where it is an address; None: none given.

    Raises:
        CheckpointError: it cannot be fetched from the Hub.
    """
    from mlx_voxclone.files.hub import ENCODER, local

    return local(given, ENCODER) if given is not None else None


def at_once(text: str) -> int:
    """The number of `--batch`; a file given to it belongs to `say --lines`."""
    try:
        return int(text)
    except ValueError:
        hint = (
            f"; to speak the lines of a file: voxclone say --lines {text}" if text.endswith((".jsonl", ".json")) else ""
        )
        raise argparse.ArgumentTypeError(f"a whole number expected, got {text!r}{hint}") from None


def port_number(text: str) -> int:
    """The value of `--port`; 0 takes any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port from 0 to 65535 expected, got {text!r}")
    return int(text)


def check_installed(packages: Iterable[str], need: str, extra: str) -> None:
    """Refuse to go on without the packages of an extra.

    Args:
        packages: names to import. need: what needs them, with its verb: "serving needs".
        extra: of `mlx-voxclone`, that brings them.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    import importlib

    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as e:
            raise ConfigError(f"{need} {package} ({e}); pip install 'mlx-voxclone[{extra}]'") from None
