"""Numbers in words, per language."""

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.text.forms import as_said
from mlx_voxclone.text.numbers import Numbers, numbers_of

CASES = [
    ("de", "Am 3. Oktober 1990 um 14:30 Uhr", "Am dritten Oktober neunzehnhundertneunzig um vierzehn Uhr dreißig"),
    ("de", "Der 2. Band und die 21 Seiten", "Der zweite Band und die einundzwanzig Seiten"),
    ("de", "03.10.1990", "dritter Oktober neunzehnhundertneunzig"),
    ("de", "1.234,5 km und 1 h", "eintausendzweihundertvierunddreißig Komma fünf Kilometer und eine Stunde"),
    ("de", "5,50 € und 1 €", "fünf Euro fünfzig und ein Euro"),
    ("de", "-5 °C, 20 %", "minus fünf Grad Celsius, zwanzig Prozent"),
    ("en", "On 2024-05-03 at 2:05", "On May third, twenty twenty-four at two oh five"),
    ("en", "$5.50 for 1,234 items", "five dollars fifty for one thousand two hundred and thirty-four items"),
    ("en", "the 21st of 100", "the twenty-first of one hundred"),
    ("fr", "21 % à 14:30, 2,5 km", "vingt et un pour cent à quatorze heures trente, deux virgule cinq kilomètres"),
    ("fr", "1er jour, 1 234", "premier jour, mille deux cent trente-quatre"),
    ("es", "5 km", "cinco kilómetros"),
    ("it", "3 kg", "tre chilogrammi"),
    ("pt-BR", "2,5 km", "dois vírgula cinco quilômetros"),
    ("nl", "de 3e dag", "de derde dag"),
    ("ar", "5", "خمسة"),
]


@pytest.mark.parametrize(("language", "text", "wanted"), CASES)
def test_in_words(language, text, wanted):
    assert numbers_of(language).in_words(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["A4", "mp3", "v1.2.3", "007", "0171 23456789", "3-5", "2023-02-30", "x_1", "1/2", "10:99", "9" * 40, "no number"],
)
def test_what_is_no_plain_number_stays(text):
    for language in ("de", "en", "fr"):
        assert numbers_of(language).in_words(text) == text
    assert numbers_of("en").in_words("1." + "1" * 9999) == "1." + "1" * 9999


def test_before_the_servers_form():
    assert as_said("It cost $5 (10%)", "en", numbers=True) == "It cost five dollars\u2014ten percent\u2014."


def test_after_markup():
    assert as_said("Caf&#233; [3](http://x.org/12) https://y.org/4", "en", numbers=True) == "Café three link."
    assert as_said("1. Eggs\n2. Milk", "en", numbers=True) == "one. Eggs two. Milk."


@pytest.mark.parametrize(("language", "message"), [("hi", "does not know the language 'hi'"), (None, "which language")])
def test_a_language_without_words_is_refused(language, message):
    with pytest.raises(DataError, match=message):
        Numbers(language)


def test_without_the_extra_one_line_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    with pytest.raises(DataError, match=r"pip install 'mlx-voxclone\[numbers\]'"):
        Numbers("de")
