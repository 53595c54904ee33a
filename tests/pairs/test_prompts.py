"""The shipped sentences: enough of them, clean, in the right script, with every letter of their language."""

import pytest
from written_languages import LETTERS, check_characters, check_intonation, check_letters, check_single

from mlx_voxclone.errors import DataError
from mlx_voxclone.pairs.prompts import LANGUAGES, load_prompts


@pytest.fixture(scope="module", params=LANGUAGES)
def own(request):
    """language, its sentences."""
    return request.param, [text for _, text in load_prompts([request.param])]


def test_the_languages_are_the_models_own():
    assert sorted(LANGUAGES) == sorted(LETTERS)
    assert [language for language, _ in load_prompts()] == [
        language for language in LANGUAGES for _ in load_prompts([language])
    ]
    assert load_prompts(["hi", "en"])[0][0] == "hi"


def test_counts_lengths_and_intonation(own):
    _, texts = own
    check_intonation(texts, count=40, words=(4, 20), loud=1, listing=1)
    lengths = [len(text.split()) for text in texts]
    assert max(lengths) - min(lengths) >= 8


def test_no_sentence_twice():
    check_single([text for _, text in load_prompts()])


def test_nothing_but_letters_and_punctuation_of_the_language(own):
    check_characters(*own)


def test_every_letter_of_the_language_occurs(own):
    check_letters(*own, more="ü" if own[0] == "fr" else "")


def test_an_unknown_language_is_named():
    with pytest.raises(DataError, match="language 'xx': there are sentences in en, fr"):
        load_prompts(["en", "xx"])
