"""Every metric of every case, and what they come to: means with confidence intervals, and comparisons.

A metric is there for a case if what it needs is: an original for the codec metrics, a reference for the voice, a text
and a Whisper for the error rates. Error rates are sums of errors over sums of words, as is usual; all others are means.

Intervals are bootstrapped from ten cases on. With fewer, resampling finds differences where there are none (with two
cases in half of all comparisons, with four in 13 %), and they are Student's. One case has no interval, and neither
have up to five that are all alike: that they differ by nothing is chance too often.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.special import ndtr, stdtrit

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.audio.prosody import pitch, semitones, spoken_seconds
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.fidelity import fidelity
from mlx_voxclone.evaluate.intelligibility import Errors, check_installed, errors
from mlx_voxclone.evaluate.metrics import HIGHER, METRICS
from mlx_voxclone.evaluate.speakers import SpeakerModel, similarity
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.version import __version__

RESAMPLES, CONFIDENCE = 2000, 0.95
FEWEST_RESAMPLED = 10  # cases; of fewer, intervals are Student's
# Cases that may all be alike: coins of as many fall on one side in 3 % of all throws, five do in 6 %.
FEWEST_ALIKE = 6
_RATES = {"wer": ("word_edits", "words"), "cer": ("letter_edits", "letters")}


class Hears(Protocol):
    """A `data.transcribe.Transcriber`."""

    model: str

    def check_language(self, language: str) -> None: ...

    def transcribe(self, path: str | Path, language: str | None = None) -> tuple[str | None, str | None]: ...


@dataclass
class Measured:
    """One case.

    Args:
        id: of the case.
        metrics: name -> value, those that could be had.
        errors: for the error rates.
        heard: what the Whisper understood; None: it was not asked, or understood nothing.
        notes: why a metric is missing that was to be expected.
    """

    id: str
    metrics: dict[str, float] = field(default_factory=dict)
    errors: Errors | None = None
    heard: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Interval:
    """Mean over `n` cases with a 95 % interval, whose ends are NaN where too few cases tell none; see the module."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Interval":
        return cls(**{name: math.nan if value is None else value for name, value in raw.items()})

    def ends(self, form: str) -> str:
        """`low to high` in a number format such as `.3g`, or that there is none."""
        return "no interval" if math.isnan(self.low) else f"{self.low:{form}} to {self.high:{form}}"


@dataclass
class Evaluation:
    """Everything: `about` says with what it was measured."""

    about: dict[str, Any]
    cases: list[Measured]
    summary: dict[str, Interval]

    def to_json(self) -> str:
        """Numbers that are not finite become null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """What `to_json` wrote.

        Raises:
            DataError: not there, or not that.
        """
        path = Path(path)
        path = path / "evaluation.json" if path.is_dir() else path
        try:
            raw = read_json(path)
            cases = [
                Measured(
                    case["id"],
                    {k: float(v) for k, v in case["metrics"].items() if v is not None},
                    Errors(**case["errors"]) if case["errors"] else None,
                    case["heard"],
                    list(case["notes"]),
                )
                for case in raw["cases"]
            ]
            return cls(dict(raw["about"]), cases, {k: Interval.read(v) for k, v in raw["summary"].items()})
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; give the evaluation.json of an earlier evaluation") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: not an evaluation of this program") from None


def evaluate(
    cases: Sequence[Case],
    speaker: SpeakerModel | None,
    whisper: Hears | None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure all cases. What is wrong with one output is a note of its case, and the others are measured.

    Args:
        cases: what to measure.
        speaker: of the speaker similarity; None: without.
        whisper: of the error rates; None: without.
        seed: of the bootstrap.
        progress: called with 1 after each case.

    Raises:
        DataError: before anything is measured: a reference or an original that cannot be read, a language that the
            Whisper cannot hear, or jiwer is not installed.
    """
    _check(cases, whisper)
    measured = []
    for case in cases:
        measured.append(_measure(case, speaker, whisper))
        if progress is not None:
            progress(1)
    about = {"voxclone": __version__, "cases": len(cases), "seed": seed}
    about |= {"speaker_model": speaker.name if speaker else None, "whisper_model": whisper.model if whisper else None}
    return Evaluation(about, measured, summarise(measured, seed))


