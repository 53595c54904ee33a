"""`voxclone unbake`: write the checkpoint that a baked one was baked from."""

from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command
from mlx_voxclone.cli.options import add_shared

if TYPE_CHECKING:
    from mlx_voxclone.bake.unbake import UnbakeReport

_DESCRIPTION = """Take a bake back: a new checkpoint directory without the encoder and the voices that were baked in.

Weights that adapters were folded into come from the model that it was baked from, which must then be given. The result
has the base's language model to the bit, or it is not there; the baked checkpoint is only read."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model", required=True, default=None)
    add_shared(parser, "--output", note="; must not exist")
    add_shared(parser, "--base", note="; needed where adapters were folded into it")
    parser.add_argument(
        "--parts", metavar="DIR", help="keep what is taken out there: encoder.safetensors and the voices, for `bake`"
    )
    add_shared(parser, "--dry-run", "--quiet")


@command(_DESCRIPTION, _options)
def main(options) -> None:
    from mlx_voxclone.bake.unbake import unbake
    from mlx_voxclone.process.progress import weight_bar

    with weight_bar(options.quiet) as advance:
        report = unbake(
            options.model,
            options.output,
            base=options.base,
            parts=options.parts,
            dry_run=options.dry_run,
            progress=advance,
        )
    print(table(report))


def table(report: "UnbakeReport") -> str:
    """What was taken back, in a few lines."""
    lines = [
        ("would write" if report.dry_run else "written", str(report.output)),
        ("encoder", report.encoder),
        ("voices", f"{', '.join(report.voices)} removed" if report.voices else "none removed"),
        ("weights", f"{len(report.restored)} from the base" if report.restored else "as they were"),
    ]
    if report.parts is not None:
        lines.append(("kept apart", str(report.parts)))
    return "\n".join(f"{label:<12} {value}" for label, value in lines)
