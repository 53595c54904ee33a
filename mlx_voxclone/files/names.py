"""Names of files within what file systems take: 255 bytes, 143 where names are encrypted, whatever the script."""

import os

LONGEST = 255  # bytes


def cut(name: str, most: int) -> str:
    """The beginning of a name, of whole characters and at most `most` bytes on disk."""
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    return content[:most].decode("utf-8", "ignore")
