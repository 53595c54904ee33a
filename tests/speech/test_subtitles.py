"""Subtitles: cues of chunks and of words, written as SubRip."""

from itertools import pairwise

import numpy as np
import pytest
from tiny_whisper import write_whisper

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.subtitles import Cue, Subtitles, check_srt, chunk_cues, srt, word_cues
from mlx_voxclone.whisper.compare import units
from mlx_voxclone.whisper.words import Word


def test_a_cue_ends_where_the_speech_of_its_chunk_does():
    cues = chunk_cues(["One.", "Two,", "three."], [1.5, 3.0, 4.25], [0.35, 0.14, 0.7])
    assert cues == [Cue(0.0, 1.15, "One."), Cue(1.5, 2.86, "Two,"), Cue(3.0, 3.55, "three.")]


def test_a_cue_is_never_empty():
    (first, second) = chunk_cues(["One.", "Two."], [1.0, 1.3], [0.0, 0.35])
    assert (first.end, second.start, second.end) == (1.0, 1.0, 1.04)


def test_subrip():
    text = srt([Cue(0.0, 1.2345, "Ä, b."), Cue(3599.9996, 3661.5, "c")])
    assert text == "1\n00:00:00,000 --> 00:00:01,234\nÄ, b.\n\n2\n01:00:00,000 --> 01:01:01,500\nc\n\n"


class Halving:
    """A listener that finds the words of a text at equal distances."""

    def words(self, samples, text, language):
        step = len(samples) / SAMPLE_RATE / len(units(text))
        return [Word(text[a:b], k * step, (k + 1) * step) for k, (a, b) in enumerate(units(text))]


def test_words_keep_their_punctuation_and_lie_in_their_cue(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(10 * SAMPLE_RATE))
    cues = [Cue(1.0, 5.0, '"Well," he said -- (twice).'), Cue(6.0, 8.0, "Yes!"), Cue(9.0, 9.5, "...")]
    found = word_cues(tmp_path / "a.wav", cues, Halving(), "en")
    assert [cue.text for cue in found] == ['"Well,"', "he", "said", "-- (twice).", "Yes!", "..."]
    assert [(c.start, c.end) for c in found[:2]] == [(1.0, 2.0), (2.0, 3.0)]
    assert all(a.end <= b.start + 1e-9 for a, b in pairwise(found))


def test_what_cannot_be_timed_stays_a_cue(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(40 * SAMPLE_RATE))
    cues = [Cue(0.0, 35.0, "Longer than a Whisper hears."), Cue(35.0, 36.0, "Nothing.")]
    listener = Halving()
    listener.words = lambda samples, text, language: []
    assert word_cues(tmp_path / "a.wav", cues, listener, "en") == cues


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", r"ends in \.srt"),
        ("nowhere/a.srt", "no such directory"),
        ("d.srt", "is a directory"),
        ("b.srt", "already"),
    ],
)
def test_places_that_are_refused(tmp_path, name, message):
    (tmp_path / "d.srt").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        check_srt(tmp_path / name, tmp_path / "b.srt")
    assert "\n" not in str(caught.value)


def test_a_language_that_no_whisper_knows_is_refused_before_anything_is_spoken(tmp_path):
    whisper = str(write_whisper(tmp_path / "whisper"))
    with pytest.raises(DataError, match="language 'klingon': unknown to Whisper"):
        Subtitles.checked(str(tmp_path / "a.srt"), whisper, "klingon")
    assert Subtitles.checked(str(tmp_path / "a.srt"), whisper, "fr_CA").language == "fr_CA"
