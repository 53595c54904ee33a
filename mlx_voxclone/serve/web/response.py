"""The response with a request's speech: whole, as it comes, or as server-sent events."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.types import Message, Receive, Send

from mlx_voxclone.serve.delivery import Delivery, GoneError
from mlx_voxclone.serve.errors import ApiError, as_api_error
from mlx_voxclone.serve.jobs import Job
from mlx_voxclone.serve.metrics import Metrics
from mlx_voxclone.serve.web.formats import Encoder


class BrokenOffError(Exception):
    """A response that has begun cannot be completed: its connection is cut, so that nobody takes it for whole.

    Attributes:
        was_told: it is no defect itself; what it comes of is told where that is one.
    """

    was_told = True


class SpeechResponse:
    """Sends the speech of a job that has been submitted; an ASGI application.

    What fails before the first sound is answered with its own status. Later a stream of audio is broken off, and one of
    events ends in an error.
    """

    def __init__(
        self, job: Job, delivery: Delivery, encoder: Encoder, metrics: Metrics, *, whole: bool, events: bool
    ) -> None:
        self._job, self._delivery, self._encoder, self._metrics = job, delivery, encoder, metrics
        self._whole, self._events = whole, events

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await self._answer(scope, receive, send)
        except GoneError:
            self._metrics.gone.inc()
        finally:
            watcher.cancel()
            self._delivery.hang_up()  # of a job that has ended, nothing

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._delivery.hang_up()

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            first = await self._delivery.next()
            if self._delivery.first is not None:
                self._metrics.first_sound.observe(self._delivery.first)
            body = await self._all(first) if self._whole and not self._events else None
        except GoneError:
            raise
        except Exception as error:
            await as_api_error(error).response()(scope, receive, send)
            return
        media = "text/event-stream; charset=utf-8" if self._events else self._encoder.media_type
        headers = [(b"content-type", media.encode()), (b"cache-control", b"no-store")]
        if body is not None:
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if body is not None:
            await send({"type": "http.response.body", "body": body})
            return
        try:
            async for part in self._parts(first):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except GoneError:
            raise
        except Exception as error:
            said = as_api_error(error)
            if not self._events:
                raise BrokenOffError from error
            await send({"type": "http.response.body", "body": _error_event(said), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _all(self, first: np.ndarray | None) -> bytes:
        parts = [part async for part in self._encoded(first)]
        return b"".join(parts)

    async def _parts(self, first: np.ndarray | None) -> AsyncIterator[bytes]:
        """What is sent of a stream, part after part."""
        async for data in self._encoded(first):
            yield (
                _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
                if self._events
                else data
            )
        if self._events:
            frames = sum(codes.shape[1] for codes in self._job.codes)
            usage = {"input_tokens": self._job.tokens, "output_tokens": frames}
            yield _event({"type": "speech.audio.done", "usage": usage | {"total_tokens": self._job.tokens + frames}})

    async def _encoded(self, samples: np.ndarray | None) -> AsyncIterator[bytes]:
        while samples is not None:
            if data := await asyncio.to_thread(self._encoder.add, samples):
                yield data
            samples = await self._delivery.next()
        if data := await asyncio.to_thread(self._encoder.end):
            yield data


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _error_event(error: ApiError) -> bytes:
    return _event({"type": "error", **error.body()})
