"""What the automatic pairs of a run will take, before it starts: small models say some frames.

As for an adaptation, two models with few layers at their true widths say some frames of the configured batch, and what
the further layers add, each of the others adds too. What will be said is known, and so is about how long it is.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlx_voxclone.bake.record import own_voices
from mlx_voxclone.checkpoint.release import WEIGHTS, Release, expected_shapes, part_of
from mlx_voxclone.doctor.forecast import BUDGET, Forecast, model_params
from mlx_voxclone.files.cache import cache_root
from mlx_voxclone.model.config import CFG_ALPHA, VoxtralConfig
from mlx_voxclone.model.generation import FrameQueue, frame_noise, read_prompts
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.pairs import make
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.judge import auto_pairs as auto
from mlx_voxclone.train.saved.rng import separate_rng
from mlx_voxclone.train.speaker.preservation import is_on
from mlx_voxclone.train.stages.compute import Compute

RELEASE_VOICES = 20  # of a model that is not there to be asked
PROMPT = 160  # positions: the release's voices have 67 to 218 rows, a sentence some 15 tokens
LAYERS = (1, 4)  # of the models that try
_SHORT = 10  # positions of a prompt where the whole would take too long
_FRAMES = (2, 12)  # that are tried, after a first one; the more the quicker they come


@dataclass(frozen=True)
class PairsPlan:
    """What is still to be made of the automatic pairs.

    Attributes:
        said, copied: sentences to be said, and those to be moved, as often as each will be.
        place: where they will be, or are.
    """

    said: list[make.Sentence]
    copied: list[make.Sentence]
    place: Path

    @property
    def missing(self) -> bool:
        """Whether there is anything to be made."""
        return bool(self.said or self.copied)

    def seconds(self, max_seconds: float) -> float:
        """Of audio, about."""
        return make.expected_seconds([*self.said, *self.copied], max_seconds)

    def nbytes(self, max_seconds: float) -> float:
        """On the disk, about."""
        return auto.BYTES_PER_SECOND * self.seconds(max_seconds)


def plan_pairs(config: RunConfig) -> PairsPlan | None:
    """What a run will make, or finds made; None if it needs no automatic pairs.

    Raises:
        VoxcloneError: see `check_automatic`.
    """
    section, path = config.encoder.pairs, Path(config.model)
    release = Release(path) if (path / WEIGHTS).is_file() else None
    at_hand = config.speaker.encoder_file is not None or (release is not None and release.has_encoder)
    for_encoder = config.task == "encoder" or (config.task == "clone" and not at_hand)
    keeps = config.task == "clone" and config.speaker.preserve.path == AUTO and is_on(config)
    if section.path != AUTO or not (for_encoder or keeps):
        return None
    if release is None:
        texts = make.read_texts(section.texts) if section.texts is not None else None
        names = [f"voice_{k}" for k in range(RELEASE_VOICES)]
        said = make.sentences(names, texts, section.per_voice, auto.SEED)
        return PairsPlan(said, said * (section.moves if for_encoder else 0), cache_root())
    if not (for_encoder or own_voices(release)):
        return None
    asked = auto.AutomaticPairs.of(config, release)
    return PairsPlan(*asked.missing(own_only=not for_encoder), asked.home)


def forecast_pairs(config: RunConfig, plan: PairsPlan, budget: float = BUDGET) -> Forecast:
    """Try to make pairs of a plan that has some to be made, on MLX's default device.

    Args:
        budget: seconds that the trials may take, about; prompts are shortened to keep to it.
    """
    section, params = config.encoder.pairs, model_params(config.model)
    whole, dtype = VoxtralConfig.from_dict(params), Compute.of(config).dtype
    layers, rate = whole.backbone.n_layers, whole.codec.frame_rate
    with separate_rng(0):
        trials = [try_frames(params, dtype, min(n, layers), section.batch, budget) for n in LAYERS]
        decoding = time_decoding(whole)
        parts = _parts(whole, dtype, section.batch, round(section.max_seconds * rate))
    mx.clear_cache()
    prompt, frame = (extrapolated(name, trials, layers) for name in ("prompt_seconds", "frame_seconds"))
    audio = plan.seconds(section.max_seconds) * rate
    total = len(plan.said) * prompt + _rounds(plan.said, section.batch, section.max_seconds, rate) * frame
    parts["activations and the rest"] = max(trial.rest for trial in trials)
    note = f"{len(plan.said)} sentences to be said, {len(plan.copied)} to be moved; tried with {trials[-1].layers} of"
    note += f" {layers} layers"
    steps = max(1, round(audio))
    return Forecast("pairs", parts, total / steps + decoding, steps, note, "frame")


@dataclass(frozen=True)
class FramesTrial:
    """What `try_frames` found."""

    layers: int
    prompt_seconds: float  # of one prompt
    frame_seconds: float  # of a frame of all sentences of a batch
    rest: float  # bytes beside weights and cache


def try_frames(
    params: dict,
    dtype: mx.Dtype,
    layers: int,
    batch: int,
    budget: float,
    change: Callable[[Voxtral], object] = lambda model: None,
) -> FramesTrial:
    """A batch of prompts, and frames behind them, by a model of so many layers whose weights are zeros.

    `change` makes of that model the one that will speak.
    """
    few = params | {"n_layers": layers, "vocab_size": min(params["vocab_size"], 64)}
    model = Voxtral(VoxtralConfig.from_dict(few))
    del model.audio_tokenizer
    model.update(tree_map(lambda p: mx.zeros(p.shape, dtype), model.parameters()))
    change(model)
    model.merge()
    mx.eval(model.parameters())
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))

    def read(length: int, count: int) -> tuple:
        began = time.perf_counter()
        found = read_prompts(model, [mx.zeros((length, params["dim"]), dtype)] * count)
        return *found, (time.perf_counter() - began) / count

    mx.reset_peak_memory()
    read(_SHORT, 1)
    *_, seconds = read(_SHORT, 1)
    brief = seconds * PROMPT / _SHORT * batch > budget / 2
    length = _SHORT if brief else PROMPT
    hidden, cache, seconds = read(length, batch)
    noise = mx.concatenate([next(frame_noise(0, model.config.codec.acoustic_dim))] * batch)
    queue = FrameQueue(model, cache, None, CFG_ALPHA)
    codes = queue.first(hidden, noise)
    mx.eval(codes)
    durations: list[float] = []
    while len(durations) < _FRAMES[0] or (len(durations) < _FRAMES[1] and sum(durations) < budget / 4):
        began = time.perf_counter()
        codes = queue.after(codes, noise)
        mx.eval(codes)
        durations.append(time.perf_counter() - began)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)
    rest = max(0.0, mx.get_peak_memory() - weights - held)
    return FramesTrial(layers, seconds * PROMPT / length, float(np.median(durations)), rest)


def time_decoding(config: VoxtralConfig) -> float:
    """Seconds of decoding a frame."""
    codec = Voxtral(config).audio_tokenizer
    codec.update(tree_map(lambda p: mx.zeros(p.shape, mx.float32), codec.parameters()))
    mx.eval(codec.parameters())
    seconds = math.inf
    for frames in (2, 25):
        codes = np.zeros((config.codec.n_codebooks, frames), np.int32)
        began = time.perf_counter()
        codec.decode_audio(codes)
        seconds = min(seconds, (time.perf_counter() - began) / frames)
        if seconds > 0.1:  # a slow machine: the sum over frames is what it is
            break
    return seconds


def extrapolated(name: str, trials: Sequence, layers: int) -> float:
    """What trials of few layers say of a time of theirs with all layers: attribute `name`, beside `layers`."""
    few, more = trials[0], trials[-1]
    if more.layers == few.layers:
        return getattr(more, name)
    per_layer = (getattr(more, name) - getattr(few, name)) / (more.layers - few.layers)
    return getattr(more, name) + (layers - more.layers) * max(0.0, per_layer)


def _rounds(said: list[make.Sentence], batch: int, max_seconds: float, rate: float) -> float:
    """Frames of all batches, each as long as its longest sentence."""
    parts = [said[k : k + batch] for k in range(0, len(said), batch)]
    return sum(max(make.expected_seconds([s], max_seconds) for s in part) * rate for part in parts)


def _parts(config: VoxtralConfig, dtype: mx.Dtype, batch: int, frames: int) -> dict[str, float]:
    """Bytes of what is in memory."""
    width, backbone = float(dtype.size), config.backbone
    sizes = {"language model": 0.0, "flow head": 0.0, "codec decoder": 0.0}
    for name, shape in expected_shapes(config, ["lm", "head", "decoder"]).items():
        part = {"lm": "language model", "head": "flow head", "decoder": "codec decoder"}[part_of(name)]
        sizes[part] += float(np.prod(shape)) * (4.0 if part == "codec decoder" else width)
    positions = batch * (PROMPT + frames)
    sizes["keys and values"] = 2 * width * backbone.n_layers * backbone.n_kv_heads * backbone.head_dim * positions
    return sizes
