"""What a call refuses, in one line."""

from collections.abc import Callable

import pytest


def refused(call: Callable[[], object], error: type[Exception], *texts: str) -> str:
    """The message of the error that a call raises: one line, with all of these texts in it."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for text in texts:
        assert text in message
    return message
