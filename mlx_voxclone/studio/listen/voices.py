"""What a finished run leaves to be heard: the recordings that it held out, and up to three ways to say their texts.

- `original`: the recording itself;
- `zero-shot`: the released model behind the first few recordings, taken as they come, through the run's encoder;
- `tuned`: the released model behind the voice that the run chose among the recordings;
- `adapted`: the same voice with the run's adapters: the checkpoint that was delivered, or, where the run delivered the
  voice alone, the released model with the adapters kept apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.entries import is_prepared
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.publish.run_directory import SUMMARY, Run
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.studio.results import ADAPTED, ZERO_SHOT, result_of, training_number

ORIGINAL, TUNED = "original", "tuned"
NAMES = (ORIGINAL, ZERO_SHOT, TUNED, ADAPTED)
_BLIND_SECONDS, _MOST_SECONDS = 5.0, 25.0  # of recordings that zero-shot speaks behind


@dataclass(frozen=True)
class Variant:
    """A way to say a sentence.

    Attributes:
        name: one of `NAMES`.
        model: checkpoint or hub id; "" for the recording.
        encoder, adapters: what it is loaded with.
        voice: file of the voice's rows; None: it is taken from `clips`.
        clips: recordings that the voice is taken from.
        delivered: the run has delivered this one.
    """

    name: str
    model: str = ""
    encoder: Path | str | None = None
    adapters: tuple[Path, ...] = ()
    voice: Path | None = None
    clips: tuple[Clip, ...] = ()
    delivered: bool = False

    @property
    def is_spoken(self) -> bool:
        return self.name != ORIGINAL

    @property
    def loaded(self) -> tuple[str, Path | str | None, tuple[Path, ...]]:
        """What is in memory while it speaks; the same for variants that share a model."""
        return self.model, self.encoder, self.adapters

    def facts(self) -> dict[str, str]:
        """For the record of a test."""
        found = {"name": self.name, "title": TITLES[self.name]}
        if self.is_spoken:
            of = [("model", self.model), ("encoder", self.encoder), ("voice", self.voice)]
            found |= {key: str(value) for key, value in of if value}
            found |= {"adapters": ", ".join(map(str, self.adapters))} if self.adapters else {}
        return found


TITLES = {
    ORIGINAL: "Original recording",
    ZERO_SHOT: "Zero-shot (released model, recordings as they come)",
    TUNED: "Released model, chosen voice",
    ADAPTED: "Adapted model",
}


@dataclass(frozen=True)
class Sentence:
    """A held-out text and its recording."""

    text: str
    clip: Clip

    def recording(self) -> np.ndarray:
        """float32 [S] at 24 kHz. Raises DataError."""
        return self.clip.read()


@dataclass(frozen=True)
class Heard:
    """What can be listened to of a finished run.

    Attributes:
        sentences: held-out ones, in the order of the data.
        variants: those that exist, in the order of `NAMES`; the original first if there is a held-out recording.
        language: code of the voice's, or None.
        training: number of the training, see `results.training_number`.
    """

    directory: Path
    sentences: tuple[Sentence, ...]
    variants: tuple[Variant, ...]
    language: str | None
    training: int = 1

    def variant(self, name: object) -> Variant | None:
        return next((one for one in self.variants if one.name == name), None)

    def default_pair(self) -> tuple[str, str] | None:
        """What a blind test compares unless something else is asked for: the original and what was delivered, or the
        first and the last way to say it; None where there is only one."""
        names = [one.name for one in self.variants]
        last = next((one.name for one in self.variants if one.delivered), names[-1] if names else "")
        return (names[0], last) if names and names[0] != last else None


def heard(run_dir: Path) -> Heard | None:
    """What a run leaves; None while it has not ended, or is none of task `clone`.

    Raises:
        VoxcloneError: a run that is damaged.
    """
    if not (run_dir / SUMMARY).is_file():
        return None
    number, run = training_number(run_dir), Run(run_dir)
    if run.config.task != "clone":
        return None
    data = _data(run.config, run_dir)
    sentences = tuple(Sentence(clip.text, clip) for clip in (data.heldout if data else ()) if clip.text)
    language = next((one.clip.language for one in sentences if one.clip.language), None)
    return Heard(run_dir, sentences, tuple(_variants(run, data, bool(sentences))), language, number)


def _data(config: RunConfig, run_dir: Path) -> PreparedData | None:
    """The run's clips, split as it split them; None where they are gone."""
    from mlx_voxclone.train.open_data import open_data  # takes a second: not before it is needed

    own = run_dir / "data"
    try:
        return PreparedData.load(own) if is_prepared(own) else open_data(config, lambda line: None)
    except VoxcloneError:
        return None


def _variants(run: Run, data: PreparedData | None, has_original: bool) -> list[Variant]:
    config, directory = run.config, run.directory
    found = [Variant(ORIGINAL)] if has_original else []
    baked = config.bake.output or directory / "baked"
    voice = baked / VOICE_DIRECTORY / f"{config.voice}.safetensors"
    found_there = result_of(directory)
    adapted = found_there is not None and found_there.delivered == ADAPTED
    released, adapters = str(config.model), directory / "speaker" / "best"
    own = directory / ENCODER_FILE
    encoder = own if own.is_file() else config.speaker.encoder_file  # None: the model has one
    clips = _first(data.train) if data else ()
    if _exists(released):
        if clips:
            found.append(Variant(ZERO_SHOT, released, encoder, clips=clips))
        if voice.is_file():
            found.append(Variant(TUNED, released, encoder, voice=voice, delivered=not adapted))
    if adapted and voice.is_file():
        found.append(Variant(ADAPTED, str(baked), voice=voice, delivered=True))
    elif voice.is_file() and _exists(released) and (adapters / TENSORS).is_file():
        found.append(Variant(ADAPTED, released, encoder, (adapters,), voice))
    return found


def _first(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """The first recordings, until there are five seconds."""
    taken: list[Clip] = []
    for clip in clips:
        seconds = sum(one.seconds for one in taken)
        if seconds >= _BLIND_SECONDS:
            break
        if seconds + clip.seconds <= _MOST_SECONDS:
            taken.append(clip)
    return tuple(taken) if sum(clip.samples for clip in taken) >= SAMPLE_RATE else ()


def _exists(model: str) -> bool:
    """Whether a model is there; of one on the hub only loading can tell."""
    return Path(model).is_dir() or not (Path(model).is_absolute() or model.startswith("."))
