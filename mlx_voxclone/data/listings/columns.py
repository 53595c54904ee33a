"""What columns of tables and keys of JSON are called by those who write lists of recordings."""

import re
from collections.abc import Iterable, Sequence

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import base_language

AUDIO, ID, TEXT, NORMALISED = "audio", "id", "text", "normalised text"
SPEAKER, LANGUAGE, REFERENCE, SPLIT, UNUSED = "speaker", "language", "ref_audio", "split", "unused"
_COLUMNS = {
    AUDIO: "audio audio_file audio_filepath audio_path audiofile file file_name filename file_path filepath path wav"
    " wav_file wav_filename wav_path recording clip",
    ID: "id utt utt_id utterance utterance_id segment_id clip_id audio_id file_id",
    TEXT: "text raw_text transcript transcription raw_transcription sentence",
    NORMALISED: "normalized_text normalised_text text_normalized text_normalised normalized_transcript"
    " normalised_transcript normalized_transcription normalised_transcription normalized normalised",
    SPEAKER: "speaker speaker_name speaker_id spk spk_id spk_name client_id",
    LANGUAGE: "language lang language_code lang_code language_id lang_id locale",
    REFERENCE: "ref_audio reference_audio",
    SPLIT: "split",
    UNUSED: "duration length seconds offset gender sex age accent accents emotion emotion_name sampling_rate"
    " sample_rate num_samples n_samples up_votes down_votes segment",
}
_ROLES = {name: role for role, names in _COLUMNS.items() for name in names.split()}
KNOWN = "audio_file, text, normalized_text, speaker_name and language"
# Codes that lists of recordings use (ISO 639-1 and some of 639-3); GPT-SoVITS writes JP, and YUE for Cantonese.
_CODES = """
af am ar as az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu ha he hi hr hu hy id is it ja jp ka kk km
kn ko kr ky lo lt lv mk ml mn mr ms mt my nb ne nl nn no or pa pl ps pt ro ru rw sk sl so sq sr sv sw ta te th tk tl tr
tt ug uk ur uz vi yo yue zh zu
"""
LANGUAGES = frozenset(_CODES.split())
_SAME = {"jp": "ja", "kr": "ko"}


def role_of(name: str) -> str | None:
    """What a column of this name holds; None: unknown."""
    return _ROLES.get(re.sub(r"[\s-]+", "_", name.strip().lower()))


def language_of(code: str) -> str | None:
    """`EN`, `zh-CN` or `JP` as this program writes languages; None for anything else."""
    base = base_language(code.strip())
    base = _SAME.get(base, base)
    return base if base in LANGUAGES and len(code.strip()) <= 6 else None


def assign(names: Sequence[str], where: str) -> dict[str, int]:
    """Which of the named columns is read for what: role -> its number.

    A file name counts before an id, a normalised text before the raw one.

    Raises:
        DataError: a name twice, two columns for one thing, none for the audio.
    """
    found: dict[str, int] = {}
    if twice := sorted({name for name in names if name.strip() and list(names).count(name) > 1}):
        raise DataError(f"{where}: {twice[0].strip()!r} appears twice; name each column once")
    for number, name in enumerate(names):
        role = role_of(name)
        if role is None or role == UNUSED:
            continue
        if role in found:
            raise DataError(
                f"{where}: both {names[found[role]].strip()!r} and {name.strip()!r} could be the {role}; remove one of"
                " them"
            )
        found[role] = number
    if AUDIO not in found and ID not in found:
        raise DataError(f"{where}: no column names the audio; known names are {KNOWN}")
    if AUDIO in found:
        found.pop(ID, None)
    else:
        found[AUDIO] = found.pop(ID)
    if NORMALISED in found:
        found[TEXT] = found.pop(NORMALISED)
    return found


def is_header(names: Sequence[str]) -> bool:
    """Whether cells are names of columns: one of audio or an id, and another known one; half of all at least."""
    roles = [role_of(name) for name in names]
    known = [role for role in roles if role is not None]
    return any(role in (AUDIO, ID) for role in known) and len(known) >= max(2, (len(names) + 1) // 2)


def described(names: Sequence[str], columns: dict[str, int]) -> str:
    """The columns that are read and those that are not, for a note."""
    used = [
        role if names[number].strip().lower() == role else f"{names[number].strip()} as {role}"
        for role, number in columns.items()
    ]
    unused = [name.strip() or "an unnamed column" for k, name in enumerate(names) if k not in columns.values()]
    return joined(used) + (f"; not used: {joined(unused)}" if unused else "")


def joined(items: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(items)
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
