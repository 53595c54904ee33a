"""Time and memory of what a run does with its clips beside the trainings: small real trials, added up.

Encoding the clips, judging them, scoring candidates for the voice, speaking what is compared. As for an adaptation, two
models with few layers at their true widths do it (`doctor/clone_trials.py`), and what the further layers
add, each of the others adds too.
"""

import mlx.core as mx
import numpy as np

from mlx_voxclone.data.expected import expected_data
from mlx_voxclone.doctor.clone_trials import FLOW, JUDGE, NATS, Passes, time_encoding, try_passes, with_adapters
from mlx_voxclone.doctor.clone_work import Work, planned_work, positions
from mlx_voxclone.doctor.forecast import (
    BUDGET,
    Forecast,
    encoder_size,
    model_params,
    speaker_weights,
    tokens_per_letter,
)
from mlx_voxclone.doctor.pairs import LAYERS, extrapolated, time_decoding, try_frames
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.clone.deliver import FINALISTS
from mlx_voxclone.train.judge.judge import ROUNDS
from mlx_voxclone.train.judge.text_gain import GROUP
from mlx_voxclone.train.saved.rng import separate_rng
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.stage import prepare_options

CODES, JUDGING, VOICE, DELIVERY = "codes", "judging", "voice", "delivery"
SPEAKER = "speaker"  # the training between them
CANDIDATES = 2  # that are measured: the released model and the adapted one


def plan_clips(config: RunConfig, trains_encoder: bool) -> tuple[Work, str] | None:
    """What a run will do with its clips, and what is known of them; None for a task that has no such stages.

    Raises:
        DataError: recordings that cannot be used, see `expected_data`.
    """
    if config.task not in ("clone", "speaker", "language"):
        return None
    data, note = expected_data(config.data.path, prepare_options(config))
    codec, letters = VoxtralConfig.from_dict(model_params(config.model)).codec, tokens_per_letter(config.model)
    return planned_work(config, data, codec, trains_encoder=trains_encoder, tokens_per_letter=letters), note


def in_order(trainings: list[Forecast], clips: list[Forecast]) -> list[Forecast]:
    """Clips are encoded and judged before the language model is adapted, and the voice is chosen after that."""
    before = [stage for stage in clips if stage.stage in (CODES, JUDGING)]
    first = [stage for stage in trainings if stage.stage != SPEAKER]
    return [*first, *before, *(stage for stage in trainings if stage.stage == SPEAKER), *clips[len(before) :]]


def forecast_clips(config: RunConfig, work: Work, note: str, budget: float = BUDGET) -> list[Forecast]:
    """Try it on MLX's default device.

    Args:
        work: what there is to do.
        note: what is known of the clips.
        budget: seconds that the trials of a stage may take, about; sequences are shortened to keep to it.

    Returns:
        Stages `codes` and, where there are clips to judge, `judging`; in task `clone` also `voice` and `delivery`.
    """
    params, compute = model_params(config.model), Compute.of(config)
    whole = VoxtralConfig.from_dict(params)
    with separate_rng(0):
        encoding, encoder_rest = time_encoding(whole, round(float(np.median(work.frames))), budget)
        coder = {"codec": 4.0 * _decoder_size(params, config), "encoder": 4.0 * encoder_size(config.model)}
        found = [_codes(work, encoding, {**coder, "activations and the rest": encoder_rest}, note)]
        if work.judged:
            passes = try_passes(config, params, compute, work.judged, budget, (JUDGE, NATS))
            found.append(
                _judging(work, passes, encoding, _weights(config, params, compute, coder, quantised=True), note)
            )
        if work.said:
            passes = try_passes(config, params, compute, work.scored, budget, (NATS, FLOW))
            weights = _weights(config, params, compute, coder, quantised=False)
            found.append(_voice(work, passes, weights))
            found.append(_delivery(config, params, compute, work, passes, encoding, weights, budget))
    mx.clear_cache()
    return found


