"""`voxclone micro`: write a miniature checkpoint, and recordings to rehearse on."""

from pathlib import Path

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared


def _options(parser: Parser) -> None:
    add_shared(parser, "--output", required=False, note=": the checkpoint; must not exist")
    parser.add_argument(
        "--preset",
        choices=("tiny", "small", "speaking", "full"),
        default="tiny",
        help="random numbers: 0.8 or 2.9 million, or the release's own sizes (8 GB) to rehearse time and memory with;"
        " speaking: a small one trained on synthetic voices, its encoder withheld in DIR/withheld",
    )
    parser.add_argument(
        "--recordings",
        metavar="DIR",
        help="directory to make for three to four minutes of transcribed recordings of a synthetic speaker (another one"
        " for each --seed), unknown to the preset speaking, and sentences in its language, DIR/sentences.txt",
    )
    add_shared(parser, "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if options.output is None and options.recordings is None:
        parser.error("give --output DIR, or --recordings DIR, or both")
    if None not in (options.output, options.recordings):
        output, recordings = Path(options.output).resolve(), Path(options.recordings).resolve()
        if output.is_relative_to(recordings) or recordings.is_relative_to(output):
            parser.error("--output and --recordings must be two directories, none of them in the other")
    from mlx_voxclone.miniature.micro import SPEAKING

    if options.recordings is not None and options.preset != SPEAKING:
        parser.error(f"--recordings are in the language of --preset {SPEAKING}, got --preset {options.preset}")


@command("Write a complete miniature checkpoint in the release's layout, to try everything on.", _options, _check)
def main(options) -> None:
    from mlx_voxclone.files.atomic import refuse_existing_directory
    from mlx_voxclone.miniature.micro import make_micro
    from mlx_voxclone.miniature.readings import SENTENCES_FILE, write_speaker
    from mlx_voxclone.process.progress import progress_over, weight_bar

    for directory in (options.output, options.recordings):
        if directory is not None:
            refuse_existing_directory(directory)
    if options.output is not None:
        with weight_bar(options.quiet) as advance:
            print(make_micro(options.output, options.preset, options.seed, advance))
    if options.recordings is not None:
        bar = {} if options.quiet else {"progress": progress_over}
        place = write_speaker(options.recordings, options.seed, **bar)
        message(f"sentences for its own voices, for encoder.pairs.texts: {place / SENTENCES_FILE}")
        print(place)
