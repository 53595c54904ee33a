"""Scores of the recovery benchmark: counts against numpy, chance against all pairs of frames, a codec with itself."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tasks_data import clip as spoken
from tasks_data import scratch_codec

from benchmarks.recovery.score import CodeTally, Reference, UnitClassifier, distances, score
from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import DataError
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.train.encoder.start import calibrate_encoder

N_UNITS = 5
stft_loss = partial(multi_resolution_stft_loss, sizes=(2048, 1024, 512, 256))


@dataclass
class HeldOut:
    id: str
    path: Path
    kind: str
    units: np.ndarray | None = None


@pytest.fixture(scope="module")
def config(miniature):
    return Release(miniature).config.codec


@pytest.fixture(scope="module")
def unit_of(config):
    return np.random.default_rng(0).integers(0, N_UNITS, config.semantic_codebook_size)


def random_codes(config, frames, seed):
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 6, (1, frames))
    return np.concatenate([semantic, rng.integers(8, 12, (config.acoustic_dim, frames))]).astype(np.int16)


def tally_of(config, unit_of, *clips):
    tally = CodeTally(config, unit_of)
    for clip in clips:
        tally.add(*clip)
    return tally


def test_agreement_is_that_of_the_frames_put_together(config, unit_of):
    true, found = random_codes(config, 50, 1), random_codes(config, 50, 2)
    tally = tally_of(config, unit_of, (true[:, :20], found[:, :20]), (true[:, 20:], found[:, 20:]))
    expected = {
        "semantic": 100 * np.mean(true[0] == found[0]),
        "units": 100 * np.mean(unit_of[true[0]] == unit_of[found[0]]),
        "level_error": np.mean(np.abs(true[1:] - found[1:])),
        "level_exact": 100 * np.mean(true[1:] == found[1:]),
    }
    assert tally.agreement() == pytest.approx(expected)
    assert 0 < expected["semantic"] < expected["units"] < 100


def test_chance_is_the_agreement_of_all_frames_with_all_frames(config, unit_of):
    true, found = random_codes(config, 30, 3), random_codes(config, 30, 4)
    found[1:, :10] += 5  # shares that differ between the two
    pairs = [(true, np.roll(found, k, axis=1)) for k in range(30)]
    chance = tally_of(config, unit_of, (true, found)).chance()
    assert chance == pytest.approx(tally_of(config, unit_of, *pairs).agreement())
    assert chance != pytest.approx(tally_of(config, unit_of, (true, found)).agreement())


def test_merging_is_counting_together(config, unit_of):
    labels = np.random.default_rng(5).integers(-1, N_UNITS, 40)
    clips = [(random_codes(config, 40, 6), random_codes(config, 40, 7), labels), (random_codes(config, 9, 8),) * 2]
    merged = tally_of(config, unit_of, clips[0])
    merged.merge(tally_of(config, unit_of, clips[1]))
    together = tally_of(config, unit_of, *clips)
    for name in ("agreement", "chance", "unit_error"):
        assert getattr(merged, name)() == getattr(together, name)(), name
    assert [merged.usage(k) for k in (0, 1)] == [together.usage(k) for k in (0, 1)]


def test_unit_error_counts_the_found_codes_where_a_label_is_known(config, unit_of):
    true, found = random_codes(config, 40, 9), random_codes(config, 40, 10)
    labels = unit_of[true[0]].copy()
    labels[::2] = -1
    tally = tally_of(config, unit_of, (true, found, labels))
    assert tally.unit_error() == pytest.approx(100 * np.mean(unit_of[found[0, 1::2]] != labels[1::2]))
    assert 0 < tally.unit_error() < 100
    assert tally_of(config, unit_of, (true, found)).unit_error() is None


def test_usage_counts_codes_and_their_entropy(config, unit_of):
    codes = np.zeros((1 + config.acoustic_dim, 8), dtype=np.int16)
    codes[0] = [3, 3, 3, 3, 5, 5, 6, 7]
    codes[1] = [0, 0, 0, 0, 20, 20, 20, 20]  # 1 bit; the other codebooks none
    tally = tally_of(config, unit_of, (np.zeros_like(codes), codes))
    share = 100 / config.semantic_codebook_size
    assert tally.usage(1) == pytest.approx(
        {"codes_used": 4 * share, "code_entropy": 1.75, "level_entropy": 1 / config.acoustic_dim}
    )
    assert tally.usage(0) == pytest.approx({"codes_used": share, "code_entropy": 0, "level_entropy": 0})


# --- whole encoders ---------------------------------------------------------------------------------------------------


def codec_of(miniature, seed):
    codec = scratch_codec(miniature, seed)
    calibrate_encoder(codec, [spoken(k).read()[:24000] for k in range(2)])
    return codec


@pytest.fixture(scope="module")
def hidden(miniature):
    return codec_of(miniature, 1)


@pytest.fixture(scope="module")
def other(miniature):
    return codec_of(miniature, 2)


@pytest.fixture(scope="module")
def scored(hidden, other, units, clips):
    return Reference(hidden, units, clips).score(other)


@pytest.fixture(scope="module")
def units(config):
    rng = np.random.default_rng(11)
    weight, bias = rng.standard_normal((N_UNITS, config.semantic_dim)), rng.standard_normal(N_UNITS)
    return UnitClassifier(weight.astype(np.float32), bias.astype(np.float32))


@pytest.fixture(scope="module")
def clips(hidden, units, tmp_path_factory):
    """Two kinds; the second has no labels. One clip ends within a frame."""
    home, made = tmp_path_factory.mktemp("clips"), []
    for k, (kind, samples) in enumerate((("synthetic", 24000), ("synthetic", 14401), ("real", 19200))):
        path = home / f"{k}.wav"
        write_wav(path, spoken(20 + k, samples).read())
        labels = np.full(-(-samples // 1920), 2) if kind == "synthetic" else None
        made.append(HeldOut(str(k), path, kind, labels))
    return made


@pytest.mark.slow
def test_a_codec_recovers_itself(hidden, units, clips):
    result = score(hidden, hidden, units, clips)
    for part in (result["pooled"], *result["kinds"].values()):
        real = part["real"]
        right = {"semantic": 100.0, "units": 100.0, "level_error": 0.0, "level_exact": 100.0}
        assert {name: real[name] for name in right} == right
        assert (real["mel_ratio"], real["stft_ratio"]) == pytest.approx((1, 1))
        assert part["decoded"] == {name: part["hidden"][name] for name in part["decoded"]}
        assert part["decoded"]["level_error"] > 0  # decoded audio is other audio, and its codes are others
        assert real["unit_error"] == part["hidden"]["unit_error"]
    assert result["pooled"]["frames"] == 13 + 8 + 10
    assert result["kinds"]["real"]["real"]["unit_error"] is None


def test_another_encoder_is_near_chance_and_worse(scored):
    result = scored["pooled"]
    assert result["real"]["semantic"] < 50
    assert result["real"]["level_error"] == pytest.approx(result["chance"]["level_error"], rel=0.2)
    assert result["decoded"]["level_error"] > result["hidden"]["level_error"]
    assert result["real"]["mel_ratio"] != 1


def test_scores_are_those_of_codes_worked_out_by_hand(hidden, other, scored):
    result = scored["kinds"]["real"]
    audio = spoken(22, 19200).read()
    audio = np.round(audio * 32767) / 32767  # the file has 16 bits
    true, found = (
        np.array(c.quantize(c.encode_latents(mx.array(audio[None]).astype(mx.float32)))[0]) for c in (hidden, other)
    )
    assert result["real"]["semantic"] == pytest.approx(100 * np.mean(true[0] == found[0]))
    assert result["real"]["level_error"] == pytest.approx(np.mean(np.abs(true[1:] - found[1:])), abs=0.02)
    decoded = mx.array(hidden.decode_audio(true))
    again = np.array(other.quantize(other.encode_latents(decoded[None]))[0])
    assert result["decoded"]["level_error"] == pytest.approx(np.mean(np.abs(true[1:] - again[1:])), abs=0.01)
    assert result["decoded"]["level_exact"] == pytest.approx(100 * np.mean(true[1:] == again[1:]), abs=0.3)
    ours, theirs = (mx.array(hidden.decode_audio(codes))[None] for codes in (found, true))
    target = mx.array(audio[None]).astype(mx.float32)
    assert result["real"]["mel"] == pytest.approx(log_mel_loss(ours, target).item(), rel=1e-2)
    assert result["hidden"]["stft"] == pytest.approx(stft_loss(theirs, target).item(), rel=1e-2)


def test_pooled_is_weighted_by_frames_and_leaves_out_what_is_apart(hidden, other, units, clips, scored):
    parts = scored["kinds"].values()
    weighted = sum(p["frames"] * p["real"]["level_error"] for p in parts) / sum(p["frames"] for p in parts)
    assert scored["pooled"]["real"]["level_error"] == pytest.approx(weighted)
    apart = Reference(hidden, units, clips[1:], apart={"real"}).score(other)
    assert apart["kinds"]["real"]["real"] == scored["kinds"]["real"]["real"]
    assert apart["pooled"] == {k: v for k, v in apart["kinds"]["synthetic"].items() if k != "pooled"}
    assert apart["pooled"]["real"] != scored["pooled"]["real"]


def test_distances_of_a_long_clip_are_the_means_of_its_pieces(hidden, monkeypatch):
    cut = 24000
    monkeypatch.setattr("benchmarks.recovery.score._PIECE", cut)
    audio = np.resize(spoken(30).read(), cut + 9000).astype(np.float32)
    codes = hidden.audio_codes(audio)
    whole, decoded = distances(hidden, codes, audio), hidden.decode_audio(codes)[: len(audio)]
    for k, loss in enumerate((log_mel_loss, stft_loss)):
        parts = [
            (a, loss(mx.array(decoded[None, a:b]), mx.array(audio[None, a:b])).item())
            for a, b in ((0, cut), (cut, None))
        ]
        expected = (cut * parts[0][1] + (len(audio) - cut) * parts[1][1]) / len(audio)
        assert whole[k] / whole[2] == pytest.approx(expected, rel=1e-5)
    assert whole[2] == len(audio)


def test_what_cannot_be_scored_is_refused(hidden, units, clips):
    with pytest.raises(DataError, match="no held-out clips"):
        Reference(hidden, units, clips[2:], apart={"real"})
    wrong = HeldOut("w", clips[0].path, "synthetic", np.zeros(7, dtype=int))
    with pytest.raises(DataError, match="7 unit labels for 13 frames"):
        Reference(hidden, units, [wrong])
