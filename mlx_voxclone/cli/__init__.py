"""`voxclone NAME ...`: finds the command and hands over; only the chosen command's module is imported."""

import os
import sys
from collections.abc import Sequence

FRONT = {
    "prepare": "recordings -> clips, transcripts and a held-out split",
    "train": "run a configuration: encoder, speaker, or the whole way from recordings to a baked checkpoint",
    "say": "text -> speech",
    "bake": "write a new checkpoint: encoder injected, adapters folded, voices added",
    "evaluate": "how close a clone is, how well it is understood: figures, a page to listen to, comparisons",
    "doctor": "what this machine can train: memory, time, disk, and what to change",
}
MORE = {
    "config": "explain a configuration's keys, list the shipped ones, print one complete",
    "diff": "what differs between two checkpoints",
    "unbake": "take a bake back: the checkpoint it was made from, and the parts apart",
    "encode": "audio -> codes, latents and voice embedding",
    "decode": "codes -> audio",
    "voices": "list, add and remove the voices of a checkpoint; recover the codes behind one",
    "publish": "share an encoder, adapters, a voice or a baked checkpoint on the hub, with a model card",
    "pairs": "let the model speak: exact pairs of codes and audio to train the encoder on",
    "bench": "how fast this machine does all of it, and how near its limit",
    "micro": "write a miniature checkpoint to try everything on",
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
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: {name}: no such command; {hint}", file=sys.stderr)
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
