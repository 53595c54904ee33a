"""Mistakes that other attempts made (SPEC section 5), each made here on purpose: the reference vectors must notice.

A mistake that left every comparison within its tolerance would mean that nothing guards against it.
"""

import copy

import golden
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.model import codec, flow_head, quantizer, voxtral
from mlx_voxclone.model.blocks import attention, conv, layers
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral

NOTICED = 1e-2  # a hundred times the tolerance of the comparisons


def latents_error() -> float:
    model, vectors = golden.model_and_vectors("codec_small")
    got = model.audio_tokenizer.encode_latents(vectors["in.waveform"][None]).swapaxes(1, 2)
    return golden.relative_error(got, vectors["out.latents"])


def waveform_error() -> float:
    model, vectors = golden.model_and_vectors("codec_small")
    got = model.audio_tokenizer.decode(vectors["in.codes"])
    return golden.relative_error(got[:, None], vectors["out.waveform_of_in_codes"])


def wrong_codes() -> float:
    """Share of acoustic codes that differ from the reference, from the reference's own latents."""
    model, vectors = golden.model_and_vectors("codec_small")
    got = np.array(model.audio_tokenizer.quantize(vectors["out.latents"].swapaxes(1, 2)))
    return float((got != np.array(vectors["out.codes"])).mean())


def hidden_error() -> float:
    model, vectors = golden.model_and_vectors("lm_backbone")
    return golden.relative_error(model.hidden_states(vectors["in.embeddings"]), vectors["out.hidden"])


def wrong_frames() -> float:
    model, vectors = golden.model_and_vectors("acoustic_transformer")
    got = model.acoustic_transformer.decode_frame(vectors["in.hidden"], vectors["in.noise"])
    return float((np.array(got) != np.array(vectors["out.codes"])).mean())


ERRORS = (latents_error, waveform_error, wrong_codes, hidden_error, wrong_frames)


def test_no_mistake_no_error():
    for error in ERRORS:
        assert error() < 1e-4, error.__name__


def tanh_twice(monkeypatch):
    encode = quantizer.AcousticCodebook.encode
    monkeypatch.setattr(quantizer.AcousticCodebook, "encode", lambda self, z: encode(self, mx.tanh(z)))
    return wrong_codes


def half_split_rope(monkeypatch):
    def rope(self, x, offset):
        return mx.fast.rope(x, self.head_dim, traditional=False, base=self._rope_theta, scale=1.0, offset=offset)

    monkeypatch.setattr(layers.Attention, "_rope", rope)
    return hidden_error


def alibi_from_a_half(monkeypatch):
    monkeypatch.setattr(attention, "alibi_slopes", lambda n: [(2.0 ** (-8.0 / n)) ** (h + 1) for h in range(n)])
    return latents_error, waveform_error


def qk_norm_epsilon(monkeypatch):
    init = attention.CodecAttention.__init__

    def with_block_epsilon(self, config, window):
        init(self, config, window)
        self.q_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.k_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    monkeypatch.setattr(attention.CodecAttention, "__init__", with_block_epsilon)
    return (latents_error,)


def qk_norm_per_head(monkeypatch):
    def per_head(self, x):
        batch, length, _ = x.shape
        split = (batch, length, self.n_heads, self.head_dim)

        def norm(module, y):
            y = mx.fast.rms_norm(y.reshape(split), None, module.eps)
            return y * module.weight.reshape(self.n_heads, self.head_dim)

        q, k = norm(self.q_norm, self.wq(x)), norm(self.k_norm, self.wk(x))
        v = self.wv(x).reshape(split)
        out = attention.windowed_attention(q, k, v, self.window, self.head_dim**-0.5)
        return self.wo(out.reshape(batch, length, -1))

    monkeypatch.setattr(attention.CodecAttention, "__call__", per_head)
    return latents_error, waveform_error


def windows_ignored(monkeypatch):
    monkeypatch.setattr(codec, "encoder_windows", lambda config: [16] * 4)
    return (latents_error,)


def windows_of_the_decoder_reversed(monkeypatch):
    monkeypatch.setattr(codec, "decoder_windows", lambda config: [16, 8, 4, 2])
    return (waveform_error,)


def window_one_short(monkeypatch):
    attend = attention.windowed_attention
    monkeypatch.setattr(attention, "windowed_attention", lambda q, k, v, w, s: attend(q, k, v, w - 1, s))
    return latents_error, waveform_error


def transposed_conv_trimmed_on_both_sides(monkeypatch):
    forward = conv.CausalConvTranspose1d.__call__

    def both_sides(self, x):
        longer = forward(self, mx.pad(x, [(0, 0), (0, 1), (0, 0)]))
        left = (self.kernel - self.stride) // 2
        return longer[:, left : left + x.shape[1] * self.stride]

    monkeypatch.setattr(conv.CausalConvTranspose1d, "__call__", both_sides)
    return (waveform_error,)


def replicate_where_reflect_belongs(monkeypatch):
    init = conv.CausalConv1d.__init__
    monkeypatch.setattr(
        conv.CausalConv1d, "__init__", lambda self, i, o, k, s, mode: init(self, i, o, k, s, "replicate")
    )
    return latents_error, waveform_error


