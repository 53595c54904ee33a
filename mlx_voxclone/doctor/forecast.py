"""Memory and time of a training before it starts: small real steps of it, and what they say of the whole.

A speaker training is tried with two and three layers of the language model at their true widths and the longest
sequences it may meet; what the third layer adds, each of the others adds too. An encoder training is tried with the
whole codec on some seconds of sound, more and more as far as the time goes, and continued in a straight line: its
attention is windowed, so all of it grows with the length. Weights are random or zero; what they hold changes neither
memory nor time.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.names import TARGETS
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, TEKKEN, Release, expected_shapes, part_of
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.data.options import LETTERS_PER_SECOND
from mlx_voxclone.doctor.preservation import kept_bytes, kept_cost, preserves
from mlx_voxclone.doctor.rehearsal import Length, encoder_task, optimiser_step, speaker_task
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.widths import GROUP_SIZE
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.fields import TrainSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Loader
from mlx_voxclone.train.loop.optimizers.groups import Optimizers
from mlx_voxclone.train.loop.task import Task, parameter_groups
from mlx_voxclone.train.saved.rng import kept_rng
from mlx_voxclone.train.stages.compute import Compute

BUDGET, _PATIENCE = 10.0, 6  # seconds of trying, per stage; so many times it, if memory does not yet grow in a line
TOKENS_PER_LETTER = 0.25  # of the release's tokenizer, where it is not there to be asked
TEXT = "The quick brown fox jumps over the lazy dog, and so say all of us, whatever it may mean."
PAIR_COST = 0.55  # of the time of a recording: 0.183 s against 0.337 s in the recovery benchmark (docs/LOG.md)
_STEPS = 2  # per size; the first one also warms up
# Seconds of audio from which on activations decide what memory an encoder's step takes. Below, gradients and the
# optimiser do, and a line through two such trials is straight and far too low (docs/LOG.md).
_LEAST_AUDIO = 4.0
_PROBE = 1 / 16  # of the longest sequence, to see how long a trial will take


@dataclass(frozen=True)
class Forecast:
    """Of one stage.

    Args:
        stage: `pairs`, `speaker`, one of `doctor/encoder.py` or of `doctor/clone.py`.
        parts: bytes by what they are for; they sum up to `peak`.
        step_seconds: of one optimiser step, with items of the greatest length.
        steps: of the training; 0 where epochs decide.
        note: what was tried.
        unit: what `steps` counts.
        settings: dotted key of the section that says how a training goes, such as `encoder.refine`.
    """

    stage: str
    parts: dict[str, float]
    step_seconds: float
    steps: int
    note: str = ""
    unit: str = "step"
    settings: str = ""

    @property
    def peak(self) -> float:
        """Bytes of MLX's memory at the worst moment."""
        return sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """Of the whole stage; 0 where epochs decide."""
        return self.steps * self.step_seconds


@dataclass(frozen=True)
class Trial:
    """What `_STEPS` optimiser steps took: MLX's peak (bytes) while gradients are computed and while parameters are
    moved, which may grow differently with the size; the time of a micro-batch (seconds)."""

    size: float
    peak: float
    moving_peak: float
    seconds: float


def model_params(model: str | Path) -> dict:
    """`params.json` of a model directory; of the release, where it is not there yet (a hub id).

    Raises:
        CheckpointError: a model that is quantised. ConfigError: see `VoxtralConfig.from_file`.
    """
    path = Path(model)
    if path.is_dir():
        release = Release(path)
        release.check_full("training")
        return release.config.raw
    return params_json(PRESETS["full"], {})


def forecast(config: RunConfig, stage: str, budget: float = BUDGET) -> Forecast:
    """Try a stage of a configuration on MLX's default device.

    Args:
        config: of the run.
        stage: `encoder` or `speaker`.
        budget: seconds that the trials of a stage may take; beyond, an encoder's are not made any larger, and a
            speaker's are one step with one micro-batch each, without a first one to warm up.
    """
    params, compute = model_params(config.model), Compute.of(config)
    with kept_rng():
        try:
            return (_encoder if stage == "encoder" else _speaker)(config, params, compute, budget)
        finally:
            mx.clear_cache()


