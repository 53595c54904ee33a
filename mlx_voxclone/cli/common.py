"""What every command shares: its registration, the device, and how mistakes reach the user (`options.py`: options).

Exit codes: 0 success, 2 the user's mistake or what the machine refuses (one line on stderr), 130 interrupted by Ctrl-C,
143 SIGTERM, 129 SIGHUP, 141 reader of our output gone. An error that is ours keeps its traceback. `VOXCLONE_DEBUG=1`
shows the traceback of the user's mistakes too.
"""

import argparse
import difflib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from mlx_voxclone.cli.options import RENAMED
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.paths import expanded, expanded_part
from mlx_voxclone.process import signals, streams
from mlx_voxclone.process.backend import describe_import_error
from mlx_voxclone.process.device import set_device
from mlx_voxclone.process.limits import describe_link_loop, describe_memory_error, describe_os_error

EXIT_BAD_INPUT, EXIT_BROKEN_PIPE = 2, 141
# Metavars of options that take a path, or a path or a hub id; and of those that join one with a name or a weight.
PATHS = frozenset(
    {
        "DIR",
        "FILE",
        "WAV",
        "AUDIO",
        "OUT.wav",
        "OUT.srt",
        "X.safetensors",
        "JSON",
        "C",
        "SOURCE",
        "DIR_OR_ID",
        "NAME_OR_FILE",
    }
    | {"MODEL", "BASE", "OTHER", "VOICE", "BEFORE", "AFTER", "FILE_OR_NAME"}
)
NAMED_PATHS = frozenset({"DIR[=WEIGHT]", "NAME=SOURCE"})

_WRONG_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*?)' \(choose from", re.DOTALL)

