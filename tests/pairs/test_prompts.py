"""The shipped sentences: enough of them, clean, in the right script, with every letter of their language."""

import unicodedata

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.pairs.prompts import LANGUAGES, load_prompts

LATIN = "abcdefghijklmnopqrstuvwxyz"
# The alphabets, those letters too that live in loanwords (k and w in French; j, k, w, x and y in Italian). Left out as
# rare: ÿ and æ (French), ï and other marks of Dutch loanwords, ङ and ञ (Hindi writes them as a dot mostly).
LETTERS = {
    "en": LATIN,
    "fr": LATIN + "àâçéèêëîïôùûüœ",
    "de": LATIN + "äöüß",
    "es": LATIN + "áéíóúüñ",
    "it": LATIN + "àèéìòù",
    "pt": LATIN + "áâãàçéêíóôõú",
    "nl": LATIN + "éë",
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءأإآؤئىة",
    "hi": "अआइईउऊऋएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह" + "ािीुूृेैोौंँ़्",
}
SCRIPTS = {"ar": "ARABIC", "hi": "DEVANAGARI"}
PUNCTUATION = {"es": "¿¡", "ar": "،؟", "hi": "।"}


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
    words = [len(text.split()) for text in texts]
    assert len(texts) >= 40
    assert min(words) >= 4
    assert max(words) <= 20
    assert max(words) - min(words) >= 8
    assert sum(text.endswith(("?", "؟")) for text in texts) >= 5
    assert sum(text.endswith("!") for text in texts) >= 1
    assert sum(text.count(",") + text.count("،") >= 2 for text in texts) >= 1


def test_no_sentence_twice():
    texts = [text.casefold() for _, text in load_prompts()]
    assert len(set(texts)) == len(texts)


def test_nothing_but_letters_and_punctuation_of_the_language(own):
    language, texts = own
    script = SCRIPTS.get(language, "LATIN")
    allowed = set(" .,:;?!'-") | set(PUNCTUATION.get(language, ""))
    for text in texts:
        assert text == unicodedata.normalize("NFC", text)
        assert text == " ".join(text.split())
        assert text[-1] in ".?!؟।"
        for character in set(text) - allowed:
            assert unicodedata.category(character)[0] in "LM", (text, character)
            assert unicodedata.name(character).startswith(script), (text, character)


def test_every_letter_of_the_language_occurs(own):
    language, texts = own
    # NFD splits the Devanagari nukta off, so that it counts where a letter has it
    found = set(unicodedata.normalize("NFD" if language == "hi" else "NFC", "".join(texts).casefold().lower()))
    found |= {"ß"} if any("ß" in text for text in texts) else set()
    assert set(LETTERS[language]) <= found, set(LETTERS[language]) - found


def test_an_unknown_language_is_named():
    with pytest.raises(DataError, match="language 'xx': there are sentences in en, fr"):
        load_prompts(["en", "xx"])
