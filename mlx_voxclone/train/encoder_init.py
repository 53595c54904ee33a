"""Data-dependent initialisation of an encoder that starts from scratch (Salimans and Kingma 2016, section 3).

Random convolutions shrink their input, and with the LayerScales at 0.01 nothing in between makes up for it: speech of
ordinary level arrives as latents so small that every frame gets the same semantic code and the middle level everywhere.
Some clips set the gains of the weight norms so that every channel has unit RMS, and the latents the scale of what they
are compared with. All codes are then in use at the first step.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.conv import CausalConv1d

ACOUSTIC_RMS = 0.7  # before tanh: all levels in use, few of them saturated
_FLOOR = 1e-12  # of a channel's power: silence in all clips must not make a gain infinite


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
