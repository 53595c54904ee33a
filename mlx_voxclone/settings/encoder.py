"""The section `encoder` of a run's configuration: training the codec's encoder, and what it learns from.

Each key is explained where users meet it: in `configs/voxtral_speaker.yaml` and `configs/voxtral_encoder.yaml`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlx_voxclone.settings.fields import (
    AUTO,
    FRAME_SECONDS,
    AutoPaths,
    Count,
    FileField,
    LengthSection,
    ModelName,
    Number,
    PathField,
    Positive,
    Ratio,
    Seconds,
    Section,
    StepItems,
    Steps,
    TrainSection,
    Weight,
    WholeNumber,
    WindowSize,
    at_most,
    pair_of,
)

STFT_WINDOWS = [2048, 1024, 512, 256]  # of the STFT loss, where nothing else asks for other ones


class EncoderTrain(TrainSection):
    steps: Steps = 5000
    batch_size: StepItems = 8
    learning_rate: Positive = 2e-4
    warmup_steps: WholeNumber = 200
    eval_every: WholeNumber = 250
    save_every: WholeNumber = 500
    log_every: Count = 10
    sample_every: WholeNumber = 1000


class RefineSection(LengthSection):
    """From the model's base encoder to the run's own, on recordings and pairs; again in each round of judging."""

    steps: Steps = 300
    batch_size: StepItems = 4
    accumulate: StepItems = 2
    learning_rate: Positive = 1e-4
    warmup_steps: WholeNumber = 20


class EncoderLosses(Section):
    sound: Weight = 3.0
    semantic_code: Weight = 1.0
    acoustic_code: Weight = 1.0


class PairsSection(Section):
    """True codes and their audio: `train/judge/auto_pairs.py` makes them, or `voxclone pairs`;
    `train/encoder/items.py` draws."""

    path: AutoPaths = AUTO
    per_voice: at_most(100_000) = 24
    moves: at_most(1000, 0) = 2
    texts: PathField | None = None
    max_seconds: Seconds = 20.0
    batch: at_most(1024) = 8
    share: Ratio = 0.5
    alone_steps: WholeNumber = 0


class DiscriminatorsSection(Section):
    """Opponents that hear what is unlike speech: `model/discriminator.py`."""

    enabled: bool = False
    sizes: Annotated[list[WindowSize], Field(min_length=1, max_length=64)] = [2296, 1418, 876, 542, 334, 206, 126, 76]
    channels: at_most(1024) = 32
    learning_rate: Positive = 2e-4
    warmup_steps: WholeNumber = 500


class DistillationSection(Section):
    """A frozen speech recogniser that says what was said when: `train/whisper/teacher.py`."""

    enabled: bool = False
    whisper_model: ModelName = "mlx-community/whisper-small-mlx"
    heads: Literal["published", "dtw"] = "published"


class PriorSection(Section):
    """What codes usually look like, to compare with: `pairs/statistics.py`."""

    presets: bool = True


class EncoderSection(Section):
    """Training the codec's encoder into the frozen code space."""

    weights: FileField | None = None
    start: Literal["mirror", "random"] = "mirror"
    crop_seconds: Annotated[Number, Field(ge=FRAME_SECONDS, le=60)] = 4.0
    gain_db: pair_of(Annotated[Number, Field(ge=-60, le=60)]) = [-6.0, 6.0]
    quantisation_noise: bool = False
    sound_teaches: Literal["acoustic", "all"] = "acoustic"
    losses: EncoderLosses = EncoderLosses()
    stft_sizes: Annotated[list[WindowSize], Field(min_length=1, max_length=64)] | None = None
    pairs: PairsSection = PairsSection()
    discriminators: DiscriminatorsSection = DiscriminatorsSection()
    distillation: DistillationSection = DistillationSection()
    prior: PriorSection = PriorSection()
    train: EncoderTrain = EncoderTrain()
    refine: RefineSection = RefineSection()

    @property
    def refining(self) -> EncoderTrain:
        """The training of `refine`: measured and saved after each third of its steps, with samples at the end, unless
        `train` switches that off; all else is as in `train`."""
        train, steps = self.train, self.refine.steps
        found = train.model_dump() | self.refine.model_dump()
        if steps:  # not passes, which are of a length that the data decide
            third = -(-steps // 3)
            found["eval_every"], found["save_every"] = third * bool(train.eval_every), third * bool(train.save_every)
            found["sample_every"] = steps * bool(train.sample_every)
        return EncoderTrain(**found)

    @property
    def stft_windows(self) -> list[int]:
        """Windows of the STFT loss, in samples; the discriminators' where they train, as spectra are shared."""
        return self.stft_sizes or (self.discriminators.sizes if self.discriminators.enabled else STFT_WINDOWS)

    @model_validator(mode="after")
    def _some_loss(self):
        losses = self.losses
        if losses.sound or self.discriminators.enabled:
            return self
        if not self.pairs.path:
            raise ValueError("losses.sound is 0 and there are no pairs: nothing would teach the sound")
        if not (losses.semantic_code or losses.acoustic_code):
            raise ValueError("the losses of the sound and of the codes are all 0: nothing would be learnt")
        return self
