"""How the model's nine languages are written, and what must hold of any sentences in them that we ship."""

import unicodedata
from collections.abc import Sequence

LATIN = "abcdefghijklmnopqrstuvwxyz"
# The alphabets, those letters too that live in loanwords (k and w in French; j, k, w, x and y in Italian). Left out as
# rare: ÿ, æ and ü (French), ï and other marks of Dutch loanwords, ङ and ञ (Hindi writes them as a dot mostly).
LETTERS = {
    "en": LATIN,
    "fr": LATIN + "àâçéèêëîïôùûœ",
    "de": LATIN + "äöüß",
    "es": LATIN + "áéíóúüñ",
    "it": LATIN + "àèéìòù",
    "pt": LATIN + "áâãàçéêíóôõú",
    "nl": LATIN + "éë",
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءأإآؤئىة",
    "hi": "अआइईउऊऋएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह" + "ािीुूृेैोौंँ़्",
}
SCRIPTS = {"ar": "ARABIC", "hi": "DEVANAGARI"}
PUNCTUATION = {"es": "¿¡", "ar": "،؟", "hi": "।"}


def check_intonation(texts: Sequence[str], *, count: int, words: tuple[int, int], loud: int, listing: int) -> None:
    """At least `count` sentences of (fewest, most) words: five questions, `loud` calls, `listing` with commas."""
    lengths = [len(text.split()) for text in texts]
    assert len(texts) >= count
    assert words[0] <= min(lengths) <= max(lengths) <= words[1], (min(lengths), max(lengths))
    assert sum(text.endswith(("?", "؟")) for text in texts) >= 5
    assert sum(text.endswith("!") for text in texts) >= loud
    assert sum(text.count(",") + text.count("،") >= 2 for text in texts) >= listing


def check_characters(language: str, texts: Sequence[str]) -> None:
    """Nothing but letters of the language's script and its punctuation, composed, with single spaces."""
    script = SCRIPTS.get(language, "LATIN")
    allowed = set(" .,:;?!'-") | set(PUNCTUATION.get(language, ""))
    for text in texts:
        assert text == unicodedata.normalize("NFC", text), text
        assert text == " ".join(text.split()), text
        assert text[-1] in ".?!؟।", text
        for character in set(text) - allowed:
            assert unicodedata.category(character)[0] in "LM", (text, character)
            assert unicodedata.name(character).startswith(script), (text, character)


def check_letters(language: str, texts: Sequence[str], more: str = "") -> None:
    """Every letter of the language occurs, and those of `more`."""
    # NFD splits the Devanagari nukta off, so that it counts where a letter has it
    form = "NFD" if language == "hi" else "NFC"
    found = set(unicodedata.normalize(form, "".join(texts).lower()))
    wanted = {*LETTERS[language], *more}
    assert wanted <= found, wanted - found


def check_single(texts: Sequence[str]) -> None:
    """No sentence comes twice."""
    folded = [text.casefold() for text in texts]
    assert len(set(folded)) == len(folded)
