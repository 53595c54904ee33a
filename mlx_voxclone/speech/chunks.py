"""Long texts in chunks that a model speaks well: sentences, short ones together, long ones at clauses, then words.

Nothing is lost and nothing is said twice: the chunks joined are the text, but for blanks and the marks of `blocks`.
Sentences are found by `sentencex`, which knows abbreviations, quotes and ordinals of many languages.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sentencex import segment

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import base_language, damage, tidy
from mlx_voxclone.speech.blocks import blocks
from mlx_voxclone.speech.options import NO_WORDS, PAUSE

LONGEST = 240  # letters of a chunk, as `size` counts: about 16 s of speech
SHORTEST = 30  # letters; a shorter sentence is spoken together with its neighbour
_CLAUSE, _COMMA = 0.6, 0.4  # shares of the pause after a sentence
_DIGIT, _SYLLABLE = 4, 3  # letters that take as long to say: "7" is "seven", a Chinese sign is a syllable
_DIGITS = re.compile(r"\d")
_SYLLABLES = re.compile("[\u3041-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]")  # kana, ideographs, Hangul
_DOTTED_ORDINALS = frozenset(("cs", "da", "de", "et", "fi", "hr", "hu", "nb", "nn", "no", "pl", "sk", "sl"))
_ORDINAL = re.compile(r"(?:^|\s)\d{1,2}\.$")
_CLAUSES = re.compile(r"(?<=[;:,\u2014\u2013\u3001\uff0c\uff1b\uff1a])\s+|(?<=[\u3001\uff0c\uff1b\uff1a])")


@dataclass(frozen=True)
class Chunk:
    """A part of a text that is spoken in one go.

    Attributes:
        text: tidy, of a `size` up to `LONGEST`.
        pause: seconds of silence between it and the next one.
    """

    text: str
    pause: float


def split_text(
    text: str, language: str = "en", pause: float = PAUSE, form: Callable[[str], str | None] = tidy
) -> list[Chunk]:
    """The chunks of a text, in order.

    Args:
        text: of any length; an empty line ends a paragraph, other line breaks are blanks where prose was wrapped.
        language: decides where sentences end, e.g. `de`.
        pause: seconds of silence after a sentence; twice as long after a paragraph, shorter within a
            sentence and after a verse.
        form: puts a block as it is spoken (`text.forms.form_of`); None: nothing in it is.

    Raises:
        DataError: nothing to say in the text, or a text that a wrong decoding has damaged.
    """
    if reason := damage(text):
        raise DataError(f"the text holds {reason}; write it again as UTF-8")
    chunks: list[Chunk] = []
    for block in blocks(text):
        content = tidy(block.text)
        said = None if content is None else form(content)
        if said is None:
            continue
        texts = _joined([part for sentence in _sentences(said, language) for part in _parts(sentence)])
        chunks += [Chunk(text, pause * _share(text)) for text in texts[:-1]]
        chunks.append(Chunk(texts[-1], pause * max(block.share, _share(content))))  # a form may add a full stop
    chunks = _with_words(chunks)
    if not chunks:
        raise DataError(NO_WORDS)
    return chunks


def size(text: str) -> int:
    """How long a text takes to say, in letters: digits and syllabic signs count for several."""
    letters = len(text) + (_DIGIT - 1) * len(_DIGITS.findall(text))
    return letters if text.isascii() else letters + (_SYLLABLE - 1) * len(_SYLLABLES.findall(text))


def _sentences(text: str, language: str) -> list[str]:
    code = base_language(language)
    found = [sentence for part in segment(code, text) if (sentence := part.strip())]
    return _with_ordinals(found) if code in _DOTTED_ORDINALS else found


def _with_ordinals(sentences: list[str]) -> list[str]:
    """Sentences, with none that ends in what may be an ordinal (`die 2. | Auflage`), where the two fit together."""
    kept: list[str] = []
    for sentence in sentences:
        if kept and _ORDINAL.search(kept[-1]) and size(kept[-1]) + 1 + size(sentence) <= LONGEST:
            kept[-1] += f" {sentence}"
        else:
            kept.append(sentence)
    return kept


def _parts(sentence: str) -> list[str]:
    """A sentence in parts of a `size` up to `LONGEST`, cut at clauses, else between words, else anywhere."""
    if size(sentence) <= LONGEST:
        return [sentence]
    return _filled([word for clause in _CLAUSES.split(sentence) if clause for word in _words(clause)])


def _words(clause: str) -> list[str]:
    if size(clause) <= LONGEST:
        return [clause]
    return _filled([piece for word in clause.split() for piece in _pieces(word)])


def _pieces(word: str) -> list[str]:
    if size(word) <= LONGEST:
        return [word]
    most = LONGEST // max(map(size, set(word)))
    return [word[k : k + most] for k in range(0, len(word), most)]


def _filled(pieces: list[str]) -> list[str]:
    """Neighbours together, as long as they fit."""
    filled, length = [pieces[0]], size(pieces[0])
    for piece in pieces[1:]:
        more = size(piece)
        if length + 1 + more <= LONGEST:
            filled[-1] += f" {piece}"
            length += 1 + more
        else:
            filled.append(piece)
            length = more
    return filled


def _joined(texts: list[str]) -> list[str]:
    """Short sentences together with their neighbours."""
    joined = [texts[0]]
    for text in texts[1:]:
        if min(size(joined[-1]), size(text)) < SHORTEST and size(joined[-1]) + 1 + size(text) <= LONGEST:
            joined[-1] += f" {text}"
        else:
            joined.append(text)
    return joined


def _with_words(chunks: list[Chunk]) -> list[Chunk]:
    """Chunks without a letter or digit (a row of stars between chapters) become silence after the one before."""
    kept: list[Chunk] = []
    for chunk in chunks:
        if any(character.isalnum() for character in chunk.text):
            kept.append(chunk)
        elif kept:
            kept[-1] = Chunk(kept[-1].text, max(kept[-1].pause, chunk.pause))
    return kept


def _share(text: str) -> float:
    """Of the pause, after a chunk that ends in this way."""
    last = text.rstrip("\"'\u2019\u201d\u00bb)]")[-1:]
    if last in ",\u3001\uff0c" and last:
        return _COMMA
    if last in ";:\u2014\u2013\uff1b\uff1a" and last:
        return _CLAUSE
    return 1.0 if last and not last.isalnum() else 0.0 if last else 1.0
