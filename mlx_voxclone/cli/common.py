"""What every command shares: options, the device, and how mistakes reach the user.

Exit codes: 0 success, 2 the user's mistake (one line on stderr), 130 interrupted, 141 reader of our output gone. An
error that is ours keeps its traceback. `VOXCLONE_DEBUG=1` shows the traceback of the user's mistakes too.
"""

import argparse
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_voxclone.errors import ConfigError, VoxcloneError
from mlx_voxclone.user_paths import expanded, expanded_part

DEFAULT_MODEL = "mistralai/Voxtral-4B-TTS-2603"
DEVICES = ("auto", "gpu", "cpu")
EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141
# Metavars of options that take a path, or a path or a hub id; and of those that join one with a name or a weight.
PATHS = frozenset(
    {"DIR", "FILE", "WAV", "AUDIO", "OUT.wav", "X.safetensors", "JSON", "C", "SOURCE", "DIR_OR_ID", "NAME_OR_FILE"}
    | {"MODEL", "M", "BASE", "OTHER", "VOICE", "BEFORE", "AFTER"}
)
NAMED_PATHS = frozenset({"DIR[=WEIGHT]", "NAME=FILE", "NAME=SOURCE"})
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

OTHER_AUDIO = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".aif")

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
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            expand = expanded if action.metavar in PATHS else expanded_part if action.metavar in NAMED_PATHS else None
            value = getattr(found, action.dest, None)
            if expand is None or not value:
                continue
            several = isinstance(value, list)
            values = [type(each)(expand(each)) for each in (value if several else [value])]
            setattr(found, action.dest, values if several else values[0])
        return found, rest

    def error(self, text: str):
        self.exit(EXIT_BAD_INPUT, f"error: {_one_line(text)} (see {self.prog} --help)\n")


def entry(function: Callable[[list[str]], int | None]) -> Callable[[Sequence[str] | None], int]:
    """Turn `function(argv)` into a command's `main(argv=None) -> exit code`.

    `VoxcloneError`, a file that is missing or not accessible and a full disk end in one line on stderr and code 2;
    Ctrl-C in 130. Anything else is a defect of ours and passes through with its traceback.
    """

    @functools.wraps(function)
    def main(argv: Sequence[str] | None = None) -> int:
        try:
            code = function(list(sys.argv[1:] if argv is None else argv)) or 0
            if sys.stdout is not None:  # closed by the caller
                sys.stdout.flush()  # a reader that has gone shows here, not while Python shuts down
            return code
        except SystemExit as e:  # argparse: 0 after --help, 2 after a mistake
            if isinstance(e.code, str):
                raise
            return e.code or 0
        except KeyboardInterrupt as e:
            return _report(f"interrupted: {e}" if str(e) else "interrupted", EXIT_INTERRUPTED)
        except BrokenPipeError:
            _discard_stdout()
            return EXIT_BROKEN_PIPE
        except VoxcloneError as e:
            return _report(f"error: {e}", EXIT_BAD_INPUT)
        except FloatingPointError as e:  # of a model: see `acoustic.checked_frames` and `Codec.audio_codes`
            return _report(f"error: {e}: its weights are damaged; take another file, or get it again", EXIT_BAD_INPUT)
        except OSError as e:
            line = describe_os_error(e)
            if line is None:
                raise
            return _report(f"error: {line}", EXIT_BAD_INPUT)
        finally:
            set_quiet(False)  # --quiet is this command's: the next one in the same process says for itself

    return main


