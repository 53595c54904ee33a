"""The sections of a run's configuration: keys, types, defaults and bounds (`run_config.py` puts them together).

Each key is explained where users meet it: in `configs/voxtral_speaker.yaml` and `configs/voxtral_encoder.yaml`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WrapValidator,
    model_validator,
)

from mlx_voxclone.checkpoint.hub import FORM, HubAddress, is_address
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.yaml_files import shown


def _number(value: Any) -> Any:
    """PyYAML reads `2e-5` (no dot) as text; YAML 1.2, and everyone else, as the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    if "\0" in value:
        raise ValueError("expected a path; got text with a zero character in it")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        user = value.partition("/")[0]
        raise ValueError(f"no home directory is known for {user}; write ./{user} if it is a name") from None


def _place(value: Any) -> Any:
    """A path, or an address as text."""
    if isinstance(value, str) and "://" in value:
        return value
    found = _path(value)
    if not isinstance(found, Path):
        raise ValueError(f"expected a path; got {shown(value)}")
    return found


def _file(value: Any) -> Any:
    """A path, or an address of the hub as text."""
    if is_address(value):
        try:
            HubAddress.parse(value)
        except VoxcloneError as e:
            raise ValueError(str(e)) from None
        return value
    if isinstance(value, str) and "://" in value:
        raise ValueError(f"expected a path or {FORM}; got {shown(value)}")
    return _place(value)


def _listed(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str | Path) else value


def _automatic(value: Any, paths: Any) -> Any:
    return AUTO if value == AUTO else paths(value)


def _plain(value: Any, info: Any) -> Any:
    return value if value == AUTO or info.mode == "python" else [str(path) for path in value]


def _ordered(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError(f"expected [low, high]; got {pair}")
    return pair


def _unique(values: list[str]) -> list[str]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"expected each name once; got {', '.join(twice)} more than once")
    return values


AUTO = "auto"  # in the place of paths: what the run makes itself, or finds made
FRAME_SECONDS = 0.08  # of the codec: nothing shorter can be learnt from
STFT_WINDOWS = [2048, 1024, 512, 256]  # of the STFT loss, where nothing else asks for other ones
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
PathField = Annotated[Path, BeforeValidator(_path)]
PlaceField = Annotated[Path | str, BeforeValidator(_place)]
FileField = Annotated[Path | str, BeforeValidator(_file)]  # or an address of the hub, as text
Paths = Annotated[list[PathField], BeforeValidator(_listed)]  # null: none
AutoFile = Annotated[FileField | None, WrapValidator(_automatic)]
AutoPaths = Annotated[Paths, WrapValidator(_automatic), PlainSerializer(_plain)]  # AUTO, or paths
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Ratio = Annotated[Number, Field(ge=0, le=1)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
WindowSize = Annotated[int, Field(ge=16)]
Name = Annotated[str, StringConstraints(min_length=1)]
VoiceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Target = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]


def _pair(item: Any) -> Any:
    return Annotated[list[item], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class Section(BaseModel):
    """Base of every section: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataSection(Section):
    """What is read and how clips are cut: `data/options.py: PrepareOptions` by the same names and defaults; and how
    shards are read: `data/shards/data.py`."""

    path: PlaceField | None = None
    speaker: Name | None = None
    language: Name | None = None
    min_seconds: Positive = 1.0
    max_seconds: Annotated[Number, Field(ge=1)] = 20.0
    heldout: Fraction = 0.1
    heldout_speakers: list[Name] = []
    normalise: bool = False
    trim_silence: bool = True
    min_sampling_rate: Count = 16000
    max_clipped: Ratio = 0.01
    transcribe: bool = False
    whisper_model: Name = "mlx-community/whisper-large-v3-turbo"
    cache: PathField | None = None
    cache_gb: Positive = 50.0
    mix_shards: Count = 4

    @model_validator(mode="after")
    def _lengths(self):
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds ({self.min_seconds:g}) must be below max_seconds ({self.max_seconds:g})")
        return self


class TrainSection(Section):
    """The trainer's settings, the same for every task: `train/settings.py: TrainSettings` by the same names."""

    steps: WholeNumber = 1000
    epochs: WholeNumber = 0
    batch_size: Count = 1
    accumulate: Count = 1
    learning_rate: Positive = 1e-4
    min_lr_ratio: Ratio = 0.1
    warmup_steps: WholeNumber = 0
    weight_decay: NonNegative = 0.01
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.99]
    eps: Positive = 1e-8
    grad_clip: NonNegative = 1.0
    eval_every: WholeNumber = 100
    save_every: WholeNumber = 100
    log_every: Count = 1
    sample_every: WholeNumber = 0
    keep: Count = 2
    patience: WholeNumber = 0
    max_skipped: Count = 5

    @model_validator(mode="before")
    @classmethod
    def _epochs_decide(cls, content: Any) -> Any:
        """The trainer takes one of the two; epochs are the choice of who writes them, steps have a default."""
        epochs = content.get("epochs") if isinstance(content, dict) else None
        return {**content, "steps": 0} if type(epochs) is int and epochs > 0 else content

    @model_validator(mode="after")
    def _end(self):
        if not (self.steps or self.epochs):
            raise ValueError("steps and epochs are both 0: there is nothing to train")
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        return self


