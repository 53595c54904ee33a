"""A task on made-up weights and clips, at any sizes, and one step of its training: to foresee it, or to time it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mlx_voxclone.adapters.lora import add_lora, quantise_backbone
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop.gradients import Gradients, Masters, gradient_norms
from mlx_voxclone.train.loop.loader import Group
from mlx_voxclone.train.loop.optimizers.groups import Optimizers
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.preservation import KeptPairs
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance


@dataclass(frozen=True)
class Length:
    """Positions of a sequence.

    Args:
        text: its tokens.
        voice: rows of the voice, END row included; at least 2.
        frames: of the clip.
    """

    text: int
    voice: int
    frames: int


@dataclass
class NoiseClip:
    """Noise, in the place of a `data.clips.Clip`."""

    id: str
    samples: int
    text: str | None = None

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return (0.07 * np.random.default_rng(0).standard_normal(self.samples)).astype(np.float32)[start:stop]


@dataclass
class NoiseData:
    """In the place of `data.clips.PreparedData`."""

    train: list[NoiseClip]
    heldout: list[NoiseClip]

    def fingerprint(self) -> str:
        return ""


def encoder_task(params: dict, section: EncoderSection, dtype: mx.Dtype, seconds: Sequence[float]) -> EncoderTask:
    """Task `encoder` with one recording of each length (seconds), on a codec of random weights.

    Args:
        params: the model's `params.json`.
        section: the configuration's, without pairs and teacher.
        dtype: of the frozen decoder and of the encoder's activations.
    """
    mx.random.seed(0)
    codec = Voxtral(VoxtralConfig.from_dict(params), encoder=True).audio_tokenizer
    codec.set_dtype(mx.float32)
    for part in (*codec.decoder_blocks, codec.output_proj):
        part.set_dtype(dtype)
    mx.eval(codec.parameters())
    clips = [NoiseClip(str(k), round(length * SAMPLE_RATE)) for k, length in enumerate(seconds)]
    return EncoderTask(codec, NoiseData(clips, clips[:1]), section, compute_dtype=dtype)


def speaker_task(
    params: dict,
    section: SpeakerSection,
    dtype: mx.Dtype,
    lengths: Sequence[Length],
    *,
    drawn: bool = False,
    kept: KeptPairs | None = None,
    name: str = "speaker",
) -> SpeakerTask:
    """Task `speaker` with one clip of each of the lengths.

    Args:
        params: the model's `params.json`; few rows of its text embedding are made.
        section: the configuration's; its `reference_seconds` and `max_seconds` must allow for the lengths.
        dtype: of all that is not quantised.
        lengths: of the clips.
        drawn: weights of the language model's layers are random numbers, which at the release's widths takes longer
            than to use them, and not zeros.
        kept, name: see `SpeakerTask`.
    """
    mx.random.seed(0)
    model = Voxtral(VoxtralConfig.from_dict(params | {"vocab_size": min(params["vocab_size"], 64)}))
    model.set_dtype(dtype)
    if not drawn:
        model.update(tree_map(mx.zeros_like, model.parameters()))
    mx.eval(model.mm_audio_embeddings.parameters(), model.acoustic_transformer.parameters())
    model.recompute = section.recompute
    if section.quantise.bits:
        quantise_backbone(model, section.quantise.bits)
    lora, layers = section.lora, len(model.layers)
    adapted = min(lora.layers or layers, layers)
    add_lora(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, layers=adapted, dropout=lora.dropout)
    rng, sizes = np.random.default_rng(0), model.config.codec.codebook_sizes

    def codes(count: int) -> np.ndarray:
        return np.stack([rng.integers(0, size, count) for size in sizes]).astype(np.int32)

    def prompt(text: str, rows: int) -> list[int]:
        return [1, *[model.config.audio_token_id] * rows, *[2] * len(text)]

    items = [Utterance(str(k), "t" * n.text, codes(n.frames), (codes(n.voice - 1),)) for k, n in enumerate(lengths)]
    return SpeakerTask(AdaptedModel(model, prompt), SpeakerData(items, items[:1], kept), section, name=name)


def optimiser_step(
    gradients: Gradients,
    masters: Masters,
    optimizers: Optimizers,
    group: Group,
    step: int,
    total: int,
    between: Callable[[], object] = lambda: None,
) -> None:
    """One optimiser step as the trainer makes it, without what it writes down; `between` is called when the gradients
    are there and nothing has moved."""
    found, _, _ = gradients(group, step)
    norms = gradient_norms(found)
    between()
    masters.replace(optimizers.updated(found, masters.values, norms, step, total))
    mx.eval(masters.values, optimizers.state)
