"""`voxclone evaluate`: how close a clone is, how well it is understood, how well a codec reconstructs."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared

if TYPE_CHECKING:
    from mlx_voxclone.evaluate.measure import Change, Evaluation, Measured
    from mlx_voxclone.model.config import CodecConfig

_DESCRIPTION = """Measure speech against its text, a reference of the voice, and the original recording.

SOURCE is a directory (NAME.wav with NAME.txt, NAME-reference.wav or reference.wav, NAME-original.wav), a .jsonl file
({"output": ..., "text": ..., "reference": ..., "original": ...}), or a list as SEED-TTS-eval has them (with --outputs).
The results are evaluation.json and index.html, with players and spectrograms. Similarity needs a speaker-verification
model and error rates need Whisper; both are fetched from the Hub when first used. With --base, --pairs and --model or
--adapters, the drift of the model's own voices is measured as well; SOURCE may then be left out."""
NONE = "none"


def _options(parser: Parser) -> None:
    from mlx_voxclone.evaluate.speakers import MODEL, SPECTRAL

    parser.add_argument("source", metavar="SOURCE", nargs="?", help="directory, .jsonl or .lst")
    add_shared(parser, "--output", note=": the results; must not exist")
    parser.add_argument("--outputs", metavar="DIR", help="directory with the outputs of a .lst")
    parser.add_argument(
        "--speaker-model",
        default=MODEL,
        metavar="MODEL",
        help=f"speaker verification, for the similarity: a Hub id, an .onnx file, a GE2E .safetensors,"
        f" {SPECTRAL} (a weak fallback), or"
        f" {NONE}",
    )
    add_shared(parser, "--whisper-model", note=f", for the error rates, or {NONE}")
    add_shared(parser, "--language", note=", of texts that do not name theirs")
    parser.add_argument(
        "--code-usage",
        action="store_true",
        help="measure how the codes in NAME.safetensors use the codebooks of --model",
    )
    add_shared(parser, "--model", default=None, note=" (for the drift by default BASE, with --adapters)")
    drift = parser.add_argument_group(
        "drift of the model's own voices", "speech of the released model, compared frame by frame"
    )
    add_shared(drift, "--base")
    add_shared(drift, "--adapters")
    drift.add_argument("--pairs", metavar="DIR", help="directory that `voxclone pairs` wrote with the released model")
    parser.add_argument("--compare", metavar="JSON", help="an earlier evaluation of the same cases")
    add_shared(parser, "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if options.code_usage and not options.model:
        parser.error("--code-usage is measured in the codebooks of a checkpoint: give --model, too")
    if options.base is None and (options.adapters or options.pairs or (options.model and not options.code_usage)):
        parser.error("--model, --adapters and --pairs are for the drift of the model's own voices: give --base, too")
    if options.base is not None and not options.pairs:
        parser.error("--base is for the drift of the model's own voices: give --pairs, too")
    if options.base is not None and not (options.model or options.adapters):
        parser.error("--base is compared with another model: give --model or --adapters")
    if options.base is None and options.source is None:
        parser.error("SOURCE is missing: name the outputs to measure")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    from mlx_voxclone.evaluate.cases import read_cases
    from mlx_voxclone.evaluate.measure import Evaluation, compare
    from mlx_voxclone.files.atomic import atomic_directory, refuse_existing_directory
    from mlx_voxclone.report.evaluation_page import evaluation_page

    output = Path(options.output)
    refuse_existing_directory(output)
    cases = read_cases(options.source, options.outputs, options.language) if options.source else []
    earlier = Evaluation.load(options.compare) if options.compare else None
    evaluation = _measured(cases, options)
    changes = compare(earlier, evaluation, options.seed) if earlier is not None else None
    with atomic_directory(output) as directory:
        (directory / "evaluation.json").write_text(evaluation.to_json(), encoding="utf-8")
        # Sounds that are too long to be put into the page are linked, relative to where it will be.
        (directory / "index.html").write_text(evaluation_page(evaluation, cases, output, changes), encoding="utf-8")
    for case in evaluation.cases:
        for note in case.notes:
            message(f"warning: {case.id}: {note}")
    print(table(evaluation))
    if changes is not None:
        print("\n" + changes_table(changes))
    print(f"\n{output / 'index.html'}")


def _codec(options, coded) -> "CodecConfig":
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.errors import DataError

    if not coded:
        raise DataError(f"{options.source}: --code-usage needs codes, and no NAME.safetensors holds any")
    return Release(options.model).config.codec


def _drift(options) -> "list[Measured]":
    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.evaluate.drift import MOST_PAIRS, measure_drift
    from mlx_voxclone.process.progress import progress_bar

    adapters = [AdapterSource.parse(text) for text in options.adapters]
    with progress_bar(quiet=options.quiet, total=2 * MOST_PAIRS, unit="pair", desc="drift") as bar:
        base, other = Release(options.base), Release(options.model or options.base)
        return measure_drift(base, other, options.pairs, adapters, seed=options.seed, progress=bar.update)


def _measured(cases, options) -> "Evaluation":
    from contextlib import ExitStack

    from mlx_voxclone.data.transcribe import Transcriber
    from mlx_voxclone.evaluate.code_usage import usage_of_files
    from mlx_voxclone.evaluate.measure import evaluate, summarise
    from mlx_voxclone.evaluate.speakers import speaker_model
    from mlx_voxclone.process.progress import progress_bar

    with ExitStack() as stack:
        speaker = whisper = None
        if options.speaker_model != NONE and any(case.reference for case in cases):
            speaker = speaker_model(options.speaker_model)
        if options.whisper_model != NONE and any(case.text for case in cases):
            whisper = stack.enter_context(Transcriber(options.whisper_model))
        bar = stack.enter_context(progress_bar(quiet=options.quiet, total=len(cases), unit="output"))
        evaluation = evaluate(cases, speaker, whisper, seed=options.seed, progress=bar.update)
    coded = [case.codes for case in cases if case.codes]
    if options.code_usage:
        usage = usage_of_files(coded, _codec(options, coded))
        evaluation.about |= {f"codes: {name.replace('_', ' ')}": value for name, value in usage.items()}
    if options.base is not None:
        evaluation.cases += _drift(options)
        evaluation.summary = summarise(evaluation.cases, options.seed)
        evaluation.about |= {"base": options.base, "model": options.model or options.base, "adapters": options.adapters}
    return evaluation


def table(evaluation: "Evaluation") -> str:
    """Means with their intervals, and what they were measured with."""
    from mlx_voxclone.evaluate.measure import METRICS

    width = max((len(METRICS[name].title) for name in evaluation.summary), default=0)
    lines = [f"{len(evaluation.cases)} cases; means with 95 % bootstrap intervals"]
    for name, interval in evaluation.summary.items():
        metric = METRICS[name]
        lines.append(
            f"{metric.title:<{width}}  {interval.mean:>9.4g} {metric.unit:<9} {interval.low:.4g} to {interval.high:.4g}"
            f"  ({interval.n})"
        )
    lines += [f"{key}  {value:.4g}" for key, value in evaluation.about.items() if key.startswith("codes: ")]
    models = [
        ("speakers compared by", evaluation.about["speaker_model"]),
        ("transcribed by", evaluation.about["whisper_model"]),
    ]
    return "\n".join([*lines, *(f"{title} {model}" for title, model in models if model)])


def changes_table(changes: "dict[str, Change]") -> str:
    """What changed since an earlier evaluation."""
    from mlx_voxclone.evaluate.measure import METRICS

    width = max(len(METRICS[name].title) for name in changes)
    lines = [f"{'':<{width}}     before      after  difference"]
    for name, change in changes.items():
        d = change.difference
        lines.append(
            f"{METRICS[name].title:<{width}}  {change.before:>9.4g}  {change.after:>9.4g}  {d.mean:>+10.4g}"
            f" ({d.low:+.3g} to {d.high:+.3g})  {change.verdict}"
        )
    return "\n".join(lines)
