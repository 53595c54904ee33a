"""What a training has delivered, and why, from its `summary.json` and configuration, in the page's language."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlx_voxclone.studio.results import ADAPTED, ZERO_SHOT, number, result_of
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
    found = result_of(run)
    if found is None or found.delivered is None:
        return None
    judges = _judges(run / "config.yaml")
    return Outcome(
        delivered=found.delivered,
        why=found.why,
        figures=_figures(found.measured.get(ZERO_SHOT, {}), found.measured.get(ADAPTED, {})),
        speaker_judge=judges[0],
        word_judge=judges[1],
        voice=found.voice or "",
        checkpoint=run / "baked" if (run / "baked").is_dir() else None,
        seconds=found.seconds,
        minutes=60 * found.hours,
        memory=found.memory,
        said=tuple(_said(entry, run) for entry in found.speech),
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
        values = (number(one.get(name)) for one in (before, after))
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
