"""Mistakes of a person's on the page: one sentence, beside the field that caused it."""

from mlx_voxclone.errors import VoxcloneError


class Size(int):
    """Bytes, told as people read them: `5.00 MB`."""


class Mistake(VoxcloneError):
    """A value that cannot be taken.

    Args:
        field: name of the form's field; "" for the form as a whole.
        key: of the sentence in `words/*.toml`.
        line: what the library said, in English; shown below the sentence.
        values: put into the sentence.
    """

    def __init__(self, field: str, key: str, *, line: str = "", **values: object) -> None:
        super().__init__(line or f"{field or 'form'}: {key}")
        self.field, self.key, self.line, self.values = field, key, line, values


class Missing(VoxcloneError):
    """Something that is not there, or not this person's: 404."""


class Cancelled(VoxcloneError):
    """A task that was cancelled."""