def describe_os_error(error: OSError) -> str | None:
    """One line for an operating system error that the user can mend, None for any other."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
    if error.errno in _NO_SPACE:
        reason = error.strerror or ""
        if reason and reason != os.strerror(error.errno):  # raised by our own check: it says how much is needed
            return reason
        return (
            f"no space left on the disk of {place or 'the output'}; free some (it needs more than was left), run again"
        )
    if place is None:
        return None
    if isinstance(error, FileNotFoundError):
        return f"{place}: no such file or directory"
    reason = error.strerror or type(error).__name__
    return f"{place}: {reason[0].lower()}{reason[1:]}"


def _report(line: str, code: int) -> int:
    if os.environ.get("VOXCLONE_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    print(_one_line(line), file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush stays silent."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (lives until the process ends)


def check_wav_output(output: str, *inputs: str | None) -> Path:
    """Where to write a WAV, links followed; what is there may be replaced only if it is a WAV and none of the inputs.

    Raises:
        DataError: another kind of file or name, an input of this very command, or no directory to write into.
    """
    from mlx_voxclone.audio.io import check_output
    from mlx_voxclone.errors import DataError

    check_output(output)
    path = Path(output).resolve()
    if path.suffix.lower() in OTHER_AUDIO:
        raise DataError(f"{output}: WAV is what is written; give a name that ends in .wav")
    if path.exists():
        if any(name is not None and Path(name).exists() and path.samefile(name) for name in inputs):
            raise DataError(f"{output}: is an input of this command; write to another file")
        if not path.is_file() or path.open("rb").read(4) not in (b"RIFF", b""):
            raise DataError(f"{output}: exists and is no WAV file; it will not be replaced")
    return path


def add_device(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    """`--device auto|gpu|cpu`; hand the value to `set_device`. `default=None`: a configuration decides."""
    fallback = "" if default else " (default: the configuration's)"
    text = "where to compute: auto takes the GPU (Metal or CUDA) when there is one"
    parser.add_argument("--device", choices=DEVICES, default=default, help=text + fallback)


def add_seed(parser: argparse.ArgumentParser, default: int | None = 0) -> None:
    """`--seed N`. `default=None`: a configuration decides."""
    fallback = "" if default is not None else " (default: the configuration's)"
    parser.add_argument(
        "--seed", type=_seed, default=default, metavar="N", help=f"same seed, same result on the same device{fallback}"
    )


def add_model(parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL) -> None:
    """`--model DIR_OR_ID`. `default=None`: the option is required."""
    text = "Voxtral directory, or a hub id to fetch"
    parser.add_argument("--model", default=default, required=default is None, metavar="DIR_OR_ID", help=text)


def add_encoder(parser: argparse.ArgumentParser, use: str = "encoder weights for a checkpoint that has none") -> None:
    """`--encoder FILE`; hand the value to `encoder_path`."""
    parser.add_argument("--encoder", metavar="FILE", help=f"{use}: .safetensors or hf://OWNER/NAME")


def encoder_path(given: str | None) -> Path | None:
    """The encoder file of `--encoder`, fetched from the hub where it is an address; None: none given.

    Raises:
        CheckpointError: not to be had from the hub.
    """
    from mlx_voxclone.checkpoint.hub import ENCODER, local

    return local(given, ENCODER) if given is not None else None


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """`--quiet`; hand the value to `set_quiet`."""
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors and the result")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 2^63 - 1 expected, got {text!r}")
    return int(text)


def set_device(name: str) -> str:
    """Make `auto`, `gpu` or `cpu` MLX's default device; returns `gpu` or `cpu`.

    Raises:
        ConfigError: `gpu` where MLX sees neither Metal nor CUDA.
    """
    import mlx.core as mx

    cuda = getattr(mx, "cuda", None)
    found = mx.metal.is_available() or (cuda is not None and cuda.is_available())
    if name == "gpu" and not found:
        raise ConfigError("device gpu: MLX sees neither Metal nor CUDA on this machine; take --device cpu or auto")
    chosen = "gpu" if found and name != "cpu" else "cpu"
    mx.set_default_device(mx.gpu if chosen == "gpu" else mx.cpu)
    return chosen


def set_quiet(quiet: bool) -> None:
    """Silence `message` from here on (or no longer)."""
    global _quiet
    _quiet = quiet


def message(text: str) -> None:
    """Tell the user what goes on: a line on stderr (stdout is for results), nothing when quiet."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """A duration to read: `0.84 s`, `12.3 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_bytes(n: float) -> str:
    """A size to read, in powers of 1000: `512 B`, `8.00 GB`."""
    if n < 1000:
        return f"{int(n)} B"
    for unit in ("kB", "MB", "GB"):
        n /= 1000
        if n < 999.5:
            return f"{n:.3g} {unit}" if n >= 100 else f"{n:.2f} {unit}" if n < 10 else f"{n:.1f} {unit}"
    return f"{n / 1000:.2f} TB"