def true_step(config: RunConfig, stage: str) -> Trial:
    """Steps at the true sizes, whose peak is to be compared with `forecast`'s: what no trial holds (the text's
    embedding, the decoder beside the language model) is added to it."""
    params, compute = model_params(config.model), Compute.of(config)
    with kept_rng():
        if stage == "encoder":
            section = config.encoder
            return _encoder_trial(config, params, compute, section.crop_seconds, section.train.batch_size)
        micro = min(2, config.speaker.train.accumulate)
        found = _speaker_trial(config, params, compute, params["n_layers"], steps=_STEPS, micro=micro)
        absent = _not_tried(speaker_weights(params, config, compute), params)
        return replace(found, peak=found.peak + absent, moving_peak=found.moving_peak + absent)


def _not_tried(parts: dict[str, float], params: dict) -> float:
    """Bytes of a speaker training that its trials do not hold."""
    text = params["vocab_size"] / (params["vocab_size"] + _table_rows(params))
    return parts["embeddings"] * text + parts["codec decoder"]


def _try(task: Task, settings: TrainSettings, size: float, steps: int = _STEPS) -> Trial:
    """Optimiser steps as the trainer makes them."""
    mx.clear_cache()
    masters = Masters(task, settings.precision)
    optimizers = Optimizers(masters.values, settings, parameter_groups(task))
    mx.eval(optimizers.state)  # as from the second step on
    durations, peaks, moving = [], [], 0
    gradients = Gradients(task, masters)

    def peak() -> int:
        found = mx.get_peak_memory()
        mx.reset_peak_memory()
        return found

    with Loader(
        task, batch_size=settings.batch_size, accumulate=settings.accumulate, seed=0, position=(0, 0), step=0
    ) as loader:
        for step in range(steps):
            group = loader.next()
            began = time.perf_counter()
            mx.reset_peak_memory()
            optimiser_step(
                gradients, masters, optimizers, group, step, _STEPS + 1, between=lambda: peaks.append(peak())
            )
            moving = max(moving, peak())
            durations.append((time.perf_counter() - began) / len(group.batches))
    return Trial(size, float(max(peaks)), float(moving), min(durations))


def _peak(trials: list[Trial], size: float) -> float:
    """Bytes at another size, on the line through the two largest trials: memory repeats to the byte.

    Layers add to what it takes to move parameters too, audio does not; the line knows.
    """
    a, b = trials[-2:]
    steps = (size - a.size) / (b.size - a.size)
    return max(x + steps * (y - x) for x, y in ((a.peak, b.peak), (a.moving_peak, b.moving_peak)))


def _straight(trials: list[Trial]) -> bool:
    """Whether the last three lie on a line, to a tenth: below some size, activations are not what decides."""
    if len(trials) < 3:
        return False
    a, b, c = trials[-3:]
    slopes = (b.peak - a.peak) / (b.size - a.size), (c.peak - b.peak) / (c.size - b.size)
    return abs(slopes[1] - slopes[0]) <= 0.1 * abs(slopes[1])


def _settings(section, compute: Compute, batch_size: int) -> TrainSettings:
    return TrainSettings(
        steps=_STEPS + 1,
        batch_size=batch_size,
        accumulate=min(2, section.accumulate),
        learning_rate=1e-6,
        precision=compute.precision,
    )


# --- encoder ----------------------------------------------------------------------------------------------------------


