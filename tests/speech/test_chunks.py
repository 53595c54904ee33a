"""Long texts in chunks: nothing lost, nothing twice, none too long, and pauses by what stands at their ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import tidy
from mlx_voxclone.speech.chunks import LONGEST, size, split_text
from mlx_voxclone.speech.options import PAUSE

WORDS = st.text("abcdefgä,.;!? \n\"'-—1", min_size=1, max_size=60)


def texts(text, **options):
    return [chunk.text for chunk in split_text(text, **options)]


def bare(text):
    return "".join(text.split())


@given(st.lists(WORDS, min_size=1, max_size=60).map(" ".join))
def test_nothing_is_lost_and_nothing_is_said_twice(text):
    if not any(c.isalnum() for c in text):
        with pytest.raises(DataError, match="no letter and no digit"):
            split_text(text)
        return
    chunks = split_text(text)
    said = bare(" ".join(chunk.text for chunk in chunks))
    kept = bare(tidy(text))
    assert [c for c in said if c.isalnum()] == [c for c in kept if c.isalnum()]
    assert all(1 <= size(chunk.text) <= LONGEST and any(c.isalnum() for c in chunk.text) for chunk in chunks)
    assert all(chunk.pause >= 0 for chunk in chunks)


@pytest.mark.parametrize(
    "text",
    ["x" * 1_000_000, "word " * 200_000, "a, " * 300_000, "Satz eins. " * 50_000, "7" * 50_000, "7\u8a9e" * 9000],
)
def test_texts_of_any_length_and_without_a_blank(text):
    found = texts(text)
    assert bare("".join(found)) == bare(text)
    assert max(map(size, found)) <= LONGEST


def test_sentences_with_abbreviations_numbers_and_quotes():
    long = "This one is long enough to be spoken by itself, is it not?"
    assert texts(f"Dr. Smith came at 5 p.m. with 3.5 tons of coal for the ship. {long}") == [
        "Dr. Smith came at 5 p.m. with 3.5 tons of coal for the ship.",
        long,
    ]
    german = "Am 3. Mai kam z. B. Herr Dr. Müller zu uns nach Hause. Dann ging er wieder und sagte kein Wort."
    assert texts(german, language="de") == [german[:54], german[55:]]


def test_an_ordinal_does_not_end_a_sentence_where_ordinals_have_a_dot():
    text = "Von dem alten Buch über die Seefahrt ist die 2. Auflage erschienen, mit vielen neuen Bildern."
    assert texts(text, language="de") == [text]
    assert texts(text, language="de-CH") == [text]
    year = "Sie kam auf die Welt im fernen Jahre 1945. Danach zog die Familie in eine andere Stadt."
    assert len(texts(year, language="de")) == 2


def test_short_sentences_are_spoken_together():
    assert texts("Yes. No! Who is there? I am.") == ["Yes. No! Who is there? I am."]


def test_a_long_sentence_is_cut_at_clauses_then_between_words():
    clause = "the ship went on through the fog and nobody saw a light"
    found = texts(", ".join([clause] * 8) + ".")
    assert all(part.endswith((",", ".")) for part in found)
    assert max(map(len, found)) <= LONGEST
    words = texts("word " * 100)
    assert all(set(part.split()) == {"word"} for part in words)


def test_pauses_by_sign_and_paragraph():
    a, b = ("The first sentence is as long as a chunk wants.", "The second sentence is as long as a chunk, too.")
    first, second, third = split_text(f"{a} {b}\n\n{a}")
    assert (first.pause, second.pause, third.pause) == (PAUSE, 2 * PAUSE, 2 * PAUSE)
    clause = "the ship went on through the fog and nobody saw a light"
    parts = split_text(", ".join([clause] * 8) + ".", pause=1.0)
    assert {part.pause for part in parts[:-1]} == {0.4}
    assert all(part.pause == 0 for part in split_text("word " * 100, pause=1.0)[:-1])


def test_a_wrapped_paragraph_is_one_and_stars_are_silence():
    found = split_text(
        "One sentence that goes\non in the next line of the file.\r\n\r\n* * *\r\n\r\nThe next chapter begins here."
    )
    assert [chunk.text for chunk in found] == [
        "One sentence that goes on in the next line of the file.",
        "The next chapter begins here.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no letter"),
        (" \n\n ", "no letter"),
        ("... !", "no letter"),
        ("caf\udce9", "UTF-8"),
        ("caf\ufffd", "U\\+FFFD"),
    ],
)
def test_what_cannot_be_spoken(text, message):
    with pytest.raises(DataError, match=message):
        split_text(text)
