"""Mistakes of a person's on the page: one sentence, beside the field that caused it."""

from mlx_voxclone.errors import VoxcloneError


class Mistake(VoxcloneError):
    """A value that cannot be taken.

    Args:
        field: name of the form's field; "" for the form as a whole.
        key: of the sentence in `words/*.toml`.
        values: put into the sentence.
    """

    def __init__(self, field: str, key: str, **values: object) -> None:
        super().__init__(f"{field or 'form'}: {key}")
        self.field, self.key, self.values = field, key, values

    def beside(self, field: str) -> "Mistake":
        """This one, moved beside another field."""
        self.field = field
        return self


class Missing(VoxcloneError):
    """Something that is not there, or not this person's: 404."""


class Cancelled(VoxcloneError):
    """A task that was cancelled."""
