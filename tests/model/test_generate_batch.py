"""Several prompts at once: every item's codes are those it gets alone, whatever its neighbours are or do."""

import mlx.core as mx
import numpy as np
import pytest
from golden import params_of
from mlx.utils import tree_map

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.model import generation
from mlx_voxclone.model.blocks.layers import KVCache
from mlx_voxclone.model.config import END_CODE, VoxtralConfig
from mlx_voxclone.model.generation import BatchCache
from mlx_voxclone.model.voxtral import Voxtral


def that_ends(model: Voxtral, factor: float) -> Voxtral:
    """The model, with the END row of the semantic head enlarged: it ends sooner or later, where chance has it."""
    head = model.acoustic_transformer.semantic_codebook_output
    head.weight = mx.where(mx.arange(head.weight.shape[0])[:, None] == END_CODE, head.weight * factor, head.weight)
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def random_model():
    raw = params_of({"audio_model_args": _AUDIO_ARGS})
    raw["n_layers"] = 2
    mx.random.seed(3)
    model = Voxtral(VoxtralConfig.from_dict(raw), encoder=False)
    # larger than the default initialisation, so that a change of context changes the codes
    model.update(tree_map(lambda p: p * 2.0 if p.ndim == 2 else p, model.parameters()))
    return that_ends(model, 1.3)


_AUDIO_ARGS = (
    '{"semantic_codebook_size": 64, "acoustic_codebook_size": 21, "n_acoustic_codebook": 36,'
    ' "acoustic_transformer_args": {"input_dim": 32, "dim": 32, "n_layers": 2, "head_dim": 8, "hidden_dim": 64,'
    ' "n_heads": 4, "n_kv_heads": 2}}'
)


def prompts_of(model, lengths, seed=0):
    dim = model.config.backbone.dim
    return [mx.random.normal((n, dim), key=mx.random.key(100 * seed + i)) for i, n in enumerate(lengths)]


def alone(model, prompt, seed, **options):
    """codes [37, T], ended: by `generate`."""
    generator, frames = generation.generate(model, prompt[None], seed=seed, **options), []
    while True:
        try:
            frames.append(next(generator))
        except StopIteration as stop:
            return np.array(frames, dtype=np.int32).reshape(-1, 37).T, stop.value


def assert_as_alone(model, prompts, seeds, **options):
    results = generation.generate_batch(model, prompts, seeds=seeds, **options)
    for prompt, seed, result in zip(prompts, seeds, results, strict=True):
        codes, ended = alone(model, prompt, seed, **options)
        assert result.codes.dtype == np.int32
        np.testing.assert_array_equal(result.codes, codes)
        assert result.ended == ended
    return results


@pytest.mark.parametrize("lengths", [[9], [12, 12, 12], [5, 31, 18, 2, 18]])
@pytest.mark.slow
def test_every_item_is_as_alone(random_model, lengths):
    results = assert_as_alone(random_model, prompts_of(random_model, lengths), range(len(lengths)), max_frames=24)
    assert all(r.codes.shape[1] for r in results)


@pytest.mark.slow
def test_items_end_at_different_frames_and_leave(random_model):
    speaking = []
    prompts = prompts_of(random_model, [40, 7, 23, 11, 3, 30, 16, 9], seed=2)
    options = {"max_frames": 40, "seeds": range(8)}
    results = generation.generate_batch(random_model, prompts, on_frame=speaking.append, **options)
    lengths = [r.codes.shape[1] for r in results]
    assert len({n for n, r in zip(lengths, results) if r.ended}) >= 3, lengths
    assert speaking == [sum(n > i for n in lengths) for i in range(len(speaking))]
    assert_as_alone(random_model, prompts, range(8), max_frames=40)


@pytest.mark.slow
def test_beyond_a_step_of_the_cache(random_model):
    """256 positions are one step: prompt and frames cross it."""
    model = random_model
    prompts = prompts_of(model, [250, 120, 255], seed=2)
    states, caches = [], [model.new_cache() for _ in prompts]
    for prompt, cache in zip(prompts, caches):
        model.hidden_states(prompt[None], cache)
    batch = [BatchCache(layer) for layer in zip(*caches)]
    for i in range(270):
        x = mx.random.normal((3, 1, model.config.backbone.dim), key=mx.random.key(i))
        states = model.hidden_states(x, batch)
        want = mx.concatenate([model.hidden_states(x[j : j + 1], cache) for j, cache in enumerate(caches)])
        assert mx.allclose(states, want, rtol=1e-4, atol=1e-4), i
    assert batch[0].keys.shape[2] <= 255 + 270 + 2 * KVCache.step


@pytest.mark.slow
def test_the_miniature_with_voices_and_texts(miniature):
    release = Release(miniature)
    model = load_model(release)
    tokenizer = SpeechTokenizer(release.tokenizer_path)
    prompts = []
    texts = [
        "One.",
        "The train leaves at nine.",
        "Where is my red hat?",
        "She sings.",
        "Is it far?",
        "Two, three, four.",
    ]
    for text, voice in zip([*texts, *texts[:2]], 3 * release.voices()):
        rows = release.voice(voice)
        prompts.append(model.embed_prompt(tokenizer.prompt(text, rows.shape[0]), rows)[0])
    assert len({p.shape[0] for p in prompts}) >= 4
    results = assert_as_alone(model, prompts, range(8), max_frames=30)
    assert any(r.ended for r in results)
    assert sum(r.codes.shape[1] for r in results) > 40


def test_steps_and_guidance_reach_every_item(random_model):
    prompts = prompts_of(random_model, [6, 10])
    for options in ({"n_steps": 2}, {"cfg_alpha": 3.0}):
        assert_as_alone(random_model, prompts, [1, 2], max_frames=6, **options)


def test_a_cache_drops_items_and_the_columns_that_none_needs():
    caches = []
    for n in (3, 9, 5):
        cache = KVCache()
        cache.update(mx.full((1, 2, n, 4), n), mx.full((1, 2, n, 4), -n))
        caches.append(cache)
    batch = BatchCache(caches)
    assert batch.positions.tolist() == [3, 9, 5]
    assert batch.mask(1)[:, 0, 0].sum(axis=-1).tolist() == [4, 10, 6]
    batch.keep([0, 2])
    assert batch.positions.tolist() == [3, 5]
    assert batch.keys.shape[:3] == (2, 2, 5)
    assert batch.keys[:, 0, :, 0].tolist() == [[0, 0, 3, 3, 3], [5] * 5]
    batch.keep([1])
    assert batch.mask(1) is None


def test_nothing_to_do_and_seeds_that_do_not_fit(random_model):
    prompts = prompts_of(random_model, [4, 6])
    assert generation.generate_batch(random_model, [], max_frames=5, seeds=[]) == []
    for result in generation.generate_batch(random_model, prompts, max_frames=0, seeds=[0, 1]):
        assert result.codes.shape == (37, 0)
        assert not result.ended
    with pytest.raises(ValueError, match="2 prompts need as many seeds"):
        generation.generate_batch(random_model, prompts, max_frames=5, seeds=[0])
