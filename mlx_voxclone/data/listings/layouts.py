"""What the columns of a table without a header are, told by what they hold; what can be read in two ways is refused.

Known are `id|text`, LJSpeech's `id|raw text|normalised text`, Piper's `id|speaker|text`, `file|text|speaker` and
`file|text|language` as XTTS is fed, and GPT-SoVITS's `file|speaker|language|text`.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from mlx_voxclone.data.listings.columns import AUDIO, LANGUAGE, SPEAKER, TEXT, language_of
from mlx_voxclone.data.listings.names import has_audio_suffix
from mlx_voxclone.data.listings.tables import MARKS, Row, Table
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import words

LOOKED_AT = 5000  # rows by which a table is told
RAW = "raw text"
_ALIKE, _ROW_ALIKE = 0.5, 0.25  # words that a text shares with its normalised form: of all rows, of one
_FEW_ROWS = 4  # below, nothing tells that values come again
_FEW_WORDS = 2.5  # on average: below, nothing tells a text from a name
_NUMBERS = re.compile(r"-?\d+(\s+-?\d+){2,}")


@dataclass(frozen=True)
class Layout:
    """What is in which column.

    Args:
        columns: role -> number of the column; `RAW` is taken where the text is empty.
        count: of all columns; rows may have fewer where `shorter`.
        name: for the note to the user.
    """

    columns: dict[str, int]
    count: int
    name: str
    shorter: bool = False


class _Form:
    """How a row of these columns looks, with the table's own mark."""

    def __init__(self, mark: str) -> None:
        self._mark = "\\t" if mark == "\t" else mark

    def of(self, *columns: str) -> str:
        return f"`{self._mark.join(columns)}`"

    def __call__(self, *columns: str) -> str:
        return f"expected {self.of(*columns)}"


def layout_of(table: Table) -> Layout:
    """Tell the columns of a table without a header.

    Raises:
        DataError: a row with another number of columns, or more than one way to read the table.
    """
    rows = list(table.rows(LOOKED_AT))
    counts = Counter(len(cells) for _, cells in rows)
    most, form = max(counts), _Form(table.mark)
    for number, cells in rows:
        if len(cells) < 2 or len(cells) > 4 or not cells[0].strip():
            raise DataError(f"{table.path}:{number}: {form('id', 'text')}, {found_columns(cells)}; {_remedy(table)}")
    _refuse_files(table, rows)
    if most == 2:
        return _two(table, rows, form)
    if set(counts) == {4}:
        return _four(table, rows, form)
    if most == 4:
        _refuse_odd(table, rows, counts, form)
    return _three(table, rows, counts, form)


def _refuse_files(table: Table, rows: list[Row]) -> None:
    """
    Raises:
        DataError: another column than the first holds names of audio files.
    """
    for column in range(1, max(len(cells) for _, cells in rows)):
        if all(has_audio_suffix(cells[column]) for _, cells in rows if column < len(cells)):
            number, cells = rows[0]
            raise DataError(
                f"{table.path}:{number}: column {column + 1} names audio ({_short(cells[column])}), and so should"
                f" column 1 ({_short(cells[0])}); {_remedy(table)}"
            )


def _two(table: Table, rows: list[Row], form: _Form) -> Layout:
    values = [cells[1].strip() for _, cells in rows if cells[1].strip()]
    if len(values) >= _FEW_ROWS and _is_label(values, []):
        number, cells = rows[0]
        raise DataError(
            f"{table.path}:{number}: single words that come again ({_short(cells[1])}): texts if it is"
            f" {form.of('id', 'text')}, names if it is {form.of('file', 'speaker')}; {_remedy(table)}"
        )
    return Layout({AUDIO: 0, TEXT: 1}, 2, form.of("id", "text"))


def _four(table: Table, rows: list[Row], form: _Form) -> Layout:
    languages = [language_of(cells[2]) for _, cells in rows]
    if all(languages) and all(words(cells[3]) or not cells[3].strip() for _, cells in rows):
        columns = {AUDIO: 0, SPEAKER: 1, LANGUAGE: 2, TEXT: 3}
        return Layout(columns, 4, f"{form.of('file', 'speaker', 'language', 'text')} (as GPT-SoVITS has it)")
    number, cells = next((row for row, language in zip(rows, languages) if not language), rows[0])
    raise DataError(
        f"{table.path}:{number}: 4 columns: {form.of('file', 'speaker', 'language', 'text')} would have"
        f" {_short(cells[2])} for a language, {form.of('id', 'text')} a text that holds {MARKS[table.mark]}: "
        f"{_short(table.mark.join(cells[1:]))}; {_remedy(table)}"
    )


