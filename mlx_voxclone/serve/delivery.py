"""From the engine's thread to a client: samples wait here until they are sent."""

import asyncio
import time
from collections.abc import Callable

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE

MOST_BEHIND = 120.0  # seconds of audio that wait to be sent; then a long text makes a pause


class GoneError(Exception):
    """The client has hung up."""


class Delivery:
    """One request's samples: the `Listener` of its job, and what its response reads. Made in the event loop.

    Args:
        wake: called when the engine may have more to do.

    Attributes:
        seconds: of audio that came so far.
        first: seconds from the making of this to the first samples; None: there have been none.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), wake
        self._queue: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        self._put = self._taken = 0  # samples; each is written by one thread alone
        self._gone = False
        self._began = time.perf_counter()
        self.first: float | None = None

    @property
    def seconds(self) -> float:
        return self._put / SAMPLE_RATE

    @property
    def gone(self) -> bool:
        return self._gone

    @property
    def behind(self) -> bool:
        return self._put - self._taken > MOST_BEHIND * SAMPLE_RATE

    def put(self, samples: np.ndarray) -> None:
        if self.first is None:
            self.first = time.perf_counter() - self._began
        self._put += len(samples)
        self._hand_over(samples)

    def finish(self) -> None:
        self._hand_over(None)

    def fail(self, error: Exception) -> None:
        self._hand_over(error)

    def _hand_over(self, item: np.ndarray | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop has ended
            self._gone = True

    # ---- of the event loop -------------------------------------------------------------------------------------------

    async def next(self) -> np.ndarray | None:
        """The next samples `[S]`; None: that was all.

        Raises:
            GoneError: the client has hung up. Otherwise what the job failed at.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        if item is not None:
            behind = self.behind
            self._taken += len(item)
            if behind and not self.behind:
                self._wake()
        return item

    def hang_up(self) -> None:
        """Nobody wants any more of it."""
        if not self._gone:
            self._gone = True
            self._queue.put_nowait(GoneError())
            self._wake()