class EncoderTrain(TrainSection):
    steps: WholeNumber = 5000
    batch_size: Count = 8
    learning_rate: Positive = 2e-4
    warmup_steps: WholeNumber = 200
    eval_every: WholeNumber = 250
    save_every: WholeNumber = 500
    log_every: Count = 10
    sample_every: WholeNumber = 1000


class SpeakerTrain(TrainSection):
    steps: WholeNumber = 300
    accumulate: Count = 8
    learning_rate: Positive = 2e-5
    warmup_steps: WholeNumber = 20
    eval_every: WholeNumber = 25
    save_every: WholeNumber = 50
    sample_every: WholeNumber = 100
    patience: WholeNumber = 4


class RefineTrain(TrainSection):
    """From the model's base encoder to the run's own, on recordings and pairs; again in each round of judging."""

    steps: WholeNumber = 300
    batch_size: Count = 4
    accumulate: Count = 2
    learning_rate: Positive = 1e-4
    warmup_steps: WholeNumber = 20
    eval_every: WholeNumber = 100
    save_every: WholeNumber = 100
    log_every: Count = 10
    sample_every: WholeNumber = 300


class EncoderLosses(Section):
    l1: NonNegative = 3.0
    stft: NonNegative = 3.0
    mel: NonNegative = 3.0
    commitment: NonNegative = 0.1
    semantic_code: NonNegative = 1.0
    acoustic_code: NonNegative = 1.0
    level_code: NonNegative = 0.0
    feature_matching: NonNegative = 1.0
    distillation: NonNegative = 1.0
    usage: NonNegative = 0.0


class MelSection(Section):
    n_mels: Count = 80
    n_fft: WindowSize = 1024

    @model_validator(mode="after")
    def _bands(self):
        if self.n_mels > self.n_fft // 2:
            raise ValueError(f"n_mels ({self.n_mels}) must be at most half of n_fft ({self.n_fft})")
        return self


class PairsSection(Section):
    """True codes and their audio: `pairs/auto.py` makes them, or `voxclone pairs`; `train/encoder_items.py` draws."""

    path: AutoPaths = AUTO
    per_voice: Count = 24
    moves: WholeNumber = 2
    texts: PathField | None = None
    max_seconds: Annotated[Number, Field(ge=FRAME_SECONDS)] = 20.0
    batch: Count = 8
    share: Ratio = 0.5
    alone_steps: WholeNumber = 0
    augmented: Ratio = 0.5
    dispersed: Ratio = 1.0
    heldout: Annotated[Number, Field(gt=0, lt=1)] = 0.05


class CodesSection(Section):
    """The losses on true codes: `losses/codes.py`."""

    temperature: Positive = 1.0
    learn_temperature: bool = False
    margin: Ratio = 0.5


class DiscriminatorsSection(Section):
    """Opponents that hear what is unlike speech: `model/discriminator.py`."""

    enabled: bool = False
    sizes: Annotated[list[WindowSize], Field(min_length=1)] = [2296, 1418, 876, 542, 334, 206, 126, 76]
    channels: Count = 32
    learning_rate: Positive = 2e-4
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.5, 0.9]
    start_step: WholeNumber = 0
    warmup_steps: WholeNumber = 500


class DistillationSection(Section):
    """A frozen speech recogniser that says what was said when: `train/asr_teacher.py`."""

    enabled: bool = False
    whisper_model: Name = "mlx-community/whisper-small-mlx"
    heads: Literal["published", "dtw"] = "published"
    median: Annotated[int, Field(ge=1)] = 7

    @model_validator(mode="after")
    def _odd(self):
        if self.median % 2 == 0:
            raise ValueError(f"median must be odd, a frame and as many on either side; got {self.median}")
        return self


class PriorSection(Section):
    """What codes usually look like, to compare with: `data/code_statistics.py`."""

    presets: bool = True


class EncoderSection(Section):
    """Training the codec's encoder into the frozen code space."""

    weights: FileField | None = None
    start: Literal["mirror", "random"] = "mirror"
    crop_seconds: Annotated[Number, Field(ge=FRAME_SECONDS, le=60)] = 4.0
    gain_db: _pair(Number) = [-6.0, 6.0]
    quantisation_noise: bool = False
    reconstruction_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    losses: EncoderLosses = EncoderLosses()
    stft_sizes: Annotated[list[WindowSize], Field(min_length=1)] | None = None
    mel: MelSection = MelSection()
    pairs: PairsSection = PairsSection()
    codes: CodesSection = CodesSection()
    discriminators: DiscriminatorsSection = DiscriminatorsSection()
    distillation: DistillationSection = DistillationSection()
    prior: PriorSection = PriorSection()
    train: EncoderTrain = EncoderTrain()
    refine: RefineTrain = RefineTrain()

    @property
    def stft_windows(self) -> list[int]:
        """Windows of the STFT loss, in samples; the discriminators' where they train, as spectra are shared."""
        return self.stft_sizes or (self.discriminators.sizes if self.discriminators.enabled else STFT_WINDOWS)

    @model_validator(mode="after")
    def _some_loss(self):
        losses, codes = self.losses, ("semantic_code", "acoustic_code", "level_code")
        if losses.l1 or losses.stft or losses.mel or (self.discriminators.enabled and losses.feature_matching):
            return self
        if not self.pairs.path:
            raise ValueError("losses.l1, stft and mel are all 0 and there are no pairs: nothing would teach the sound")
        if not any(getattr(losses, name) for name in codes):
            raise ValueError("the losses of the sound and of the codes are all 0: nothing would be learnt")
        return self


