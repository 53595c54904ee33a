"""Adapting the language model: utterances of prepared clips, the quantised model in LoRA, the training itself."""

import zlib
from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_voxclone.adapters.files import TENSORS as ADAPTERS
from mlx_voxclone.adapters.files import AdapterConfig, load_adapters, save_adapters
from mlx_voxclone.adapters.lora import add_lora, quantise_backbone
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.checkpoint.release import Release, file_sha256, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.text_checks import is_sayable
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import GROUP_SIZE
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.judge.recovered import Recovered
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.listening import MAX_DRIFT, MAX_ERROR_RATE, Limits, Listening, Sentence, judges
from mlx_voxclone.train.speaker.preservation import KeptPairs, kept_before, load_kept
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.stages.stage import run_trainer, train_settings

ANYONES = 8  # clips of other speakers, for a speaker with one clip only


def check_lora(config: RunConfig, release: Release) -> None:
    """Raise ConfigError for layers that the model has not, or widths that cannot be quantised."""
    backbone, section = release.config.backbone, config.speaker
    if section.lora.layers is not None and section.lora.layers > backbone.n_layers:
        raise ConfigError(f"speaker.lora.layers: {section.lora.layers}; the model has {backbone.n_layers} layers")
    widths = (backbone.dim, backbone.n_heads * backbone.head_dim, backbone.hidden_dim)
    if section.quantise.bits and any(width % GROUP_SIZE for width in widths):
        raise ConfigError(
            f"speaker.quantise.bits: {GROUP_SIZE} weights share a scale, which do not fit the widths of the model's"
            f" linears ({', '.join(map(str, widths))}); set it to 0"
        )


def references(clip: Clip, data: PreparedData, anyone: bool = False) -> list[Clip]:
    """Other clips of a clip's speaker. With `anyone`, where there is none, a few of other speakers: for learning a
    language the speaker does not matter."""
    own = data.references(clip)
    if own or not anyone:
        return own
    rng, n = np.random.default_rng(zlib.crc32(clip.id.encode())), len(data.train)
    drawn = rng.choice(n, min(n, ANYONES + 1), replace=False)  # one more: the clip itself may be among them
    return [data.train[k] for k in sorted(drawn) if data.train[k].id != clip.id][:ANYONES]


def usable(clips: list[Clip], data: PreparedData, anyone: bool = False) -> list[Clip]:
    """The clips that have a text short enough for their length, and another clip of their speaker (or of `anyone`) as
    reference."""
    return [clip for clip in clips if clip.text and is_sayable(clip) and references(clip, data, anyone)]


def utterances(
    clips: list[Clip],
    data: PreparedData,
    codes: Mapping[str, np.ndarray],
    anyone: bool = False,
    judged: Mapping[str, np.ndarray] | None = None,
) -> list[Utterance]:
    """The usable clips as codes.

    `judged` codes, where there are any, are the targets; clips without them are left out. Voice prompts always have the
    encoder's own codes, as they do when the model speaks: judged ones are nearer to the model's own voices and further
    from the speaker's (docs/LOG.md).
    """
    result = []
    for clip in usable(clips, data, anyone):
        if judged and clip.id not in judged:
            continue
        voices = tuple(codes[other.id] for other in references(clip, data, anyone))
        targets = judged[clip.id] if judged else codes[clip.id]
        result.append(Utterance(clip.id, clip.text, targets, voices))
    return result


def lora_model(release: Release, config: RunConfig, compute: Compute) -> Voxtral:
    """The release's LM, quantised and wrapped in LoRA, with head and decoder."""
    section = config.speaker
    model = load_model(release, parts=["lm", "head", "codec"], dtype=compute.dtype)
    for name, array in tree_flatten(model.parameters()):  # one by one, and what is large first: memory has its peak
        if not name.startswith("layers."):  # while a tensor is there both as stored and as used
            mx.eval(array)
            mx.clear_cache()
    if section.quantise.bits:
        quantise_backbone(model, section.quantise.bits)
    model.recompute = section.recompute
    lora = section.lora
    add_lora(
        model,
        rank=lora.rank,
        alpha=lora.alpha,
        targets=lora.targets,
        layers=lora.layers,
        dropout=lora.dropout,
        seed=config.seed,
    )
    mx.eval(model.parameters())
    return model


