"""The body of an HTTP request as it arrives: counted, limited in size and in time."""

import asyncio
import time

from starlette.types import Message, Receive


class TooLargeError(Exception):
    """A body of more bytes than are allowed."""


class Body:
    """The body of one request.

    Args:
        receive: the ASGI server's; returns the next message of the request.
        limit: bytes that the body may have.

    Attributes:
        complete: whether all of it has arrived, or the client has hung up.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._count = receive, limit, 0
        self.complete = False

    async def receive(self, seconds: float) -> Message:
        """The next message; after the last part, the one that comes when the client hangs up.

        Args:
            seconds: to wait for it, while the body is not complete.

        Raises:
            TimeoutError: nothing has arrived in that time.
            TooLargeError: more than `limit` bytes have arrived.
        """
        if self.complete:
            return await self._receive()
        message = await asyncio.wait_for(self._receive(), max(seconds, 0.001))
        self._count += len(message.get("body", b""))
        self._note(message)
        if self._count > self._limit:
            raise TooLargeError
        return message

    async def drain(self, seconds: float) -> None:
        """Read the rest and drop it, for at most `seconds`: most clients read no answer while they still send."""
        until = time.monotonic() + seconds
        while not self.complete and (left := until - time.monotonic()) > 0:
            try:
                self._note(await asyncio.wait_for(self._receive(), left))
            except TimeoutError:
                break

    def _note(self, message: Message) -> None:
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
