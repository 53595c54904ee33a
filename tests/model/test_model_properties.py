"""Cached generation equals uncached; prompts, END, seeds, guidance and step count behave as documented."""

import mlx.core as mx
import numpy as np
import pytest
from documents import DELETED, changed
from golden import RELEASE_PARAMS, params_of, relative_error
from mlx.utils import tree_map

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model import generation
from mlx_voxclone.model.blocks.layers import KVCache
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.generation import frame_noise
from mlx_voxclone.model.voxtral import Voxtral


@pytest.fixture(scope="module")
def model():
    raw = params_of({"audio_model_args": _AUDIO_ARGS})
    raw["n_layers"] = 2
    mx.random.seed(3)
    model = Voxtral(VoxtralConfig.from_dict(raw), encoder=False)
    # larger than the default initialisation, so that a change of context changes the codes
    model.update(tree_map(lambda p: p * 2.0 if p.ndim == 2 else p, model.parameters()))
    mx.eval(model.parameters())
    return model


_AUDIO_ARGS = (
    '{"semantic_codebook_size": 64, "acoustic_codebook_size": 21, "n_acoustic_codebook": 36,'
    ' "acoustic_transformer_args": {"input_dim": 32, "dim": 32, "n_layers": 2, "head_dim": 8, "hidden_dim": 64,'
    ' "n_heads": 4, "n_kv_heads": 2}}'
)


def prompt(model, rows=5, seed=0):
    voice = mx.random.normal((rows, 32), key=mx.random.key(seed))
    return model.embed_prompt([1, 25, *[24] * rows, 36, 60, 61, 62, 35, 25], voice)


def frames(model, **kwargs):
    return np.array(list(generation.generate(model, prompt(model), **{"max_frames": 8, "seed": 0} | kwargs)))


def test_cache_equals_no_cache_at_any_split(model):
    x = mx.random.normal((2, 300, 32), key=mx.random.key(1))
    whole = model.hidden_states(x)
    for cuts in ([1, 2, 3], [2, 4], [17], [255, 256, 257], [299]):
        cache, parts = model.new_cache(), []
        for start, stop in zip([0, *cuts], [*cuts, 300]):
            parts.append(model.hidden_states(x[:, start:stop], cache))
        assert relative_error(mx.concatenate(parts, axis=1), whole) < 1e-4


def test_generation_with_cache_equals_recomputing_everything(model):
    got = frames(model)
    embeddings = prompt(model)
    for frame, noise in zip(got, frame_noise(0, 36)):
        hidden = model.hidden_states(embeddings)[:, -1]
        codes = model.acoustic_transformer.decode_frame(hidden, noise)
        assert (np.array(codes[0]) - 2 == frame).all()
        embeddings = mx.concatenate([embeddings, model.embed_codes(codes)[:, None]], axis=1)
    assert len(got) >= 1


def test_backbone_is_causal_and_items_do_not_leak(model):
    x = mx.random.normal((2, 20, 32), key=mx.random.key(2))
    whole = model.hidden_states(x)
    changed = mx.concatenate([x[:, :12], mx.ones((2, 8, 32))], axis=1)
    assert relative_error(model.hidden_states(changed)[:, :12], whole[:, :12]) < 1e-5
    assert relative_error(model.hidden_states(x[1:]), whole[1:]) < 1e-5


def test_the_seed_decides_the_noise_and_nothing_else_does(model):
    mx.random.seed(1)
    a = frames(model)
    state = mx.random.state[0].tolist()
    mx.random.seed(2)
    assert (frames(model) == a).all()
    assert mx.random.state[0].tolist() != state
    assert (frames(model, seed=1)[0, 1:] != a[0, 1:]).any()


def test_guidance_and_steps_are_arguments(model):
    a = frames(model, max_frames=1)
    assert (frames(model, max_frames=1, cfg_alpha=4.0) != a).any()
    assert (frames(model, max_frames=1, n_steps=2) != a).any()
    assert (frames(model, max_frames=1, n_steps=7, cfg_alpha=1.2) == a).all()


def test_generation_stops_at_end(model):
    """Make END win: the generator ends at once and says that it ended; cut off, it says that it did not."""

    def run(max_frames):
        generator, count = generation.generate(model, prompt(model), max_frames=max_frames), 0
        while True:
            try:
                next(generator)
                count += 1
            except StopIteration as stop:
                return count, stop.value

    assert run(3) == (3, False)
    head = model.acoustic_transformer.semantic_codebook_output
    saved = head.weight
    hidden = model.hidden_states(prompt(model))[0, -1]
    try:
        head.weight = mx.zeros_like(saved).at[1].add(hidden)
        assert run(3) == (0, True)
    finally:
        head.weight = saved


def test_prompt_rows_replace_the_audio_tokens_one_for_one(model):
    voice = mx.random.normal((3, 32), key=mx.random.key(0))
    embedded = model.embed_prompt([1, 25, 24, 24, 24, 36, 60, 35, 25], voice)
    assert embedded.shape == (1, 9, 32)
    assert relative_error(embedded[0, 2:5], voice) == 0
    table = model.mm_audio_embeddings.tok_embeddings.weight
    assert relative_error(embedded[0, 6], table[60]) == 0
    with pytest.raises(ValueError, match="2 audio tokens for 3 voice rows"):
        model.embed_prompt([1, 25, 24, 24, 36, 60, 35, 25], voice)
    with pytest.raises(ValueError, match="0..63"):
        model.embed_prompt([1, 25, 24, 24, 24, 36, 64, 35, 25], voice)


