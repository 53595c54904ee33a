"""Numbers, dates, times, amounts and units in words, by num2words and Babel (extra `numbers`).

num2words spells the numbers, Babel's CLDR data names months, units and currencies and knows the separators: what is
here finds them in a text. What is not surely a number of a known kind stays as it is: part numbers, versions, phones.
"""

import datetime
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from types import ModuleType

from mlx_voxclone.errors import DataError

NOT_INSTALLED = "numbers in words need num2words and Babel ({}); install them with: pip install 'mlx-voxclone[numbers]'"
_MOST_DIGITS, _UNGROUPED = 12, 6  # of one number, and without separators; more are a code, a phone's number
_YEARS = (1100, 2099)
_UNITS = {
    "km": "length-kilometer", "m": "length-meter", "cm": "length-centimeter", "mm": "length-millimeter",
    "kg": "mass-kilogram", "g": "mass-gram", "mg": "mass-milligram", "l": "volume-liter", "ml": "volume-milliliter",
    "km/h": "speed-kilometer-per-hour", "mph": "speed-mile-per-hour", "m/s": "speed-meter-per-second",
    "°C": "temperature-celsius", "°F": "temperature-fahrenheit", "%": "concentr-percent", "‰": "concentr-permille",
    "h": "duration-hour", "min": "duration-minute", "s": "duration-second", "ms": "duration-millisecond",
    "m²": "area-square-meter", "km²": "area-square-kilometer", "ha": "area-hectare", "m³": "volume-cubic-meter",
    "kB": "digital-kilobyte", "MB": "digital-megabyte", "GB": "digital-gigabyte", "TB": "digital-terabyte",
    "W": "power-watt", "kW": "power-kilowatt", "kWh": "energy-kilowatt-hour", "V": "electric-volt",
    "Hz": "frequency-hertz", "kHz": "frequency-kilohertz", "MHz": "frequency-megahertz",
}  # fmt: skip
_CURRENCIES = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY", "₹": "INR"}
_CODES = ("EUR", "USD", "GBP", "CHF", "JPY", "INR")
_FEMININE = ("duration-hour", "duration-minute", "duration-second", "duration-millisecond")
_ONE = {"de": ("ein", "eine"), "fr": ("un", "une"), "es": ("un", "una"), "it": ("un", "una"), "pt": ("um", "uma")}
_TIMES = {"de": "{} Uhr {}", "fr": "{} heures {}", "nl": "{} uur {}", "en": "{} {}"}
_DOTTED_DATES = ("de", "pl", "cs", "sk", "da", "fi", "no", "ru", "tr", "ro", "uk", "sl", "hu")
_SLASHED_DATES = ("fr", "es", "it", "pt", "ar", "vi", "nl")  # day/month; in English nobody can tell
_ORDINALS = {
    "en": r"(\d+)(?:st|nd|rd|th)\b",
    "fr": r"(\d+)(?:er|ère|e|ème|nd|nde)\b",
    "es": r"(\d+)(?:º|\.º|er)(?!\w)",
    "it": r"(\d+)°(?![CF\w])|(\d+)º",
    "pt": r"(\d+)º",
    "nl": r"(\d+)(?:de|ste|e)\b",
}
_GERMAN_CASE = re.compile(r"\b(am|vom|zum|beim|im|dem|den|des|der|die|das|seit|bis|ab|und|zur)\s+$", re.IGNORECASE)


def check_installed() -> None:
    """Raise DataError if the extra `numbers` is not there."""
    try:
        import babel  # noqa: F401
        import num2words  # noqa: F401
    except ImportError as e:
        raise DataError(NOT_INSTALLED.format(e)) from None


@lru_cache(maxsize=32)
def numbers_of(language: str | None) -> "Numbers":
    """`Numbers` of a language, made once."""
    return Numbers(language)


