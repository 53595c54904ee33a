"""Judged codes: encoder and language model weighed against each other, in batches as one by one."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence, neighbour_distance

CERTAIN, CLUELESS = 1e-6, 1e6  # temperatures: the encoder alone decides, or says nothing


@pytest.fixture(scope="module")
def model(miniature):
    return load_model(Release(miniature))


@pytest.fixture(scope="module")
def prompt(miniature):
    return SpeechTokenizer(Release(miniature).tokenizer_path).prompt


def evidence(model, seed: int, frames: int, text: str = "papa mino.") -> Evidence:
    rng, codec = np.random.default_rng(seed), model.config.codec
    width = codec.semantic_dim + codec.acoustic_dim
    sizes = np.array(codec.code_sizes) - 2
    voice = np.stack([rng.integers(0, size, 5) for size in sizes]).astype(np.int32)
    return Evidence(str(seed), text, rng.standard_normal((frames, width)).astype(np.float32), voice)


def teacher_forced(model, prompt, item: Evidence, codes: np.ndarray) -> np.ndarray:
    """Semantic log-probabilities `[T, K]` of one recording, computed without the judge."""
    rows = model.voice_embedding(item.voice)
    start = model.embed_prompt(prompt(item.text, rows.shape[0]), rows)
    frames = model.embed_codes(mx.array(codes.T + 2))[None]
    x = mx.concatenate([start, frames], axis=1)
    hidden = model.hidden_states(x)[0, start.shape[1] - 1 : -1]
    logits = np.array(model.acoustic_transformer.semantic_logits(hidden))[
        :, 2 : 2 + model.config.codec.semantic_codebook_size
    ]
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def test_a_certain_encoder_keeps_its_codes(model, prompt):
    item = evidence(model, 1, 6)
    found = CodeJudge(model, prompt, temperature=CERTAIN, noise=0.0).judge([item])[0]
    assert (found.codes == np.array(model.audio_tokenizer.quantize(mx.array(item.latents)[None])[0])).all()
    assert found.confidence == pytest.approx(np.ones(6), abs=1e-4)


def test_a_clueless_encoder_leaves_the_choice_to_the_language_model(model, prompt):
    item = evidence(model, 2, 6)
    found = CodeJudge(model, prompt, temperature=CLUELESS, noise=0.0).judge([item], rounds=12)[0]
    prior = teacher_forced(model, prompt, item, found.codes)
    assert (found.codes[0] == prior.argmax(axis=1)).all()
    chosen = prior[np.arange(6), found.codes[0]]
    assert found.confidence == pytest.approx(np.exp(chosen), rel=1e-3)
    assert found.text_nats == pytest.approx(-chosen.mean(), rel=1e-3)


def test_acoustic_values_take_one_step_of_the_flow(model, prompt):
    item, noise = evidence(model, 3, 5), 0.5
    found = CodeJudge(model, prompt, temperature=CERTAIN, noise=noise).judge([item], rounds=1)[0]
    codes = np.array(model.audio_tokenizer.quantize(mx.array(item.latents)[None])[0])
    rows = model.voice_embedding(item.voice)
    start = model.embed_prompt(prompt(item.text, rows.shape[0]), rows)
    x = mx.concatenate([start, model.embed_codes(mx.array(codes.T + 2))[None]], axis=1)
    hidden = model.hidden_states(x)[0, start.shape[1] - 1 : -1]
    t, values = 1 / (1 + noise), np.tanh(item.latents[:, model.config.codec.semantic_dim :])
    moved = np.array(model.acoustic_transformer.velocity(mx.array(t * values), mx.full((5,), t), hidden))
    expected = np.clip(t * values + (1 - t) * moved, -1, 1)
    levels = model.config.codec.acoustic_codebook_size
    assert (found.codes[1:] == np.round((expected.T + 1) / 2 * (levels - 1))).mean() > 0.99


def test_batches_change_nothing(model, prompt, monkeypatch):
    items = [
        evidence(model, k, frames, text)
        for k, (frames, text) in enumerate([(3, "a."), (9, "mino papa lesu."), (1, "mi.")])
    ]
    judge, seen = CodeJudge(model, prompt), []
    together = judge.judge(items, progress=seen.append)
    assert sum(seen) == 3
    monkeypatch.setattr("mlx_voxclone.train.judge.judge.BATCH_TOKENS", 1)
    for item, joint in zip(items, together):
        alone = judge.judge([item])[0]
        assert (alone.codes[0] == joint.codes[0]).all()
        assert np.abs(alone.codes - joint.codes).max() <= 1  # a level at the edge of its cell
        assert alone.text_nats == pytest.approx(joint.text_nats, rel=1e-3)


def test_nats_are_those_of_the_text(model, prompt):
    items = [evidence(model, 1, 4, "mino."), evidence(model, 2, 7, "papa lesu tara.")]
    codes = [np.array(model.audio_tokenizer.quantize(mx.array(e.latents)[None])[0]) for e in items]
    for item, own, found in zip(items, codes, CodeJudge(model, prompt).nats(items, codes)):
        prior = teacher_forced(model, prompt, item, own)
        assert found == pytest.approx(-prior[np.arange(own.shape[1]), own[0]].mean(), rel=1e-3)


def test_neighbour_distance_is_the_codebooks_scale(model):
    codec = model.audio_tokenizer
    rows = np.array(codec.quantizer.semantic_codebook.embedding)
    nearest = [np.partition(np.square(rows - row).sum(axis=1), 1)[1] for row in rows]
    assert neighbour_distance(codec) == pytest.approx(np.median(nearest), rel=1e-4)


def test_a_language_that_is_to_be_learnt_is_not_judged(miniature, tmp_path):
    from mlx_voxclone.settings.config import RunConfig
    from mlx_voxclone.train.clone.recover import _Steps
    from mlx_voxclone.train.stages.running import Run

    config = RunConfig(task="language", model=str(miniature))
    steps = _Steps(config, None, Run.of(config, tmp_path))
    assert steps.judge(None, {}, 1).codes == {}
