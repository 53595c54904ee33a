"""The codebook of the recovery benchmark's codec: it follows the data, leaves no entry dead, and is saved near 1."""

import mlx.core as mx
import numpy as np
import pytest
from recovery_corpus import TINY_CODEC

from benchmarks.recovery.codec import load_codec, save_codec
from benchmarks.recovery.student import (
    Student,
)
from benchmarks.recovery.vq import CodebookTrainer, codebook_scale, scaled_semantics
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.quantizer import SemanticCodebook


def test_running_means_are_those_of_numpy():
    rng = np.random.default_rng(0)
    book = SemanticCodebook(5, 3)
    trainer = CodebookTrainer(book, decay=0.9)
    sums, usage = np.array(book.embedding_sum), np.array(book.cluster_usage)
    for _ in range(4):
        z, codes = rng.standard_normal((20, 3)).astype(np.float32), rng.integers(0, 4, 20)
        trainer.update(mx.array(z), mx.array(codes))
        for k in range(5):
            usage[k] = 0.9 * usage[k] + 0.1 * (codes == k).sum()
            sums[k] = 0.9 * sums[k] + 0.1 * z[codes == k].sum(axis=0)
    np.testing.assert_allclose(np.array(book.cluster_usage), usage, rtol=1e-5)
    np.testing.assert_allclose(np.array(book.embedding), sums / usage[:, None], rtol=1e-4, atol=1e-5)


def test_rows_follow_the_data():
    """Data that move: every row goes to the mean of what falls to it now."""
    rng = np.random.default_rng(1)
    centres = 10 * rng.standard_normal((4, 6))
    book = SemanticCodebook(4, 6)
    trainer = CodebookTrainer(book, decay=0.9, seed=2)
    places = np.resize(np.arange(4), 200)

    def draw(shift: float) -> mx.array:
        return mx.array((centres[places] + shift + 0.1 * rng.standard_normal((200, 6))).astype(np.float32))

    book.embedding_sum = mx.array(centres.astype(np.float32))  # one entry per cluster, each of usage 1
    for shift in np.linspace(0, 5, 120):
        z = draw(shift)
        trainer.update(z, book.encode(z))
    for _ in range(80):
        z = draw(5.0)
        trainer.update(z, book.encode(z))
    order = np.array(book.encode(mx.array((centres + 5).astype(np.float32))))
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(np.array(book.embedding)[order], centres + 5, atol=0.1)


def test_start_finds_the_clusters_and_leaves_no_entry_empty():
    rng = np.random.default_rng(3)
    centres = 8 * rng.standard_normal((6, 4))
    z = mx.array((np.repeat(centres, 50, axis=0) + 0.2 * rng.standard_normal((300, 4))).astype(np.float32))
    book = SemanticCodebook(24, 4)
    CodebookTrainer(book, seed=1).start(z, 96)
    assert len(np.unique(np.array(book.encode(z)))) >= 20
    np.testing.assert_allclose(np.array(book.cluster_usage), 4.0)
    nearest = np.sqrt(np.square(np.array(book.embedding)[:, None] - centres).sum(-1)).min(axis=1)
    assert nearest.max() < 1.0


def test_dead_entries_live_again():
    rng = np.random.default_rng(4)
    book = SemanticCodebook(8, 4)
    book.embedding_sum = mx.array(np.concatenate([np.zeros((4, 4)), np.full((4, 4), 100.0)]).astype(np.float32))
    trainer = CodebookTrainer(book, decay=0.9, seed=0)
    z = mx.array(rng.standard_normal((64, 4)).astype(np.float32))
    assert trainer.revive(z) == 0  # all in use so far
    for _ in range(60):
        trainer.update(z, book.encode(z))
    before = np.array(book.embedding)
    used = np.unique(np.array(book.encode(z)))
    dead = np.setdiff1d(np.arange(8), used)
    assert trainer.revive(z) == len(dead) >= 4
    after = np.array(book.embedding)
    np.testing.assert_allclose(after[used], before[used], rtol=1e-5)
    for k in dead:
        assert np.abs(np.array(z) - after[k]).sum(axis=1).min() < 1e-4
    assert trainer.revive(z) == 0
    assert len(np.unique(np.array(book.encode(z)))) > len(used)
    with pytest.raises(ValueError, match="decay"):
        CodebookTrainer(book, decay=1.0)


def test_semantic_latents_of_any_size_are_saved_near_1(student, corpus, tmp_path):
    make_micro(tmp_path / "untrained", "tiny", 0)
    grown = Student(Codec(TINY_CODEC, encoder=True))
    grown.codec.load_weights(list(scaled_semantics(student.codec, codebook_scale(student.codec) / 64).items()))
    grown.classifier.weight = student.classifier.weight / 64
    assert codebook_scale(grown.codec) == 64
    save_codec(grown, tmp_path / "untrained", tmp_path / "codec")
    saved, weight, bias = load_codec(tmp_path / "codec")
    assert codebook_scale(saved) == 1
    rows, wave = saved.quantizer.semantic_codebook.embedding, corpus.clips[0].read()
    expected = np.array(grown.classifier(grown.codec.quantizer.semantic_codebook.embedding))
    np.testing.assert_allclose(np.array(rows) @ weight.T + bias, expected, atol=0.02 * np.abs(expected).max())
    codes = grown.codec.audio_codes(wave)
    assert np.mean(saved.audio_codes(wave)[0] == codes[0]) > 0.9
    said, again = grown.codec.decode_audio(codes), saved.decode_audio(codes)
    assert np.abs(said - again).max() < 0.05 * np.abs(said).max()
