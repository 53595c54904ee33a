"""`voxclone bake`: write a new checkpoint with an encoder injected, adapters folded in and voices added."""

from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, encoder_path, quantisation
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process.amounts import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_voxclone.bake.bake import BakeReport
    from mlx_voxclone.bake.fold import FoldedWeight

_DESCRIPTION = """Write a new checkpoint directory; the model itself is only read.

Adapters are folded in float32 into the BF16 weights, the encoder goes in under the release's names, voices are
registered where servers look for them. The result appears under its name only when it is complete and verified."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model")
    add_shared(parser, "--output", note="; must not exist")
    add_shared(parser, "--encoder", note="; put into the checkpoint")
    add_shared(parser, "--adapters", note="; folded into the weights")
    add_shared(
        parser,
        "--voice",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        note=" to add; SOURCE is a recording, an embedding (.pt, .safetensors, hf://OWNER/NAME) or codes"
        " (.safetensors); repeat for several voices or, with one name, for several recordings of one voice",
    )
    parser.add_argument(
        "--for",
        dest="target",
        choices=("vllm", "mlx-audio"),
        default="vllm",
        help="the program that will load it; mlx-audio supports no encoder, so it is left out there",
    )
    parser.add_argument(
        "--rounding",
        choices=("compensated", "nearest"),
        default="compensated",
        help="of folded weights to BF16: compensated keeps the effect of small changes, nearest rounds each number",
    )
    parser.add_argument(
        "--folded-as",
        choices=("base", "auto", "float32"),
        default="base",
        help="type of folded weights: the base's (BF16), float32, or (auto) float32 where BF16 would lose"
        " over 5 %% of a change's direction or effect; programs that compute in BF16, such as vLLM-Omni, round float32"
        " to the nearest",
    )
    add_shared(parser, "--bits", note=", in the form that mlx-audio loads; needs --for mlx-audio")
    add_shared(parser, "--group-size")
    add_shared(parser, "--verbose", note=" that adapters change")
    add_shared(parser, "--dry-run", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    options.quantisation = quantisation(parser, options)
    if options.quantisation is None:
        return
    if options.target != "mlx-audio":
        parser.error("--bits needs --for mlx-audio; vLLM-Omni loads none of MLX's quantised weights")
    if options.folded_as != "base":
        parser.error(f"--folded-as {options.folded_as} and --bits contradict each other; leave one out")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    voices = _voices(options.voice)

    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.bake.bake import bake
    from mlx_voxclone.bake.fold import LOSSY
    from mlx_voxclone.files.hub import VOICE, local
    from mlx_voxclone.process.progress import weight_bar

    adapters = [AdapterSource.parse(text) for text in options.adapters]
    with weight_bar(options.quiet) as advance:
        report = bake(
            options.model,
            options.output,
            encoder=encoder_path(options.encoder),
            adapters=adapters,
            voices={name: [local(source, VOICE) for source in sources] for name, sources in voices.items()},
            target=options.target,
            rounding=options.rounding,
            folded_as=options.folded_as,
            quantisation=options.quantisation,
            dry_run=options.dry_run,
            progress=advance,
        )
    for line in report.warnings:
        message(f"warning: --voice {line}")
    how = f"{options.rounding} rounding"
    instead = "keep float32 for them with --folded-as auto, or the adapters apart (say --adapters)"
    if options.quantisation is not None:
        how = f"{options.quantisation.bits} bits"
        instead = f"keep the adapters apart (say --bits {options.quantisation.bits} --adapters), or take more bits"
    if lossy := [w for w in report.folded if w.effect_lost > LOSSY]:
        message(
            f"warning: {len(lossy)} of {len(report.folded)} folded weights lose over {LOSSY:.0%} of their change's"
            f" effect to {how} (most: {max(w.effect_lost for w in lossy):.0%}); {instead}"
        )
    print(table(report))
    if options.verbose and report.folded:
        print(folded_table(report.folded))


def _voices(options: list[str]) -> dict[str, list[str]]:
    """Name -> its sources: a name that is repeated is of a voice made of several recordings."""
    voices: dict[str, list[str]] = {}
    for option in options:
        name, equals, source = option.partition("=")
        if not equals or not source:
            raise CheckpointError(f"--voice {option}: expected NAME=SOURCE")
        if source in voices.get(name, []):
            raise CheckpointError(f"--voice {option}: given twice")
        voices.setdefault(name, []).append(source)
    return voices


def table(report: "BakeReport") -> str:
    """A bake in a few lines."""
    written = "would write" if report.dry_run else "written"
    unchanged = "" if report.dry_run else ", bit-identical"
    lines = [
        (written, f"{report.output} for {report.target}: {report.n_tensors} tensors, {format_bytes(report.n_bytes)}"),
        ("unchanged", f"{report.n_unchanged} tensors{unchanged}"),
        *_quantised(report),
        ("encoder", report.encoder),
        ("adapters", _folding(report)),
        ("voices", ", ".join(f"{name} ({rows} rows)" for name, rows in report.voices.items()) or "none"),
    ]
    return "\n".join(f"{label:<12} {value}" for label, value in lines)


def _quantised(report: "BakeReport") -> list[tuple[str, str]]:
    if report.quantisation is None:
        return []
    return [("quantised", f"{report.n_quantised} weights to {report.quantisation}")]


def _folding(report: "BakeReport") -> str:
    if not report.folded:
        return "none"
    folded = report.folded
    change, error, weight, kept = (sum(getattr(w, k) for w in folded) for k in ("change", "error", "weight", "product"))
    worst = max(folded, key=lambda w: w.rounding_error)
    lost = (error / change) ** 0.5 if change else 0.0
    wide = sum(w.dtype == "F32" for w in folded)
    return (
        f"{len(folded)} weights changed by {_percent((change / weight) ** 0.5)}"
        f"{f', {wide} of them kept in float32' if wide else ''}; {_percent(kept / change if change else 1.0)} of the"
        f" change is there; rounding adds {_percent(lost)} of it (most: {_percent(worst.rounding_error)}, {worst.name})"
    )


def folded_table(folded: "Sequence[FoldedWeight]") -> str:
    """A line per folded weight."""
    width = max(len(w.name) for w in folded)
    row = f"{{:<{width}}}  {{:<5}} {{:>8}} {{:>8}} {{:>9}} {{:>15}} {{:>12}}"
    lines = [row.format("weight", "type", "change", "kept", "rounding", "direction lost", "effect lost")]
    for w in sorted(folded, key=lambda w: w.name):
        figures = map(_percent, (w.relative_change, w.kept, w.rounding_error, w.lost, w.effect_lost))
        lines.append(row.format(w.name, w.dtype, *figures))
    return "\n".join(lines)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %" if fraction >= 0.1 else f"{100 * fraction:.2g} %"
