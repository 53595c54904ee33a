"""What is to be evaluated: outputs with the text they should say, the voice they should have, and what they imitate.

Three forms are read:

- a directory: `NAME.wav` (or FLAC, ...) with, as far as they exist, `NAME.txt` (text), `NAME-reference.wav` (voice; one
  `reference.wav` serves all), `NAME-original.wav` (what the output reconstructs, for the codec metrics) and
  `NAME.safetensors` (its codes, as `voxclone encode` writes them, for the use of the codebooks);
- JSON Lines: `{"output": path, "text": str?, "reference": path?, "original": path?, "codes": path?, "id": str?,
  "language": str?, "seconds": number?}`, paths relative to the file; `seconds` is what making the output took;
- a list as SEED-TTS-eval has them, `id|text of the prompt|prompt.wav|text to say[|original.wav]`, paths relative to the
  list, with the outputs as `OUTPUTS/id.wav`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_voxclone.data.entries import lies_inside
from mlx_voxclone.data.listings.beside import TextsBeside
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json, read_plain
from mlx_voxclone.files.texts import tidy

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
        DataError: not there, not readable, no cases, an id twice, a file that a case names and that does not exist.
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
    files = {path.stem: path for path in sorted(place.iterdir()) if path.suffix.lower() in AUDIO}
    common = files.pop("reference", None)
    texts = TextsBeside(place)
    for name, path in files.items():
        if name.endswith(_ROLES):
            continue
        codes = path.with_suffix(".safetensors")
        sounds = (files.get(f"{name}-reference", common), files.get(f"{name}-original"))
        yield Case(name, path, texts.find(path), *sounds, codes=codes if codes.is_file() else None)


def _lines(path: Path) -> Iterator[Case]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = parse_json(line)
        except ValueError:
            raise DataError(f"{where}: not JSON") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("output"), str):
            raise DataError(f'{where}: an object with "output" is expected')
        if unknown := sorted(set(entry) - _KEYS):
            raise DataError(f"{where}: unknown key {unknown[0]}; there are {', '.join(sorted(_KEYS))}")
        wrong = [key for key in _KEYS - {"seconds"} if not isinstance(entry.get(key), str | None)]
        if wrong or not isinstance(entry.get("seconds"), int | float | None):
            raise DataError(f"{where}: {(wrong or ['seconds'])[0]} has a value of the wrong type")
        places = {key: path.parent / entry[key] for key in _PLACES if entry.get(key)}
        rest = {key: entry.get(key) for key in ("text", "language", "seconds")}
        yield Case(entry.get("id") or places["output"].stem, **places, **rest)


def _list(path: Path, outputs: Path) -> Iterator[Case]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) not in (4, 5) or not fields[0] or not fields[2]:
            raise DataError(f"{path}:{number}: id|text of the prompt|prompt.wav|text to say is expected")
        if not lies_inside(fields[0]):
            raise DataError(f"{path}:{number}: the id {fields[0]!r} does not name a file in {outputs}")
        original = path.parent / fields[4] if len(fields) == 5 and fields[4] else None
        named = [outputs / f"{fields[0]}{suffix}" for suffix in AUDIO]
        output = next((place for place in named if place.is_file()), named[0])
        yield Case(fields[0], output, fields[3] or None, path.parent / fields[2], original)


def _text(path: Path) -> str:
    try:
        return read_plain(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except ValueError as e:
        raise DataError(f"{path}: not a list to evaluate ({e})") from None