def test_voice_embedding_is_a_sum_of_table_rows_and_ends_with_end(model):
    codes = np.random.default_rng(0).integers(0, 21, (37, 4)).astype(np.int32)
    rows = np.array(model.voice_embedding(codes))
    table = np.array(model.mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight)
    offsets = np.array([0, *(66 + 23 * np.arange(36))])
    for t in range(4):
        assert relative_error(rows[t], table[offsets + codes[:, t] + 2].sum(0)) < 1e-5
    assert rows.shape == (5, 32)
    end = offsets.copy()
    end[0] = 1
    assert relative_error(rows[4], table[end].sum(0)) < 1e-5


def test_cache_grows_in_steps():
    cache = KVCache()
    for n in (250, 10, 300, 1):
        keys, _ = cache.update(mx.ones((1, 2, n, 4)), mx.ones((1, 2, n, 4)))
    assert keys.shape == (1, 2, 561, 4)
    assert float(keys.min()) == 1.0


def test_release_sizes():
    config = VoxtralConfig.from_dict(RELEASE_PARAMS)
    assert config.codec.code_offsets[:4] == (0, 8194, 8194 + 23, 8194 + 46)
    assert sum(config.codec.code_sizes) == 9022
    assert (config.codec.table_rows, config.codec.semantic_logits) == (9088, 8320)
    assert (config.codec.frame_size, config.codec.frame_rate) == (1920, 12.5)
    assert [config.codec.n_frames(n) for n in (1, 1920, 1921, 13440)] == [1, 1, 2, 7]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("tied_embeddings",), False, "tied_embeddings"),
        (("multimodal", "audio_tokenizer_args", "qk_norm"), False, "qk_norm"),
        (("multimodal", "audio_model_args", "n_acoustic_codebook"), 8, "n_acoustic_codebook"),
        (("multimodal", "audio_tokenizer_args", "decoder_convs_kernels_str"), "3,4,4,5", "multiple of its stride"),
        (("multimodal", "audio_tokenizer_args", "decoder_convs_strides_str"), "1,2,2", "decoder"),
        (("dim",), None, "dim"),
    ],
)
def test_a_configuration_this_code_does_not_implement_is_refused(path, value, said):
    raw = changed(RELEASE_PARAMS, path, DELETED if value is None else value)
    with pytest.raises(ConfigError, match=said):
        VoxtralConfig.from_dict(raw)


def test_broken_params_json(tmp_path):
    with pytest.raises(ConfigError, match="not found"):
        VoxtralConfig.from_file(tmp_path)
    (tmp_path / "params.json").write_text("{")
    with pytest.raises(ConfigError, match="JSON"):
        VoxtralConfig.from_file(tmp_path)


def test_the_embedding_of_a_long_voice_takes_the_memory_of_a_short_one(model):
    """37 rows per frame exist before the sum; only some frames of them may exist at once. The result is the same."""
    codes = np.random.default_rng(0).integers(0, 21, (37, 6000)).astype(np.int32)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    rows = model.voice_embedding(codes)
    mx.eval(rows)
    assert mx.get_peak_memory() - before < 6000 * 37 * 32 * 4 / 4
    assert relative_error(rows[4000:4020], model.voice_embedding(codes[:, 4000:4020])[:20]) < 1e-6


@pytest.mark.parametrize("cached", [0, 3])
@pytest.mark.parametrize("start", [1, 6, 8])
def test_positions_that_are_asked_for_are_those_of_all(model, start, cached):
    """The last layer leaves the others out; rotation and mask of the rest are where they were, behind a cache too."""
    x = mx.random.normal((2, cached + 9, 32), key=mx.random.key(0))
    want = model.hidden_states(x)[:, cached + start :]
    cache = None
    if cached:
        cache = model.new_cache()
        model.hidden_states(x[:, :cached], cache)
    assert relative_error(model.hidden_states(x[:, cached:], cache, start=start), want) < 1e-5


def test_gradients_through_the_positions_that_are_asked_for(model):
    x = mx.random.normal((2, 9, 32), key=mx.random.key(0))

    def loss(x, start, recompute):
        model.recompute = recompute
        try:
            return mx.sum(mx.cos(model.hidden_states(x, start=start))[:, -4:])
        finally:
            model.recompute = False

    want = mx.grad(loss)(x, 0, False)
    for recompute in (False, True):
        assert relative_error(mx.grad(loss)(x, 5, recompute), want) < 1e-5


def test_the_velocity_is_read_off_the_first_of_three_tokens(model):
    """The head's last layer computes that one alone: the same as if it computed all."""
    head = model.acoustic_transformer
    x_t, hidden = (mx.random.normal((4, n), key=mx.random.key(n)) for n in (36, 32))
    t, seen = mx.array([0.0, 0.3, 0.5, 1.0]), []
    last = head.layers[-1]

    class Whole:
        def __call__(self, x, queries):
            seen.append(x.shape)
            return last(x)[:, queries]

    found = head.velocity(x_t, t, hidden)
    head.layers = [*head.layers[:-1], Whole()]
    try:
        want = head.velocity(x_t, t, hidden)
    finally:
        head.layers = [*head.layers[:-1], last]
    assert seen == [(4, 3, 32)]
    assert relative_error(found, want) < 1e-5
