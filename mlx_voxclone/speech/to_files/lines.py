"""A list of texts to speak, each into a file of its own: JSON Lines as `voxclone say --lines` reads them.

The whole list is checked before anything is spoken; a mistake names its line.
"""

import difflib
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlx_voxclone.audio.output import OTHER_AUDIO
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.files.foreign import stand_in_bytes
from mlx_voxclone.files.hub import VOICE_SUFFIXES, is_address
from mlx_voxclone.files.names import LONGEST
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.files.plain import open_plain, parse_json, reason_of
from mlx_voxclone.files.texts import tidy
from mlx_voxclone.speech.chunks import Chunk, split_text
from mlx_voxclone.text.forms import form_of

KEYS = ("text", "voice", "seed", "file", "language")
LARGEST_LINE = 16 << 20  # bytes; a long novel has 3 MB
_MOST_SEED = 2**63
_SHOWN = 5  # lines that are wrong beside the first


@dataclass(frozen=True)
class Line:
    """One text to speak.

    Attributes:
        where: `file:line` in the list.
        chunks: of its text; no pause behind the last one.
        file: a WAV, relative to the output directory.
        voice: name or file; None: the one for all.
        language: code; None: not stated.
    """

    where: str
    text: str
    chunks: tuple[Chunk, ...]
    file: str
    voice: str | None
    seed: int
    language: str | None


def read_lines(
    path: str | Path,
    *,
    voices: Collection[str],
    voice: bool,
    pause: float,
    seed: int = 0,
    language: str | None = None,
    verbatim: bool = False,
    numbers: bool = False,
) -> list[Line]:
    """The lines of a list, each an object with `text`, and `voice`, `seed`, `file`, `language` where they are its own.

    Args:
        voices: names of the checkpoint's.
        voice: whether there is one for lines that name none.
        pause: seconds after a sentence.
        seed, language: of lines that state none.
        verbatim, numbers: see `text.forms.form_of`.

    Raises:
        DataError: the list cannot be read, or a line of it cannot be spoken; the others that are wrong are counted.
    """
    path, lines, wrong = Path(path), [], []
    taken: dict[str, str] = {}
    first: DataError | None = None
    for number, content in _objects(path):
        where = f"{path}:{number}"
        try:
            if isinstance(content, DataError):
                raise content
            line = _line(where, number, content, path.parent, pause, seed, language, verbatim, numbers)
            _check_voice(line, voices, voice)
            _check_file(line, taken)
            lines.append(line)
        except (DataError, ConfigError) as e:
            first = first or (e if isinstance(e, DataError) else DataError(f"{where}: {e}"))
            wrong.append(number)
    if first is not None:
        more = ", ".join(map(str, wrong[1 : _SHOWN + 1])) + (", ..." if len(wrong) > _SHOWN + 1 else "")
        raise DataError(f"{first}{f' (wrong as well: {more})' if more else ''}") from None
    if not lines:
        raise DataError(f'{path}: has no line; write one object a line, such as {{"text": "Good morning."}}')
    _refuse_nested(lines, taken)
    return lines


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of each line that is not blank; a DataError in the place of what is no JSON."""
    try:
        with open_plain(path) as file:
            if what := stand_in_bytes(file.peek(1024)):
                raise DataError(f"{path}: {what}")
            number = 0
            while raw := file.readline(LARGEST_LINE + 1):
                number += 1
                if len(raw) > LARGEST_LINE:
                    raise DataError(f"{path}:{number}: is longer than {LARGEST_LINE >> 20} MB; split its text")
                if raw.strip(b" \t\r\n\xef\xbb\xbf"):
                    yield number, _parsed(f"{path}:{number}", raw)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({reason_of(e).lower()})") from None


def _parsed(where: str, raw: bytes) -> Any:
    try:
        content = parse_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return DataError(f"{where}: is not UTF-8; save the list as UTF-8")
    except ValueError as e:
        return DataError(f"{where}: is no JSON ({str(e).split(': line')[0]}); write one object a line")
    if not isinstance(content, dict):
        return DataError(f'{where}: is no object; write {{"text": ...}}, one a line')
    return content


def _line(
    where: str,
    number: int,
    content: dict[str, Any],
    folder: Path,
    pause: float,
    seed: int,
    language: str | None,
    verbatim: bool,
    numbers: bool,
) -> Line:
    for key in content:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise DataError(f"{where}: unknown key {key[:40]!r}; {_meant(near)}known are {', '.join(KEYS)}")
    for key in ("text", "voice", "file", "language"):
        value = content.get(key)
        if value is not None and not (isinstance(value, str) and tidy(value)):
            raise DataError(f"{where}: {key} must be a text, got {value!r:.60}")
    if "text" not in content or content["text"] is None:
        raise DataError(f"{where}: has no text")
    own = content.get("seed")
    if own is not None and (type(own) is not int or not 0 <= own < _MOST_SEED):
        raise DataError(f"{where}: seed must be a whole number from 0 to 2^63 - 1, got {own!r:.60}")
    language = content.get("language") or language
    try:
        form = form_of(language or "en", verbatim=verbatim, numbers=numbers)
        chunks = split_text(content["text"], language or "en", pause, form)
    except DataError as e:
        raise DataError(f"{where}: {e}") from None
    chunks[-1] = replace(chunks[-1], pause=0.0)
    file = _file(where, content.get("file") or f"{number:05d}.wav")
    voice = content.get("voice")
    if voice is not None and Path(voice).suffix in VOICE_SUFFIXES and not is_address(voice):
        voice = str(folder / expanded(voice))
    return Line(where, content["text"], tuple(chunks), file, voice, seed if own is None else own, language)


def _meant(near: Sequence[str]) -> str:
    return f"did you mean {near[0]!r}? " if near else ""


def _file(where: str, name: str) -> str:
    """A WAV below the output directory."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":"):
        raise DataError(f"{where}: file {name[:80]!r} leads out of the output directory; name it from there")
    if not name.isprintable():
        raise DataError(f"{where}: file {name[:80]!r} has signs that no name should have")
    if path.suffix.lower() in OTHER_AUDIO:
        raise DataError(f"{where}: file {name[:80]!r}: only WAV is written; give a name that ends in .wav")
    if path.suffix.lower() != ".wav":
        path = path.with_name(f"{path.name}.wav") if path.name else path
    if not path.parts or any(part.startswith(".") or len(part.encode()) > LONGEST for part in path.parts):
        raise DataError(f"{where}: file {name[:80]!r}: a part of it is empty, hidden or longer than {LONGEST} bytes")
    return str(path)


