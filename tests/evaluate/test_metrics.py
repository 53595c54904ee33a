"""Metrics against known answers: identical sound, noise of a known level, tones of a known pitch, counted errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_made import speaker_onnx, speech, with_noise

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.prosody import fundamental, pitch, semitones, spoken_seconds
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.fidelity import fidelity, si_sdr
from mlx_voxclone.evaluate.intelligibility import errors, normalise
from mlx_voxclone.evaluate.speakers import OnnxModel, SpectralModel, similarity, speaker_model
from mlx_voxclone.miniature.synth import SyntheticSpeaker

# --- fidelity ---------------------------------------------------------------------------------------------------------


def test_identical_sound_is_perfect():
    wave = speech()
    found = fidelity(wave, wave)
    assert found["mel_distance"] == found["stft_distance"] == 0
    assert found["pesq"] == pytest.approx(4.644, abs=0.001)  # the scale's end (ITU-T P.862.2)
    assert found["estoi"] == pytest.approx(1, abs=1e-6)
    assert found["si_sdr"] == 100


@pytest.mark.parametrize("snr", [-10, 0, 7.5, 30])
def test_si_sdr_of_noise_is_its_ratio_whatever_the_level(snr):
    wave = speech()
    assert si_sdr(wave, with_noise(wave, snr)) == pytest.approx(snr, abs=0.01)
    assert si_sdr(wave, 0.1 * with_noise(wave, snr)) == pytest.approx(snr, abs=0.01)
    assert si_sdr(wave, -with_noise(wave, snr)) == pytest.approx(snr, abs=0.01)  # the scale may be negative


def test_more_noise_is_worse_by_every_metric():
    wave = speech()
    mild, strong = (fidelity(wave, with_noise(wave, snr)) for snr in (20, 5))
    for name in ("pesq", "estoi", "si_sdr"):
        assert strong[name] < mild[name]
    for name in ("mel_distance", "stft_distance"):
        assert strong[name] > mild[name] > 0


def test_a_shift_ruins_si_sdr_and_hardly_the_spectra():
    wave = speech()
    shifted = np.concatenate([np.zeros(24, np.float32), wave[:-24]])  # 1 ms
    found, noisy = fidelity(wave, shifted), fidelity(wave, with_noise(wave, 0))
    assert found["si_sdr"] < 10
    assert found["mel_distance"] < 0.3 * noisy["mel_distance"]


def test_lengths_may_differ_by_a_frame_of_padding():
    wave = speech()
    padded = np.concatenate([wave, np.zeros(1900, np.float32)])
    assert fidelity(wave, padded) == fidelity(padded, wave) == fidelity(wave, wave)
    with pytest.raises(DataError, match=r"differ in length by 0\.50 s"):
        fidelity(wave, np.concatenate([wave, np.zeros(12000, np.float32)]))
    with pytest.raises(DataError, match="no samples"):
        fidelity(wave[:0], wave[:0])


def test_silence_and_short_sounds_have_no_perceived_quality():
    wave = speech()
    for original, output in ((np.zeros_like(wave), wave), (wave, np.zeros_like(wave)), (wave[:6000], wave[:6000])):
        found = fidelity(original, output)
        assert math.isnan(found["pesq"])
        assert math.isnan(found["estoi"])
        assert math.isfinite(found["mel_distance"])
    assert si_sdr(wave, np.zeros_like(wave)) == -100


# --- pitch ------------------------------------------------------------------------------------------------------------


@given(hz=st.floats(65, 480), level=st.floats(0.01, 1), harmonics=st.integers(1, 8))
def test_the_pitch_of_a_tone_is_its_frequency(hz, level, harmonics):
    time = np.arange(12000) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * hz * (k + 1) * time) / (k + 1) for k in range(harmonics))
    found = pitch((level * tone).astype(np.float32))
    assert found.median == pytest.approx(hz, rel=0.005)
    assert found.deviation < 0.1
    assert found.voiced > 0.95


@pytest.mark.parametrize("speaker", range(12))
def test_the_pitch_of_a_synthetic_speaker_is_told(speaker):
    """Within two semitones: intonation moves it about the speaker's own."""
    truth = SyntheticSpeaker.sample(speaker).pitch_hz
    assert semitones(pitch(speech(speaker, seed=1)).median, truth) < 2


def test_silence_and_noise_have_no_pitch():
    noise = np.random.default_rng(0).standard_normal(24000).astype(np.float32)
    assert pitch(noise).voiced < 0.2
    for nothing in (np.zeros(24000, np.float32), np.zeros(10, np.float32), np.zeros(0, np.float32)):
        found = pitch(nothing)
        assert math.isnan(found.median)
        assert found.voiced == 0
    assert len(fundamental(np.zeros(0, np.float32))[0]) == 0
    assert semitones(220, 110) == semitones(110, 220) == pytest.approx(12)