_quiet = False


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of every option that has one; descriptions keep their line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        text = action.help or ""
        if hidden or action.default == [] or "%(default)" in text or "default" in text:
            return action.help
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults, takes no abbreviated options and reports a mistake in one line."""

    def __init__(self, name: str, description: str, **keywords) -> None:
        keywords.setdefault("formatter_class", _HelpFormatter)
        keywords.setdefault("prog", f"voxclone {name}")
        super().__init__(description=description, allow_abbrev=False, **keywords)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does it, with `~` and `$NAME` in every path expanded: shells leave those of `--output=~/x`."""
        parsed, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            expand = expanded if action.metavar in PATHS else expanded_part if action.metavar in NAMED_PATHS else None
            value = getattr(parsed, action.dest, None)
            if expand is None or not value:
                continue
            several = isinstance(value, list)
            values = [type(each)(expand(each)) for each in (value if several else [value])]
            setattr(parsed, action.dest, values if several else values[0])
        return parsed, rest

    def error(self, text: str):
        if text.startswith("unrecognized arguments: "):
            unknown = next((word for word in text.split()[2:] if word.startswith("-")), "")
            text += self._nearest(unknown.partition("=")[0])
        elif match := _WRONG_CHOICE.match(text):
            text += self._nearest_choice(*match.groups())
        self.exit(EXIT_BAD_INPUT, f"error: {_one_line(text)} (see {self.prog} --help)\n")

    def _nearest(self, unknown: str) -> str:
        """`; did you mean ...?` for an option that there is not, or nothing."""
        options = {name for parser in self._with_actions() for name in parser._option_string_actions}
        near = [RENAMED[unknown]] if RENAMED.get(unknown) in options else difflib.get_close_matches(unknown, options, 1)
        return f"; did you mean {near[0]}?" if near else ""

    def _nearest_choice(self, argument: str, word: str) -> str:
        """`; did you mean ...?` for a word that is none of an argument's choices, or nothing."""
        action = next((each for each in self._actions if argparse._get_action_name(each) == argument), None)
        if action is None or not action.choices:
            return ""
        if isinstance(action, argparse._SubParsersAction) and (os.sep in word or os.path.isdir(word)):
            name, first = next(iter(action.choices.items()))  # the first one shows what is there
            meant = f"; did you mean {self.prog} {name} --model {word}?"
            return meant if "--model" in first._option_string_actions else ""
        choices = {str(choice).lower(): str(choice) for choice in action.choices}
        near = difflib.get_close_matches(word.lower(), choices, 1)
        return f"; did you mean {choices[near[0]]}?" if near else ""

    def _with_actions(self) -> Iterator[argparse.ArgumentParser]:
        """This parser, and those of its actions where it has some (`voices add`)."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


def entry(function: Callable[[list[str]], int | None]) -> Callable[[Sequence[str] | None], int]:
    """Turn `function(argv)` into a command's `main(argv=None) -> exit code`.

    `VoxcloneError`, a file that is missing or not accessible, a full disk and too little memory end in one line on
    stderr and code 2; Ctrl-C and what else ends a process in one line and 128 + the signal. Anything else is a defect
    of ours and passes through with its traceback. Without `argv` the arguments, signals and streams of this process
    are the command's.
    """

    @functools.wraps(function)
    def main(argv: Sequence[str] | None = None) -> int:
        if argv is None:
            return as_process(lambda: main(sys.argv[1:]))
        signals.begin_work()
        try:
            code = function(list(argv)) or 0
            if sys.stdout is not None:  # closed by the caller
                sys.stdout.flush()  # a reader that has gone shows here, not while Python shuts down
            return code
        except SystemExit as e:  # argparse: 0 after --help, 2 after a mistake
            if isinstance(e.code, str):
                raise
            return e.code or 0
        except BrokenPipeError:
            streams.discard(sys.stdout)
            return EXIT_BROKEN_PIPE
        except VoxcloneError as e:
            return _report(f"error: {e}", EXIT_BAD_INPUT)
        except FloatingPointError as e:  # of a model: see `acoustic.checked_frames` and `Codec.audio_codes`
            return _report(f"error: {e}: its weights are damaged; take another file, or get it again", EXIT_BAD_INPUT)
        except BaseException as e:
            if isinstance(e, KeyboardInterrupt) or signals.received():  # a library has made another error of it
                words = str(e) if isinstance(e, KeyboardInterrupt) else ""
                return _report(f"{signals.told()}{': ' if words else ''}{words}", signals.exit_code())
            line = describe_os_error(e) if isinstance(e, OSError) else describe_link_loop(e) or describe_memory_error(e)
            line = line or describe_import_error(e)
            if line is None:
                raise
            return _report(f"error: {line}", EXIT_BAD_INPUT)
        finally:
            set_quiet(False)  # --quiet is this command's: the next one in the same process says for itself

    return main


class Command:
    """One command: how it is described, its options, and the function that runs it.

    Called with arguments (None: those of this process) it returns an exit code, as `entry` says. `parser()` makes its
    parser.
    """

    def __init__(self, run: "Run", description: str, options: "Options", check: "Check | None" = None):
        self.name, self.description = run.__module__.rpartition(".")[2], description
        self._run, self._options, self._check = run, options, check
        self._main = entry(self._parse_and_run)

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        return self._main(argv)

    def parser(self) -> Parser:
        made = Parser(self.name, self.description)
        self._options(made)
        return made

    def _parse_and_run(self, argv: list[str]) -> int | None:
        parser = self.parser()
        options = parser.parse_args(argv)
        if self._check is not None:
            self._check(parser, options)
        set_quiet(options.quiet)
        if getattr(options, "device", None) is not None:
            set_device(options.device)
        return self._run(options)


Run = Callable[[argparse.Namespace], int | None]
Options = Callable[[Parser], None]
Check = Callable[[Parser, argparse.Namespace], None]


def command(description: str, options: Options, check: Check | None = None) -> Callable[[Run], Command]:
    """Make a command of `run(options)`, named as its module.

    Args:
        description: the text above the options in `--help`.
        options: adds the command's options to a parser, `--quiet` among them.
        check: calls `parser.error(...)` for options that contradict each other, before anything heavy is imported.
    """
    return lambda run: Command(run, description, options, check)


def as_process(function: Callable[[], int]) -> int:
    """Call a command's function as what this process is for: signals and streams are its own; returns its exit code."""
    streams.prepare()
    signals.listen()
    try:
        code = function()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        streams.discard(sys.stdout)
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _report(signals.told(), signals.exit_code())
    finally:
        signals.end_work()


def _report(line: str, code: int) -> int:
    if os.environ.get("VOXCLONE_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    print(_one_line(line), file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return streams.visible("; ".join(part.strip() for part in text.splitlines() if part.strip()))


def set_quiet(quiet: bool) -> None:
    """Silence `message` from here on (or no longer)."""
    global _quiet
    _quiet = quiet


def message(text: str) -> None:
    """Print a line of progress on stderr (stdout is for results), or nothing when quiet."""
    if not _quiet:
        print(streams.visible(text), file=sys.stderr, flush=True)
