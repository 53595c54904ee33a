"""`voxclone voices list|add|remove|invert`: the voices of a checkpoint, and the codes behind one."""

import argparse
import math
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared

if TYPE_CHECKING:
    import numpy as np

    from mlx_voxclone.checkpoint.invert import Inversion
    from mlx_voxclone.checkpoint.release import Release

PARTLY = 1  # exit code: some rows are explained, not all

_DESCRIPTION = "The voices of a checkpoint: the rows that stand for a speaker in the prompt, one per frame, then END."
_INVERT = """Recover the codes behind a voice: each of its rows is the sum of one row of the model's audio table per
codebook, rounded to BF16. A row counts as explained if what the codes leave over is no more than that rounding.

The output holds `codes` int32 [37, T] (0-based; `voxclone decode` reads it), without the END row. Rows that are not
explained, or in more than one way, are left out; `frames` int32 [T] then says which rows of the voice the codes are.
Exit code 0: all rows are explained, 1: some, 2: none, or a mistake."""


def _options(parser: Parser) -> None:
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=lambda **keywords: Parser("", **keywords)
    )

    def action(name: str, line: str, description: str | None = None) -> Parser:
        made = actions.add_parser(name, help=line, description=description or f"{line[0].upper()}{line[1:]}.")
        add_shared(made, "--model")
        return made

    listing = action("list", "name, number, rows and seconds of each voice, and what is wrong with it")
    add = action("add", "write a new checkpoint with voices added, as `voxclone bake --voice` does")
    remove = action("remove", "write a new checkpoint without some voices, every other byte as it was")
    invert = action("invert", "recover the codes behind a voice", _INVERT)
    for made in (add, remove):
        add_shared(made, "--output", note="; must not exist")
    add_shared(add, "--encoder", note="; for recordings, with a checkpoint that has none, and put into it")
    add.add_argument(
        "voices",
        nargs="+",
        metavar="NAME=SOURCE",
        help="SOURCE: a recording, an embedding or codes, or hf://OWNER/NAME",
    )
    remove.add_argument("voices", nargs="+", metavar="NAME", help="as `voices list` shows it")
    invert.add_argument(
        "voice", metavar="VOICE", help="name of one of the model's voices, a .pt, .safetensors or hf://OWNER/NAME"
    )
    add_shared(
        invert,
        "--output",
        required=False,
        metavar="X.safetensors",
        help="file to write: the codes; must not exist",
    )
    invert.add_argument(
        "--tolerance",
        type=_positive,
        default=2.0,
        metavar="X",
        help="what may be left over of a row, in multiples of the BF16 rounding expected",
    )
    for made in (listing, add, remove, invert):
        add_shared(made, "--device", "--quiet")


@command(_DESCRIPTION, _options)
def main(options) -> int | None:
    return {"list": _list, "add": _add, "remove": _remove, "invert": _invert}[options.action](options)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0 expected, got {text!r}")
    return value


# ---- list ----------------------------------------------------------------------------------------------------------


def _list(options) -> None:
    from mlx_voxclone.bake.record import read_object
    from mlx_voxclone.bake.voice_removal import REGISTERS, registered, voice_files
    from mlx_voxclone.checkpoint.invert import TABLE, end_row
    from mlx_voxclone.checkpoint.release import TEKKEN, Release

    release = Release(options.model)
    release.check()
    counts = registered(read_object(release.path / TEKKEN), REGISTERS[TEKKEN])
    numbers, files = release.config.voices, voice_files(release.path)
    end = end_row(release.tensors.numpy(TABLE), release.config.codec.code_sizes)
    names = sorted(numbers, key=numbers.__getitem__) + sorted((files.keys() | counts.keys()) - numbers.keys())
    lines = [("name", "number", "rows", "seconds", "END", "")]
    for name in names:
        notes = []
        if name not in numbers:
            notes.append("not registered in params.json")
        if name not in counts:
            notes.append(f"not registered in {TEKKEN}")
        facts = _facts(release, end, name in files and files[name][0], counts.get(name), notes)
        lines.append((name, str(numbers.get(name, "-")), *facts, "; ".join(notes)))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    for name, *cells, note in lines:
        aligned = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:]))
        print(f"{name:<{widths[0]}}  {aligned}  {note}".rstrip())
    message(f"{len(names)} voices")


def _facts(release: "Release", end: "np.ndarray", path, expected: int | None, notes: list[str]) -> tuple[str, str, str]:
    """Rows, seconds and END of a voice's file, each as text; what is wrong with it is added to `notes`."""
    import mlx.core as mx
    import numpy as np

    from mlx_voxclone.checkpoint.invert import is_end
    from mlx_voxclone.checkpoint.voices import read_voice
    from mlx_voxclone.errors import CheckpointError

    if not path:
        notes.append("no file")
        return "-", "-", "-"
    try:
        rows = np.array(read_voice(path).astype(mx.float32))
    except CheckpointError as e:
        notes.append(f"unreadable: {e}")
        return "-", "-", "-"
    if expected is not None and expected != len(rows):
        notes.append(f"tekken.json says {expected} rows")
    if rows.shape[1] != len(end):
        notes.append(f"rows of {rows.shape[1]}, but the model is {len(end)} wide")
        return str(len(rows)), "-", "-"
    ended = bool(is_end(rows[-1:], end)[0])
    seconds = (len(rows) - ended) / release.config.codec.frame_rate
    return str(len(rows)), f"{seconds:.2f}", "yes" if ended else "no"


