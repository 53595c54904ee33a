"""Paths as users write them: `~`, `$HOME` and `${HOME}` mean what a shell would make of them.

No shell expands `--output=~/x`, nothing expands a line of YAML; taken by the letter, such a path makes a directory
called `~`, and `rm -r ~` is what people type next.
"""

import os
import re

from mlx_voxclone.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def expanded(path: str | os.PathLike[str]) -> str:
    """A path with `~`, `~user`, `$NAME` and `${NAME}` replaced; addresses (`hf://...`) stay as they are.

    A name that only looks so (`Ke$ha.wav`, `~old.wav`) stays if there is a file of it.

    Raises:
        ConfigError: nobody knows the user's home directory, or the variable is not set.
    """
    path = os.fspath(path)
    if "://" in path:
        return path
    if path.startswith("~"):
        found = os.path.expanduser(path)
        if found == path and not os.path.lexists(path):
            user = path.partition("/")[0]
            raise ConfigError(f"no home directory is known for {user}; write ./{user} if it is a name")
        path = found
    if "$" not in path:
        return path
    names = {match[1] or match[2] for match in _VARIABLE.finditer(path)}
    unknown = sorted(name for name in names if not os.environ.get(name))
    if unknown and os.path.lexists(path):
        return path
    if unknown:
        raise ConfigError(f"the environment has no variable ${unknown[0]} for {path}; set it, or write the path itself")
    return _VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], path)


def expanded_part(text: str) -> str:
    """`expanded` for `PATH`, `NAME=PATH` and `PATH=WEIGHT`; only what a path begins with is a path.

    Raises:
        ConfigError: as `expanded`.
    """
    name, equals, path = text.partition("=")
    if equals and path.startswith(("~", "$")) and not os.path.lexists(text):
        return f"{name}={expanded(path)}"
    return expanded(text)
