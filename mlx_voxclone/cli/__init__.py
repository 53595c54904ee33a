"""`voxclone NAME ...`: finds the command and hands over; only the chosen command's module is imported."""

import os
import sys
from collections.abc import Sequence

FRONT = {
    "prepare": "turn recordings into clips, transcripts and a held-out split",
    "train": "train an encoder or a voice, or do everything from recordings to a baked checkpoint",
    "say": "turn text into speech",
    "studio": "record, train, listen, speak and keep voices in the browser",
    "serve": "serve speech over HTTP, for programs that know OpenAI's interface",
    "bake": "write a new checkpoint with an encoder, folded adapters and new voices",
    "evaluate": "measure speaker similarity, intelligibility and reconstruction; write a page to listen to",
    "doctor": "predict the memory, time and disk space of a training on this machine",
}
MORE = {
    "config": "explain the keys of a configuration, list the shipped ones, print one in full",
    "diff": "compare two checkpoints",
    "unbake": "undo a bake: write the checkpoint it was made from, and its parts",
    "encode": "turn audio into codes, latents and a voice embedding",
    "decode": "turn codes into audio",
    "voices": "list, add and remove the voices of a checkpoint; recover the codes of one",
    "publish": "upload an encoder, adapters, a voice or a checkpoint to the Hub, with a model card",
    "pairs": "generate pairs of codes and audio with the model, to train the encoder on",
    "bench": "measure the speed of this machine, and how near it is to its limit",
    "selfcheck": "check that this machine computes what it must: for a first Mac or GPU",
    "micro": "write a miniature checkpoint to try everything with",
}
COMMANDS = FRONT | MORE
USAGE_ERROR = 2


def overview() -> str:
    """The text of `voxclone --help`."""
    width = max(map(len, COMMANDS))
    front, more = ([f"  {name:<{width}}  {line}" for name, line in commands.items()] for commands in (FRONT, MORE))
    return "\n".join(
        [
            "usage: voxclone COMMAND [options]",
            "",
            "Voice cloning for Voxtral-4B-TTS on Apple Silicon.",
            "",
            *front,
            "",
            "more:",
            *more,
            "",
            "`voxclone COMMAND --help` lists a command's options with units and defaults.",
        ]
    )


def module_of(name: str) -> str:
    """The module that runs a command."""
    return f"mlx_voxclone.cli.{'front' if name in FRONT else 'more'}.{name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 success, 2 bad input, 128 + the signal that ended it).

    Without `argv` it is what this process is for: see `common.as_process`.
    """
    if argv is None:
        return _as_process(sys.argv[1:])
    arguments = list(argv)
    name = arguments[0] if arguments else None
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        from mlx_voxclone.version import __version__

        print(f"voxclone {__version__}")
        return 0
    if name is None:
        print(overview(), file=sys.stderr)
        return USAGE_ERROR
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        print(f"error: {' '.join(name.splitlines())}: no such command; {hint}", file=sys.stderr)
        return USAGE_ERROR
    from mlx_voxclone.process.limits import too_little_address_space

    if line := too_little_address_space():  # libraries that get none wait for it without end
        print(f"error: {line}", file=sys.stderr)
        return USAGE_ERROR
    import importlib

    return importlib.import_module(module_of(name)).main(arguments[1:])


def script(name: str) -> int:
    """Run a command with the arguments of this process, as `voxclone NAME` does; returns its exit code."""
    return _as_process([name, *sys.argv[1:]])


def _as_process(arguments: list[str]) -> int:
    try:
        from mlx_voxclone.process import signals, streams

        streams.prepare()  # before anything is opened, which would take the number of a stream that is closed
        signals.listen()
        from mlx_voxclone.cli.common import as_process
    except KeyboardInterrupt:  # what is imported takes a moment
        os.write(2, b"interrupted\n")
        os._exit(130)
    return as_process(lambda: main(arguments))