class JudgeSection(Section):
    """Codes of transcribed clips, judged by the frozen language model: `train/clone/judge.py`."""

    enabled: bool = True
    rounds: WholeNumber = 2
    check_texts: bool = True


class LoraSection(Section):
    rank: Count = 16
    alpha: Positive = 32.0
    targets: Annotated[list[Target], Field(min_length=1), AfterValidator(_unique)] = [
        "wq",
        "wk",
        "wv",
        "wo",
        "w1",
        "w2",
        "w3",
    ]
    layers: Count | None = None
    dropout: Fraction = 0.0


class QuantiseSection(Section):
    bits: Literal[0, 4, 8] = 8
    group_size: Literal[32, 64, 128] = 64


class SpeakerLosses(Section):
    semantic: NonNegative = 1.0
    flow: NonNegative = 10.0
    kept_semantic: NonNegative = 1.0
    kept_flow: NonNegative = 1.0

    @model_validator(mode="after")
    def _some(self):
        if not (self.semantic or self.flow):
            raise ValueError("semantic and flow are both 0: nothing would be learnt")
        return self


class PreserveSection(Section):
    """What the model said before, with its own voices, and should go on saying: `train/preservation.py`."""

    path: AutoPaths = AUTO
    share: Fraction = 0.25
    heldout: Annotated[Number, Field(gt=0, lt=1)] = 0.05


class ListenSection(Section):
    """Speech that is generated and judged at each measurement, by which the best adapters are chosen:
    `train/listening.py`."""

    speaker_model: Name | None = None
    whisper_model: Name | None = None
    texts: Count = 4
    max_error_rate: NonNegative = 0.3
    max_drift: NonNegative = 0.1

    @model_validator(mode="after")
    def _chosen_by(self):
        if self.whisper_model is not None and self.speaker_model is None:
            raise ValueError("whisper_model sets a limit to what speaker_model chooses: give that, too")
        return self


class CodeNoiseSection(Section):
    """Wrong codes among those that are heard in training: `train/code_noise.py`."""

    semantic: Ratio = 0.0
    acoustic: Ratio = 0.0


class SpeakerSection(Section):
    """Adapting the language model to a voice, or to a language, with LoRA over quantised linears."""

    encoder: AutoFile = AUTO
    start: FileField | None = None
    lora: LoraSection = LoraSection()
    quantise: QuantiseSection = QuantiseSection()
    reference_seconds: _pair(Positive) = [3.0, 25.0]
    max_seconds: Annotated[Number, Field(ge=FRAME_SECONDS)] = 20.0
    hidden_dropout: Fraction = 0.1
    recompute: bool = False
    label_smoothing: Fraction = 0.0
    silence_weight: Ratio = 1.0
    code_noise: CodeNoiseSection = CodeNoiseSection()
    acoustic_weights: list[NonNegative] | None = None
    preserve: PreserveSection = PreserveSection()
    listen: ListenSection = ListenSection()
    losses: SpeakerLosses = SpeakerLosses()
    train: SpeakerTrain = SpeakerTrain()

    @property
    def encoder_file(self) -> Path | str | None:
        """The encoder's weights, where `encoder` names them; an address of the hub as text until it is fetched."""
        return None if self.encoder == AUTO else self.encoder


class DistillLosses(SpeakerLosses):
    hidden: NonNegative = 1.0
    flow: NonNegative = 1.0

    @model_validator(mode="after")
    def _some(self):
        if not (self.hidden or self.semantic or self.flow):
            raise ValueError("hidden, semantic and flow are all 0: nothing would be learnt")
        return self


class DistillSection(Section):
    """Teaching the language model to take the encoder's codes for the true ones: `train/distill_task.py`. The adapters,
    the lengths and the training itself are those of the section `speaker`."""

    pairs: Paths = []
    heldout: Annotated[Number, Field(gt=0, lt=1)] = 0.05
    presets: bool = True
    items: Count = 500
    layers: Annotated[list[Count], Field(min_length=1)] | None = None
    kept: Fraction = 0.25
    losses: DistillLosses = DistillLosses()


class BakeSection(Section):
    """What task `clone` writes at the end."""

    output: PathField | None = None
    reference: PathField | None = None
    target: Literal["vllm", "mlx-audio"] = "vllm"
    deliver: Literal["best", "adapted", "zero-shot"] = "best"