def _three(table: Table, rows: list[Row], counts: Counter, form: _Form) -> Layout:
    three = [row for row in rows if len(row[1]) == 3]
    pairs = [(cells[1].strip(), cells[2].strip()) for _, cells in three]
    normalised = Layout(
        {AUDIO: 0, RAW: 1, TEXT: 2}, 3, f"{form.of('id', 'raw text', 'normalised text')} (as LJSpeech has it)", True
    )
    shares = [_shared(*pair) for pair in pairs]
    told = [share for share in shares if share is not None]
    if not any(second for _, second in pairs):
        return normalised
    if table.mark in ",;":
        raise _ambiguous(table, three[0], form)
    if len(counts) > 1:
        odd = next((row for row, share in zip(three, shares) if share is not None and share < _ROW_ALIKE), None)
        if odd is None and told:
            return normalised
        _refuse_odd(table, [odd or three[0]], counts, form)
    if told and sum(told) / len(told) >= _ALIKE:
        return normalised
    first, second = ([pair[k] for pair in pairs if pair[k]] for k in (0, 1))
    if all(map(_NUMBERS.fullmatch, second)) and not any(map(_NUMBERS.fullmatch, first)):
        name = f"{form.of('file', 'text', 'numbers')}, of which the numbers are not used"
        return Layout({AUDIO: 0, TEXT: 1}, 3, name)
    names = [_is_label(first, second), _is_label(second, first)]
    if all(names):
        names = [_repeats(first), _repeats(second)]
    if names == [True, False]:
        return Layout({AUDIO: 0, SPEAKER: 1, TEXT: 2}, 3, f"{form.of('id', 'speaker', 'text')} (as Piper has it)")
    if names == [False, True]:
        role = LANGUAGE if all(map(language_of, second)) else SPEAKER
        of = " (as XTTS has it)" if role == SPEAKER else ""
        return Layout({AUDIO: 0, TEXT: 1, role: 2}, 3, form.of("file", "text", role) + of)
    raise _ambiguous(table, three[0], form)


def _ambiguous(table: Table, row: Row, form: _Form) -> DataError:
    number, cells = row
    return DataError(
        f"{table.path}:{number}: 3 columns that can be read in several ways:"
        f" as {form.of('id', 'raw text', 'normalised text')} the text is {_short(cells[2])},"
        f" as {form.of('file', 'text', 'speaker')} it is {_short(cells[1])},"
        f" as {form.of('id', 'text')} with {MARKS[table.mark]} in it {_short(table.mark.join(cells[1:]))};"
        f" {_remedy(table)}"
    )


def odd_row(table: Table, number: int, cells: list[str], usual: int) -> DataError:
    """The refusal of a row with more or fewer columns than others have."""
    form = _Form(table.mark)
    expected = form("id", "text") if usual == 2 and table.header is None else f"expected {usual} columns"
    readings = (
        f": the text is {_short(cells[-1])}, or {_short(table.mark.join(cells[usual - 1 :]))} if"
        f" {MARKS[table.mark]} belongs to it"
        if len(cells) > usual
        else ""
    )
    return DataError(
        f"{table.path}:{number}: {expected} as in other lines, {found_columns(cells)}{readings}; {_remedy(table)}"
    )


def _refuse_odd(table: Table, rows: list[Row], counts: Counter, form: _Form) -> None:
    """
    Raises:
        DataError: always; names the first of these rows that has more columns than most.
    """
    usual = min(counts, key=lambda count: (-counts[count], count))
    number, cells = next(((n, c) for n, c in rows if len(c) > usual), rows[0])
    raise odd_row(table, number, cells, usual)


def found_columns(cells: list[str]) -> str:
    return f"found {len(cells)} column{'s' * (len(cells) != 1)}" + ("" if cells[0].strip() else ", the first empty")


def _shared(raw: str, normalised: str) -> float | None:
    """The part of the words of one text that the other has, without numbers; None: nothing to compare.

    Of the shorter text's words where both have several, or numbers stand for the others; else of the longer one's.
    Where both have one word, as in scripts without blanks, of its pairs of characters.
    """
    texts = (raw, normalised)
    parts = [Counter(word for word in re.findall(r"\w+", text.lower()) if word.isalpha()) for text in texts]
    if all(part.total() == 1 for part in parts) and parts[0] != parts[1]:
        parts = [Counter(map("".join, pairwise(next(iter(part))))) for part in parts]
    few, text = min(zip((part.total() for part in parts), texts))
    few = few if few > 1 or any(map(str.isdigit, text)) else max(part.total() for part in parts)
    if not all(parts):
        return None
    return (parts[0] & parts[1]).total() / few


def _is_label(values: list[str], others: list[str]) -> bool:
    """Whether a column holds names: single words that come again, or stand beside sentences."""
    if not values or any(re.search(r"\s|[.!?。！？…]$|^\d+[.,]\d+$", value) for value in values):
        return False
    return _repeats(values) or all(map(language_of, values)) or (_is_text(others) and not all(map(str.isdigit, values)))


def _repeats(values: list[str]) -> bool:
    """Whether values come again, most of them."""
    return len(values) >= _FEW_ROWS and len(set(values)) <= len(values) / 2


def _is_text(values: list[str]) -> bool:
    return bool(values) and sum(len(value.split()) for value in values) / len(values) >= _FEW_WORDS


def _remedy(table: Table) -> str:
    mark = table.mark
    names = mark.join(("audio_file", "text", "speaker_name")).replace("\t", "\\t")
    return f"name the columns in a first line (such as {names}), and put a text with a {MARKS[mark]} in quotes"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return f'"{text if len(text) <= 40 else text[:37] + "..."}"'
