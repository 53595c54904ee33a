"""Sentences to read aloud: phonetically broad, in the model's nine languages, and syllables for its miniature.

One UTF-8 file per language, one sentence of 6 to 20 words per line, written for this project. Behind them come the
sentences of `pairs.prompts`, so that ten minutes of a language need no sentence twice.
"""

from functools import cache
from importlib import resources

from mlx_voxclone.errors import DataError
from mlx_voxclone.pairs.prompts import LANGUAGES as SPOKEN
from mlx_voxclone.pairs.prompts import load_prompts

SYLLABLES = "syllables"  # the language of the speaking miniature
LANGUAGES = (*SPOKEN, SYLLABLES)
RIGHT_TO_LEFT = ("ar",)


@cache
def sentences(language: str) -> tuple[str, ...]:
    """The sentences of a language, in the order in which they are shown.

    Raises:
        DataError: a language that the model does not speak.
    """
    if language not in LANGUAGES:
        raise DataError(f"language {language!r}: there are sentences in {', '.join(LANGUAGES)}; or give your own")
    text = resources.files(__name__).joinpath(f"{language}.txt").read_text(encoding="utf-8")
    more = [] if language == SYLLABLES else [sentence for _, sentence in load_prompts([language])]
    return (*text.splitlines(), *more)
