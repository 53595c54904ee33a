"""What a training has delivered, and why, from its `summary.json` and configuration, in the page's language."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlx_voxclone.files.plain import read_json
from mlx_voxclone.studio.web.languages import Words

# Reasons as `train/clone/deliver.py` words them: each a key of the page's texts, with the numbers that it names.
_REASONS = (
    ("drift", re.compile(r"adapting changed the model's own voices by (?P<value>\S+) nats \(limit (?P<limit>\S+)\)")),
    ("worse", re.compile(r"adapting made it worse \((?P<what>.+)\)")),
    ("no_nearer", re.compile(
        r"adapting did not bring the held-out recordings nearer \((?P<before>\S+) -> (?P<after>\S+)\)"
    )),
    ("better", re.compile(
        r"adapted, the model predicts the held-out recordings better \((?P<before>\S+) -> (?P<after>\S+)\), and nothing"
        r" became worse"
    )),
    ("no_worse", re.compile(r"nothing became worse by adapting")),
)  # fmt: skip
_CHANGE = re.compile(r"(?P<name>[a-z_]+) (?P<before>\S+) -> (?P<after>[^\s,]+)")
_SPECTRAL = "spectral"
ADAPTED = "adapted"


@dataclass(frozen=True)
class Figure:
    """A figure before and after adapting, in the units in which it is shown.

    Attributes:
        key: of its name among the page's texts. before, after: None where it was not measured.
        unit: "%" or "". higher: whether more is better.
    """

    key: str
    before: float | None
    after: float | None
    unit: str = "%"
    higher: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a training.

    Attributes:
        delivered: `adapted` or `zero-shot`. why: the command's sentence.
        figures: similarity first; the candidates are the model behind the recordings alone, and the adapted one.
        speaker_judge, word_judge: who judged; None: nobody.
        voice: its name in the checkpoint. checkpoint: its directory. seconds: of all sittings.
        minutes: of speech it learnt from. memory: GB at the peak.
        said: sentences that were said before and after, with sounds relative to the run directory.
    """

    delivered: str
    why: str
    figures: tuple[Figure, ...]
    speaker_judge: str | None
    word_judge: str | None
    voice: str
    checkpoint: Path | None
    seconds: float
    minutes: float
    memory: float
    said: tuple[dict[str, Any], ...]

    @property
    def adapted(self) -> bool:
        return self.delivered == ADAPTED


def outcome(run: Path) -> Outcome | None:
    """Of a run that has delivered something; None for another."""
    try:
        summary = read_json(run / "summary.json")
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict) or not isinstance(delivered := summary.get("delivered"), dict):
        return None
    measured = {str(one.get("name")): one for one in _listed(delivered.get("measured"))}
    judges = _judges(run / "config.yaml")
    baked = summary.get("baked") if isinstance(summary.get("baked"), dict) else {}
    return Outcome(
        delivered=str(delivered.get("name", "")),
        why=str(delivered.get("why", "")),
        figures=_figures(measured.get("zero-shot", {}), measured.get(ADAPTED, {})),
        speaker_judge=judges[0],
        word_judge=judges[1],
        voice=str(baked.get("voice", "")),
        checkpoint=run / "baked" if (run / "baked").is_dir() else None,
        seconds=_number(summary.get("seconds")) or 0.0,
        minutes=60 * (_number((summary.get("data") or {}).get("hours")) or 0.0),
        memory=_number(summary.get("peak_memory_gb")) or 0.0,
        said=tuple(_said(entry, run) for entry in _listed(summary.get("speech"))),
    )


def reason(why: str, t: Words) -> str:
    """The command's reason as a sentence of the page's; what is not known stays as it is."""
    for key, pattern in _REASONS:
        if match := pattern.search(why):
            values = {name: one.replace(".", t("common.point")) for name, one in match.groupdict().items()}
            if "what" in values:
                values["what"] = ", ".join(_change(one, t) for one in _CHANGE.finditer(match["what"]))
            return t(f"train.why.{key}", **values)
    return why


def _change(match: re.Match, t: Words) -> str:
    before, after = (match[name].replace(".", t("common.point")) for name in ("before", "after"))
    try:
        return t(f"train.figure.{match['name']}_change", before=before, after=after)
    except KeyError:
        return match[0]


def _figures(before: dict[str, Any], after: dict[str, Any]) -> tuple[Figure, ...]:
    def pair(name: str, offset: float = 0.0, scale: float = 100.0) -> tuple[float | None, float | None]:
        values = (_number(one.get(name)) for one in (before, after))
        first, second = (None if value is None else offset + scale * value for value in values)
        return first, second

    return (
        Figure("similarity", *pair("dissimilarity", 100.0, -100.0), higher=True),
        Figure("error_rate", *pair("error_rate")),
        Figure("unexplained", *pair("unexplained")),
        Figure("not_ended", *pair("not_ended")),
        Figure("voice_distance", *pair("voice_distance", scale=1.0), unit=""),
        Figure("code_loss", *pair("code_loss", scale=1.0), unit=""),
    )


def _judges(configuration: Path) -> tuple[str | None, str | None]:
    """Names of who judges the voice and the words."""
    try:
        content = yaml.safe_load(configuration.read_text(encoding="utf-8"))
        listen = content["speaker"]["listen"]
        names = listen.get("speaker_model"), listen.get("whisper_model")
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return None, None
    speaker, words = (str(name).rpartition("/")[2] if name else None for name in names)
    return speaker, words


def spectral(name: str | None) -> bool:
    """Whether the voice was compared by its spectrum alone, which is a weak judge."""
    return name == _SPECTRAL


def _said(entry: dict[str, Any], run: Path) -> dict[str, Any]:
    """Text, and sounds by `original`, `before`, `after` as far as they are there."""
    found: dict[str, Any] = {"text": str(entry.get("text", ""))}
    for when in ("original", "before", "after"):
        sound = entry.get(when)
        file = sound.get("file") if isinstance(sound, dict) else None
        if isinstance(file, str) and (run / file).is_file():
            found[when] = file
    found["same_text"] = isinstance(entry.get("original"), dict) and bool(entry["original"].get("same_text"))
    return found


def _listed(entries: Any) -> list[dict[str, Any]]:
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None
