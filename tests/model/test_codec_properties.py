"""Causal per latent frame, independent of batch and padding, chunked equals whole, every awkward length works."""

import copy
import dataclasses

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from golden import RELEASE_PARAMS, model_and_vectors, relative_error
from mlx.utils import tree_flatten, tree_unflatten

from mlx_voxclone.bench.encoder_step import preset_config
from mlx_voxclone.model.blocks.attention import alibi_slopes, windowed_attention
from mlx_voxclone.model.codec import Codec, CodecTransformer, decoder_windows, encoder_windows, left_context
from mlx_voxclone.model.config import CodecConfig, VoxtralConfig
from mlx_voxclone.train.encoder.task import freeze_all_but_encoder

FRAME = 1920
# Of the RMS: float32 through 16 layers, where another length or batch makes the BLAS add up in another order.
ROUNDING = 3e-5
LENGTHS = [1, 239, 240, 241, 1919, 1920, 1921]


@pytest.fixture(scope="module")
def codec():
    return model_and_vectors("codec_small")[0].audio_tokenizer


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def random_codes(codec, frames: int, seed: int = 0) -> np.ndarray:
    sizes = np.array(codec.config.code_sizes) - 2
    return np.random.default_rng(seed).integers(0, sizes[:, None], (37, frames)).astype(np.int32)


def encode_alone(codec, wave: np.ndarray) -> np.ndarray:
    return np.array(codec.encode_latents(mx.array(wave)[None])[0])