def _check_voice(line: Line, voices: Collection[str], given: bool) -> None:
    if line.voice is None:
        if not given:
            raise DataError(f"{line.where}: has no voice; give it one, or --voice for all lines")
    elif is_address(line.voice):
        pass
    elif Path(line.voice).suffix in VOICE_SUFFIXES:
        if not Path(line.voice).is_file():
            raise DataError(f"{line.where}: {line.voice}: no such file of a voice")
    elif line.voice.lower() not in voices:
        near = difflib.get_close_matches(line.voice, voices, 1)
        there = ", ".join(sorted(voices)[:8]) + (", ..." if len(voices) > 8 else "")
        raise DataError(
            f"{line.where}: no voice called {line.voice[:60]!r}; {_meant(near)}there are: {there or 'none'}"
        )


def _key(name: str) -> str:
    """One spelling of names that some disks take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_file(line: Line, taken: dict[str, str]) -> None:
    before = taken.setdefault(_key(line.file), line.where)
    if before != line.where:
        raise DataError(f"{line.where}: file {line.file!r} is that of {before} already; give each line its own")


def _refuse_nested(lines: Sequence[Line], taken: dict[str, str]) -> None:
    for line in lines:
        for parent in PurePosixPath(line.file).parents:
            if (other := taken.get(_key(str(parent)))) is not None:
                raise DataError(f"{line.where}: file {line.file!r} lies in that of {other}; rename one")
