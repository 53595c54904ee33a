"""`voxclone bake`: write a new checkpoint with an encoder injected, adapters folded in and voices added."""

from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import (
    Parser,
    add_device,
    add_model,
    add_quiet,
    add_seed,
    entry,
    format_bytes,
    message,
    set_device,
    set_quiet,
)
from mlx_voxclone.errors import CheckpointError

if TYPE_CHECKING:
    from mlx_voxclone.checkpoint.bake import BakeReport

_DESCRIPTION = """Write a new checkpoint directory; the model itself is only read.

Adapters are folded in float32 into the BF16 weights, the encoder goes in under the release's names, voices are
registered where servers look for them. The result appears under its name only when it is complete and verified."""


@entry
def main(argv: list[str]) -> None:
    options = _parser().parse_args(argv)
    set_quiet(options.quiet)
    set_device(options.device)
    voices = _voices(options.voice)

    from mlx_voxclone.checkpoint.bake import bake
    from mlx_voxclone.progress import progress_bar

    with progress_bar(quiet=options.quiet, desc="weights", unit="B", unit_scale=True, delay=1) as bar:
        report = bake(
            options.model,
            options.output,
            encoder=options.encoder,
            adapters=options.adapters,
            voices=voices,
            target=options.target,
            dry_run=options.dry_run,
            progress=bar.update,
        )
    worst = max((w.rounding_error for w in report.folded), default=0.0)
    if worst > 0.5:
        message(f"warning: BF16 rounding swallows up to {worst:.0%} of the adapters' change; a larger alpha keeps more")
    print(table(report))


def _parser() -> Parser:
    parser = Parser("bake", _DESCRIPTION)
    add_model(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="directory to make; must not exist")
    parser.add_argument("--encoder", metavar="FILE", help="safetensors file of a trained codec encoder")
    parser.add_argument("--adapters", metavar="DIR", help="directory of LoRA adapters trained on this model")
    parser.add_argument(
        "--voice",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="add a voice from a recording, an embedding (.pt, .safetensors) or codes (.safetensors); may be repeated",
    )
    parser.add_argument(
        "--for",
        dest="target",
        choices=("vllm", "mlx-audio"),
        default="vllm",
        help="who will load it: mlx-audio knows no encoder, so it is left out there",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, make the voices, write nothing")
    add_quiet(parser)
    add_seed(parser)
    add_device(parser)
    return parser


def _voices(options: list[str]) -> dict[str, str]:
    voices: dict[str, str] = {}
    for option in options:
        name, equals, source = option.partition("=")
        if not equals or not source:
            raise CheckpointError(f"--voice {option}: write NAME=FILE")
        if name in voices:
            raise CheckpointError(f"--voice {name}: given twice")
        voices[name] = source
    return voices


def table(report: "BakeReport") -> str:
    """A bake in a few lines."""
    written = "would write" if report.dry_run else "written"
    unchanged = "" if report.dry_run else ", bit-identical"
    lines = [
        (written, f"{report.output} for {report.target}: {report.n_tensors} tensors, {format_bytes(report.n_bytes)}"),
        ("unchanged", f"{report.n_unchanged} tensors{unchanged}"),
        ("encoder", report.encoder),
        ("adapters", _folding(report)),
        ("voices", ", ".join(f"{name} ({rows} rows)" for name, rows in report.voices.items()) or "none"),
    ]
    return "\n".join(f"{label:<12} {value}" for label, value in lines)


def _folding(report: "BakeReport") -> str:
    if not report.adapted:
        return "none"
    count = f"{len(report.adapted)} weights"
    if not report.folded:
        return count
    change, error, weight = (sum(getattr(w, key) for w in report.folded) for key in ("change", "error", "weight"))
    worst = max(report.folded, key=lambda w: w.rounding_error)
    lost = (error / change) ** 0.5 if change else 0.0
    return (
        f"{count} changed by {_percent((change / weight) ** 0.5)}; rounding is {_percent(lost)} of the change "
        f"(most: {_percent(worst.rounding_error)}, {worst.name})"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"
