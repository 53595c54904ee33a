"""Sentences to speak in nine languages: phonetically broad, with questions, numbers in words, lists and exclamations.

One UTF-8 file per language, one sentence of 4 to 20 words per line. Written for this project.
"""

from collections.abc import Sequence
from importlib import resources

from mlx_voxclone.errors import DataError

LANGUAGES = ("en", "fr", "de", "es", "it", "pt", "nl", "ar", "hi")


def load_prompts(languages: Sequence[str] = LANGUAGES) -> list[tuple[str, str]]:
    """`(language, sentence)` of the languages asked for, in their order and that of the lines.

    Raises:
        DataError: a language that there are no sentences for.
    """
    prompts = []
    for language in languages:
        if language not in LANGUAGES:
            raise DataError(f"language {language!r}: there are sentences in {', '.join(LANGUAGES)}; or give your own")
        text = resources.files(__name__).joinpath(f"{language}.txt").read_text(encoding="utf-8")
        prompts += [(language, line) for line in text.splitlines()]
    return prompts