def norm_over_the_output_channel_of_the_transposed_conv(monkeypatch):
    def by_output(self):
        v = self.original1
        axes = (0, 2) if v.shape[2] == 4 and v.shape[0] == v.shape[1] else (1, 2)
        return v * self.original0 / mx.sqrt(mx.sum(mx.square(v), axis=axes, keepdims=True))

    monkeypatch.setattr(conv.WeightNorm, "__call__", by_output)
    return (waveform_error,)


def unguided(monkeypatch):
    values = flow_head.FlowMatchingHead.acoustic_values
    monkeypatch.setattr(
        flow_head.FlowMatchingHead,
        "acoustic_values",
        lambda self, h, n, steps=None, cfg=1.2, times=None: values(self, h, n, steps, 1.0),
    )
    return (wrong_frames,)


def three_steps(monkeypatch):
    values = flow_head.FlowMatchingHead.acoustic_values
    monkeypatch.setattr(
        flow_head.FlowMatchingHead,
        "acoustic_values",
        lambda self, h, n, steps=None, cfg=1.2, times=None: values(self, h, n, 3, cfg),
    )
    return (wrong_frames,)


MISTAKES = [
    tanh_twice, half_split_rope, alibi_from_a_half, qk_norm_epsilon, qk_norm_per_head, windows_ignored,
    windows_of_the_decoder_reversed, window_one_short, transposed_conv_trimmed_on_both_sides,
    replicate_where_reflect_belongs, norm_over_the_output_channel_of_the_transposed_conv, unguided, three_steps,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_the_vectors_notice(mistake, monkeypatch):
    errors = mistake(monkeypatch)
    for error in errors if isinstance(errors, tuple) else (errors,):
        assert error() > NOTICED, error.__name__


def test_end_frame_forgotten(monkeypatch):
    model, vectors = golden.model_and_vectors("codec_small")
    monkeypatch.setattr(voxtral, "with_end", lambda frames: frames)
    assert model.voice_embedding(np.array(vectors["out.codes"][0])).shape != vectors["out.voice_embedding"].shape


def test_unused_codebook_entries_need_the_clamp(monkeypatch):
    monkeypatch.setattr(quantizer, "MIN_USAGE", 1.0)
    model, vectors = golden.model_and_vectors("codec_odd")
    got = np.array(model.audio_tokenizer.quantize(vectors["out.latents"].swapaxes(1, 2)))
    waveform = model.audio_tokenizer.decode(vectors["in.codes"])
    assert (got != np.array(vectors["out.codes"])).any() or (
        golden.relative_error(waveform[:, None], vectors["out.waveform_of_in_codes"]) > NOTICED
    )


def test_masked_logits_are_minus_infinity_not_zero(monkeypatch):
    """With every allowed logit negative, a mask of 0 would choose EMPTY or a padding row."""
    model, vectors = golden.model_and_vectors("acoustic_transformer")
    head, hidden = model.acoustic_transformer, vectors["in.hidden"]
    monkeypatch.setattr(type(head), "semantic_logits", lambda self, h: -10.0 - mx.abs(self.semantic_codebook_output(h)))
    masked = np.array(head.masked_semantic_logits(hidden))
    rows = model.config.codec.semantic_codebook_size + 2
    assert np.isneginf(masked[:, 0]).all()
    assert np.isneginf(masked[:, rows:]).all()
    chosen = masked.argmax(-1)
    assert ((chosen >= 1) & (chosen < rows)).all()
    as_zero = np.where(np.isneginf(masked), 0.0, masked).argmax(-1)
    assert ((as_zero == 0) | (as_zero >= rows)).all()


def test_convolution_names_are_the_ones_a_server_loads():
    names = [k for k, _ in tree_flatten(Voxtral(VoxtralConfig.from_dict(golden.RELEASE_PARAMS), True).parameters())]
    convs = [n for n in names if ".conv." in n]
    assert len(convs) == 2 * 10
    assert all(n.endswith((".conv.parametrizations.weight.original0", ".original1")) for n in convs)
    assert not any(n.endswith("conv.weight") for n in names)


def test_uncond_is_a_zero_hidden_state():
    """cfg_alpha 0 integrates the field of a zero hidden state: every row then gets the same values."""
    model, vectors = golden.model_and_vectors("acoustic_transformer")
    noise = mx.repeat(vectors["in.noise"][:1], 5, axis=0)
    values = np.array(model.acoustic_transformer.acoustic_values(vectors["in.hidden"], noise, cfg_alpha=0.0))
    assert np.abs(values - values[:1]).max() < 1e-5


def test_release_defaults_are_seven_steps_and_a_tiny_epsilon():
    config = VoxtralConfig.from_dict(copy.deepcopy(golden.RELEASE_PARAMS))
    assert (config.acoustic.n_decoding_steps, config.acoustic.norm_eps) == (7, 1e-5)
    assert (config.codec.norm_eps, config.codec.qk_norm_eps) == (1e-2, 1e-6)
