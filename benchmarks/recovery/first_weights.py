"""Where the benchmark's codec starts: random weights of ordinary size, and filters of bands at both ends."""

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.recovery.corpus import Corpus
from benchmarks.recovery.student import Student
from mlx_voxclone.model.blocks.conv import CausalConv1d, CausalConvTranspose1d, row_lengths
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.train.encoder.start import calibrate_encoder

ENERGY_GATE, ENERGY_GAIN = 4.0, 0.5
STARTING_CLIPS, STARTING_SECONDS = 24, 4  # speech that the first weights are scaled by


def new_student(
    corpus: Corpus, config: CodecConfig, layer_scale: float, seed: int, heard_dim: int = 0, energies: bool = False
) -> Student:
    """Random weights, scaled by some training clips so that every layer starts with signals of ordinary size.

    The LayerScales start at `layer_scale`: at the 0.01 of the release, the transformers of a short run stay idle.

    Args:
        energies: whether the encoder starts with the energies of bands, see `hear_energies`.
    """
    mx.random.seed(seed)
    codec = Codec(config, encoder=True)
    scales = [(k, v) for k, v in tree_flatten(codec.parameters()) if k.endswith(("attention_scale", "ffn_scale"))]
    codec.load_weights([(name, mx.full(value.shape, layer_scale)) for name, value in scales], strict=False)
    hear_and_speak_bands(codec)
    if energies:
        hear_energies(codec)
    clips = corpus.split("train")
    clips = clips[:: max(1, len(clips) // STARTING_CLIPS)]
    waves = [clip.read()[: STARTING_SECONDS * config.sampling_rate] for clip in clips]
    calibrate_encoder(codec, waves)
    level = float(np.sqrt(np.mean([np.mean(np.square(wave)) for wave in waves])))
    calibrate_decoder(codec, [codec.encode_latents(mx.array(wave[None])) for wave in waves], level)
    return Student(codec, heard_dim)


def hear_and_speak_bands(codec: Codec) -> None:
    """Start the first convolution as a bank of band filters and the last one as the bank that speaks these bands.

    The codec's input is raw samples, 240 at a time: from random filters, it takes most of a short run to find out that
    sounds have frequencies. Gains are left to the calibration.
    """
    config = codec.config
    kernel, patch = config.patch_kernel, config.patch_size
    bank = band_filters(config.dim, kernel * patch, config.sampling_rate)  # ends with the newest sample
    heard = bank.reshape(config.dim, kernel, patch).transpose(0, 2, 1)
    spoken = bank[:, ::-1].reshape(config.dim, kernel, patch)[:, ::-1].transpose(2, 0, 1)  # the last tap sounds first
    _set_filters(codec.input_proj, heard)
    _set_filters(codec.output_proj, spoken)


def _set_filters(conv: CausalConv1d, filters: np.ndarray) -> None:
    """Give a convolution these weights `[out, in, kernel]`."""
    norm = conv.conv.parametrizations.weight
    norm.original1 = mx.array(np.ascontiguousarray(filters))
    norm.original0 = row_lengths(norm.original1)


def hear_energies(codec: Codec) -> None:
    """Start half of the encoder's channels as filters of bands, and the first feed-forward layer as their energies.

    A level is what no linear layer finds in samples, and all that the codes say of a sound is levels. With its gate,
    `silu(a x) x` of a channel and of its negative is about `a x^2`; a band's cosine and sine make its energy.
    """
    config = codec.config
    half = config.dim // 2
    kernel, patch = config.patch_kernel, config.patch_size
    bank = np.zeros((config.dim, kernel * patch), np.float32)
    bank[:half] = band_filters(half, kernel * patch, config.sampling_rate)
    bank[half:] = 1e-3 * np.random.default_rng(0).standard_normal(bank[half:].shape, np.float32)
    _set_filters(codec.input_proj, bank.reshape(-1, kernel, patch).transpose(0, 2, 1))
    layer = codec.encoder_blocks[0].layers[0].feed_forward
    gate, up, down = (np.array(part.weight) for part in (layer.w1, layer.w3, layer.w2))
    signed = [(channel, sign) for channel in range(half) for sign in (1, -1)][: len(gate)]
    for unit, (channel, sign) in enumerate(signed):
        gate[unit], up[unit], down[:, unit] = 0, 0, 0
        gate[unit, channel], up[unit, channel] = ENERGY_GATE * sign, sign
        down[half + channel // 2, unit] = ENERGY_GAIN
    layer.load_weights([(f"w{k}.weight", mx.array(value)) for k, value in ((1, gate), (2, down), (3, up))])


def band_filters(count: int, size: int, rate: int) -> np.ndarray:
    """Windowed cosines and sines at frequencies even on the mel scale, unit energy: float32 `[count, size]`.

    Each pair sounds at the end of the `size` samples, for 40 ms at the lowest frequency and 20 ms from 1 kHz on.
    """
    mel = np.linspace(_mel(60.0), _mel(0.45 * rate), count // 2)
    frequency = 700 * (10 ** (mel / 2595) - 1)
    filters = np.zeros((count, size), np.float32)
    for k, hertz in enumerate(np.repeat(frequency, 2)):
        length = min(size, round(rate * (0.04 - 0.02 * min(1.0, hertz / 1000))))
        time = np.arange(length)
        wave = np.hanning(length + 2)[1:-1] * np.cos(2 * np.pi * hertz / rate * time - (k % 2) * np.pi / 2)
        filters[k, size - length :] = wave / np.sqrt(np.square(wave).sum())
    return filters


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def calibrate_decoder(codec: Codec, latents: list[mx.array], level: float) -> None:
    """Scale the decoder's convolutions so that each gives signals of RMS 1 for raw `latents`, the last of `level`."""
    xs = [codec.quantizer.straight_through(x)[0] for x in latents]
    blocks = [*codec.decoder_blocks, codec.output_proj]
    for block in blocks:
        xs = [block(x) for x in xs]
        if isinstance(block, CausalConv1d | CausalConvTranspose1d):
            power = sum(mx.mean(mx.square(x)) for x in xs) / len(xs)
            gain = (level if block is blocks[-1] else 1.0) / mx.sqrt(power)
            norm = block.conv.parametrizations.weight
            norm.original0 = norm.original0 * gain
            xs = [x * gain for x in xs]
        mx.eval(xs)
    mx.eval(codec.parameters())