class Numbers:
    """Puts a text's numbers in words of one language.

    Args:
        language: code, such as de or pt-BR.
    Raises:
        DataError: the extra is not installed, or num2words does not know the language.
    """

    def __init__(self, language: str | None) -> None:
        check_installed()
        import babel
        import num2words

        if language is None:
            raise DataError("numbers in words: in which language? Give its code (--language, data.language)")
        self._spell: ModuleType = num2words
        parts = re.split("[-_]", language)
        exact = "_".join([parts[0].lower(), *[part.upper() for part in parts[1:2]]])
        self._code = exact if exact in num2words.CONVERTER_CLASSES else parts[0].lower()
        self.language = parts[0].lower()
        if self._code not in num2words.CONVERTER_CLASSES:
            raise DataError(
                f"numbers in words: num2words does not know the language {language!r}; leave them as they are"
            )
        try:
            self._locale = babel.Locale.parse(exact if len(parts) > 1 else self.language)
        except (ValueError, babel.UnknownLocaleError):
            self._locale = babel.Locale.parse(self.language)
        symbols = self._locale.number_symbols["latn"]
        self._decimal, group = symbols["decimal"], symbols["group"]
        self._group = "[\u00a0\u202f ]" if not group.strip() else re.escape(group)
        self._rules = self._made()

    def in_words(self, text: str) -> str:
        """The text with its numbers in words; the rest of it stays as it is."""
        if not any(character.isdigit() for character in text):
            return text
        for pattern, words in self._rules:
            text = pattern.sub(lambda match, words=words: self._kept(match, words), text)
        return text

    @staticmethod
    def _kept(match: re.Match[str], words: Callable[[re.Match[str]], str | None]) -> str:
        """What a rule makes of a match; the match itself where it has no words for it."""
        try:
            said = words(match)
        except (ValueError, OverflowError, NotImplementedError, KeyError, IndexError, TypeError):  # of num2words
            said = None
        return match[0] if said is None else said

    def _made(self) -> list[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]]]:
        whole = rf"(?:\d{{1,3}}(?:{self._group}\d{{3}})+|\d+)"
        number = rf"(?:(?<=[\s(])[-\u2212]|^[-\u2212]|){whole}(?:{re.escape(self._decimal)}\d+)?"
        alone = r"(?<![\w.,:/])(?<!\d-){}(?![\w/:]|[.,-]\d)".format
        units = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
        signs = re.escape("".join(_CURRENCIES))
        codes = "|".join(_CODES)
        rules: list[tuple[str, Callable[[re.Match[str]], str | None]]] = [
            (alone(r"(\d{4})-(\d{2})-(\d{2})"), lambda m: self._date(m[1], m[2], m[3])),
        ]
        if self.language in _DOTTED_DATES:
            rules.append((alone(r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})"), lambda m: self._date(m[3], m[2], m[1])))
        if self.language in _SLASHED_DATES:
            rules.append((alone(r"(\d{1,2})/(\d{1,2})/(\d{4})"), lambda m: self._date(m[3], m[2], m[1])))
        if self.language in _TIMES:
            rules.append((alone(r"(\d{1,2}):([0-5]\d)(?:\s+(?:Uhr|uur))?"), lambda m: self._time(m[1], m[2])))
        rules += [
            (rf"(?<![\w.,])([{signs}])\s?({number})(?![\w]|[.,]\d)", lambda m: self._money(m[2], _CURRENCIES[m[1]])),
            (rf"(?<![\w.,])({number})\s?([{signs}])(?!\w)", lambda m: self._money(m[1], _CURRENCIES[m[2]])),
            (rf"(?<![\w.,])({number})\s({codes})\b", lambda m: self._money(m[1], m[2])),
            (rf"(?<![\w.,])({number})\s?({units})(?![\w/²³])", lambda m: self._unit(m[1], m[2])),
        ]
        if self.language == "de":
            months = "|".join(self._locale.months["format"]["wide"].values())
            rules.append((rf"(?<![\w.,])(\d{{1,4}})\.(?=\s(?:{months}|[a-zäöüß]))", self._german_ordinal))
            rules.append((r"(?<=\b[dD](?:er|ie|as|em|en|es) )(\d{1,4})\.(?=\s[A-ZÄÖÜ])", self._german_ordinal))
        if self.language in _ORDINALS:
            rules.append((rf"(?<![\w.,])(?:{_ORDINALS[self.language]})", lambda m: self._ordinal(m[1] or m[2])))
        rules += [
            (alone(r"(1[1-9]\d\d|20\d\d)"), lambda m: self._year(m[1])),
            (rf"(?<![\w.,:/])(?<!\d[-\u2013])({number})(?![\w/:]|[.,\u2013-]\d)", self._plain),
        ]
        return [(re.compile(pattern), words) for pattern, words in rules]

    def _said(self, value: int | Decimal, to: str = "cardinal") -> str:
        """A number by num2words, without the commas that some languages have between its parts."""
        said = self._spell.num2words(value, lang=self._code, to=to)
        return " ".join(said.replace(",", " ").split())

    def _value(self, number: str) -> Decimal | None:
        size = number.lstrip("-\u2212")
        digits = re.sub(self._group, "", size).replace(self._decimal, ".")
        whole, _, part = digits.partition(".")
        most = _MOST_DIGITS if re.search(self._group, size) else _UNGROUPED
        if len(part) > _MOST_DIGITS or len(whole) > most or (len(whole) > 1 and whole[0] == "0"):
            return None
        if part and self.language == "ar":  # num2words puts a sign in the place of the point
            return None
        return Decimal(digits) if size == number else -Decimal(digits)

    def _number(self, value: Decimal) -> str:
        return self._said(int(value)) if value == value.to_integral_value() else self._said(value)

    def _plain(self, match: re.Match[str]) -> str | None:
        value = self._value(match[1])
        return None if value is None else self._number(value)

    def _counted(self, value: Decimal, feminine: bool = False) -> str:
        """A number before a noun: `ein Kilometer`, not `eins`."""
        return _ONE[self.language][feminine] if value == 1 and self.language in _ONE else self._number(value)

    def _date(self, year: str, month: str, day: str) -> str | None:
        from babel.dates import format_date

        date = datetime.date(int(year), int(month), int(day))
        if self.language == "en":
            return f"{format_date(date, 'MMMM', locale=self._locale)} {self._said(date.day, 'ordinal')}, {date.year}"
        return format_date(date, "long", locale=self._locale)  # its numbers are put in words by the rules that follow

    def _time(self, hours: str, minutes: str) -> str | None:
        if int(hours) > 24:
            return None
        both = self._counted(Decimal(hours), self.language == "fr"), self._said(int(minutes))
        if not int(minutes):
            both = (both[0], "o'clock" if self.language == "en" else "")
        elif self.language == "en" and int(minutes) < 10:
            both = (both[0], f"oh {both[1]}")
        return _TIMES[self.language].format(*both).strip()

    def _money(self, number: str, currency: str) -> str | None:
        from babel.numbers import get_currency_name

        if (value := self._value(number)) is None:
            return None
        whole = Decimal(int(value))
        rest = abs(value - whole) * 100
        if rest != int(rest):
            whole, rest = value, Decimal(0)
        name = get_currency_name(currency, count=whole, locale=self._locale)
        if self.language == "en":  # US dollars, British pounds
            name = name.split()[-1]
        return f"{self._counted(whole)} {name}" + (f" {self._said(int(rest))}" if rest else "")

    def _unit(self, number: str, symbol: str) -> str | None:
        from babel.units import format_unit

        if (value := self._value(number)) is None:
            return None
        unit = _UNITS[symbol]
        shown = format_unit(abs(value), unit, "long", locale=self._locale, numbering_system="latn")
        name = re.sub(rf"\d(?:[\d{re.escape(self._decimal)}\s]|{self._group})*", "{}", shown, count=1)
        if symbol in "%\u2030" and not any(character.isalpha() for character in name):
            return None
        said = self._counted(value, unit in _FEMININE)
        return name.replace("{}", f" {said} ").replace("  ", " ").strip() if "{}" in name else f"{said} {name}".strip()

    def _ordinal(self, number: str) -> str | None:
        return self._said(int(number), "ordinal") if len(number) <= 4 else None

    def _german_ordinal(self, match: re.Match[str]) -> str:
        """With the ending that the word before asks for: der dritte, am dritten, dritter Oktober."""
        before = _GERMAN_CASE.search(match.string[max(0, match.start() - 12) : match.start()])
        ending = "r" if before is None else "" if before[1].lower() in ("der", "die", "das") else "n"
        return self._said(int(match[1]), "ordinal") + ending

    def _year(self, number: str) -> str | None:
        return self._said(int(number), "year") if _YEARS[0] <= int(number) <= _YEARS[1] else None