def starting_adapters(config: RunConfig, release: Release) -> dict[str, mx.array] | None:
    """What `speaker.start` holds, float32; None if it is not set.

    Raises:
        CheckpointError: no adapters, or of another model. ConfigError: of another rank, strength or other linears.
    """
    section = config.speaker
    if section.start is None:
        return None
    tensors, adapter = load_adapters(section.start)
    adapter.check_base(release.fingerprint(), config.model, section.start)
    wanted = {"rank": section.lora.rank, "alpha": section.lora.alpha, "targets": sorted(section.lora.targets)}
    there = {"rank": adapter.rank, "alpha": adapter.alpha, "targets": sorted(adapter.targets)}
    for key, value in wanted.items():
        if there[key] != value:
            raise ConfigError(f"speaker.lora.{key}: {value}, but speaker.start has {there[key]}; make them the same")
    layers = sorted({int(name.split(".")[1]) for name in tensors})
    count = release.config.backbone.n_layers
    if layers != list(range(count - (section.lora.layers or count), count)):
        raise ConfigError(f"speaker.lora.layers: speaker.start adapts {len(layers)} layers; set it to the same number")
    return tensors


def adapted_model(config: RunConfig, release: Release, compute: Compute) -> AdaptedModel:
    """`lora_model` with `speaker.start` in it, the prompt of its tokenizer, and a writer of its adapters."""
    lora, identity = config.speaker.lora, {"base": release.fingerprint()}
    adapter = AdapterConfig(lora.rank, lora.alpha, tuple(lora.targets), identity["base"])
    model = lora_model(release, config, compute)
    if (tensors := starting_adapters(config, release)) is not None:
        model.load_weights(list(tensors.items()), strict=False)
        mx.eval(model.trainable_parameters())
        identity["start"] = file_sha256(config.speaker.start / ADAPTERS)
    return AdaptedModel(
        model,
        SpeechTokenizer.of(release).prompt,
        lambda directory, tensors: save_adapters(directory, tensors, adapter),
        identity,
    )


def train_speaker(
    config: RunConfig,
    data: PreparedData,
    recovered: Recovered,
    run: Run,
) -> TrainResult:
    """Task `speaker`, or `language`, in the run's directory; `best/` holds the adapters."""
    codes, judged = recovered.codes, recovered.judged.codes
    section, release = config.speaker, run.release
    kept = _kept(config, run)
    anyone = config.adapts == "language"
    pairs = {name: utterances(getattr(data, name), data, codes, anyone, judged) for name in ("train", "heldout")}
    adapted = adapted_model(config, release, run.compute)
    task = SpeakerTask(
        adapted,
        SpeakerData(**pairs, kept=kept),
        section,
        seed=config.seed,
        name=config.adapts,
        listening=listening(config, data, codes, release.config.codec.frame_size, adapted.prompt),
    )
    settings = train_settings(section.train, config, run.compute)
    return run_trainer(task, settings, run.directory, run.reporter)


def _kept(config: RunConfig, run: Run) -> KeptPairs | None:
    """What rank 0 finds to be kept, on every rank."""
    ranks, release = run.ranks, run.release
    begun = ranks.from_first(lambda: kept_before(run.directory))
    loaded = []

    def first() -> bool:
        loaded.append(load_kept(config, release, begun=begun, reporter=run.reporter))
        return loaded[0] is not None

    keeps = ranks.from_first(first)
    return loaded[0] if loaded else load_kept(config, release, begun=keeps)


def listening(
    config: RunConfig,
    data: PreparedData,
    codes: Mapping[str, np.ndarray],
    frame_size: int,
    prompt: Callable[[str, int], list[int]],
) -> Listening | None:
    """What `speaker.listen` asks for; None without a speaker model.

    Sentences are spread over the held-out clips; each is compared with the recording that its voice is taken from.

    Raises:
        DataError: a model that cannot be had.
    """
    section = config.speaker.listen
    if (models := judges(section)) is None:
        return None
    clips = usable(data.heldout, data)
    if not clips:
        raise DataError("speaker.listen: no held-out clip has a text and another clip of its speaker to compare with")
    count = min(section.texts, len(clips))
    chosen = [clips[k * len(clips) // count] for k in range(count)]
    longest, sentences = config.speaker.reference_seconds[1], []
    for clip in chosen:
        reference = data.references(clip)[0]
        recording = reference.read(0, round(longest * SAMPLE_RATE))
        frames = -(-len(recording) // frame_size)
        sentences.append(
            Sentence(clip.id, clip.text, codes[reference.id][:, :frames], recording, codes[clip.id].shape[1])
        )
    limits = Limits(MAX_ERROR_RATE, MAX_DRIFT)
    return Listening(sentences, *models, limits, prompt, config.seed)
