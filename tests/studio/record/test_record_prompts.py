"""The sentences to read aloud: enough, clean, in the right script, with the letters and sounds of their language."""

import unicodedata

import pytest
from written_languages import check_characters, check_intonation, check_letters, check_single

from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import PHONES
from mlx_voxclone.pairs.prompts import LANGUAGES as SPOKEN
from mlx_voxclone.pairs.prompts import load_prompts
from mlx_voxclone.studio.record.prompts import LANGUAGES, SYLLABLES, sentences

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
    check_single([text for language in LANGUAGES for text in sentences(language)])


def test_counts_lengths_and_intonation(own):
    check_intonation(own[1], count=45, words=(5, 20), loud=2, listing=2)


def test_nothing_but_letters_and_punctuation_of_the_language(own):
    check_characters(*own)


def test_every_letter_of_the_language_occurs(own):
    check_letters(*own)


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
