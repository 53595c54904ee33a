"""Texts whose recordings have not come yet, by name: `uploads/texts.json`.

What people have typed is in it, so a file that cannot be read is never written over: it is moved aside under another
name first, and the page says so.
"""

from collections import defaultdict
from pathlib import Path

from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.studio.home import check_damage, json_text, move_aside, moved_aside
from mlx_voxclone.studio.record.shelf import in_voice

FILE = "texts.json"
MOST = 100_000  # texts that wait


class Waiting:
    """The texts that wait, as they are now; hold `shelf.lock` from reading to writing.

    Args:
        folder: of the uploads.
    Attributes:
        texts: by name, see `uploads.Uploads`. damaged: the file is there and cannot be read, or not all of it.
    Raises:
        UnreadError: it cannot be read this time.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.texts: dict[str, str] = {}
        self.damaged = False
        try:
            found = read_json(self._path)
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError) as e:
            check_damage(self._path, e)
            found, self.damaged = {}, True
        if isinstance(found, dict):
            self.texts = {key: text for key, text in found.items() if isinstance(text, str)}
        self.damaged |= not isinstance(found, dict) or len(self.texts) < len(found)
        self._ends: dict[str, list[str]] | None = None

    def key_for(self, name: str) -> str | None:
        """The one text that is of a recording of this name: by all of the path, by its end, or by its last part."""
        if name in self.texts:
            return name
        if self._ends is None:
            self._ends = defaultdict(list)
            for key in self.texts:
                self._ends[key.rpartition("/")[2]].append(key)
        likely = [key for key in self._ends.get(name.rpartition("/")[2], ()) if key in self.texts]
        found = [key for key in likely if name.endswith(f"/{key}") or key.endswith(f"/{name}")] or likely
        return found[0] if len(found) == 1 else None

    def add(self, texts: dict[str, str]) -> None:
        """More of them; one of a name that waits already takes its place."""
        self.texts.update(texts)
        self._ends = None

    def write(self) -> None:
        """Keep them.

        Raises:
            CheckpointError: the disk refuses. Missing: the voice has been deleted.
        """
        with in_voice(self._path.parent) as written:
            if self.damaged:
                move_aside(self._path)
                self.damaged = False
            written.append(self._path)
            write_text_atomic(self._path, json_text(self.texts))


def damaged(folder: Path) -> list[Path]:
    """Files of texts that cannot be read: the one in its place, and those that were moved aside."""
    aside = moved_aside(folder / FILE)
    return [folder / FILE, *aside] if Waiting(folder).damaged else aside
