"""The consent of the person whose voice it is: who gave it, when, what for, and the very words that were agreed to."""

from datetime import UTC, datetime

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import damage, tidy
from mlx_voxclone.studio.record.places import Voice

LONGEST_NAME, LONGEST_PURPOSE = 120, 500  # characters


class NoConsentError(DataError):
    """A voice that nobody has agreed to have recorded."""


def give(project: Voice, who: str, purpose: str, statement: str) -> dict[str, str]:
    """Record a consent with the voice.

    Args:
        who: name of the person whose voice it is.
        purpose: what the voice is for.
        statement: what was agreed to, kept word for word.
    Returns:
        What is kept: `who`, `purpose`, `statement` and `when` (UTC).
    Raises:
        DataError: one of them is empty, too long or damaged.
    """
    consent = {
        "who": _line("the name", who, LONGEST_NAME),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "purpose": _line("the purpose", purpose, LONGEST_PURPOSE),
        "statement": statement,
    }
    if not statement.strip() or damage(statement):
        raise DataError("the statement of consent is empty or damaged")
    project.change(consent=consent)
    return consent


def require(project: Voice) -> None:
    """
    Raises:
        NoConsentError: nothing may be recorded or added, as there is no consent.
    """
    if not project.info().get("consent"):
        raise NoConsentError("this voice has no consent yet; give it first, then record or add files")


def _line(what: str, text: str, longest: int) -> str:
    found = tidy(text)
    if not found or damage(text):
        raise DataError(f"{what} is empty or damaged")
    if len(found) > longest:
        raise DataError(f"{what} is longer than {longest} characters")
    return found
