"""One optimiser step of task `speaker`, in turns with a step of mlx-lm's LoRA trainer on a model of the same shapes.

Ours is what the trainer does with task `speaker`: voice rows, text and frames as one sequence, the quantised language
model with LoRA, the semantic logits of the positions that predict one, the flow-matching head, gradients of A and B,
clipping, AdamW. Weights are random numbers; what a step costs does not depend on them.

mlx-lm's is its `default_loss` and `iterate_batches` in a step as its `train` makes it (AdamW, no clipping), on its
llama of the same widths, depth, rotation and quantisation, LoRA of the same rank on the same linears, and sequences of
the same lengths. It has one logit per row of its vocabulary at every position, and no flow head. Its embedding stays
unquantised, as ours does. On the CPU nothing is compiled on either side, and mlx-lm's trainer is timed twice there: as
it is, and with quantised linears that dequantise before they multiply, which it does not have, to see what else makes
the difference.

A token is a real position of a sequence: what is padded does not count.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.bench.measure import Peer, Row, peer_module, product_rate, taking_turns
from mlx_voxclone.doctor.rehearsal import Length, optimiser_step, speaker_task
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Group, Loader
from mlx_voxclone.train.loop.optimizers.groups import Optimizers

# Clips of 3 to 16 seconds behind references of 5 to 20, fifteen letters of text a second.
LENGTHS = tuple(
    Length(text=t, voice=v, frames=f)
    for t, v, f in ((20, 64, 40), (55, 201, 110), (30, 127, 64), (75, 251, 200), (45, 88, 93), (60, 230, 150))
)


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of the matrix products of one step, two per multiply-add.

    A frozen linear takes one product forward and one backward, for the gradient of its input; the rank of LoRA takes
    two forward and four backward; both products of attention take two backward each. With `recompute` the layers'
    forward products are done again. Left out are norms, softmax, activations, AdamW, and dequantising.
    """

    linears: int
    lora: int
    attention: int
    logits: int
    flow_head: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def measure_lora_step(
    params: dict,
    *,
    lengths: Sequence[Length] = LENGTHS,
    batch_size: int = 1,
    peer: bool = True,
    repeats: int = 5,
) -> Row:
    """Time one optimiser step over sequences of `lengths`.

    Args:
        params: a `params.json`, such as `micro_layout.params_json(PRESETS["small"], {})`; or the release's widths with
            another `n_layers`.
        lengths: of the sequences; all of them make one step, in micro-batches of `batch_size`.
        peer: time mlx-lm as well, where the repository is (`benchmarks/peers/mlx_lm_lora.py`); with a vocabulary of as
            many rows as ours has semantic logits, which favours it.
        repeats: timed steps of each after a first one.

    Raises:
        ConfigError: lengths that do not make whole micro-batches (mlx-lm would leave some out), or a quantisation that
            mlx-lm's trainer has not.
    """
    if not lengths or len(lengths) % batch_size:
        raise ConfigError(f"{len(lengths)} sequences do not make whole micro-batches of {batch_size}")
    on_cpu = mx.default_device() == mx.cpu
    dtype = mx.float32 if on_cpu else mx.bfloat16
    config = VoxtralConfig.from_dict(params)
    section = _allowing(SpeakerSection(), lengths, config.codec.frame_rate)
    held = {"": mx.get_active_memory()}  # after each of them was made
    ours, operations, padded = _ours(params, section, dtype, lengths, batch_size)
    works: dict[str, Callable[[], object]] = {"ours": ours}
    held["ours"] = mx.get_active_memory()
    rows, theirs = config.codec.semantic_logits, peer_module("mlx_lm_lora") if peer else None
    if theirs is not None:
        name = f"mlx-lm {version('mlx-lm')}, {rows} rows of vocabulary"
        for direct in (False, True)[: 1 + (on_cpu and section.quantise.bits > 0)]:
            which = f"{name}, dequantising as ours" if direct else name
            works[which] = theirs.lora_step(config, section, dtype, lengths, batch_size, rows, direct)
            held[which] = mx.get_active_memory()
    with _compiled_nowhere(on_cpu):
        found = taking_turns(works, repeats)
    # All of them are in memory together; each is to be told what it would take alone.
    names, total = list(held), mx.get_active_memory()
    for before, name in itertools.pairwise(names):
        others = total - (held[name] - held[before])
        found[name] = replace(found[name], peak=found[name].peak - others)
    rate, cpu_rate = product_rate(dtype=dtype)
    mine = found.pop("ours")
    tokens = sum(positions(n) for n in lengths)
    seconds = mine.cpu_seconds if on_cpu else mine.seconds
    backbone, lora = config.backbone, section.lora
    what = (
        f"{backbone.n_layers} layers of {backbone.dim}, {section.quantise.bits or 'no'} bits, rank {lora.rank}, "
        f"{len(lengths)} sequences of {min(map(positions, lengths))} to {max(map(positions, lengths))} positions, "
        f"{batch_size} at a time{', recomputed' if section.recompute else ''}, {str(dtype).removeprefix('mlx.core.')}"
    )
    speeds = {n: tokens / (s.cpu_seconds if on_cpu else s.seconds) for n, s in found.items()}
    return Row(
        name="lora step",
        what=what,
        speed=tokens / seconds,
        unit="tokens/s",
        seconds=mine.seconds,
        cpu_seconds=mine.cpu_seconds,
        peak=mine.peak,
        share=operations.total / (cpu_rate if on_cpu else rate) / seconds,
        peers=[Peer(n, s.seconds, s.cpu_seconds, s.peak, "MLX's memory") for n, s in found.items()],
        more={
            "tokens": tokens,
            "positions": padded,
            "operations": asdict(operations) | {"total": operations.total},
            "logits": config.codec.semantic_logits,
            "peer_vocabulary": rows if theirs is not None else None,
            "peer_tokens_per_second": speeds,
            "times_as_fast": {n: tokens / seconds / speed for n, speed in speeds.items()},
            "times_the_memory": {n: mine.peak / s.peak for n, s in found.items()},
        },
    )


