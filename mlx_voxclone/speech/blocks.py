"""What the lines of a text are: wrapped prose, verses, headings, lists or tables, and how long the pause after each is.

A line break means nothing in prose that was wrapped at a margin, and a pause in a poem. Wrapped prose breaks a line
where the next word did not fit; verses end before that. Of Markdown its blocks are known: headings, lists, tables,
quotes. Their marks are left out, as nobody reads them aloud; those within a line stay as they are.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Shares of the pause after a sentence.
PARAGRAPH, ITEM, VERSE = 2.0, 1.0, 0.6
_BREAKS = re.compile("\r\n?|[\v\x85\u2028]")
_PARAGRAPHS = re.compile(r"\n[^\S\n]*(?:\n\s*)+")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+")
_UNDERLINE = re.compile(r"={3,}|-{3,}")
_FENCE = re.compile(r"(?:`{3,}|~{3,})\s*\w*")
_QUOTE = re.compile(r"(?:\s{0,3}>\s?)+")
_BULLET = re.compile(
    r"\s*(?:[-*+\u2022\u2023\u25aa\u25cf\u25e6]\s+(?:\[[ xX]\]\s+)?|(?=\(?(?:\d{1,3}|[a-zA-Z])[.)]\s))"
)
_RULE = re.compile(r"(?:\|\s*)?:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?")  # of a table, below its header
_CELLS = re.compile(r"(?<!\\)\|")
_COLUMNS = re.compile(r"\S(?:\t|\s{3,})\S")
_OPENING = "\"'\u2018\u201c\u00ab\u201e([*_\u00bf\u00a1\u2014\u2013- "
_NARROW = 50  # characters: verses are mostly shorter than this, wrapped prose is hardly ever
_MARGIN = 40  # characters: the least that a paragraph is taken to have been wrapped at
_WIDTH = 0.9  # of the lines are no longer than the margin that a text was wrapped at
_EARLY, _SOME, _FEW = 0.5, 0.25, 0.1  # shares of line breaks before which the next word would have fitted
_CAPITAL = 0.8  # share of lines that begin with a capital
_ENOUGH = 6  # lines, of which all may begin with one by chance less often


@dataclass(frozen=True)
class Block:
    """What is read without a break of lines.

    Attributes:
        text: as written; its line breaks are blanks.
        share: of the pause after a sentence, behind it; at least, where it ends like a sentence.
    """

    text: str
    share: float


def blocks(text: str) -> list[Block]:
    """The blocks of a text, in order; an empty line ends a paragraph, and so does a new page."""
    text = _BREAKS.sub("\n", text)
    text = "\n".join(line[_quoted(line) :] for line in text.split("\n"))
    text = re.sub("[\f\u2029]", "\n\n", text)
    paragraphs = [p for p in _PARAGRAPHS.split(text) if p.strip()]
    width = _margin(paragraphs)
    return [block for paragraph in paragraphs for block in _paragraph(paragraph, width)]


def _quoted(line: str) -> int:
    """Characters of the marks before a line of a quote."""
    mark = _QUOTE.match(line)
    return mark.end() if mark else 0


def _margin(paragraphs: Sequence[str]) -> int:
    """Characters of a line, as far as a text was wrapped."""
    lengths = sorted(len(line.strip()) for p in paragraphs for line in p.split("\n")[:-1] or [p])
    return lengths[min(len(lengths) - 1, int(_WIDTH * len(lengths)))] if lengths else 0


def _paragraph(paragraph: str, width: int) -> Iterator[Block]:
    """The last block of a paragraph has the pause of one behind it."""
    found: list[Block] = []
    for block in _parts(paragraph.split("\n"), width):
        if any(character.isalnum() for character in block.text):
            found.append(block)
    if found:
        yield from found[:-1]
        yield Block(found[-1].text, PARAGRAPH)


def _parts(lines: list[str], width: int) -> Iterator[Block]:
    prose: list[str] = []
    rows = _rows(lines)
    item = False  # whether the lines in `prose` are an item of a list
    for number, line in enumerate(lines):
        row, bare = number in rows, line.strip()
        heading = None if row else _HEADING.match(line)
        underlined = number + 1 < len(lines) and bool(_UNDERLINE.fullmatch(lines[number + 1].strip()))
        mark = _FENCE.fullmatch(bare) or _UNDERLINE.fullmatch(bare)
        listed = None if row else _begins_item(line, prose, item)
        if heading or underlined or row or mark or listed:
            yield from _joined(prose, item, width)
            prose, item = [], bool(listed)
        if mark:
            continue
        if heading:
            yield Block(_heading(line[heading.end() :].strip()), PARAGRAPH)
        elif row:
            yield Block(_row(bare), ITEM)
        elif underlined:
            yield Block(line, PARAGRAPH)
        else:
            prose.append(line[listed.end() :] if listed else line)
    yield from _joined(prose, item, width)


def _heading(text: str) -> str:
    """Without the marks that may close it."""
    opened = text.rstrip("#")
    return opened if not opened or opened[-1].isspace() else text


def _begins_item(line: str, before: Sequence[str], item: bool) -> re.Match[str] | None:
    """An item begins a paragraph, or follows another one or a colon: else it is prose that was wrapped at a dash."""
    if item or not before or before[-1].rstrip().endswith(":"):
        return _BULLET.match(line)
    return None


def _joined(lines: list[str], item: bool, width: int) -> Iterator[Block]:
    """Lines of an item or of prose as one block, verses as one each."""
    if not lines:
        return
    if item:
        yield Block("\n".join(lines), ITEM)
    elif _are_verses(lines, width):
        for line in lines[:-1]:
            yield Block(line, VERSE)
        yield Block(lines[-1], ITEM)
    else:
        yield Block("\n".join(lines), ITEM)


def _are_verses(lines: Sequence[str], width: int) -> bool:
    """Whether lines end because they should, and not because the next word did not fit.

    Args:
        width: of the whole text's lines.
    """
    lines = [stripped for line in lines if (stripped := line.strip())]
    if len(lines) < 2:
        return False
    longest = max(map(len, lines))
    capital = sum(map(_begins_with_capital, lines)) / len(lines)
    if longest < _NARROW and capital == 1:
        return True
    if len(lines) == 2 and lines[1][0].islower():
        return False
    if len(lines) > 2 and longest >= _MARGIN and capital < _CAPITAL and _early(lines, longest) <= _FEW:
        return False  # wrapped at a margin of its own
    early = _early(lines, max(width, longest) if width < _NARROW else width)
    return early >= _EARLY or (early >= _SOME and capital >= _CAPITAL and len(lines) >= _ENOUGH)


def _early(lines: Sequence[str], width: int) -> float:
    """Share of the breaks before which the next word would have fitted into a line."""
    fitted = [len(line) + 1 + len(after.split()[0]) <= width for line, after in itertools.pairwise(lines)]
    return sum(fitted) / len(fitted)


def _begins_with_capital(line: str) -> bool:
    return line.lstrip(_OPENING)[:1].isupper()


def _rows(lines: Sequence[str]) -> set[int]:
    """Numbers of the lines that are rows of tables: two and more in a row, divided by `|`, tabs or three blanks."""
    found: set[int] = set()
    for divided in (_is_piped, lambda line: bool(_COLUMNS.search(line.strip()))):
        for rows, run in itertools.groupby(range(len(lines)), key=lambda k: divided(lines[k])):
            numbers = list(run)
            piped = divided is _is_piped
            if rows and len(numbers) > 1 and (not piped or _is_pipe_table([lines[k] for k in numbers])):
                found.update(numbers)
    return found


def _is_piped(line: str) -> bool:
    return bool(_CELLS.search(line))


def _is_pipe_table(lines: Sequence[str]) -> bool:
    return bool(_RULE.fullmatch(lines[1].strip())) or all(line.strip()[0] == line.strip()[-1] == "|" for line in lines)


def _row(line: str) -> str:
    """The cells of a row, with a comma between them where they have no sign of their own."""
    line = line.strip()
    if _RULE.fullmatch(line):
        return ""
    cells = _CELLS.split(line) if _CELLS.search(line) else re.split(r"\t+|\s{3,}", line)
    spoken = [cell.strip().replace("\\|", "|") for cell in cells]
    spoken = [cell for cell in spoken if any(character.isalnum() for character in cell)]
    return " ".join(
        cell if k == len(spoken) - 1 or not cell[-1].isalnum() else f"{cell}," for k, cell in enumerate(spoken)
    )
