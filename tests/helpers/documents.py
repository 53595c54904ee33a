"""JSON documents with one of their values changed, for tests of what reads them."""

import copy
from collections.abc import Sequence
from typing import Any

DELETED = object()  # in the place of a value: the key goes


def changed(document: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of a document in which the value at `path` (keys and numbers) is another one, or gone."""
    content = copy.deepcopy(document)
    node = content
    for key in path[:-1]:
        node = node[key]
    if value is DELETED:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content