def positions(length: Length) -> int:
    """Inputs of a sequence: `<s>`, the voice, the text, the frames."""
    return 1 + length.voice + length.text + length.frames


def _allowing(section: SpeakerSection, lengths: Sequence[Length], rate: float) -> SpeakerSection:
    """The section, with limits that leave the lengths as they are."""
    longest = max(n.frames for n in lengths) + 1
    voices = max(n.voice for n in lengths)
    return section.model_copy(
        update={"max_seconds": longest / rate, "reference_seconds": [voices / rate, (voices + 1) / rate]}
    )


@contextmanager
def _compiled_nowhere(off: bool) -> Iterator[None]:
    if not off:
        yield
        return
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


# --- ours -------------------------------------------------------------------------------------------------------------


def _ours(
    params: dict, section: SpeakerSection, dtype: mx.Dtype, lengths: Sequence[Length], batch_size: int
) -> tuple[Callable[[], object], Operations, int]:
    """A step to be called again and again, what it computes, and the positions of its batches."""
    task = speaker_task(params, section, dtype, lengths, drawn=True)
    settings = TrainSettings(
        steps=1000,
        batch_size=batch_size,
        accumulate=len(lengths) // batch_size,
        learning_rate=1e-6,
        precision="float32" if dtype == mx.float32 else "bf16",
    )
    masters = Masters(task, settings.precision)
    gradients, optimizers = Gradients(task, masters), Optimizers(masters.values, settings)
    mx.eval(optimizers.state)
    with Loader(task, batch_size=batch_size, accumulate=settings.accumulate, seed=0) as loader:
        group = loader.next()
    operations = count_operations(task.model, section, group)
    positions = sum(micro.batch.ids.size for micro in group.batches)
    return lambda: optimiser_step(gradients, masters, optimizers, group, 0, 1000), operations, positions


def count_operations(model: nn.Module, section: SpeakerSection, group: Group) -> Operations:
    """Of one step over a group, from the shapes of the model and of its batches."""
    linears = lora = attention = logits = flow = 0
    first = len(model.layers) - min(section.lora.layers or len(model.layers), len(model.layers))
    targets = set(section.lora.targets)
    for micro in group.batches:
        sequences, width = micro.batch.ids.shape
        predicted, frames = len(micro.batch.semantic_positions), len(micro.batch.flow_positions)
        for i, layer in enumerate(model.layers):
            forward = 1 + (section.recompute and i >= first)
            asking = width - micro.batch.start if i == len(model.layers) - 1 else width
            for name, module in _linears(layer):
                inputs, outputs = _shape(module)
                rows = sequences * (width if name in ("wk", "wv") else asking)
                needs_input = i > first or (i == first and bool(targets & set(_BEFORE[name].split())))
                linears += 2 * rows * inputs * outputs * (forward + needs_input)
                if "lora_a" in module:
                    rank = module.lora_a.shape[1]
                    once = 2 * rows * rank
                    # The gradients of A, of B and of what is between them, and of the input.
                    lora += once * (inputs + outputs) * forward
                    lora += once * (2 * outputs + inputs * (1 + needs_input))
            heads, dim = layer.attention.n_heads, layer.attention.head_dim
            # Of values; of the weights that they are taken with, if anything before these trains; of queries; of keys.
            back = 4 * (i > first)
            if i == first:
                back = sum(name in targets for name in ("wq", "wk", "wv")) + bool(targets & {"wq", "wk"})
            attention += 2 * sequences * heads * asking * width * dim * (2 * forward + back)
        head = model.acoustic_transformer
        logits += 2 * (2 * predicted * math.prod(head.semantic_codebook_output.weight.shape))
        for k, layer in enumerate(head.layers):
            asked = 1 if k == len(head.layers) - 1 else 3
            attended = layer.attention
            for name, module in _linears(layer):
                tokens = 3 if name in ("wk", "wv") else asked
                flow += 2 * (2 * frames * tokens * math.prod(module.weight.shape))
            flow += 3 * 2 * (2 * frames * asked * 3 * attended.n_heads * attended.head_dim)
        ends = [head.time_projection, head.llm_projection, head.llm_projection, head.input_projection]
        ends += 2 * [head.acoustic_codebook_output]
        flow += sum(2 * frames * math.prod(m.weight.shape) for m in ends)
    return Operations(linears, lora, attention, logits, flow)


# Linears of a layer that come before another: in the first adapted layer, only their gradients lead on.
_BEFORE = {"wq": "", "wk": "", "wv": "", "wo": "wq wk wv", "w1": "wq wk wv wo", "w3": "wq wk wv wo"}
_BEFORE["w2"] = "wq wk wv wo w1 w3"


def _linears(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    return [*layer.attention.children().items(), *layer.feed_forward.children().items()]


def _shape(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear, quantised or not, adapted or not."""
    linear = module.linear if "lora_a" in module else module
    outputs, inputs = linear.weight.shape
    return (inputs * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else inputs), outputs
