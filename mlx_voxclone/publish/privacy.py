"""Nothing of this machine is published: paths in texts, in JSON and in the headers of tensor files are refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import read_json, reason_of

# Absolute paths of at least two parts, paths from home, Windows' drives; not the paths of web addresses and HTML tags.
_PATH = re.compile(
    r"""file://\S+ | (?<![\w.])~/[^\s"'<>)]+ | \b[A-Za-z]:\\[^\s"'<>]+ | (?<![\w:/.<])/(?:[\w.@+~-]+/)+[\w.@+~-]*""",
    re.VERBOSE,
)


def local_path(text: str) -> str | None:
    """The first path of this or another machine in a text; None: there is none."""
    places = (str(Path.home()), str(Path.cwd()))
    if found := next((place for place in places if len(place) > 1 and place in text), None):
        return found
    match = _PATH.search(text)
    return match[0] if match else None


def check_text(text: str, where: str) -> None:
    """Raise CheckpointError if a text names a path of a machine."""
    if found := local_path(text):
        raise CheckpointError(f"{where}: names the path {found}, which is not for others; take it out")


def check_file(path: Path, name: str) -> None:
    """Refuse a file that is to be published as `name` and names a path: in any of its texts, if it is one, else in its
    header.

    Raises:
        CheckpointError: it does, or it cannot be read.
    """
    if name.endswith(".json"):
        try:
            content = read_json(path)
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{path}: not readable as JSON ({reason_of(e)})") from None
        for key, text in _texts(content):
            check_text(text, f"{path}: {key}")
    elif name.endswith(".safetensors"):
        for key, text in TensorFile(path).metadata.items():
            check_text(text, f"{path}: {key} in its header")
    elif not name.endswith((".pt", ".wav")):
        check_text(path.read_text(encoding="utf-8", errors="replace"), str(path))


def _texts(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in parsed JSON, names included, with where it stands."""
    if isinstance(content, str):
        yield key or "content", content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield f"{key}.{name}".lstrip("."), name
            yield from _texts(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, list):
        for k, value in enumerate(content):
            yield from _texts(value, f"{key}[{k}]")
