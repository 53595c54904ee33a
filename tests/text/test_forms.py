"""The form of texts: that of mlx-audio for English, the same for what is spoken and what is learnt."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.chunks import split_text
from mlx_voxclone.text.english import cardinal
from mlx_voxclone.text.forms import as_learnt, as_said, form_of

# As mlx-audio 0.6.2 puts them.
SERVED = [
    ("Hello world", "Hello world."),
    ("Hello world!!", "Hello world!"),
    ("well - actually", "well \u2014 actually."),
    ("from 3 - 5 to -2", "from 3 - 5 to -2."),
    ("He (the baker) left", "He\u2014the baker\u2014left."),
    ("It cost (5%) more", "It cost (5%) more."),
    ("The rest (x >= 10%) went", "The rest\u2014x greater than or equal to 10 percent\u2014went."),
    ("It cost $5.50.", "It cost five dollars and fifty cents."),
    ("First $5, then $6.05.", "First five dollars then six oh five."),
    ("1,234,567 of 1,234", "one million two hundred thirty-four thousand five hundred and sixty-seven of 1,234."),
    ("wait.....what", "wait...what."),
    ("one--two", "one\u2014two."),
    ("a\u2011b", "a-b."),
    ("# Title", "Title."),
    ("see [this](http://a.b/c) or https://a.b", "see this or link."),
    ("a &amp; b<br>c", "a & b c."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), SERVED)
def test_as_mlx_audio_puts_it(text, wanted):
    assert as_said(text, "en") == wanted


PIECES = [
    *("Hello", "word", "café", " ", "  ", "\n", "\n\n", "(", ")", " (a > b) ", "(10%)", "(5 ms)", "(N/A)", "(±3)"),
    *("$5", "$5.50", "$1.05", "£1", "¥5.00", "₹0.05", "€3.456", "¢5", "1,234,567", " -2,000,000.5", "10%", "#4"),
    *("!", "!!!", "???", "....", "…", "-", "--", " - ", "–", " – 5 ", " - $3", "—", "\u200b", "\u00ad", "\u2011"),
    *("[a](b)", "![](x)", "![pic](x)", "`code`", "```x\ny```", "\n# Head\n", "\n- item\n", "\n> q", "<b>", "</b>"),
    *("<br/>", "https://x.y/z", "&amp;", "N/A", "'", '"', ",", "*x*", "1,000,000,000,000,000,000"),
]


def test_english_equals_mlx_audio():
    """A thousand texts of what is changed anywhere, against the sanitiser itself where it is installed."""
    module = pytest.importorskip("mlx_audio.tts.models.voxtral_tts.text_preprocess")
    rng = random.Random(5)
    for _ in range(1000):
        text = "x" + "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 8)))
        assert as_said(text, "en") == module.sanitize_tts_input_text_for_demo(text), text


@given(st.lists(st.sampled_from([piece for piece in PIECES if not set(piece) & set("[]`#<>\n&/")]), max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_is_learnt_is_what_is_said(pieces):
    text = "x" + "".join(pieces)
    assert as_learnt(text, "en") == as_said(text, "en")
    assert as_learnt(text, "de") == as_said(text, "de") == as_said(text, None)


@given(st.text(max_size=40))
def test_no_letter_and_no_digit_is_lost_of_a_transcript(text):
    learnt = as_learnt(text)
    kept = [c for c in learnt or "" if c.isalnum()]
    wanted = as_said(text, verbatim=True) if learnt else ""
    assert kept == [c for c in wanted if c.isalnum()]


def test_other_languages_get_no_english_words():
    assert as_said("Das kostet €5 (> 3 %)", "de") == "Das kostet €5\u2014> 3 %\u2014."
    assert as_said("```x``` Ende", "de") == "Ende."


def test_a_day_at_the_beginning_is_no_list():
    assert as_said("3. Oktober ist Feiertag", "de") == "3. Oktober ist Feiertag."


@pytest.mark.parametrize("text", ["1. Buy milk", "1. Buy milk\n2. Buy bread", "To do:\n\n1) Buy milk\n2) Buy bread\n"])
def test_the_numbers_of_a_list_are_read_aloud_in_texts_of_any_length(text):
    said = " ".join(chunk.text for chunk in split_text(text, "en", form=form_of("en")))
    for spoken in (as_said(text, "en"), said):
        assert [word for word in spoken.split() if word[0].isdigit()] == re.findall(r"\d[.)]", text)


def test_blocks_of_a_long_text_take_the_form_of_a_line():
    text = "# One\n\nIt is\nso (really)\r\n\r\n***\n\nEnd!!"
    said = [chunk.text for chunk in split_text(text, "en", form=form_of("en"))]
    assert " ".join(said) == "One. It is so\u2014really\u2014. End!"
    assert (
        " ".join(c.text for c in split_text(text, "en", form=form_of("en", verbatim=True)))
        == "One It is so (really) End!!"
    )
    assert form_of("en")("  ") is None


def test_a_full_stop_that_a_verse_is_given_makes_its_pause_no_longer():
    verses = "Roses are red\nViolets are blue\nSugar is sweet\nAnd so are you."
    plain, formed = split_text(verses, "en", 1.0), split_text(verses, "en", 1.0, form_of("en"))
    assert [chunk.pause for chunk in formed] == [chunk.pause for chunk in plain]


def test_paragraphs_before_lists_and_headings_stay():
    chunks = split_text("One.\n\n- two\n\n> three\n\n## four", "en", form=form_of("en"))
    assert " ".join(chunk.text for chunk in chunks) == "One. two. three. four."


@pytest.mark.parametrize("sign", ["[", "![", "<a", "<https://", "\n", "\n ", "(", "`", "- ", "$", "1,", "0", "$1.1"])
def test_hostile_texts_take_no_longer(sign):
    """A hundred thousand signs: by a rule of quadratic time, this would take an hour."""
    text = "x" + sign * (100_000 // len(sign)) + "y"
    assert form_of("en")(text).startswith("x")


def test_verbatim_changes_only_what_nobody_sees():
    assert as_said(" He (who)\u200b said -- $5!! ", "en", verbatim=True) == "He (who) said -- $5!!"


@pytest.mark.parametrize("text", ["", " \u200b", "...", "\u2014 !?", "<br>", "a\ufffdb"])
def test_nothing_to_say_is_refused(text):
    with pytest.raises(DataError):
        as_said(text)
    with pytest.raises(DataError, match="^line 3 h|^line 3 i"):
        as_said(text, "en", what="line 3")


@pytest.mark.parametrize("text", [None, "", "...", "\u200b"])
def test_nothing_to_learn_is_none(text):
    assert as_learnt(text) is None


def test_cardinals():
    assert cardinal(0) == "zero"
    assert cardinal(10**15 + 10**6 + 5) == "one quadrillion one million five"
    assert cardinal(1999, True) == "one thousand nine hundred and ninety-nine"
