"""Texts: one spelling of each, the same for what is learnt and what is spoken."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_voxclone.data.listings.manifest import read_source
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.files.texts import damage, spoken, tidy, words
from mlx_voxclone.pairs.make import read_texts
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.speech.speaker import Speaker

# As five writers write it: composed, decomposed, with a byte order mark and odd blanks, with what shows nothing.
WANTED = "Ein schönes Café, na ja."
SPELLINGS = [
    WANTED,
    unicodedata.normalize("NFD", WANTED),
    f"\ufeff{WANTED}\r\n",
    "Ein\u00a0schönes\t Café,\u2028na\u3000ja. ",
    "Ein schö\u00adnes Ca\u200bfé,\u2060 \u200ena ja\x07.\u200d",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_one_spelling(text):
    assert tidy(text) == spoken(text) == words(text) == WANTED


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@example("e\u200b\u0301")
@example("\u0644\u200d\u200d\u0649")
def test_tidy_is_composed_single_spaced_and_stays(text):
    found = tidy(text)
    if found is None:
        return
    assert found == unicodedata.normalize("NFC", found)
    assert found == " ".join(found.split())
    assert tidy(found) == found
    kept = {"Cc", "Cf"} & {unicodedata.category(c) for c in found.replace("\u200c", "").replace("\u200d", "")}
    assert not kept - {"Cf"}


def test_letters_and_marks_stay():
    """Whatever is seen stays: no letter, digit or sign of a text is lost."""
    for text in ("naïve — “yes”… 3½ €", "你好，世界！", "أهلاً بالعالم", "שלום", "สวัสดี", "한국어", "👍🏽"):
        assert tidy(text) == unicodedata.normalize("NFC", text)


def test_joiners_stay_where_they_spell_words():
    persian, hindi = "می\u200cخواهم", "क्\u200dष"
    assert tidy(persian) == persian
    assert tidy(hindi) == hindi
    assert tidy("a\u200cb\u200d") == "ab"
    assert tidy("\u200c" + persian) == persian


@pytest.mark.parametrize("text", ["", " \n", "\u200b\ufeff", "\u3164", "\u2800 \u00ad"])
def test_nothing_to_say(text):
    assert tidy(text) is None
    with pytest.raises(DataError, match="the text is empty"):
        spoken(text)


def test_what_a_wrong_decoding_left_is_refused():
    assert damage("caf\ufffd").startswith("U+FFFD")
    assert damage(b"caf\xe9".decode("utf-8", "surrogateescape")) == "bytes that are not UTF-8"
    assert damage("café") is None
    with pytest.raises(DataError, match=r"^line 3 holds U\+FFFD"):
        spoken("caf\ufffd", "line 3")


# Every way in


def heard(miniature):
    """The prompt that a text becomes when it is spoken."""
    speaker = Speaker.load(miniature)
    seen = []
    whole = speaker.tokenizer.prompt
    speaker.tokenizer.prompt = lambda text, n, frames=0: seen.append(text) or whole(text, n, frames)
    return speaker, seen


def test_say_speaks_the_text_that_prepare_learns(miniature, tmp_path):
    speaker, seen = heard(miniature)
    for text in SPELLINGS:
        speaker.stream(text, speaker.voices[0], max_seconds=0.1)
    assert set(seen) == {WANTED}
    with pytest.raises(DataError, match="bytes that are not UTF-8"):
        speaker.stream("caf\udce9", speaker.voices[0])
    (tmp_path / "a.wav").touch()
    for text in SPELLINGS:
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        assert [entry.text for entry in read_source(tmp_path)] == [WANTED]
        (tmp_path / "m.csv").write_text("a.wav|" + text.strip().replace("\u2028", " ") + "\n", encoding="utf-8")
        assert [entry.text for entry in read_source(tmp_path / "m.csv")] == [WANTED]


def test_sentences_of_pairs_and_of_a_configuration(tmp_path):
    (tmp_path / "t.txt").write_text("\ufeff" + "\n\n".join(SPELLINGS), encoding="utf-8")
    assert read_texts(tmp_path / "t.txt") == [(None, WANTED)] * len(SPELLINGS)
    path = tmp_path / "c.yaml"
    path.write_text("task: speaker\n")
    assert load_run_config(path, {"say": SPELLINGS}).say == [WANTED] * len(SPELLINGS)
    with pytest.raises(ConfigError, match=r"say\[0\]: the text is empty"):
        load_run_config(path, {"say": ["\u200b"]})


def test_damaged_texts_name_their_line(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "ok"}\n{"audio": "b.wav", "text": "caf\ufffd"}\n')
    (tmp_path / "m.csv").write_text("a|ok\nb|caf\ufffd\n")
    for name in ("m.jsonl", "m.csv"):
        with pytest.raises(DataError, match=rf"{name}:2: text holds U\+FFFD"):
            read_source(tmp_path / name)
    (tmp_path / "t.txt").write_bytes("ok\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"t.txt:1: not UTF-8 text \(but UTF-16\)"):
        read_texts(tmp_path / "t.txt")