def _encoder(config: RunConfig, params: dict, compute: Compute, budget: float) -> Forecast:
    section, train = config.encoder, config.encoder.train
    codec_config = VoxtralConfig.from_dict(params).codec
    whole = section.crop_seconds * train.batch_size  # seconds of audio in memory at once
    # One item at a time, then several: what a batch adds is what a longer crop would.
    sizes = [s for s in (0.125, 0.25, 0.5, 1.0) if s * section.crop_seconds >= codec_config.frame_size / SAMPLE_RATE]
    plan = [(s * section.crop_seconds, 1) for s in sizes or [1.0]]
    plan += [(section.crop_seconds, n) for n in (2, 4, 8, 16, 32) if n <= train.batch_size]
    telling = [(crop, batch) for crop, batch in plan if crop * batch >= _LEAST_AUDIO]
    plan = telling if len(telling) > 1 else plan[-2:]
    trials, began = [], time.perf_counter()
    for crop, batch in plan:
        trials.append(_encoder_trial(config, params, compute, crop, batch))
        spent = 2.5 * (time.perf_counter() - began)  # with the next one
        if len(trials) > 1 and (spent > _PATIENCE * BUDGET or (spent > budget and _straight(trials))):
            break
    if len(trials) == 1:
        trials.insert(0, Trial(0.0, trials[0].peak, trials[0].moving_peak, 0.0))
    peak = _peak(trials, whole)
    seconds = trials[-1].seconds * whole / trials[-1].size  # in proportion: times scatter, and a line would lever that
    weights = _encoder_weights(params, compute)
    trained = weights.pop("trained")
    parts = {**weights, "encoder, gradients, optimiser": (4 + (train.accumulate > 1)) * 4.0 * trained}
    parts["activations and the rest"] = max(0.0, peak - sum(parts.values()))
    seconds *= train.accumulate * share_cost(section)
    note = f"tried up to {trials[-1].size:g} s of the {whole:g} s of audio in a batch"
    if section.distillation.enabled:
        note += "; without the Whisper, which is heard before the training and then unloaded"
    return Forecast("encoder", parts, seconds, planned_steps(train), note, settings="encoder.train")


def share_cost(section: EncoderSection) -> float:
    """Time of a step, as a share of that of a step on recordings alone: pairs are not decoded."""
    share = section.pairs.share if section.pairs.path else 0.0
    return 1 - share * (1 - PAIR_COST)


def _encoder_trial(config: RunConfig, params: dict, compute: Compute, crop: float, batch: int) -> Trial:
    section = config.encoder
    count = batch * min(2, section.train.accumulate)
    distillation = section.distillation.model_copy(update={"enabled": False})
    pairs = section.pairs.model_copy(update={"path": []})
    judges = section.discriminators.model_copy(update={"warmup_steps": 0})
    changes = {"crop_seconds": crop, "pairs": pairs, "distillation": distillation, "discriminators": judges}
    section = section.model_copy(update=changes)
    task = encoder_task(params, section, compute.dtype, [crop] * count)
    return _try(task, _settings(section.train, compute, batch), crop * batch)


def encoder_size(model: str | Path) -> float:
    """Parameters of a model's encoder."""
    return _encoder_weights(model_params(model), Compute("bf16"))["trained"]


def _encoder_weights(params: dict, compute: Compute) -> dict[str, float]:
    shapes = expected_shapes(VoxtralConfig.from_dict(params), ["decoder", "encoder"])
    sizes = {part: sum(np.prod(s) for n, s in shapes.items() if part_of(n) == part) for part in ("decoder", "encoder")}
    width = 4.0 if compute.precision == "float32" else 2.0
    return {"codec decoder": width * sizes["decoder"], "trained": float(sizes["encoder"])}


# --- speaker ----------------------------------------------------------------------------------------------------------


def _speaker(config: RunConfig, params: dict, compute: Compute, budget: float) -> Forecast:
    section, layers = config.speaker, params["n_layers"]
    adapted = min(section.lora.layers or layers, layers)
    micro = min(2, section.train.accumulate)
    # The last layer is not like the others: it computes what predicts alone.
    sizes = sorted({min(adapted, 2), min(adapted, 3)})
    probe = _speaker_trial(config, params, compute, sizes[0], steps=1, micro=1, share=_PROBE).seconds / _PROBE
    brief = probe * _STEPS * micro * len(sizes) > budget
    plan = {"steps": 1, "micro": 1} if brief else {"steps": _STEPS, "micro": micro}
    trials = [_speaker_trial(config, params, compute, n, **plan) for n in sizes]
    if len(trials) == 1:
        trials.insert(0, Trial(0.0, trials[0].peak, trials[0].moving_peak, 0.0))
    parts = speaker_weights(params, config, compute)
    own = parts["language model's linears"] / layers
    # Layers below the adapted ones have weights, and a forward pass alone: a third of the time, and nothing is kept.
    below = layers - adapted
    peak = _peak(trials, adapted) + below * own + _not_tried(parts, params)
    if brief and micro > 1:  # the sum over micro-batches, which a single one has not
        peak += parts["adapters, gradients, optimiser"] / 5
    first, last = trials[-2].seconds, trials[-1].seconds
    per_layer = max(last - first, last / 10)
    seconds = last + (adapted - trials[-1].size + below / 3) * per_layer
    if kept := preserves(config):
        seconds *= 1 + kept_cost(config, layers)
        parts["what is kept of the own voices"] = kept_bytes(config, params, compute, longest_sequence(config))
        peak += parts["what is kept of the own voices"]
    known = sum(parts.values())
    parts["activations and the rest"] = max(0.0, peak - known)
    tokens = sum(longest_sequence(config)[key] for key in ("text", "voice", "frames"))
    note = f"tried with {trials[-1].size} of {layers} layers, sequences of up to {tokens} positions"
    if kept:
        note += f"; {config.speaker.preserve.share:.0%} of the items keep the model's own voices"
    seconds *= section.train.accumulate
    return Forecast("speaker", parts, seconds, planned_steps(section.train), note, settings="speaker.train")