@pytest.mark.parametrize("samples", LENGTHS)
def test_awkward_lengths(codec, samples):
    latents = encode_alone(codec, noise(samples))
    assert latents.shape == (-(-samples // FRAME), codec.config.latent_dim)
    assert np.isfinite(latents).all()
    assert relative_error(codec.encode_audio(noise(samples)), latents) < ROUNDING


@pytest.mark.slow
def test_a_minute_and_a_second(codec):
    """61 s through the chunked path equals the whole at once, and both have the right length."""
    wave = noise(61 * 24000)
    latents = np.array(codec.encode_audio(wave, chunk_frames=100))
    assert latents.shape[0] == -(-61 * 24000 // FRAME) == 763
    assert relative_error(latents, encode_alone(codec, wave)) < ROUNDING
    codes = np.array(codec.quantize(mx.array(latents)[None])[0])
    whole = codec.decode(mx.array(codes)[None])[0]
    assert relative_error(codec.decode_audio(codes, chunk_frames=100), whole) < ROUNDING


def test_chunked_with_21_frames_of_context_equals_whole_and_with_4_it_does_not(codec, monkeypatch):
    wave, codes = noise(90 * FRAME + 17), random_codes(codec, 90)
    latents, audio = encode_alone(codec, wave), np.array(codec.decode(mx.array(codes)[None])[0])
    assert left_context(codec.config) == codec.left_context == 21
    assert relative_error(codec.encode_audio(wave, chunk_frames=30), latents) < ROUNDING
    assert relative_error(codec.decode_audio(codes, chunk_frames=30), audio) < ROUNDING
    monkeypatch.setattr(Codec, "left_context", 4)
    assert relative_error(codec.encode_audio(wave, chunk_frames=30), latents) > 1e-4
    assert relative_error(codec.decode_audio(codes, chunk_frames=30), audio) > 1e-4


@pytest.mark.parametrize("frame", [0, 1, 5, 20])
def test_encoder_is_causal_per_latent_frame(codec, frame):
    wave = noise(24 * FRAME)
    changed = wave.copy()
    changed[(frame + 1) * FRAME :] = noise(len(wave) - (frame + 1) * FRAME, seed=1)
    a, b = encode_alone(codec, wave), encode_alone(codec, changed)
    assert relative_error(b[: frame + 1], a[: frame + 1]) < ROUNDING
    assert np.abs(b[frame + 1] - a[frame + 1]).max() > 1e-2


@pytest.mark.parametrize("frame", [0, 1, 5, 20])
def test_decoder_is_causal_per_latent_frame(codec, frame):
    codes, other = random_codes(codec, 24), random_codes(codec, 24, seed=1)
    changed = np.concatenate([codes[:, : frame + 1], other[:, frame + 1 :]], axis=1)
    a, b = (np.array(codec.decode(mx.array(c)[None])[0]) for c in (codes, changed))
    end = (frame + 1) * FRAME
    assert relative_error(b[:end], a[:end]) < ROUNDING
    assert np.abs(b[end:] - a[end:]).max() > 1e-2


def test_an_item_does_not_see_its_neighbours_or_the_padding(codec):
    """Every awkward length in one batch, whatever stands after an item's end, equals the item alone."""
    lengths = [*LENGTHS, 5 * FRAME + 700, 9 * FRAME]
    for total, filler in ((9 * FRAME, 0.0), (9 * FRAME, 7.0), (13 * FRAME + 5, np.nan)):
        batch = np.full((len(lengths), total), filler, dtype=np.float32)
        for i, n in enumerate(lengths):
            batch[i, :n] = noise(n, seed=i)
        got = np.array(codec.encode_latents(mx.array(batch), lengths))
        for i, n in enumerate(lengths):
            alone = encode_alone(codec, noise(n, seed=i))
            assert relative_error(got[i, : len(alone)], alone) < ROUNDING, (n, total, filler)


def test_zero_padding_alone_is_not_enough(codec):
    """The last frame of an item whose length is no multiple of a frame changes if it is merely zero-padded."""
    n = 5 * FRAME + 700
    wave = noise(n)
    padded = np.zeros(9 * FRAME, dtype=np.float32)
    padded[:n] = wave
    alone, naive = encode_alone(codec, wave), encode_alone(codec, padded)[:6]
    assert relative_error(naive[:5], alone[:5]) < ROUNDING
    assert np.abs(naive[5] - alone[5]).max() > 1e-2


def test_decoder_items_are_independent(codec):
    a, b = random_codes(codec, 12), random_codes(codec, 12, seed=1)
    both = np.array(codec.decode(mx.array(np.stack([a, b]))))
    for got, codes in zip(both, (a, b)):
        assert relative_error(got, np.array(codec.decode(mx.array(codes)[None])[0])) < ROUNDING


def test_windows(codec):
    assert encoder_windows(codec.config) == [16, 8, 4, 2]
    assert decoder_windows(codec.config) == [2, 4, 8, 16]


# What the serving code builds: the decoder begins with what is left behind the encoder's last convolution.
SERVED_WINDOWS = [
    ("2,2,2,1", "1,2,2,2", 16, True, [16, 8, 4, 2], [2, 4, 8, 16]),
    ("1,2,2,2", "1,2,2,2", 16, True, [16, 16, 8, 4], [2, 4, 8, 16]),
    ("2,1,2,2", "1,2,2,2", 32, True, [32, 16, 16, 8], [4, 8, 16, 32]),
    ("2,2,2,1", "1,1,2,4", 16, False, [16] * 4, [16] * 4),
    ("2,2,2,2", "1,2,2,2,2", 64, True, [64, 32, 16, 8], [4, 8, 16, 32, 64]),
    ("1,1", "1,1", 1, True, [1, 1], [1, 1]),
]


def with_strides(encoder: str, decoder: str, window: int, halved: bool) -> CodecConfig:
    """The release's codec with other convolutions, each of twice its stride (and 3 where it has none)."""
    params = copy.deepcopy(RELEASE_PARAMS)
    codec = params["multimodal"]["audio_tokenizer_args"]
    codec |= {"attn_sliding_window_size": window, "half_attn_window_upon_downsampling": halved}
    for side, strides in (("encoder", encoder), ("decoder", decoder)):
        kernels = [3 if stride == "1" else 2 * int(stride) for stride in strides.split(",")]
        codec[f"{side}_convs_strides_str"] = strides
        codec[f"{side}_convs_kernels_str"] = ",".join(map(str, kernels))
        codec[f"{side}_transformer_lengths_str"] = ",".join("1" for _ in kernels)
    return VoxtralConfig.from_dict(params).codec


@pytest.mark.parametrize(("encoder", "decoder", "window", "halved", "encoding", "decoding"), SERVED_WINDOWS)
def test_windows_are_the_servers(encoder, decoder, window, halved, encoding, decoding):
    config = with_strides(encoder, decoder, window, halved)
    assert (encoder_windows(config), decoder_windows(config)) == (encoding, decoding)


@pytest.mark.parametrize("which", [1, 2, 4])
def test_the_left_context_of_any_codec_is_what_its_frames_depend_on(which):
    """A change that many frames ago changes nothing, one that lies one frame later may."""
    encoder, decoder, window, halved = SERVED_WINDOWS[which][:4]
    small = {"dim": 32, "hidden_dim": 32, "head_dim": 16, "n_heads": 2, "patch_size": 8, "semantic_dim": 8}
    small |= {"semantic_codebook_size": 16, "acoustic_dim": 4, "layer_scale_init": 1.0}
    small["window"] = window // 4 if halved else 2  # less than servers take, for a short context
    config = dataclasses.replace(with_strides(encoder, decoder, window, halved), **small)
    mx.random.seed(0)
    codec, context = Codec(config, encoder=True), left_context(config)
    frames = context + 3
    codes = np.random.default_rng(0).integers(0, 16, (config.n_codebooks, frames))
    wave = noise(frames * config.frame_size)

    def changed(frame: int) -> tuple[float, float]:
        other, beginning = codes.copy(), wave.copy()
        other[:, : frame + 1] = (codes[:, : frame + 1] + 7) % 16
        beginning[: (frame + 1) * config.frame_size] *= -3
        sounds = [np.array(codec.decode(mx.array(c)[None])[0])[-config.frame_size :] for c in (codes, other)]
        latents = [encode_alone(codec, w)[-1] for w in (wave, beginning)]
        return tuple(float(np.abs(a - b).max()) for a, b in (sounds, latents))

    assert max(changed(frames - 1 - context - 1)) < 1e-6
    assert max(changed(frames - 1 - context)) > 0


@pytest.mark.parametrize(("window", "context"), [(32, 37), (64, 69)])
def test_chunks_equal_the_whole_for_any_window(window, context, monkeypatch):
    """The release's strides and depths; layer scales of 1 let every layer's window count."""
    sizes = {"dim": 32, "hidden_dim": 32, "head_dim": 4, "n_heads": 8, "patch_size": 8, "semantic_dim": 8}
    sizes |= {"semantic_codebook_size": 16, "acoustic_dim": 4, "layer_scale_init": 1.0, "window": window}
    config = dataclasses.replace(VoxtralConfig.from_dict(RELEASE_PARAMS).codec, **sizes)
    mx.random.seed(0)
    codec = Codec(config, encoder=True)
    codes = np.random.default_rng(0).integers(0, 16, (config.n_codebooks, 110))
    wave = noise(110 * config.frame_size - 3)
    assert codec.left_context == context
    audio, latents = np.array(codec.decode(mx.array(codes)[None])[0]), encode_alone(codec, wave)
    assert relative_error(codec.decode_audio(codes, chunk_frames=50), audio) < ROUNDING
    assert relative_error(codec.encode_audio(wave, chunk_frames=50), latents) < ROUNDING
    monkeypatch.setattr(Codec, "left_context", 4)
    assert relative_error(codec.decode_audio(codes, chunk_frames=50), audio) > 100 * ROUNDING
    assert relative_error(codec.encode_audio(wave, chunk_frames=50), latents) > 100 * ROUNDING


@pytest.mark.parametrize(("length", "window"), [(1, 2), (5, 2), (16, 16), (17, 16), (70, 4), (200, 16), (33, 8)])
def test_windowed_attention_equals_the_full_matrix(length, window):
    rng = np.random.default_rng(length)
    q, k, v = rng.standard_normal((3, 2, length, 8, 4)).astype(np.float32)
    got = np.array(windowed_attention(mx.array(q), mx.array(k), mx.array(v), window, 0.5))
    scores = np.einsum("bihd,bjhd->bhij", q, k).astype(np.float64) * 0.5
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    scores -= np.array([2.0**-h for h in range(8)])[:, None, None] * distance
    scores = np.where((distance >= 0) & (distance <= window), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = np.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdims=True), v)
    assert relative_error(got, want) < ROUNDING


def test_attention_memory_grows_with_length_not_its_square():
    """Ten times the length costs 10 to 20 times the memory (buffers are reused); T x T would cost a hundred times."""

    def peak(length: int) -> int:
        x = mx.zeros((1, length, 8, 8))
        mx.eval(x)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(windowed_attention(x, x, x, 16, 1.0))
        return mx.get_peak_memory() - before

    assert peak(20000) < 30 * peak(2000)


def test_slopes_start_at_one():
    assert alibi_slopes(8) == [2.0**-h for h in range(8)]
    assert alibi_slopes(4) == [1.0, 0.25, 0.0625, 0.015625]


@pytest.mark.parametrize(
    ("codebook", "value"), [(0, -1), (0, 64), (1, 21), (36, -1)], ids=["low", "semantic", "acoustic", "negative"]
)
def test_codes_outside_their_codebook_are_refused(codec, codebook, value):
    codes = random_codes(codec, 4)
    codes[codebook, 2] = value
    with pytest.raises(ValueError, match=f"codebook {codebook}, frame 2"):
        codec.decode_audio(codes)


def test_straight_through_gradients(codec):
    """Forward the quantised values; backward the identity (semantic) and tanh' (acoustic)."""
    z = mx.random.normal((1, 6, codec.config.latent_dim), key=mx.random.key(0))
    quantizer, split = codec.quantizer, codec.config.semantic_dim
    quantised, semantic_z, rows = quantizer.straight_through(z)
    assert relative_error(quantised, quantizer.decode(quantizer.encode(z))) < ROUNDING
    assert relative_error(semantic_z, z[..., :split]) == 0
    assert relative_error(rows, quantised[..., :split]) < ROUNDING
    weight = mx.random.normal(z.shape, key=mx.random.key(1))
    grad = mx.grad(lambda z: (quantizer.straight_through(z)[0] * weight).sum())(z)
    want = mx.concatenate([weight[..., :split], weight[..., split:] * (1 - mx.tanh(z[..., split:]) ** 2)], axis=-1)
    assert relative_error(grad, want) < ROUNDING


@pytest.mark.slow
def test_decoding_piece_by_piece(codec):
    """The pieces are the whole, and five times the length takes hardly more memory."""
    codes = random_codes(codec, 400)
    whole, heard = codec.decode_audio(codes[:, :70], chunk_frames=20), []
    pieces = list(codec.decode_pieces(codes[:, :70], chunk_frames=20, on_frames=heard.append))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert heard == [len(piece) // FRAME for piece in pieces] == [20, 20, 20, 10]

    def peak(frames: int) -> int:
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        assert sum(map(len, codec.decode_pieces(codes[:, :frames], chunk_frames=20))) == frames * FRAME
        return mx.get_peak_memory() - before

    # On a busy machine MLX frees late, sometimes after `before` was read, sometimes after the next chunk has begun: the
    # same decoding was seen to take up to 1.4 times as much. What grows with the length would take several times.
    assert min(peak(400) for _ in range(3)) < 1.6 * min(peak(80) for _ in range(3))


def test_pieces_are_checked_before_the_first(codec):
    codes = random_codes(codec, 4)
    codes[0, 2] = -1
    with pytest.raises(ValueError, match="codebook 0, frame 2"):
        codec.decode_pieces(codes)


def test_gradients_are_finite_differences():
    """Of a smooth function of sound and latents, along a random direction of each kind of the encoder's parameters;
    the decoder is folded, as in training."""
    mx.random.seed(0)
    codec = Codec(preset_config("tiny"), encoder=True)
    freeze_all_but_encoder(codec)
    for block in (*codec.encoder_blocks[::2], *codec.decoder_blocks[1::2]):
        for layer in block.layers:  # a layer scale of 0.01 would hide what stands behind it
            layer.attention_scale, layer.ffn_scale = (0.3 * mx.ones_like(layer.ffn_scale) for _ in range(2))
    codec.fold_decoder()
    wave = mx.array(noise(4 * FRAME + 300))[None]

    def value() -> mx.array:
        latents = codec.encode_latents(wave)
        return mx.square(codec.decode_latents(mx.tanh(latents))).mean() + mx.square(latents).mean()

    gradients = dict(tree_flatten(nn.value_and_grad(codec, value)()[1]))
    start = dict(tree_flatten(codec.trainable_parameters()))
    kinds = ("original0", "original1", "wq", "wk", "wv", "wo", "q_norm", "w1", "w2", "w3", "ffn_norm", "ffn_scale")
    for kind in kinds:
        names = [name for name in start if kind in name]
        direction = {name: gradients[name] / mx.linalg.norm(gradients[name]) for name in names}
        expected = sum((gradients[name] * direction[name]).sum().item() for name in names)
        step, values = 2e-3, []
        for sign in (1, -1):
            codec.update(tree_unflatten([(name, start[name] + sign * step * direction[name]) for name in names]))
            values.append(value().item())
        codec.update(tree_unflatten([(name, start[name]) for name in names]))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=0.02), kind


def test_in_bfloat16_small_additions_are_not_lost():
    """Each of eight layers adds a thousandth of what is there, which is less than BF16 can tell from nothing."""
    mx.random.seed(0)
    layers = CodecTransformer(preset_config("tiny"), 8, 4)
    x = mx.random.normal((1, 20, 64)).astype(mx.bfloat16)
    for layer in layers.layers:
        layer.attention_scale, layer.ffn_scale = mx.full((64,), 0.005), mx.full((64,), 0.005)
    layers.set_dtype(mx.bfloat16)
    start = x.astype(mx.float32)
    added = np.array(layers(start) - start)  # float32 throughout, of the same weights
    kept = np.array(layers(x).astype(mx.float32) - start)
    assert np.abs(added).mean() < 0.03 * np.abs(np.array(start)).mean()
    assert np.sum(kept * added) / np.sum(added * added) == pytest.approx(1, abs=0.1)
