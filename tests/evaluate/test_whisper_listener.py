"""A Whisper that listens while a text is spoken: what it hears, what is wrong in it, what it cannot hear."""

import importlib.util

import numpy as np
import pytest
from tiny_whisper import SENTENCE, write_whisper

from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.listening import compared, listener
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

needs_whisper = pytest.mark.skipif(
    importlib.util.find_spec("mlx_whisper") is None, reason="the extra `transcribe` is not installed"
)


@needs_whisper
def test_what_is_heard_is_compared_with_the_text(tmp_path):
    samples = synthesise("mana lomi nalu wera.", SyntheticSpeaker.sample(0), 0)
    with listener(str(write_whisper(tmp_path / "w"))) as of_language:
        right = of_language("de")(SENTENCE + "!", samples)
        assert (right.text, right.wrong, right.words) == (SENTENCE, 0, 4)
        wrong = of_language(None)("Good evening, dear voice, dear", samples)
        assert (wrong.wrong, wrong.words) == (2, 5)
        assert of_language("de")(SENTENCE, np.zeros(0, np.float32)).wrong == 4
        with pytest.raises(DataError, match="'klingon': no Whisper knows it"):
            of_language("klingon")


@needs_whisper
def test_a_whisper_of_english_alone_refuses_other_languages(tmp_path):
    with listener(str(write_whisper(tmp_path / "tiny.en", n_vocab=51864))) as of_language:
        of_language("en-GB")
        of_language(None)
        with pytest.raises(DataError, match=r"tiny\.en: was trained on English only, not german; name another Whisper"):
            of_language("de")


def test_letters_where_words_have_no_blanks_between_them():
    assert compared("今日は天気", "今日は元気", by_letters=True).share == pytest.approx(1 / 5)
    assert compared("今日は天気", "今日は元気").share == 1
    assert (compared("...", "a").wrong, compared("...", "a").share) == (0, 0)
    assert compared("two words", None).share == 1
