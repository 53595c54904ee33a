"""The parts that the speaking miniature is made and judged with, each against what is known."""

import itertools

import numpy as np
import pytest

from benchmarks.recovery.corpus import UNITS
from benchmarks.speaking import utterances
from benchmarks.speaking.listener import BANDS, features
from benchmarks.speaking.pretrain import Pretraining, join, joined_in_order
from benchmarks.speaking.recogniser import best_sequence, edits, said, tuned_level, unit_error_rate
from benchmarks.speaking.score import Heard, heldout_cases, summary
from benchmarks.speaking.utterances import Spoken
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.readings import HELDOUT, PRESETS, SYLLABLES, TRAINING, readings
from mlx_voxclone.miniature.synth import SyntheticSpeaker


def spoken(speaker, n, frames=3):
    codes = np.random.default_rng([speaker, n]).integers(0, 20, (37, frames)).astype(np.int32)
    return Spoken(speaker, f"text {n}.", codes)


def test_edits_are_levenshteins():
    known = {("", ""): 0, ("abc", "abc"): 0, ("kitten", "sitting"): 3, ("abc", ""): 3, ("", "ab"): 2, ("ab", "ba"): 2}
    for (a, b), want in known.items():
        assert edits(a, b) == edits(b, a) == want
    assert said("Lalo, te-sa!") == "lalotesa"
    assert unit_error_rate([("papa.", "papa"), ("mi no", "mo")]) == pytest.approx(2 / 8)
    with pytest.raises(DataError, match="no text"):
        unit_error_rate([("...", "a")])


def scores(sequence, margin=10.0, frames=5):
    """Frames that say a sequence of units clearly; "_" is the pause."""
    rows = []
    for unit in sequence:
        row = np.zeros(len(UNITS))
        row[UNITS.index("" if unit == "_" else unit)] = margin
        rows += [row] * frames
    return np.array(rows)


def test_the_search_finds_what_is_said_and_keeps_to_the_language():
    assert best_sequence(scores("_papa_mino_"), 1.0) == "papamino"
    assert best_sequence(scores("pa"), 1.0) == "pa"
    # Two consonants in a row are no syllable: one of them, or a vowel between, whatever the frames say.
    heard = best_sequence(scores("_pta_"), 1.0)
    assert all(not (a in "pt" and b in "pt") for a, b in itertools.pairwise(heard))
    # A sound of one frame is too short to be one.
    short = np.concatenate([scores("pa"), scores("t", frames=1), scores("a")])
    assert best_sequence(short, 1.0) == "pa"
    # The penalty swallows what is hardly there.
    doubtful = np.concatenate([scores("pa"), scores("t", margin=1.0), scores("a", frames=5)])
    assert best_sequence(doubtful, 0.0) == "pata"
    assert best_sequence(doubtful, 50.0) == "pa"


def test_what_judges_hear_does_not_depend_on_the_level():
    wave = readings(TRAINING, 1, 1, 0)[0].wave()
    bands = features(wave)
    assert bands.shape[1] == BANDS
    assert np.allclose(features(0.1 * wave), bands, atol=1e-3)
    assert np.allclose(tuned_level(0.1 * wave), tuned_level(wave), atol=1e-6)
    assert len(features(np.concatenate([wave, np.zeros(48000, np.float32)]))) == pytest.approx(len(bands), abs=2)


def test_readings_are_the_same_every_time_and_speakers_apart():
    first = readings(TRAINING, 3, 4, 7)
    assert first == readings(TRAINING, 3, 4, 7) != readings(TRAINING, 3, 4, 8)
    assert readings(TRAINING, 2, 4, 7) == first[:8]
    assert len({one.text for one in first}) == 12
    low, high = SYLLABLES
    for one in first:
        assert low <= sum(c in "aeiou" for c in one.text) <= high
    assert TRAINING < HELDOUT < PRESETS
    for case in heldout_cases(2):
        assert case.speaker.name.startswith("varied-2000")
        assert len({one.text for one in (*case.said, *case.reference)}) == 5


def test_varied_speakers_keep_to_a_few_pitches_and_any_tract():
    speakers = [SyntheticSpeaker.varied(k) for k in range(200)]
    assert {s.pitch_hz for s in speakers} == {100.0, 150.0, 200.0, 250.0}
    assert {s.pitch_range for s in speakers} == {0.0}
    pitch, tract = (np.array([getattr(s, name) for s in speakers]) for name in ("pitch_hz", "formant_scale"))
    assert abs(np.corrcoef(pitch, tract)[0, 1]) < 0.15
    assert SyntheticSpeaker.varied(5) == SyntheticSpeaker.varied(5)


def test_utterances_come_back_as_they_were(tmp_path):
    wanted = [spoken(1, 1), spoken(1, 2, 5), spoken(2, 3, 1)]
    utterances.save(tmp_path / "u.npz", wanted)
    for one, other in zip(wanted, utterances.load(tmp_path / "u.npz"), strict=True):
        assert (one.speaker, one.text) == (other.speaker, other.text)
        assert np.array_equal(one.codes, other.codes)
    with pytest.raises(DataError, match="no utterances"):
        utterances.load(tmp_path / "gone.npz")


def test_clips_are_joined_in_text_and_codes_alike():
    a, b, c = (spoken(4, n, 2 + n) for n in range(3))
    one = join([a, b], [c])
    assert one.text == "text 0. text 1."
    assert np.array_equal(one.codes, np.concatenate([a.codes, b.codes], axis=1))
    assert np.array_equal(one.references[0], c.codes)
    made = joined_in_order([a, b, c, spoken(4, 3), spoken(5, 0), spoken(5, 1)])
    assert [u.text for u in made] == ["text 0. text 1.", "text 2. text 3.", "text 0. text 1."]
    for u in made[:2]:
        assert u.references[0].shape[1] > 0


def test_the_learning_rate_rises_and_falls():
    run = Pretraining()
    rates = [run.rate(p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(run.learning_rate, rel=1e-2)
    assert rates.index(max(rates)) <= 5
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.03 * run.learning_rate


def test_figures_are_of_units_and_outputs():
    heard = [Heard(1, 10, 0.9, 0.0, 0.02, True), Heard(3, 10, float("nan"), 12.0, float("nan"), False)]
    found = summary(heard)
    assert found["unit_error"] == pytest.approx(0.2)
    assert found["similarity"] == pytest.approx(0.9)
    assert found["tract"] == pytest.approx(0.02)
    assert (found["pitch_right"], found["ended"]) == (0.5, 0.5)
    low, high = found["unit_error_interval"]
    assert 0.1 <= low <= 0.2 <= high <= 0.3