def _table_rows(params: dict) -> int:
    """Rows of the audio codebooks' table."""
    return VoxtralConfig.from_dict(params).codec.table_rows


def frame_rate(params: dict) -> float:
    """Frames per second of a model's codec."""
    return VoxtralConfig.from_dict(params).codec.frame_rate


def planned_steps(train: TrainSection) -> int:
    """Steps of a training; 0 where epochs decide."""
    return 0 if train.epochs else train.steps


def longest_sequence(config: RunConfig) -> dict[str, int]:
    """Positions of the longest sequence, at the codec's frame rate."""
    section, rate = config.speaker, frame_rate(model_params(config.model))
    frames, voice = (int(seconds * rate) for seconds in (section.max_seconds, section.reference_seconds[1]))
    letters = section.max_seconds * LETTERS_PER_SECOND
    return {"text": int(letters * tokens_per_letter(config.model)), "voice": voice + 1, "frames": frames}


def tokens_per_letter(model: str | Path) -> float:
    """Of a model's tokenizer in English text."""
    path = Path(model)
    if not (path / TEKKEN).is_file():
        return TOKENS_PER_LETTER
    tokenizer = SpeechTokenizer(path / TEKKEN, VoxtralConfig.from_file(path).backbone.vocab_size)
    return (len(tokenizer.prompt(TEXT, 1)) - len(tokenizer.prompt("T", 1))) / (len(TEXT) - 1)


def _speaker_trial(
    config: RunConfig, params: dict, compute: Compute, layers: int, *, steps: int, micro: int, share: float = 1.0
) -> Trial:
    """`share`: of the length of the longest sequence."""
    section, whole = config.speaker, longest_sequence(config)
    size = Length(**{name: max(2, round(share * count)) for name, count in whole.items()})
    seconds = size.voice / frame_rate(params)
    fitting = section.model_copy(update={"reference_seconds": [seconds, seconds]})
    batch = section.train.batch_size
    task = speaker_task(params | {"n_layers": layers}, fitting, compute.dtype, [size] * batch * micro)
    settings = _settings(section.train, compute, batch).model_copy(update={"accumulate": micro})
    return _try(task, settings, layers, steps)


def speaker_weights(params: dict, config: RunConfig, compute: Compute) -> dict[str, float]:
    """Bytes of what an adaptation holds, by part."""
    shapes = expected_shapes(VoxtralConfig.from_dict(params), ["lm", "head", "decoder"])
    width = 4.0 if compute.precision == "float32" else 2.0
    section, parts = config.speaker, dict.fromkeys(("language model's linears", "embeddings", "flow head"), 0.0)
    parts |= {"codec decoder": 0.0, "adapters, gradients, optimiser": 0.0}
    bits, lora = section.quantise.bits, section.lora
    first = params["n_layers"] - min(lora.layers or params["n_layers"], params["n_layers"])
    for name, shape in shapes.items():
        count, leaf = float(np.prod(shape)), name.split(".")[-2]
        if name.startswith("layers.") and leaf in TARGETS:
            parts["language model's linears"] += count * (bits / 8 + 2 * width / GROUP_SIZE) if bits else count * width
            if leaf in lora.targets and int(name.split(".")[1]) >= first:
                # value, gradient, its sum over micro-batches, two moments
                parts["adapters, gradients, optimiser"] += 20.0 * lora.rank * sum(shape)
        elif name.startswith(CODEC_PREFIX):
            parts["codec decoder"] += 4.0 * count
        else:
            parts["flow head" if part_of(name) == "head" else "embeddings"] += width * count
    return parts