def test_pauses_around_speech_are_not_spoken():
    wave = speech()
    around = np.concatenate([np.zeros(24000), wave, np.zeros(12000)]).astype(np.float32)
    assert spoken_seconds(around) == pytest.approx(spoken_seconds(wave), abs=0.1)
    # Noise of a room 30 dB below the loudest 10 ms is none either; what is 20 dB below is still speech.
    loudest = np.sqrt(np.square(wave[: len(wave) // 240 * 240].reshape(-1, 240)).mean(axis=1).max())
    noise = np.random.default_rng(0).uniform(-1, 1, 12000) * np.sqrt(3) * loudest
    for decibels, seconds in ((30, spoken_seconds(wave)), (20, len(wave) / 24000 + 1)):
        room = noise * 10 ** (-decibels / 20)
        found = spoken_seconds(np.concatenate([room, wave, room]).astype(np.float32))
        assert found == pytest.approx(seconds, abs=0.1)
    assert spoken_seconds(np.zeros(24000, np.float32)) == 0


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "heard", "words", "letters"),
    [
        ("the quick brown fox", "The quick, brown fox.", 0, 0),
        ("the quick brown fox", "the quick brow fox", 1, 1),
        ("the quick brown fox", "the brown fox jumps", 2, 12),
        ("the quick brown fox", None, 4, 19),
        ("don't stop", "dont stop", 0, 0),
        ("naïve café", "NAÏVE CAFÉ", 0, 0),
        ("नमस्ते दुनिया", "नमस्ते दुनिया", 0, 0),
    ],
)
def test_errors_are_counted(said, heard, words, letters):
    found = errors(said, heard)
    assert (found.word_edits, found.letter_edits) == (words, letters)
    assert found.words == len(said.split())
    assert found.wer == words / found.words
    assert found.cer == letters / len(normalise(said))


def test_more_is_heard_than_was_said():
    assert errors("one", "one two three").wer == 2


def test_what_is_compared():
    assert normalise("  Hello -- World!\n“Yes” ") == "hello world yes"
    assert normalise("ﬁne") == "fine"  # a ligature
    with pytest.raises(DataError, match="no words"):
        errors("... !", "x")


# --- voices -----------------------------------------------------------------------------------------------------------


def test_a_model_hears_the_filterbanks_and_gives_a_unit_vector(tmp_path):
    model = OnnxModel(str(speaker_onnx(tmp_path / "s.onnx")))
    wave = speech()
    features = model.features(wave)
    assert features.shape == (1 + (round(len(wave) * 2 / 3) - 400) // 160, 80)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
    wanted = np.square(features.astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(model.embed(wave), wanted / np.linalg.norm(wanted), atol=1e-6)
    assert similarity(model, wave, wave) == pytest.approx(1)
    assert similarity(model, wave, 0.25 * wave) == pytest.approx(1, abs=1e-3)  # the level is no voice
    np.testing.assert_array_equal(model.embed(wave), model.embed(wave))


def test_a_tone_is_in_its_band(tmp_path):
    """Kaldi's bands: 80 of them, equally wide on the mel scale `1127 ln(1 + f / 700)`, from 20 Hz to 8 kHz."""
    model = OnnxModel(str(speaker_onnx(tmp_path / "s.onnx")))
    time = np.arange(24000) / SAMPLE_RATE

    def mel(hz):
        return 1127 * np.log(1 + hz / 700)

    noise = 0.01 * np.random.default_rng(0).standard_normal(24000)
    for hz in (300, 1000, 4000):
        sound = noise + 0.3 * np.sin(2 * np.pi * hz * time) * (time > 0.5)  # a tone in the second half alone
        features = model.features(sound.astype(np.float32))
        band = (mel(hz) - mel(20)) / ((mel(8000) - mel(20)) / 81) - 1
        assert abs(np.argmax(features[60:].mean(axis=0) - features[:45].mean(axis=0)) - band) <= 1


def test_spectra_tell_voices_apart_and_not_levels():
    model = SpectralModel()
    same = [similarity(model, speech(k, 0, 12), speech(k, 1, 12)) for k in (0, 1, 3)]
    other = [similarity(model, speech(a, 0, 12), speech(b, 1, 12)) for a, b in ((0, 1), (1, 6), (3, 10))]
    assert min(same) > max(other)
    assert similarity(model, speech(), 0.2 * speech()) > 0.9999
    assert model.metric != OnnxModel.metric  # never in one table


def test_what_is_no_speaker_model(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(DataError, match="not an ONNX model"):
        speaker_model(str(tmp_path / "bad.onnx"))
    with pytest.raises(DataError, match="no such file"):
        speaker_model(str(tmp_path / "none.onnx"))
    for name, options in (("narrow", {"bands": 40}), ("two", {"inputs": 2})):
        with pytest.raises(DataError, match="filterbanks"):
            OnnxModel(str(speaker_onnx(tmp_path / f"{name}.onnx", **options)))


def test_too_little_sound_says_nothing_about_a_voice(tmp_path):
    for model in (SpectralModel(), OnnxModel(str(speaker_onnx(tmp_path / "s.onnx")))):
        for wave in (speech()[:1000], np.zeros(24000, np.float32)):
            with pytest.raises(DataError, match="nothing can be said"):
                model.embed(wave)
