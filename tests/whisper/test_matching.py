"""Two long texts that are alike in most places: which words are which, and how much differs."""

from itertools import pairwise

import numpy as np
import pytest

from mlx_voxclone.whisper.compare import distance, letters, normalise, script, units
from mlx_voxclone.whisper.matching import difference, match, solid, stretch, with_near


def words(count: int, seed: int) -> list[str]:
    """As often the same as in speech: a few words are frequent."""
    rng = np.random.default_rng(seed)
    return [f"w{k}" for k in np.minimum(rng.zipf(1.4, count), 3000)]


def test_equal_texts_match_word_by_word():
    text = words(4000, 0)
    assert match(text, text) == [(k, k) for k in range(4000)]
    assert match([], text) == match(text, []) == []


def test_pairs_are_equal_and_in_order():
    one, other = words(700, 1), words(900, 2)
    pairs = match(one, other)
    assert all(one[w] == other[h] for w, h in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))


@pytest.mark.parametrize("at", [0, 1500, 3700])
def test_a_page_that_one_side_lacks_costs_only_itself(at):
    whole = words(4000, 3)
    short = whole[:at] + whole[at + 300 :]
    for pairs in (match(short, whole), [(w, h) for h, w in match(whole, short)]):
        right = sum(h == w + (300 if w >= at else 0) for w, h in pairs)
        assert right >= len(short) - 10


def test_a_long_recording_with_errors_everywhere():
    """The tenth word is misheard, every fiftieth is not there; larger than what is compared in full."""
    written = words(12_000, 4)
    heard = [f"x{k}" if k % 10 == 5 else word for k, word in enumerate(written) if k % 50 != 7]
    places = [k for k in range(len(written)) if k % 50 != 7]
    pairs = match(written, heard)
    assert len(pairs) > 0.85 * len(heard)
    assert sum(places[h] == w for w, h in pairs) > 0.99 * len(pairs)


@pytest.mark.parametrize(
    ("written", "heard", "expected"),
    [
        ("The cat sat.", "the cat sat", 0.0),
        ("In 1984, we met.", "in nineteen eighty-four we met", 0.0),
        ("im Jahre neunzehnhundertvierundachtzig war es", "Im Jahre 1984 war es.", 0.0),
        ("wood-cutters at work", "woodcutters at work", 0.0),
        ("It cost 5 pounds in 1984.", "It cost 5 pounds in 1985.", 1 / 19),
        ("cat", "cut", 1 / 3),
        ("one two three", "", 1.0),
        ("one two", "one two three four five", 13 / 19),
    ],
)
def test_how_much_of_a_text_is_heard_otherwise(written, heard, expected):
    assert difference(written, heard) == pytest.approx(expected)


def test_a_missing_phrase_is_told_from_misheard_words():
    assert stretch(["a", "b"], ["c"]) == (2, False)
    assert stretch(["lomi", "nalu", "wera"], []) == (12, True)
    assert stretch([], ["lomi", "nalu", "wera"]) == (12, True)


def test_another_phrase_is_told_from_a_misheard_one():
    said = ["fahrgemeinde", "des", "dekanatsernen"]
    assert stretch(["pfarrgemeinde", "des", "dekanats", "ernen"], said) == (2, False)
    assert stretch(["noch", "keine", "ergebnisse", "gesammelt"], said)[1]


def test_words_that_two_phrases_share_by_chance_are_no_match():
    one, other = list("abcTdefOghiklm"), list("nopTqrsOtuvklm")
    pairs = match(one, other)
    assert [one[w] for w, _ in pairs] == ["T", "O", "k", "l", "m"]
    assert [one[w] for w, _ in solid(pairs, 14, 14)] == ["k", "l", "m"]
    alike = [(k, k) for k in range(14) if k not in (4, 6)]  # a word between two that were misheard
    assert solid(alike, 14, 14) == [pair for pair in alike if pair != (5, 5)]
    assert solid([(0, 0), (2, 2), (4, 4)], 5, 5) == [(0, 0), (4, 4)]  # the ends


def test_words_of_texts_in_several_scripts():
    text = "„Don’t stop“, Frau Müller-Lüdenscheidt: 1,000 猫が कहानी"
    found = [text[a:b] for a, b in units(text)]
    assert found == ["Don’t", "stop", "Frau", "Müller", "Lüdenscheidt", "1", "000", "猫", "が", "कहानी"]
    assert (letters("Wood-Cutters’"), normalise("It's  A. B")) == ("woodcutters", "its a b")


@pytest.mark.parametrize(
    ("text", "expected"), [("Good day", "latin"), ("Добрый day", "cyrillic"), ("猫がいる", "cjk"), ("12, 13", None)]
)
def test_scripts(text, expected):
    assert script(text) == expected


def test_distance_is_the_number_of_edits():
    pairs = [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("abc", "", 3), ("ab", "ba", 2)]
    assert [distance(a, b) for a, b, _ in pairs] == [n for _, _, n in pairs]


WRITTEN = "aime liegt im tal von tarentaise unterhalb des skigebiets la plagne müller kaempff"
HEARD = "armee liegt im teil von tarantese unterhalb des skigebietz la plagée müller kempf"


def test_misheard_words_are_paired_with_those_that_are_written():
    written, heard = WRITTEN.split(), HEARD.split()
    pairs = match(written, heard)
    assert [written[w] for w, _ in pairs] == ["liegt", "im", "von", "unterhalb", "des", "la", "müller"]
    near = with_near(pairs, written, heard)
    assert set(pairs) < set(near)
    assert near == [(k, k) for k in range(13) if written[k] != "tal"]  # of which half differs


def test_words_that_are_nothing_like_each_other_are_no_pair():
    assert with_near([(0, 0), (3, 3)], ["a", "noch", "keine", "b"], ["a", "über", "stadt", "b"]) == [(0, 0), (3, 3)]
