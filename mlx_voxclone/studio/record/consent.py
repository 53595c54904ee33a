"""The consent of the person whose voice it is: who gave it, when, what for, and the very words that were agreed to."""

from datetime import UTC, datetime

from mlx_voxclone.files.texts import damage, tidy
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Mistake

LONGEST_NAME, LONGEST_PURPOSE = 120, 500  # characters


def consent(who: str, purpose: str, statement: str, agreed: bool) -> dict[str, str]:
    """What is kept of a consent: `who`, `purpose`, `statement` word for word, and `when` (UTC).

    Args:
        who: name of the person whose voice it is.
        purpose: what the voice is for.
        statement: what was agreed to, as it was shown.
        agreed: whether the box beside it was ticked.
    Raises:
        Mistake: a field is empty, too long or damaged, or the box is not ticked.
    """
    kept = {
        "who": line("who", who, LONGEST_NAME),
        "purpose": line("purpose", purpose, LONGEST_PURPOSE),
        "statement": statement,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not agreed:
        raise Mistake("agreed", "record.wrong.not_agreed")
    return kept


def given(project: Project) -> dict[str, str] | None:
    """The consent that was given, see `consent`; None where there is none, or what is noted is something else."""
    found = project.info().get("consent")
    good = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("who", "purpose", "when"))
    return found if good else None


def require(project: Project) -> None:
    """
    Raises:
        Mistake: nothing may be recorded or added, as there is no consent.
        Missing: the voice has been deleted meanwhile.
    """
    found = given(project)
    project.check_there()
    if found is None:
        raise Mistake("agreed", "record.wrong.no_consent")


def line(field: str, text: str, longest: int) -> str:
    """One line of a form's field, tidy.

    Raises:
        Mistake: empty, damaged, or longer than `longest` characters.
    """
    if damage(text):
        raise Mistake(field, "record.wrong.damaged_text")
    found = tidy(text)
    if not found:
        raise Mistake(field, "record.wrong.empty_field")
    if len(found) > longest:
        raise Mistake(field, "record.wrong.long_text", count=len(found), most=longest)
    return found
