"""What is to be evaluated: outputs with the text they should say, the voice they should have, and what they imitate.

Three forms are read:

- a directory: `NAME.wav` (or FLAC, ...) with, as far as they exist, `NAME.txt` (text), `NAME-reference.wav` (voice; one
  `reference.wav` serves all), `NAME-original.wav` (what the output reconstructs, for the codec metrics) and
  `NAME.safetensors` (its codes, as `voxclone encode` writes them, for the use of the codebooks);
- JSON Lines: `{"output": path, "text": str?, "reference": path?, "original": path?, "codes": path?, "id": str?,
  "language": str?, "seconds": number?}`, paths relative to the file; `seconds` (above 0): making the output took them;
- a list as SEED-TTS-eval has them, `id|text of the prompt|prompt.wav|text to say[|original.wav]`, paths relative to the
  list, with the outputs as `OUTPUTS/id.wav`.

Lines end at line feeds alone: a text may hold a form feed or a line separator.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_voxclone.data.entries import lies_inside, read_lines
from mlx_voxclone.data.listings.beside import TextsBeside
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import is_number, parse_json
from mlx_voxclone.files.texts import tidy
from mlx_voxclone.whisper.compare import normalise

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
LISTS = (".lst", ".txt")
_ROLES = ("-reference", "-original")
_PLACES = ("output", "reference", "original", "codes")
_KEYS = {"output", "text", "reference", "original", "codes", "id", "language", "seconds"}


@dataclass(frozen=True)
class Case:
    """One output.

    Args:
        id: names it in tables; unique.
        output: its audio.
        text: what it should say.
        reference: a recording of the voice it should have.
        original: the recording it reconstructs, of the same length but for padding.
        language: code such as `en`; None: Whisper finds out.
        seconds: that making the output took.
        codes: a file with its `codes`.
    """

    id: str
    output: Path
    text: str | None = None
    reference: Path | None = None
    original: Path | None = None
    language: str | None = None
    seconds: float | None = None
    codes: Path | None = None


def read_cases(source: str | Path, outputs: str | Path | None = None, language: str | None = None) -> list[Case]:
    """Read a directory, a JSON Lines file or a list; see the module.

    Args:
        source: any of the three.
        outputs: directory of the outputs, of a list.
        language: of cases that do not say theirs.

    Raises:
        DataError: not there, not readable, no cases, an id twice, a file that a case names and that does not exist, two
            audio files of one name, a listed text of signs alone; what is wrong in a line is told with its number.
    """
    source = Path(source)
    if source.is_dir():
        found = list(_directory(source))
    elif not source.is_file():
        raise DataError(f"{source}: no such file or directory")
    elif source.suffix.lower() in LISTS:
        if outputs is None:
            raise DataError(f"{source}: a list does not say where the outputs are; give their directory (--outputs)")
        found = list(_list(source, Path(outputs)))
    else:
        found = list(_lines(source))
    if not found:
        raise DataError(f"{source}: nothing to evaluate; {', '.join(AUDIO)} files, JSON Lines or a .lst are expected")
    _check(source, found)
    return [
        replace(case, language=case.language or language, text=None if case.text is None else tidy(case.text))
        for case in found
    ]


def _check(source: Path, cases: list[Case]) -> None:
    ids = [case.id for case in cases]
    if twice := next((name for k, name in enumerate(ids) if name in ids[:k]), None):
        raise DataError(f"{source}: the id {twice} occurs twice")
    for role in _PLACES:
        paths = [path for case in cases if (path := getattr(case, role)) is not None]
        if missing := [path for path in paths if not path.is_file()]:
            raise DataError(f"{source}: {len(missing)} of {len(paths)} {role}s do not exist, such as {missing[0]}")


def _directory(place: Path) -> Iterator[Case]:
    files: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        if path.suffix.lower() in AUDIO and (other := files.setdefault(path.stem, path)) is not path:
            raise _same_name(place, other, path)
    common = files.pop("reference", None)
    texts = TextsBeside(place)
    for name, path in files.items():
        if name.endswith(_ROLES):
            continue
        codes = path.with_suffix(".safetensors")
        sounds = (files.get(f"{name}-reference", common), files.get(f"{name}-original"))
        yield Case(name, path, texts.find(path), *sounds, codes=codes if codes.is_file() else None)


def _lines(path: Path) -> Iterator[Case]:
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            entry = parse_json(line)
        except ValueError:
            raise DataError(f"{where}: not JSON") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("output"), str) or not entry["output"]:
            raise DataError(f'{where}: an object with "output" is expected')
        if unknown := sorted(set(entry) - _KEYS):
            raise DataError(f"{where}: unknown key {unknown[0]}; there are {', '.join(sorted(_KEYS))}")
        wrong = [key for key in _KEYS - {"seconds"} if not isinstance(entry.get(key), str | None)]
        if wrong:
            raise DataError(f"{where}: {wrong[0]} has a value of the wrong type")
        seconds = entry.get("seconds")
        if seconds is not None and not (is_number(seconds) and seconds > 0):
            raise DataError(f"{where}: seconds must be a number above 0, not {json.dumps(seconds)[:40]}")
        places = {key: path.parent / entry[key] for key in _PLACES if entry.get(key)}
        rest = {"text": _said(entry.get("text"), f"{where}: the text"), "language": entry.get("language")}
        yield Case(entry.get("id") or places["output"].stem, **places, **rest, seconds=seconds)


def _list(path: Path, outputs: Path) -> Iterator[Case]:
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("|")]
        if len(fields) not in (4, 5) or not fields[0] or not fields[2]:
            raise DataError(f"{path}:{number}: id|text of the prompt|prompt.wav|text to say is expected")
        if not lies_inside(fields[0]):
            raise DataError(f"{path}:{number}: the id {fields[0]!r} does not name a file in {outputs}")
        original = path.parent / fields[4] if len(fields) == 5 and fields[4] else None
        named = [outputs / f"{fields[0]}{suffix}" for suffix in AUDIO]
        there = [place for place in named if place.is_file()]
        if len(there) > 1:
            raise _same_name(outputs, *there[:2])
        text = _said(fields[3], f"{path}:{number}: the text to say")
        yield Case(fields[0], (there or named)[0], text, path.parent / fields[2], original)


def _same_name(place: Path, *paths: Path) -> DataError:
    names = " and ".join(path.name for path in paths)
    return DataError(f"{place}: {names} differ in nothing but the suffix, and one is expected; move the other away")


def _said(text: str | None, where: str) -> str | None:
    """A text with something to hear in it; None for a blank one.

    Raises:
        DataError: it holds signs alone, of which no error rate can be told.
    """
    if text is None or not text.strip():
        return None
    if not normalise(text):
        raise DataError(f"{where} ({text.strip()[:40]!r}) holds no words; correct it or leave it out")
    return text