def _codes(work: Work, encoding: float, parts: dict[str, float], note: str) -> Forecast:
    steps = work.encoders * len(work.frames)
    seconds = work.encoders * sum(work.frames) * encoding
    return Forecast(CODES, parts, seconds / steps, steps, f"{note}{_times(work)}", "clip")


def _judging(work: Work, passes: Passes, encoding: float, weights: dict[str, float], note: str) -> Forecast:
    checks = 2 * (len(work.judged) > 1)  # behind the own text and another one
    seconds = positions(work.judged, GROUP) * (passes.judge + checks * passes.nats)
    seconds += sum(one.frames for one in work.judged) * encoding
    parts, steps = {**weights, "activations and the rest": passes.rest}, work.encoders * len(work.judged)
    told = (
        f"{note}, {ROUNDS + 1 + checks} passes of the language model{_times(work)}; tried with {passes.layers} layers"
    )
    return Forecast(JUDGING, parts, work.encoders * seconds / steps, steps, told, "clip")


def _times(work: Work) -> str:
    return f", up to {work.encoders} times" if work.encoders > 1 else ""


def _voice(work: Work, passes: Passes, weights: dict[str, float]) -> Forecast:
    clips, steps = len(work.scored) // work.candidates, CANDIDATES * work.candidates
    speaking = min(FINALISTS, work.candidates) / work.candidates  # share of them
    each = passes.nats + speaking * (passes.nats + passes.flow)
    seconds = CANDIDATES * positions(work.scored, clips) * each
    note = f"{work.candidates} candidates scored with {clips} held-out clips, by the model with and without adapters"
    return Forecast(
        VOICE, {**weights, "activations and the rest": passes.rest}, seconds / steps, steps, note, "candidate"
    )


def _delivery(
    config: RunConfig,
    params: dict,
    compute: Compute,
    work: Work,
    passes: Passes,
    encoding: float,
    weights: dict[str, float],
    budget: float,
) -> Forecast:
    """All sentences of a voice are said in one batch, which goes on until the last one has ended; what was said is read
    behind its text and behind another one."""
    layers, count, whole = params["n_layers"], len(work.said), VoxtralConfig.from_dict(params)
    trials = [
        try_frames(params, compute.dtype, min(n, layers), count, budget, lambda model: with_adapters(model, config))
        for n in LAYERS
    ]
    prompt, frame = (extrapolated(name, trials, layers) for name in ("prompt_seconds", "frame_seconds"))
    longest, frames = max(one.frames for one in work.said), sum(one.frames for one in work.said)
    seconds = count * prompt + longest * frame + 2 * positions(work.said) * passes.nats
    seconds += frames * (time_decoding(whole) + encoding)
    held = whole.backbone.n_kv_heads * whole.backbone.head_dim * layers
    longest_prompt = max(one.text + one.voice for one in work.said)
    kept = 2.0 * compute.dtype.size * held * count * (longest_prompt + longest)
    parts = {**weights, "keys and values": kept}
    parts["activations and the rest"] = max(passes.rest, *(trial.rest for trial in trials))
    voices = min(FINALISTS, work.candidates)
    note = f"{count} sentences as long as their recordings, behind {voices} voices, with and without adapters"
    return Forecast(DELIVERY, parts, seconds / count, CANDIDATES * voices * count, note, "sentence")


def _decoder_size(params: dict, config: RunConfig) -> float:
    return speaker_weights(params, config, Compute("float32"))["codec decoder"] / 4


def _weights(
    config: RunConfig, params: dict, compute: Compute, coder: dict[str, float], *, quantised: bool
) -> dict[str, float]:
    """Bytes of the weights, by part: judging quantises the language model as its training does; speaking does not, and
    has the adapters."""
    section = config.speaker
    if not quantised:
        plain = section.model_copy(update={"quantise": section.quantise.model_copy(update={"bits": 0})})
        config = config.model_copy(update={"speaker": plain})
    parts = speaker_weights(params, config, compute)
    adapters = parts.pop("adapters, gradients, optimiser") / 5
    parts.pop("codec decoder")
    return {**parts, **coder} | ({} if quantised else {"adapters": adapters})
