"""One optimiser step of the encoder through the frozen decoder, on noise, and how many operations its products take.

The step is that of task `encoder` on one clip with a codec of random weights, all in float32: encode, quantise straight
through, decode, L1 + multi-resolution STFT + mel + commitment, gradient of the encoder, its norm, AdamW. What it costs
does not depend on what weights and clip hold.

The operations counted are those of the matrix products, two per multiply-add, found by walking the codec with the
number of frames that each of its blocks gets:

- forward, `rows * weight`: convolutions (each one product here) and linear layers; attention scores and values, with
  the masked places of each block of queries, as they are computed; the distances to the semantic codebook; the mel
  filters;
- backward: once more for the gradient of each operand that needs one. A trained weight takes two products (its own
  gradient and its input's), a frozen one takes one, and so does the first convolution, as the waveform needs no
  gradient. Attention has no weights: both operands of its two products need gradients, in the frozen decoder too.

Not counted are Fourier transforms and everything per element: norms, softmax, activations, weight norm, AdamW. The time
is of all of it, so the share of the machine's matrix-product rate says how much of it goes elsewhere.
"""

from dataclasses import asdict, dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_voxclone.audio.spectral.plain import frame_count
from mlx_voxclone.losses import commitment_loss, log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.blocks.attention import MIN_BLOCK
from mlx_voxclone.model.blocks.conv import CausalConv1d
from mlx_voxclone.model.codec import Codec, CodecTransformer
from mlx_voxclone.model.config import CodecConfig, VoxtralConfig
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.encoder.task import freeze_all_but_encoder
from mlx_voxclone.train.loop.gradients import gradient_norms
from mlx_voxclone.train.loop.optimizers.groups import Optimizers

STFT_SIZES, MEL = (2048, 1024, 512, 256), (1024, 80)  # the defaults of configs/voxtral_encoder.yaml
COMMITMENT = 0.1
LEVEL = 0.07  # RMS of the clip: that of speech


def preset_params(preset: str) -> dict:
    """`params.json` of the release ("release") or of a miniature's preset."""
    return params_json(PRESETS["full" if preset == "release" else preset], {})


def preset_config(preset: str) -> CodecConfig:
    """Of `preset_params`."""
    return VoxtralConfig.from_dict(preset_params(preset)).codec


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one step, in the products of each part."""

    encoder_forward: int
    encoder_backward: int
    quantiser: int
    decoder_forward: int
    decoder_backward: int
    mel_filters: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def count_operations(codec: Codec, samples: int) -> Operations:
    """Operations of one step on one clip of `samples` samples (at least 1); see the module's description."""
    config = codec.config
    frames = -(-samples // config.patch_size)
    first, frames = _convolution(codec.input_proj, frames)
    weights, attention, frames = _blocks(codec.encoder_blocks, frames)
    distances = 2 * frames * config.semantic_codebook_size * config.semantic_dim
    decoder_weights, decoder_attention, frames = _blocks(codec.decoder_blocks, frames)
    decoder_weights += _convolution(codec.output_proj, frames)[0]
    n_fft, n_mels = MEL
    filters = 2 * frame_count(samples, n_fft, n_fft // 4) * (n_fft // 2 + 1) * n_mels
    return Operations(
        encoder_forward=first + weights + attention,
        encoder_backward=first + 2 * (weights + attention),
        quantiser=distances,
        decoder_forward=decoder_weights + decoder_attention,
        decoder_backward=decoder_weights + 2 * decoder_attention,
        mel_filters=3 * filters,  # of both sounds, and back through one of them
    )


def _blocks(blocks: list[nn.Module], frames: int) -> tuple[int, int, int]:
    """Operations with weights and of attention, and the frames that come out."""
    weights = attention = 0
    for block in blocks:
        if isinstance(block, CodecTransformer):
            for layer in block.layers:
                matrices = tree_flatten(layer.parameters())
                weights += sum(2 * frames * matrix.size for _, matrix in matrices if matrix.ndim == 2)
                attention += _attention(layer.attention, frames)
        else:
            more, frames = _convolution(block, frames)
            weights += more
    return weights, attention, frames


def _convolution(block: nn.Module, frames: int) -> tuple[int, int]:
    """Every output frame, or every input frame of a transposed one, meets every element of the weight once."""
    size = block.conv.parametrizations.weight.original1.size
    if isinstance(block, CausalConv1d):
        frames = -(-frames // block.stride)
        return 2 * frames * size, frames
    return 2 * frames * size, frames * block.stride


def _attention(attention: nn.Module, frames: int) -> int:
    """Scores and values: each block of queries against itself and the window before it."""
    window, width = attention.window, attention.n_heads * attention.head_dim
    block = min(max(window, MIN_BLOCK), max(frames, window))
    queries = -(-frames // block) * block
    return 2 * (2 * queries * (window + block) * width)


# ---- the step --------------------------------------------------------------------------------------------------------


def build_codec(config: CodecConfig) -> Codec:
    """Random float32 weights; the encoder alone is trainable, the decoder is as a training holds it."""
    mx.random.seed(0)
    codec = Codec(config, encoder=True)
    freeze_all_but_encoder(codec)
    mx.eval(codec.parameters())
    codec.fold_decoder()
    return codec


def loss(codec: Codec, waveform: mx.array) -> mx.array:
    """The weighted sum of the terms of task `encoder` for `waveform [1, samples]`."""
    quantised, z, rows = codec.quantizer.straight_through(codec.encode_latents(waveform))
    decoded = codec.decode_latents(quantised)[:, : waveform.shape[1]]
    terms = waveform_l1(decoded, waveform) + multi_resolution_stft_loss(decoded, waveform, sizes=STFT_SIZES)
    return terms + log_mel_loss(decoded, waveform, scales=[MEL]) + COMMITMENT * commitment_loss(z, rows)


class EncoderStep:
    """Steps of a training: each call is one, evaluated, and returns the loss before it.

    Args:
        codec: its trainable parameters train.
        waveform: `[1, samples]`.
    """

    def __init__(self, codec: Codec, waveform: mx.array, learning_rate: float = 1e-4):
        settings = TrainSettings(steps=1_000_000, learning_rate=learning_rate)
        self.codec, self.waveform, self._steps, self._total = codec, waveform, 0, settings.steps
        self._values = dict(tree_flatten(codec.trainable_parameters()))
        self._optimizers = Optimizers(self._values, settings)

    def __call__(self) -> float:
        value, gradients = nn.value_and_grad(self.codec, partial(loss, self.codec))(self.waveform)
        gradients = dict(tree_flatten(gradients))
        norms = gradient_norms(gradients)
        self._values = self._optimizers.updated(gradients, self._values, norms, self._steps, self._total)
        self.codec.update(tree_unflatten(list(self._values.items())))
        mx.eval(value, self._values, self._optimizers.state)
        self._steps += 1
        return value.item()
