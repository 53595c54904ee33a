"""Where an encoder starts that has no weights yet: as the mirror image of the decoder, its gains set from data.

Encoder and decoder have the same layers in opposite order. What the decoder makes of a channel, the encoder can look
for: each of its convolutions starts with the transposed weights of its counterpart, each transformer as a copy, so that
both think in the same channels from the first step. (A start only; all of it trains. docs/LOG.md has what it gains.)

The gains of the weight norms are then set from some clips (Salimans and Kingma 2016, section 3). Left alone, random
convolutions shrink their input, and with the LayerScales at 0.01 nothing in between makes up for it: speech of ordinary
level arrives as latents so small that every frame gets the same semantic code and the middle level everywhere. Set,
every channel has unit RMS, and the latents the scale of what they are compared with. All codes are in use at the first
step.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.blocks.conv import CausalConv1d, CausalConvTranspose1d, row_lengths
from mlx_voxclone.model.codec import Codec, CodecTransformer, decoder_windows, encoder_windows

ACOUSTIC_RMS = 0.7  # before tanh: all levels in use, few of them saturated
_FLOOR = 1e-12  # of a channel's power: silence in all clips must not make a gain infinite


def mirror_decoder(codec: Codec) -> None:
    """Set the encoder's weights to those of the decoder, layer by layer from the other end, in place.

    A convolution `[out, in, kernel]` gets its counterpart's weights with the channels exchanged and the taps in place:
    what the decoder says at once is heard at once. (The exact adjoint would wait until all of it has sounded, and codes
    belong to the frame that is being said.) Gains and all are copied; `calibrate_encoder` sets the gains anew.

    Raises:
        ConfigError: the decoder is not the mirror image of the encoder.
    """
    config = codec.config
    ours = zip(config.encoder_lengths, config.encoder_kernels, config.encoder_strides, encoder_windows(config))
    theirs = zip(config.decoder_lengths, config.decoder_kernels, config.decoder_strides, decoder_windows(config))
    if list(ours) != list(theirs)[::-1]:
        raise ConfigError(
            "encoder.start: this model's decoder is not the mirror image of its encoder; set encoder.start to random"
        )
    _transpose(codec.input_proj, codec.output_proj)
    for mine, counterpart in zip(codec.encoder_blocks, codec.decoder_blocks[::-1], strict=True):
        if isinstance(mine, CodecTransformer):
            for layer, other in zip(mine.layers, counterpart.layers[::-1], strict=True):
                layer.load_weights([(k, v.astype(mx.float32)) for k, v in tree_flatten(other.parameters())])
        else:
            _transpose(mine, counterpart)
    mx.eval(codec.parameters())


def _transpose(conv: CausalConv1d, counterpart: CausalConv1d | CausalConvTranspose1d) -> None:
    """A transposed convolution's weights `[in, out, kernel]` are those of the opposite convolution as they are.

    Directions `original1` keep the length that they had, whatever the weights' scale: the steps of AdamW do not depend
    on it, and short ones would be thrown about by them.
    """
    weight = counterpart.weight.astype(mx.float32)
    weight = weight if isinstance(counterpart, CausalConvTranspose1d) else weight.transpose(1, 0, 2)
    norm = conv.conv.parametrizations.weight
    length = row_lengths(norm.original1)
    norm.original0 = row_lengths(weight)
    norm.original1 = weight * (length / mx.maximum(norm.original0, _FLOOR))


def calibrate_encoder(codec: Codec, waveforms: Sequence[np.ndarray]) -> None:
    """Set `original0` of the encoder's convolutions from some clips (float32 `[samples]` each), in place."""
    patch = codec.config.patch_size
    xs = [mx.array(np.pad(wave, (0, -len(wave) % patch)).reshape(1, -1, patch)) for wave in waveforms]
    blocks = [codec.input_proj, *codec.encoder_blocks]
    for block in blocks:
        xs = [block(x) for x in xs]
        if isinstance(block, CausalConv1d):
            power = sum(mx.sum(mx.square(x), axis=(0, 1)) for x in xs) / sum(x.shape[1] for x in xs)
            target = latent_rms(codec) if block is blocks[-1] else 1.0
            gain = target / mx.sqrt(mx.maximum(power, _FLOOR))
            norm = block.conv.parametrizations.weight
            norm.original0 = norm.original0 * gain[:, None, None]
            xs = [x * gain for x in xs]
        mx.eval(xs)
    mx.eval(codec.parameters())


def latent_rms(codec: Codec) -> mx.array:
    """Target RMS of each latent channel: that of the codebook's rows, and `ACOUSTIC_RMS`."""
    semantic = mx.sqrt(mx.mean(mx.square(codec.quantizer.semantic_codebook.embedding), axis=0))
    return mx.concatenate([semantic, mx.full((codec.config.acoustic_dim,), ACOUSTIC_RMS)])
