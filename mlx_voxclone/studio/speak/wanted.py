"""What a person asks for on the page: the values of the form, checked one by one."""

import secrets
from collections.abc import Mapping

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import damage
from mlx_voxclone.model.config import CFG_ALPHA
from mlx_voxclone.pairs.prompts import LANGUAGES
from mlx_voxclone.speech.chunks import split_text
from mlx_voxclone.studio.home import Person
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.speak.history import Asked
from mlx_voxclone.studio.speak.voices import source_of, voices_of
from mlx_voxclone.text.forms import form_of

STEPS = (3, 5, 7, 12, 24)  # of the flow, each with its own words on the page
RELEASED = 7
GUIDANCE, MOST_GUIDANCE = CFG_ALPHA, 5.0
MOST_LETTERS = 300_000  # about five hours of speech
_MOST_SEED = 2**63
_RANDOM = 1_000_000


def wanted(person: Person, form: Mapping[str, object]) -> Asked:
    """What is to be spoken.

    Args:
        form: `text`, `voice`, `language`, `seed` (empty: one is drawn), `steps` and `guidance` (empty: the usual).

    Raises:
        Mistake: the first value that cannot be taken.
    """
    given = {name: value if isinstance(value, str) else "" for name, value in form.items()}
    language = given.get("language", "")
    if language not in LANGUAGES:
        raise Mistake("language", "speak.choose_language")
    text = given.get("text", "").replace("\r\n", "\n").strip()
    if not text:
        raise Mistake("text", "speak.empty")
    if len(text) > MOST_LETTERS:
        raise Mistake("text", "speak.too_long", letters=len(text), most=MOST_LETTERS)
    if damage(text):
        raise Mistake("text", "speak.damaged")
    try:
        chunks = tuple(split_text(text, language, form=form_of(language)))
    except DataError:
        raise Mistake("text", "speak.no_words") from None
    key = given.get("voice", "")
    voice = next((one for one in voices_of(person) if one.key == key), None)
    if not key:
        raise Mistake("voice", "speak.choose_voice")
    source = source_of(person, key)
    return Asked(
        text=text,
        voice=key,
        title=key if voice is None else voice.title,
        language=language,
        seed=_seed(given.get("seed", "").strip()),
        steps=_steps(given.get("steps", "").strip()),
        guidance=_guidance(given.get("guidance", "").strip()),
        chunks=chunks,
        model=str(source.model),
    )


def random_seed() -> int:
    """One that is short enough to be told to somebody."""
    return secrets.randbelow(_RANDOM)


def _seed(text: str) -> int:
    if not text:
        return random_seed()
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) >= _MOST_SEED:
        raise Mistake("seed", "speak.bad_seed")
    return int(text)


def _steps(text: str) -> int:
    if not text:
        return RELEASED
    if text not in map(str, STEPS):
        raise Mistake("steps", "speak.bad_steps")
    return int(text)


def _guidance(text: str) -> float:
    try:
        value = float(text.replace(",", ".")) if text else GUIDANCE
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_GUIDANCE:
        raise Mistake("guidance", "speak.bad_guidance", most=MOST_GUIDANCE)
    return value
