"""The sentences to read aloud: enough, clean, in the right script, with the letters and sounds of their language."""

import unicodedata

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import PHONES
from mlx_voxclone.pairs.prompts import LANGUAGES as SPOKEN
from mlx_voxclone.pairs.prompts import load_prompts
from mlx_voxclone.studio.record.prompts import LANGUAGES, SYLLABLES, sentences

LATIN = "abcdefghijklmnopqrstuvwxyz"
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
# Spellings of sounds and of their neighbours that a language's voice needs, each in at least two sentences.
SOUNDS = {
    "en": "th sh ch ng wh ph ck ow ou oo ee ea oy aw ir ur er ar or tion qu str spr bl gr cl fl sion",
    "fr": "ch gn ou oi an en in on un eu au eau ill ui ien qu ph tr br pl gr ais eur oin",
    "de": "sch ch ng pf tz ei eu äu au ie st sp qu ung ig chs str kn pl gr br ll ck",
    "es": "ch ll rr qu gu ñ ie ue ai io br tr pl gr cl fr ci ge j z",
    "it": "ch gh gl gn sc ci gi qu zz tt ll cc ss ia uo tr br pr gr st",
    "pt": "ch lh nh ão õe ei ou qu gu rr ss ç am em br tr pr gr fr",
    "nl": "sch ch ng ij ei ui eu oe ou aa ee oo ie uu str kn sl kl gr",
    "ar": "ال ث ذ ظ ض ص ط ق غ خ ح ع ش ج",
    "hi": "ख घ छ झ ठ ढ थ ध फ भ ण ष श ज़ फ़ ड़ ढ़ ं ँ क्ष त्र ज्ञ प्र",
}
SCRIPTS = {"ar": "ARABIC", "hi": "DEVANAGARI"}
PUNCTUATION = {"es": "¿¡", "ar": "،؟", "hi": "।"}


@pytest.fixture(scope="module", params=SPOKEN)
def own(request):
    """language, the sentences that are of this step alone."""
    shared = {text for _, text in load_prompts([request.param])}
    return request.param, [text for text in sentences(request.param) if text not in shared]


def test_there_are_sentences_in_every_language_of_the_model():
    assert {*SPOKEN, SYLLABLES} == set(LANGUAGES)
    assert all(len(sentences(language)) >= 80 for language in SPOKEN)
    with pytest.raises(DataError, match="language 'xx': there are sentences in en, fr"):
        sentences("xx")


def test_no_sentence_comes_twice():
    texts = [text.casefold() for language in LANGUAGES for text in sentences(language)]
    assert len(set(texts)) == len(texts)


def test_counts_lengths_and_intonation(own):
    _, texts = own
    words = [len(text.split()) for text in texts]
    assert len(texts) >= 45
    assert min(words) >= 5
    assert max(words) <= 20
    assert sum(text.endswith(("?", "؟")) for text in texts) >= 5
    assert sum(text.endswith("!") for text in texts) >= 2
    assert sum(text.count(",") + text.count("،") >= 2 for text in texts) >= 2


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
    found = set(unicodedata.normalize("NFD" if language == "hi" else "NFC", "".join(texts).lower()))
    assert set(LETTERS[language]) <= found, set(LETTERS[language]) - found


def test_the_sounds_of_the_language_occur(own):
    language, texts = own
    lower = [unicodedata.normalize("NFC", text.lower()) for text in texts]
    rare = {
        sound: count
        for sound in SOUNDS[language].split()
        if (count := sum(unicodedata.normalize("NFC", sound) in text for text in lower)) < 2
    }
    assert not rare


def test_the_miniatures_sentences_have_every_syllable_it_knows():
    texts = sentences(SYLLABLES)
    letters = "".join(text.replace(" ", "").replace(",", "").replace(".", "") for text in texts)
    assert set(letters) <= set(PHONES)
    words = [word for text in texts for word in text.replace(",", "").rstrip(".").split()]
    heard = {word[k : k + 2] for word in words for k in range(0, len(word), 2)}
    assert len(heard) == 80
    assert len(texts) >= 40
