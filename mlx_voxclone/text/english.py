"""What the servers put in English words: amounts of money, numbers from a million on, signs within brackets."""

import re

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = [
    "-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
]  # fmt: skip
_SCALES = ("", " thousand", " million", " billion", " trillion", " quadrillion")
_MOST_DIGITS = 3 * len(_SCALES)
_FEWEST = 1_000_000  # numbers without a currency; below, the model reads digits well
_MONEY = {  # one, many, a hundredth, hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "\u00a3": ("pound", "pounds", "penny", "pence"),
    "\u20ac": ("euro", "euros", "cent", "cents"),
    "\u00a5": ("yen", "yen", "", ""),
    "\u20b9": ("rupee", "rupees", "paise", "paise"),
    "\u00a2": ("cent", "cents", "", ""),
}
_NUMBER = re.compile(
    r"(?P<symbol>[$\u00a3\u20ac\u00a5\u20b9\u00a2])(?P<amount>\d[\d,]*)(?:\.(?P<part>\d+))?"
    r"|(?<!\w)(?P<minus>-?)(?P<whole>\d[\d,]*)(?:\.(?P<digits>\d+))?\b"
)
_IN_BRACKETS = [
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"\bN\s*/\s*A\b", "not available"),
        (r"\s*(?:\+/-|\u00b1)\s*", " plus or minus "),
        (r"\s*>=\s*", " greater than or equal to "),
        (r"\s*<=\s*", " less than or equal to "),
        (r"\s*>\s*", " greater than "),
        (r"\s*<\s*", " less than "),
        (r"\s*~\s*", " about "),
        (r"#\s*(\d+)\b", r"number \1"),
        (r"(\d+(?:\.\d+)?)\s*ms\b", r"\1 milliseconds"),
        (r"(\d+(?:\.\d+)?)\s*h\b", r"\1 hours"),
        (r"(\d+(?:\.\d+)?)\s*%", r"\1 percent"),
        (r"\s*\+\s*", " plus "),
        (r"\s*=\s*", " equals "),
    )
]


def with_amounts(line: str) -> str:
    """A line with its amounts of money and numbers from 1,000,000 on in words; what is too large stays."""
    symbols = [match["symbol"] for match in _NUMBER.finditer(line) if match["symbol"]]
    all_dollars, seen = set(symbols) == {"$"}, 0

    def words(match: re.Match[str]) -> str:
        nonlocal seen
        number = (match["amount"] or match["whole"]).replace(",", "")
        seen += match["symbol"] is not None
        if len(number.lstrip("0")) > _MOST_DIGITS:
            return match[0]
        number = number.lstrip("0") or "0"  # however many: Python limits the digits that it reads
        if match["symbol"]:
            return _money(match["symbol"], int(number), match["part"], brief=all_dollars and seen > 1)
        if "," not in match["whole"] or int(number) < _FEWEST:
            return match[0]
        said = cardinal(int(number), True) + _digits(match["digits"])
        return f"negative {said}" if match["minus"] else said

    return _NUMBER.sub(words, line)


def in_brackets(content: str) -> str:
    """The words of an aside, its signs in words."""
    for pattern, words in _IN_BRACKETS:
        content = pattern.sub(words, content)
    return content


def cardinal(number: int, with_and: bool = False) -> str:
    """A number in words, below 10^18.

    Args:
        with_and: "one thousand five hundred and six".
    """
    if number < 1000:
        return _below_thousand(number)
    thousands, rest = divmod(number, 1000)
    parts, scale = [_below_thousand(rest, with_and)] if rest else [], 1
    while thousands:
        thousands, group = divmod(thousands, 1000)
        if group:
            parts.append(_below_thousand(group) + _SCALES[scale])
        scale += 1
    return " ".join(reversed(parts))


def _below_thousand(number: int, with_and: bool = False) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(number)
    joint = " and " if with_and else " "
    return f"{_UNITS[hundreds]} hundred" + (joint + _below_hundred(rest) if rest else "")


def _below_hundred(number: int) -> str:
    if number < len(_UNITS):
        return _UNITS[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_UNITS[ones]}" if ones else "")


def _digits(part: str | None) -> str:
    return " point " + "-".join(_UNITS[int(digit)] for digit in part) if part else ""


def _money(symbol: str, whole: int, part: str | None, brief: bool) -> str:
    one, many, hundredth, hundredths = _MONEY[symbol]
    unit = one if whole == 1 else many
    if part and (len(part) > 2 or (not hundredth and part.strip("0"))):
        return f"{cardinal(whole)}{_digits(part)} {unit}"
    cents = int(f"{part or ''}00"[:2]) if hundredth else 0
    small = f"{cardinal(cents)} {hundredth if cents == 1 else hundredths}"
    if not cents:
        return f"{cardinal(whole, not brief)} {unit}"
    if not whole:
        return small
    if brief:  # after a first price, as people go on: "three fifty"
        return f"{cardinal(whole)} {'oh ' if cents < 10 else ''}{cardinal(cents)}"
    return f"{cardinal(whole, True)} {unit} and {small}"
