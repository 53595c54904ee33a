"""Lines of a text: wrapped prose is joined; verses, headings, lists and tables each have their pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.blocks import ITEM, PARAGRAPH, VERSE, blocks
from mlx_voxclone.speech.chunks import LONGEST, size, split_text

PROSE = """Alice was beginning to get very tired of sitting by her sister on the
bank, and of having nothing to do: once or twice she had peeped into
the book her sister was reading, but it had no pictures or
conversations in it, "and what is the use of a book," thought Alice
"without pictures or conversations?"
"""
NARROW = """    The letter was set in by some blanks and
    was wrapped at a margin of its own, one
    that is narrower than that of the prose
    around it.
"""
GERMAN = """Am Abend saßen die Kinder auf der Bank vor dem Haus und hörten der
Großmutter zu, die von früher erzählte, als es noch keine Autos und
Straßen gab und man mit dem Schlitten über den See nach
Flensburg fuhr.
"""
VERSES = """How doth the little crocodile
Improve his shining tail,
And pour the waters of the Nile
On every golden scale!
"""


def read(text):
    return [(" ".join(block.text.split()), block.share) for block in blocks(text)]


def one(text):
    return [(" ".join(text.split()), PARAGRAPH)]


@pytest.mark.parametrize("text", [PROSE, GERMAN, NARROW, "One sentence that goes\non in the next line."])
@pytest.mark.parametrize("around", ["", PROSE])
def test_wrapped_prose_is_joined(text, around):
    assert read(f"{around}\n\n{text}\n\n{around}") == [*read(around), *one(text), *read(around)]


@pytest.mark.parametrize("around", ["", PROSE, "A line that never ends. " * 20])
def test_verses_are_lines(around):
    found = read(f"{around}\n\n{VERSES}\n{around}")
    lines = VERSES.strip().split("\n")
    assert [one for one in found if one[0] in lines] == [
        *((line, VERSE) for line in lines[:-1]),
        (lines[-1], PARAGRAPH),
    ]


def test_verses_without_capitals_among_prose():
    text = "so much depends upon it\na red wheel barrow\nglazed with rain water\n"
    assert len(read(f"{PROSE}\n{text}\n{PROSE}")) == 5


def test_a_title_above_prose_and_a_page():
    assert read(f"CHAPTER I.\nDown the Rabbit-Hole\n\n{PROSE}\fTHE END") == [
        ("CHAPTER I.", VERSE),
        ("Down the Rabbit-Hole", PARAGRAPH),
        *read(PROSE),
        ("THE END", PARAGRAPH),
    ]


def test_markdown():
    text = """# In C# #
We need:
- Milk
- Eggs, and
  some butter
* [x] Bread
1. First do this.
2) Then do that.

Its title
---------
Some prose that follows.

> A quote of
> two lines
>
> > and another

```python
call this
```
"""
    assert read(text) == [
        ("In C#", PARAGRAPH),
        ("We need:", ITEM),
        ("Milk", ITEM),
        ("Eggs, and some butter", ITEM),
        ("Bread", ITEM),
        ("1. First do this.", ITEM),
        ("2) Then do that.", PARAGRAPH),
        ("Its title", PARAGRAPH),
        ("Some prose that follows.", PARAGRAPH),
        ("A quote of two lines", PARAGRAPH),
        ("and another", PARAGRAPH),
        ("call this", PARAGRAPH),
    ]


@pytest.mark.parametrize(
    "table",
    [
        "| Name | Age |\n|:-----|----:|\n| Ann | 31 |\n| Bob, the builder. | 7 |",
        "Name | Age\n--- | ---\nAnn | 31\nBob, the builder. | 7",
        "| Name | Age |\n| Ann | 31 |\n| Bob, the builder. | 7 |",
        "Name\tAge\nAnn\t31\nBob, the builder.\t7",
        "Name                Age\nAnn                  31\nBob, the builder.     7",
    ],
)
@pytest.mark.parametrize("before", ["", "Those who came:\n"])
def test_tables(table, before):
    assert read(before + table)[-3:] == [("Name, Age", ITEM), ("Ann, 31", ITEM), ("Bob, the builder. 7", PARAGRAPH)]


def test_prose_with_a_dash_or_a_bar_at_the_margin_is_prose():
    text = "The end of it - or is it, as some people say, not the end\n- who knows - the end of it | of that | and"
    assert read(text) == one(text)


def test_pauses_are_ordered():
    """A paragraph's is longer than a sentence's, a sentence's than a verse's, all in proportion to --pause."""
    text = f"{VERSES}\n# Heading\n- Milk is on the list, and it is long.\n- Eggs\n\n{PROSE}\n{PROSE}"
    found = [chunk.pause for chunk in split_text(text, pause=1.0)]
    assert found == [0.6, 0.6, 0.6, 2.0, 2.0, 1.0, 2.0, 0.4, 2.0, 0.4, 2.0]
    assert [chunk.pause for chunk in split_text(text, pause=0.0)] == [0] * len(found)


def test_digits_and_signs_count_for_what_they_take_to_say():
    assert size("abc 7") == 8
    assert size("今日は") == 9
    for text in ("0123456789 " * 100, "今日は天気がいいですから" * 50, "1" * 1000):
        found = [chunk.text for chunk in split_text(text)]
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(size(part) <= LONGEST for part in found)


@pytest.mark.parametrize(
    "text",
    [
        ">" * 10**5,
        "# a" + " " * 10**5 + "b",
        "```" + " " * 10**5 + "!a",
        " " * 10**5 + "|a\n|" + " " * 10**5 + "|\n",
        "|" * 10**5 + "\n" + "-|" * 10**5,
        "- " * 10**5,
        "a   " * 10**4 + "\n" + "b\t" * 10**4,
        "\n\n" * 10**5,
        "`" * 10**5 + "\n~~~\n===\n---\n",
    ],
)
def test_marks_without_end_take_no_time(text):
    blocks(text)  # quadratic ones would take minutes


MARKS = st.text("ab1 \n#|>-*`.:\t=", max_size=80)


@given(MARKS)
def test_no_letter_is_lost_whatever_the_marks(text):
    letters = [c for c in text if c.isalnum()]
    assert [c for block in blocks(text) for c in block.text if c.isalnum()] == [*letters] or "[" in text or "`" in text
    if not letters:
        with pytest.raises(DataError, match="no letter and no digit"):
            split_text(text)
