"""The sections of a run's configuration: keys, types, defaults and bounds (`settings/config.py` puts them together).

Those of the encoder are in `settings/encoder.py`, what all are made of in `settings/fields.py`. Each key is explained
where users meet it: in `configs/voxtral_speaker.yaml` and `configs/voxtral_encoder.yaml`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mlx_voxclone.files.paths import expanded
from mlx_voxclone.settings.fields import (
    AUTO,
    AutoFile,
    AutoPaths,
    FileField,
    Fraction,
    ModelName,
    Name,
    Number,
    PathField,
    Paths,
    PlaceField,
    Positive,
    Ratio,
    Seconds,
    Section,
    StepItems,
    Steps,
    Target,
    TrainSection,
    Weight,
    WholeNumber,
    at_most,
    pair_of,
    unique,
)

LOWEST_RATE = 1000  # Hz; below, a frame of 10 ms has too few samples to have a level, and there is no speech


def _recogniser(value: str) -> str:
    library, _, model = value.partition(":")
    if library != "mlx-audio" or not model.strip():
        raise ValueError(f"mlx-audio:ID is expected, ID a directory or a hub id; got {value!r:.80}")
    return f"{library}:{expanded(model)}"


class PrepareSection(Section):
    """What is kept of recordings and how clips are cut; `data/options.py: PrepareOptions` is this with a seed."""

    speaker: Name | None = None
    language: Name | None = None
    min_seconds: Positive = 1.0
    max_seconds: Annotated[Number, Field(ge=1, le=600)] = 20.0
    heldout: Fraction = 0.1
    heldout_speakers: list[Name] = []
    normalise: bool = False
    trim_silence: bool = True
    speech_detector: Literal["auto", "levels", "silero"] = "auto"
    min_sampling_rate: at_most(768_000, LOWEST_RATE) = 16000
    max_clipped: Ratio = 0.01
    numbers_in_words: bool = False
    transcribe: bool = False
    check_texts: bool = False
    whisper_model: ModelName | None = None
    recogniser: Annotated[Name, AfterValidator(_recogniser)] | None = None

    @model_validator(mode="after")
    def _lengths(self):
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds ({self.min_seconds:g}) must be below max_seconds ({self.max_seconds:g})")
        return self


class DataSection(PrepareSection):
    """What is read, what is kept of it, and how shards are read: `data/shards/data.py`."""

    path: PlaceField | None = None
    cache: PathField | None = None
    cache_gb: Annotated[Number, Field(gt=0, le=1e6)] = 50.0


class SpeakerTrain(TrainSection):
    steps: Steps = 300
    accumulate: StepItems = 8
    learning_rate: Positive = 2e-5
    warmup_steps: WholeNumber = 20
    eval_every: WholeNumber = 25
    save_every: WholeNumber = 50
    sample_every: WholeNumber = 100
    patience: WholeNumber = 4


class JudgeSection(Section):
    """Codes of transcribed clips, judged by the frozen language model: `train/judge/judge.py`."""

    enabled: bool = True
    rounds: at_most(100, 0) = 2
    check_texts: bool = True


class LoraSection(Section):
    rank: at_most(1024) = 16
    alpha: Annotated[Number, Field(gt=0, le=1e6)] = 32.0
    targets: Annotated[list[Target], Field(min_length=1), AfterValidator(unique)] = [
        "wq",
        "wk",
        "wv",
        "wo",
        "w1",
        "w2",
        "w3",
    ]
    layers: at_most(1000) | None = None
    dropout: Fraction = 0.0


class QuantiseSection(Section):
    bits: Literal[0, 4, 8] = 8


class SpeakerLosses(Section):
    semantic: Weight = 1.0
    flow: Weight = 10.0
    kept: Weight = 1.0

    @model_validator(mode="after")
    def _some(self):
        if not (self.semantic or self.flow):
            raise ValueError("semantic and flow are both 0: nothing would be learnt")
        return self


class PreserveSection(Section):
    """What the model said before, with its own voices, and should go on saying: `train/speaker/preservation.py`."""

    path: AutoPaths = AUTO
    share: Fraction = 0.25


class ListenSection(Section):
    """Speech that is generated and judged at each measurement, by which the best adapters are chosen:
    `train/speaker/listening.py`."""

    speaker_model: ModelName | None = None
    whisper_model: ModelName | None = None
    texts: at_most(10_000) = 4

    @model_validator(mode="after")
    def _chosen_by(self):
        if self.whisper_model is not None and self.speaker_model is None:
            raise ValueError("whisper_model sets a limit to what speaker_model chooses: give that, too")
        return self


class SpeakerSection(Section):
    """Adapting the language model to a voice, or to a language, with LoRA over quantised linears."""

    encoder: AutoFile = AUTO
    start: FileField | None = None
    lora: LoraSection = LoraSection()
    quantise: QuantiseSection = QuantiseSection()
    reference_seconds: pair_of(Annotated[Number, Field(gt=0, le=600)]) = [3.0, 25.0]
    max_seconds: Seconds = 20.0
    recompute: bool = False
    preserve: PreserveSection = PreserveSection()
    listen: ListenSection = ListenSection()
    losses: SpeakerLosses = SpeakerLosses()
    train: SpeakerTrain = SpeakerTrain()

    @property
    def encoder_file(self) -> Path | str | None:
        """The encoder's weights, where `encoder` names them; an address of the hub as text until it is fetched."""
        return None if self.encoder == AUTO else self.encoder


class DistillSection(Section):
    """Teaching the language model to take the encoder's codes for the true ones: `train/distill/task.py`. The adapters,
    the lengths and the training itself are those of the section `speaker`."""

    pairs: Paths = []
    presets: bool = True
    items: at_most(10_000_000) = 500


class BakeSection(Section):
    """What task `clone` writes at the end."""

    output: PathField | None = None
    reference: PathField | None = None
    target: Literal["vllm", "mlx-audio"] = "vllm"
    deliver: Literal["best", "adapted", "zero-shot"] = "best"
