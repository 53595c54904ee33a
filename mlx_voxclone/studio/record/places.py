"""What of a voice's project this step uses."""

from pathlib import Path
from typing import Any, Protocol


class Voice(Protocol):
    """A voice that is being made: its folders, which are made on first use, and its notes.

    `info()` has `title`, `language` and `consent` (None, or who, when, purpose and statement).
    """

    @property
    def id(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def takes(self) -> Path: ...
    @property
    def uploads(self) -> Path: ...
    @property
    def clips(self) -> Path: ...
    def info(self) -> dict[str, Any]: ...
    def change(self, **values: Any) -> None: ...
