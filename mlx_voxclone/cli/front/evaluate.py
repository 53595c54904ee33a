"""`voxclone evaluate`: how close a clone is, how well it is understood, how well a codec reconstructs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared

if TYPE_CHECKING:
    from mlx_voxclone.evaluate.measure import Change, Evaluation, Measured

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
    from mlx_voxclone.evaluate.measure import Evaluation, check_ids, compare, summarise
    from mlx_voxclone.files.atomic import refuse_existing_directory, write_text_atomic
    from mlx_voxclone.report.evaluation_page import evaluation_page

    output = Path(options.output)
    refuse_existing_directory(output)
    cases = read_cases(options.source, options.outputs, options.language) if options.source else []
    earlier = Evaluation.load(options.compare) if options.compare else None
    drift = _Drift(options) if options.base is not None else None
    if earlier is not None:
        check_ids(earlier, [*(case.id for case in cases), *(drift.ids if drift is not None else [])])
    usage = _code_usage(options, cases) if options.code_usage else {}
    evaluation = _measured(cases, earlier, options)
    evaluation.about |= usage
    first = True
    if drift is not None:
        with _kept(evaluation, output) if cases else nullcontext():
            evaluation.cases += drift.measured()
            evaluation.summary = summarise(evaluation.cases, options.seed)
            evaluation.about |= drift.about
        first = not cases
    with _kept(evaluation, output, first=first):
        changes = compare(earlier, evaluation, options.seed) if earlier is not None else None
        # Sounds that are too long to be put into the page are linked, relative to where it will be.
        write_text_atomic(output / "index.html", evaluation_page(evaluation, cases, output, changes))
    for case in evaluation.cases:
        for note in case.notes:
            message(f"warning: {case.id}: {note}")
    print(table(evaluation))
    if changes is not None:
        print("\n" + changes_table(changes))
    print(f"\n{output / 'index.html'}")


@contextmanager
def _kept(evaluation: "Evaluation", output: Path, first: bool = True) -> Iterator[None]:
    """Write what was measured before anything else is done, which may fail: it took hours. `first`: makes `output`."""
    from mlx_voxclone.files.atomic import atomic_directory, write_text_atomic

    place = output / "evaluation.json"
    if first:
        with atomic_directory(output) as directory:
            (directory / place.name).write_text(evaluation.to_json(), encoding="utf-8")
    else:
        write_text_atomic(place, evaluation.to_json())
    try:
        yield
    except BaseException:
        message(f"what was measured is in {place}")
        raise


def _code_usage(options, cases) -> dict[str, float]:
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.errors import DataError
    from mlx_voxclone.evaluate.code_usage import usage_of_files

    coded = [case.codes for case in cases if case.codes]
    if not coded:
        raise DataError(f"{options.source}: --code-usage needs codes, and no NAME.safetensors holds any")
    usage = usage_of_files(coded, Release(options.model).config.codec)
    return {f"codes: {name.replace('_', ' ')}": value for name, value in usage.items()}


class _Drift:
    """Of the model's own voices; what would be refused is refused at once, before other things are measured."""

    def __init__(self, options) -> None:
        from mlx_voxclone.adapters.mix import AdapterSource
        from mlx_voxclone.checkpoint.release import Release
        from mlx_voxclone.evaluate.drift import check_drift

        self._options = options
        adapters = [AdapterSource.parse(text) for text in options.adapters]
        self._given = (Release(options.base), Release(options.model or options.base), options.pairs, adapters)
        self.ids = check_drift(*self._given, seed=options.seed)
        self.about = {"base": options.base, "model": options.model or options.base, "adapters": options.adapters}

    def measured(self) -> "list[Measured]":
        from mlx_voxclone.evaluate.drift import measure_drift
        from mlx_voxclone.process.progress import progress_bar

        with progress_bar(quiet=self._options.quiet, total=2 * len(self.ids), unit="pair", desc="drift") as bar:
            return measure_drift(*self._given, seed=self._options.seed, progress=bar.update)


def _measured(cases, earlier, options) -> "Evaluation":
    """Of the cases alone; `earlier`: an evaluation that this one will be compared with."""
    from mlx_voxclone.data.transcribe import Transcriber
    from mlx_voxclone.evaluate.intelligibility import check_installed
    from mlx_voxclone.evaluate.measure import check_models, evaluate
    from mlx_voxclone.evaluate.speakers import speaker_model
    from mlx_voxclone.process.progress import progress_bar

    with ExitStack() as stack:
        speaker = whisper = None
        hears = options.whisper_model != NONE and any(case.text for case in cases)
        if hears:
            check_installed()
        if options.speaker_model != NONE and any(case.reference for case in cases):
            speaker = speaker_model(options.speaker_model)
        if earlier is not None:
            names = {"speaker_model": speaker.name if speaker else None}
            check_models(earlier, names | {"whisper_model": options.whisper_model if hears else None})
        if hears:
            whisper = stack.enter_context(Transcriber(options.whisper_model))
        bar = stack.enter_context(progress_bar(quiet=options.quiet, total=len(cases), unit="output"))
        return evaluate(cases, speaker, whisper, seed=options.seed, progress=bar.update)


def table(evaluation: "Evaluation") -> str:
    """Means with their intervals, and what they were measured with."""
    from mlx_voxclone.evaluate.measure import METRICS

    width = max((len(METRICS[name].title) for name in evaluation.summary), default=0)
    lines = [f"{len(evaluation.cases)} cases; means with 95 % intervals"]
    for name, interval in evaluation.summary.items():
        metric = METRICS[name]
        lines.append(
            f"{metric.title:<{width}}  {interval.mean:>9.4g} {metric.unit:<9} {interval.ends('.4g')}  ({interval.n})"
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

    if not changes:
        return "no figure that both evaluations have: nothing to compare"
    width = max(len(METRICS[name].title) for name in changes)
    lines = [f"{'':<{width}}     before      after  difference"]
    for name, change in changes.items():
        d = change.difference
        lines.append(
            f"{METRICS[name].title:<{width}}  {change.before:>9.4g}  {change.after:>9.4g}  {d.mean:>+10.4g}"
            f" ({d.ends('+.3g')})  {change.verdict}"
        )
    return "\n".join(lines)