# ---- add and remove ------------------------------------------------------------------------------------------------


def _add(options) -> int:
    from mlx_voxclone.cli.front import bake

    argv = ["--model", options.model, "--output", options.output, "--device", options.device]
    argv += ["--quiet"] if options.quiet else []
    argv += ["--encoder", options.encoder] if options.encoder is not None else []
    for voice in options.voices:
        argv.append(f"--voice={voice}")
    return bake.main(argv)


def _remove(options) -> None:
    from mlx_voxclone.bake.voice_removal import remove_voices
    from mlx_voxclone.checkpoint.release import Release

    names = list(dict.fromkeys(options.voices))
    directory = remove_voices(Release(options.model), options.output, names)
    message(f"without {', '.join(names)}")
    print(directory)


# ---- invert --------------------------------------------------------------------------------------------------------


def _invert(options) -> int:
    from pathlib import Path

    import mlx.core as mx
    import numpy as np

    from mlx_voxclone.checkpoint.invert import EXACT, TABLE, CodeTable, invert
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.checkpoint.voices import read_voice
    from mlx_voxclone.checkpoint.writer import save_tensors
    from mlx_voxclone.errors import CheckpointError
    from mlx_voxclone.files.hub import VOICE, VOICE_SUFFIXES, is_address, local
    from mlx_voxclone.process.progress import progress_bar

    output = Path(options.output) if options.output is not None else None
    if output is not None and output.exists():
        raise CheckpointError(f"{output}: exists already; choose another name or move it away")
    release = Release(options.model)
    release.check()
    is_file = is_address(options.voice) or Path(options.voice).suffix in VOICE_SUFFIXES  # no voice's name has a dot
    stored = read_voice(local(options.voice, VOICE)) if is_file else release.voice(options.voice)
    rows = np.array(stored.astype(mx.float32))
    try:
        with progress_bar(quiet=options.quiet, total=len(rows), unit="row") as bar:
            table = CodeTable(release.tensors.numpy(TABLE), release.config.codec.code_sizes)
            found = invert(table, rows, tolerance=options.tolerance, progress=bar.update)
    except ValueError as e:
        raise CheckpointError(f"{options.voice}: {e}") from None
    exact = found.rows(EXACT)
    if not exact:
        raise CheckpointError(_nothing_found(options, found, table.dim))
    _print_inversion(found)
    complete = len(exact) == len(_frames(found))
    if output is not None:
        tensors = {"codes": np.ascontiguousarray(found.codes[:, exact])}
        if not complete:
            tensors["frames"] = np.array(exact, dtype=np.int32)
        save_tensors(output, tensors)
        ending = ", END row dropped" if len(_frames(found)) < len(found.status) else ""
        message(f"codes of {len(exact)} of {len(_frames(found))} frames{ending}")
        print(output)
    return 0 if complete else PARTLY


def _frames(found: "Inversion") -> list[int]:
    """Rows that should be audio: all but a last one that is END."""
    n = len(found.status)
    return list(range(n - 1 if n and found.status[-1] == "END" else n))


def _nothing_found(options, found: "Inversion", dim: int) -> str:
    frames = _frames(found)
    if not frames:
        return f"{options.voice}: holds nothing but an END row"
    if found.rows("ambiguous"):
        return f"{options.voice}: each of its rows is explained in several ways, or not at all; no codes can be told"
    least = min(found.residuals[i] for i in frames)
    return (
        f"{options.voice}: none of its {len(frames)} rows could be explained by this model's audio table (the best "
        f"leaves {least:.3g} times the rounding); made for another model, or {dim} columns are too few to search"
    )


def _print_inversion(found: "Inversion") -> None:
    frames = _frames(found)
    exact = [i for i in frames if found.status[i] == "exact"]
    lines = [
        ("rows", str(len(found.status))),
        ("END row", "yes, not a frame" if len(frames) < len(found.status) else "no"),
        ("frames", str(len(frames))),
        ("exact", str(len(exact))),
        ("residual", f"{max(found.residuals[i] for i in frames):.3g} at worst (1: the BF16 rounding expected)"),
    ]
    for status in ("ambiguous", "special", "END", "unexplained"):
        rows = [f"{i} ({found.residuals[i]:.3g})" for i in found.rows(status) if i in frames]
        if rows:
            lines.append((status, f"row {', '.join(rows)}"))
    print("\n".join(f"{label:<12} {value}" for label, value in lines))
