"""What task `encoder` has beside recordings: pairs, a speech recogniser that teaches, and what codes usually look like.

`check_encoder` refuses early what `encoder_inputs` would refuse after hours of preparation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.discriminator import available_memory, check_memory
from mlx_voxclone.pairs.code_usage import foreign_codec
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.pairs.statistics import CodeStatistics
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.process.progress import SILENT, Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.encoder.code_prior import code_prior
from mlx_voxclone.train.encoder.items import crop_samples
from mlx_voxclone.train.encoder.task import Teacher
from mlx_voxclone.train.encoder.terms import CODES
from mlx_voxclone.train.judge.auto_pairs import automatic_pairs, check_automatic
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.whisper.cache import TeacherCache
from mlx_voxclone.train.whisper.teacher import AsrTeacher
from mlx_voxclone.whisper.alignment import crop_states
from mlx_voxclone.whisper.reader import LONGEST

TEACHER, PRIOR = "teacher", "prior"  # in the run directory
WITHOUT_PAIRS = (
    "warning: encoder.pairs.path is null: without pairs the encoder learns how speech sounds but not the codes that the"
    " language model knows, and clones become unintelligible; auto makes pairs"
)
_KEPT_STATES = 64  # clips whose states stay in memory: 20 s of a small Whisper are 0.8 MB


@dataclass(frozen=True)
class _Spoken:
    """A pair as a recogniser takes it."""

    id: str
    samples: int
    text: str
    language: str | None
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, pair: Pair) -> "_Spoken":
        return cls(pair.name, pair.frames * pair.frame_size, pair.text, pair.language, pair.read)


@dataclass(frozen=True)
class EncoderInputs:
    """See the module."""

    pairs: PairData | None
    teacher: Teacher | None
    prior: CodeStatistics | None


def check_encoder(config: RunConfig, release: Release) -> None:
    """Refuse pairs, discriminators or a Whisper that cannot be used.

    Raises:
        DataError, ConfigError, CheckpointError: one line that names it.
    """
    section, codec = config.encoder, release.config.codec
    if section.pairs.path == AUTO:
        check_automatic(config, release)
    else:
        load_pairs(config, release)
    if section.pairs.path and not any(getattr(section.losses, name) for name in CODES):
        raise ConfigError(
            f"encoder.losses: {', '.join(CODES)} are all 0, so pairs would have no effect; "
            "give one of them a weight or set encoder.pairs.path to null"
        )
    judges = section.discriminators
    if judges.enabled:
        samples, batch = crop_samples(section, codec), section.train.batch_size
        check_memory(judges.sizes, judges.channels, batch, samples, available_memory())
    if section.distillation.enabled:
        teacher = asr_teacher(section, config.data.language)
        if teacher.needs_heads:
            teacher.files.digest  # noqa: B018 (reads the files, and so finds out that there are none)
        else:
            teacher.heads  # noqa: B018 (loads the model, and so finds out that it cannot be used)
        teacher.unload()


def encoder_inputs(config: RunConfig, data: PreparedData, run: Run) -> EncoderInputs:
    """Load or make all of it; what is made stays in the run's directory and is found there next time.

    Raises:
        VoxcloneError: see `check_encoder`; a clip that the recogniser cannot hear.
    """
    release, say = run.release, run.say
    pairs = load_pairs(config, release, run.reporter)
    if pairs is not None:
        length = format_seconds(pairs.seconds)
        say(f"pairs: {len(pairs.train)} to learn from, {len(pairs.heldout)} held out, {length}")
        if (doubt := foreign_codec(release, pairs.train)) is not None:
            say(f"warning: {doubt}")
        alone, steps = config.encoder.pairs.alone_steps, config.encoder.train.steps
        if config.encoder.pairs.share < 1 and 0 < steps <= alone:
            say(
                f"warning: encoder.pairs.alone_steps ({alone}) is not below encoder.train.steps ({steps}): your "
                "recordings will not be used; a quarter of the steps is usual"
            )
    teacher = whisper_teacher(config, data, pairs, run)
    presets = config.encoder.prior.presets
    prior = code_prior(release, pairs, run.directory / PRIOR, run.reporter, presets=presets)
    return EncoderInputs(pairs, teacher, prior)


def load_pairs(config: RunConfig, release: Release, reporter: Reporter = SILENT) -> PairData | None:
    """The pairs of the configuration, made now if they are automatic ones that are not there; None without any."""
    section = config.encoder.pairs
    if not section.path:
        return None
    paths = automatic_pairs(config, release, reporter) if section.path == AUTO else section.path
    return PairData.of_model(paths, release, seed=config.seed)


def asr_teacher(section: EncoderSection, language: str | None) -> AsrTeacher:
    """The configured Whisper, not yet loaded."""
    asked = section.distillation
    return AsrTeacher(asked.whisper_model, heads=asked.heads, language=language)


def whisper_teacher(config: RunConfig, data: PreparedData, pairs: PairData | None, run: Run) -> Teacher | None:
    """Its states of all recordings, and of the pairs to learn from but those too long for it."""
    if not config.encoder.distillation.enabled:
        return None
    recogniser = asr_teacher(config.encoder, config.data.language)
    cache = TeacherCache(run.directory / TEACHER, recogniser)
    spoken = [] if pairs is None else [_Spoken.of(pair) for pair in pairs.train]
    spoken = [pair for pair in spoken if pair.samples <= LONGEST]
    report = cache.fill([*data.train, *data.heldout, *spoken], run.reporter.over)
    recogniser.unload()
    run.say(f"teacher: {report.heard + report.found} clips and pairs, {report.heard} of them computed now")
    for note in report.notes:
        run.say(f"warning: teacher: {note}")
    read, known = lru_cache(_KEPT_STATES)(cache.read), {pair.id for pair in spoken}

    def states(source: Clip | Pair, start: int, frames: int) -> np.ndarray | None:
        is_pair = isinstance(source, Pair)
        if is_pair and source.name not in known:
            return None
        whole = read(source.name if is_pair else source.id)
        return None if whole is None else crop_states(whole, start, frames)

    return Teacher(states, recogniser.dim, cache.identity)
