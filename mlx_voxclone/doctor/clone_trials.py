"""Pieces of what a run does with its clips, timed: on made-up clips, by models of few layers at their true widths.

One has some layers and one has none: what they differ by, each of the other layers adds too. Weights are zeros; what
they hold changes neither memory nor time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlx_voxclone.adapters.lora import add_lora, quantise_backbone
from mlx_voxclone.doctor.clone_work import positions
from mlx_voxclone.doctor.forecast import BUDGET
from mlx_voxclone.doctor.pairs import LAYERS, extrapolated
from mlx_voxclone.doctor.rehearsal import Length
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.judge.judge import BATCH_TOKENS, ROUNDS, CodeJudge, Evidence
from mlx_voxclone.train.stages.compute import Compute

JUDGE, NATS, FLOW = "judge", "nats", "flow"
_COST = 6  # of a trial, in passes of one layer over its clips, for each layer
_BRIEF = 1 / 8  # of a clip, to warm up with and to see how memory grows


@dataclass(frozen=True)
class Passes:
    """What the judge needs.

    Attributes:
        layers: of the largest model that tried.
        judge, nats, flow: seconds of a position in `CodeJudge.judge`, `.nats` and `.flow_losses`; 0 where it was not
            asked for.
        rest: bytes beside the weights, in the largest batch.
    """

    layers: int
    judge: float
    nats: float
    flow: float
    rest: float


def try_passes(
    config: RunConfig,
    params: dict,
    compute: Compute,
    sequences: Sequence[Length],
    budget: float,
    methods: Sequence[str],
) -> Passes:
    """For all layers, by sequences as they are in the middle, in batches as the judge makes them.

    Args:
        budget: seconds, about; beyond, it is one clip and one layer.
        methods: which are asked for: JUDGE, by the language model quantised as for its training; NATS; FLOW.
    """
    size, layers = sorted(sequences, key=lambda one: positions([one]))[len(sequences) // 2], params["n_layers"]
    few, more = (min(n, layers) for n in LAYERS)
    quantised = JUDGE in methods
    bench = _Bench(config, params, compute, few, quantised)
    affordable = budget / (_COST * more * bench.seconds(NATS, *bench.clips(size, 1)))  # clips in a trial
    number = int(max(1, min(affordable, len(sequences), BATCH_TOKENS // positions([size]))))
    if affordable >= 1 and more > few:
        del bench  # its weights go before the others come
        bench = _Bench(config, params, compute, more, quantised)
    tried = bench.trial(size, number, methods)
    del bench
    without = _Bench(config, params, compute, 0, quantised).trial(size, number, methods)
    found = {name: extrapolated(name, (without, tried), layers) for name in (JUDGE, NATS, FLOW)}
    return Passes(tried.layers, **found, rest=tried.bytes_at(min(BATCH_TOKENS, positions(sequences))))


def time_encoding(config: VoxtralConfig, frames: int, budget: float = BUDGET) -> tuple[float, float]:
    """Seconds of encoding a frame in clips of so many, and the bytes that it takes beside the weights."""
    codec = Voxtral(config, encoder=True).audio_tokenizer
    mx.eval(codec.parameters())
    held, seconds = mx.get_active_memory(), 0.0
    mx.reset_peak_memory()
    for count in (min(2, frames), frames):  # the first one warms up, too
        samples = np.zeros(count * config.codec.frame_size, np.float32)
        began = time.perf_counter()
        codec.audio_codes(samples)
        seconds = (time.perf_counter() - began) / count
        if seconds * frames > budget:
            break
    return seconds, float(max(0, mx.get_peak_memory() - held))


def with_adapters(model: Voxtral, config: RunConfig) -> None:
    """Put adapters in, as `speaker.lora` has them."""
    lora, layers = config.speaker.lora, len(model.layers)
    adapted = min(lora.layers or layers, layers)
    add_lora(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, layers=adapted)


@dataclass(frozen=True)
class _Trial:
    """Of one model. `low`, `high`: positions, and bytes beside the weights, of a brief clip and of the batch."""

    layers: int
    judge: float
    nats: float
    flow: float
    low: tuple[int, float]
    high: tuple[int, float]

    def bytes_at(self, count: int) -> float:
        """More clips take more memory; more layers do not, as the activations of one go before the next one's come."""
        (a, less), (b, more) = self.low, self.high
        return more + (max(count, b) - b) * max(0.0, more - less) / max(1, b - a)


class _Bench:
    """A judge whose model has few layers, quantised as it is for judging or with adapters as it is for speaking."""

    def __init__(self, config: RunConfig, params: dict, compute: Compute, layers: int, quantised: bool):
        model = Voxtral(VoxtralConfig.from_dict(params | {"n_layers": max(1, layers), "vocab_size": 64}))
        model.layers = model.layers[:layers]
        for part in (*model.layers, model.norm, model.mm_audio_embeddings, model.acoustic_transformer):
            part.update(tree_map(lambda p: mx.zeros(p.shape, compute.dtype), part.parameters()))
        if not quantised and layers:
            with_adapters(model, config)
        elif quantised and config.speaker.quantise.bits:
            quantise_backbone(model, config.speaker.quantise.bits)
        mx.eval(model.parameters())
        self.layers, self.config = layers, model.config
        self.weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        audio = model.config.audio_token_id
        self.judge = CodeJudge(model, lambda text, rows: [1, *[audio] * rows, *[2] * len(text)])

    def clips(self, size: Length, number: int) -> tuple[list[Evidence], list[np.ndarray]]:
        """So many clips, all alike, and their codes."""
        rng, sizes = np.random.default_rng(0), self.config.codec.codebook_sizes
        voice, codes = (
            np.stack([rng.integers(0, n, count) for n in sizes]).astype(np.int32)
            for count in (size.voice - 1, size.frames)
        )
        latents = rng.standard_normal((size.frames, self.config.codec.latent_dim)).astype(np.float32)
        evidence = [Evidence(str(k), "t" * size.text, latents, voice) for k in range(number)]
        return evidence, [codes] * number

    def seconds(self, method: str, evidence: list[Evidence], codes: list[np.ndarray]) -> float:
        """Of one call."""
        began = time.perf_counter()
        if method == JUDGE:
            self.judge.judge(evidence, rounds=1)
            return (time.perf_counter() - began) * (ROUNDS + 1) / 2  # a pass more than rounds
        (self.judge.nats if method == NATS else self.judge.flow_losses)(evidence, codes)
        return time.perf_counter() - began

    def trial(self, size: Length, number: int, methods: Sequence[str]) -> _Trial:
        brief = Length(*(max(2, round(_BRIEF * n)) for n in (size.text, size.voice, size.frames)))
        found, points = dict.fromkeys((JUDGE, NATS, FLOW), 0.0), []
        for length, count in ((brief, 1), (size, number)):
            clips, done = self.clips(length, count), count * positions([length])
            mx.clear_cache()
            mx.reset_peak_memory()
            found |= {method: self.seconds(method, *clips) / done for method in methods}
            points.append((done, float(max(0, mx.get_peak_memory() - self.weights))))
        return _Trial(self.layers, **found, low=points[0], high=points[1])
