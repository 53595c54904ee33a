"""Wait for another thread or process, but not for ever."""

import time
from collections.abc import Callable

EVERY = 0.005  # seconds between two looks


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Return as soon as the condition is true. Raises TimeoutError after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(EVERY)