def _check(cases: Sequence[Case], whisper: Hears | None) -> None:
    """Raise DataError for what is known to be wrong before hours of work."""
    if whisper is not None and any(case.text is not None for case in cases):
        check_installed()
        for language in dict.fromkeys(case.language for case in cases if case.text is not None and case.language):
            whisper.check_language(language)
    for path in dict.fromkeys(path for case in cases for path in (case.reference, case.original) if path is not None):
        read_audio(path)


def _measure(case: Case, speaker: SpeakerModel | None, whisper: Hears | None) -> Measured:
    found = Measured(case.id)
    try:
        output = read_audio(case.output)
    except AudioError as e:
        if e.reason == "zero-length" and case.text is not None and whisper is not None:
            found.notes.append(f"all words count as wrong: {e}")
            found.metrics = _compared(found, case.text, "")
        else:
            found.notes.append(f"nothing is measured: {e}")
        return found
    seconds, heard_pitch = len(output) / SAMPLE_RATE, pitch(output)
    metrics = {"pitch_hz": heard_pitch.median, "pitch_deviation": heard_pitch.deviation}
    if case.seconds is not None:
        metrics["real_time_factor"] = case.seconds / seconds
    if case.reference is not None:
        metrics |= _against_reference(output, heard_pitch.median, read_audio(case.reference), speaker, found.notes)
    if case.original is not None:
        original = read_audio(case.original)
        try:
            metrics |= fidelity(original, output)
        except DataError as e:
            found.notes.append(str(e))
        if spoken := spoken_seconds(original):
            metrics["duration_ratio"] = spoken_seconds(output) / spoken
    if case.text is not None:
        if spoken := spoken_seconds(output):
            metrics["letters_per_second"] = len(case.text) / spoken
        if whisper is not None:
            try:
                metrics |= _compared(found, case.text, whisper.transcribe(case.output, case.language)[0])
            except DataError as e:
                found.notes.append(f"error rates: {e}")
    there = [name for name in METRICS if math.isfinite(metrics.get(name, math.nan))]
    # Six digits: the last ones of a sum depend on where its arrays lay in memory.
    found.metrics = {name: float(f"{metrics[name]:.6g}") for name in there}
    return found


def _compared(found: Measured, text: str, heard: str) -> dict[str, float]:
    """Error rates of what was heard, which is kept with the case."""
    found.heard, found.errors = heard, errors(text, heard)
    return {"wer": 100 * found.errors.wer, "cer": 100 * found.errors.cer}


def _against_reference(
    output: np.ndarray, median: float, reference: np.ndarray, speaker: SpeakerModel | None, notes: list[str]
) -> dict[str, float]:
    found, other = {}, pitch(reference).median
    if math.isfinite(median) and math.isfinite(other):
        found["pitch_distance"] = semitones(median, other)
    if speaker is not None:
        try:
            found[speaker.metric] = similarity(speaker, output, reference)
        except DataError as e:
            notes.append(f"similarity: {e}")
    return found


# --- means ------------------------------------------------------------------------------------------------------------


def summarise(cases: Sequence[Measured], seed: int = 0) -> dict[str, Interval]:
    """Means over the cases that have a metric, in the order of `METRICS`."""
    found = {}
    for name in METRICS:
        if (table := _table(cases, name)) is not None:
            found[name] = _interval(table, seed)
    return found


def _table(cases: Sequence[Measured], name: str) -> np.ndarray | None:
    """`[n, 2]`: what is summed up of each case, above and below the fraction line."""
    if name in _RATES:
        above, below = _RATES[name]
        told = [case.errors for case in cases if case.errors is not None]
        rows = [[100.0 * getattr(e, above), getattr(e, below)] for e in told]
    else:
        rows = [[c.metrics[name], 1.0] for c in cases if name in c.metrics]
    return np.array(rows, dtype=np.float64) if rows else None


def _interval(table: np.ndarray, seed: int) -> Interval:
    mean = float(table[:, 0].sum() / table[:, 1].sum())
    if len(table) < FEWEST_RESAMPLED:
        return _student(mean, _deviations(table))
    ends = _percentiles(lambda rows: table[rows, 0].sum(axis=1) / table[rows, 1].sum(axis=1), len(table), seed)
    return Interval(mean, *ends, len(table))


def _deviations(table: np.ndarray) -> np.ndarray:
    """How far each case `[n]` moves the ratio of the sums of `[n, 2]`, to the first order; their mean is 0.

    Of a mean these are the deviations from it; of a rate, what Cochran (1977), "Sampling techniques", section 6.3,
    estimates the variance of a ratio by.
    """
    above, below = table.T
    return (above - above.sum() / below.sum() * below) / below.mean()


def _student(mean: float, deviations: np.ndarray) -> Interval:
    """Student's, about a mean of which each case is `deviations` `[n]` away."""
    n, alike = len(deviations), np.ptp(deviations) <= 1e-9 * abs(mean)
    if n < (FEWEST_ALIKE if alike else 2):
        return Interval(mean, math.nan, math.nan, n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2) * deviations.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def _percentiles(statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int) -> tuple[float, float]:
    """Of a statistic of resampled cases `[RESAMPLES, n] -> [RESAMPLES]`."""
    values = statistic(np.random.default_rng(seed).integers(0, n, (RESAMPLES, n)))
    low, high = np.quantile(values, tails(n))
    return float(low), float(high)


def tails(n: int) -> tuple[float, float]:
    """Lower and upper quantile (0 to 1) of a bootstrap's values that bound its 95 % interval, for `n` cases.

    Plain percentiles are too narrow for few cases: with 8 clips, 84 to 90 % of the intervals held the true value. These
    are the expanded percentiles of Hesterberg (2015), "What teachers should know about the bootstrap", by Student's t.
    """
    tail = (1 - CONFIDENCE) / 2
    if n > 1:
        tail = float(ndtr(stdtrit(n - 1, tail) * math.sqrt(n / (n - 1))))
    return tail, 1 - tail


# --- comparisons ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """From an earlier evaluation to this one, over the cases that both have.

    Args:
        before, after: means over these cases.
        difference: after - before, with its 95 % interval over the pairs.
        verdict: `better`, `worse`, `changed` (where neither way is better), `no clear difference`, or `too few cases`
            where these tell no interval.
    """

    before: float
    after: float
    difference: Interval
    verdict: str


def check_models(old: Evaluation, about: Mapping[str, Any]) -> None:
    """Refuse to compare with an evaluation by other models; `about` is that of the new one, which may be to come.

    Raises:
        DataError: both have a `speaker_model` or a `whisper_model`, and it is not the same.
    """
    for key, title in (("speaker_model", "speaker similarity"), ("whisper_model", "error rates")):
        a, b = old.about.get(key), about.get(key)
        if a is not None and b is not None and a != b:
            raise DataError(f"the earlier evaluation measured {title} with {a}, this one with {b}: not comparable")


def check_ids(old: Evaluation, ids: Collection[str]) -> None:
    """Raise DataError if an evaluation has none of the cases of these ids."""
    if not {case.id for case in old.cases} & set(ids):
        raise DataError("the two evaluations have no case in common (by id): nothing to compare")


def compare(old: Evaluation, new: Evaluation, seed: int = 0) -> dict[str, Change]:
    """Metrics that both have, paired by the cases' ids.

    Raises:
        DataError: no case in common, or measured with other models, whose figures mean different things.
    """
    check_models(old, new.about)
    check_ids(old, [case.id for case in new.cases])
    earlier = {case.id: case for case in old.cases}
    pairs = [(earlier[case.id], case) for case in new.cases if case.id in earlier]
    found = {}
    for name in METRICS:
        both = [(a, b) for a, b in pairs if all(_table([case], name) is not None for case in (a, b))]
        if both:
            before, after = (_table([pair[k] for pair in both], name) for k in (0, 1))
            found[name] = _change(name, before, after, seed)
    return found


def _change(name: str, before: np.ndarray, after: np.ndarray, seed: int) -> Change:
    def difference(rows: np.ndarray) -> np.ndarray:
        a, b = (table[rows, 0].sum(axis=1) / table[rows, 1].sum(axis=1) for table in (before, after))
        return b - a

    means = [float(table[:, 0].sum() / table[:, 1].sum()) for table in (before, after)]
    if len(before) < FEWEST_RESAMPLED:
        found = _student(means[1] - means[0], _deviations(after) - _deviations(before))
    else:
        found = Interval(means[1] - means[0], *_percentiles(difference, len(before), seed), len(before))
    low, high = found.low, found.high
    verdict = "too few cases" if math.isnan(low) else "no clear difference"
    if low > 0 or high < 0:
        better = METRICS[name].better
        verdict = "changed" if not better else "better" if (low > 0) == (better == HIGHER) else "worse"
    return Change(*means, found, verdict)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
