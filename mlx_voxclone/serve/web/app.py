"""The paths of the server, as OpenAI's interface names them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlx_voxclone.serve.delivery import Delivery
from mlx_voxclone.serve.engine import Engine
from mlx_voxclone.serve.errors import ApiError, as_api_error
from mlx_voxclone.serve.jobs import Job
from mlx_voxclone.serve.voices import MOST_CONSENT, Voices
from mlx_voxclone.serve.web.formats import Encoder
from mlx_voxclone.serve.web.requests import MOST_CHARACTERS, check_type, speech_request
from mlx_voxclone.serve.web.response import SpeechResponse
from mlx_voxclone.version import __version__

UPLOADS = 4  # at once
SAMPLE = "audio_sample"
FIELDS = ("name", "consent", SAMPLE, "type")


@dataclass(frozen=True)
class Service:
    """What the paths work on.

    Attributes:
        model: the name that clients see.
        most_characters: of one text.
    """

    engine: Engine
    voices: Voices
    model: str
    most_characters: int = MOST_CHARACTERS


def application(service: Service) -> Starlette:
    """The ASGI application; see `guard` for what stands before it."""
    voices = _Voices(service)
    speech = _Speech(service)
    models = _Models(service)
    routes = [
        Route("/v1/audio/speech", speech.create, methods=["POST"]),
        Route("/v1/audio/voices", voices.list, methods=["GET"]),
        Route("/v1/audio/voices", voices.create, methods=["POST"]),
        Route("/v1/audio/voices/{name}", voices.get, methods=["GET"]),
        Route("/v1/audio/voices/{name}", voices.delete, methods=["DELETE"]),
        Route("/v1/models", models.list, methods=["GET"]),
        Route("/v1/audio/models", models.list, methods=["GET"]),  # where Open WebUI looks
        Route("/v1/models/{name:path}", models.get, methods=["GET"]),
        Route("/health", _health(service), methods=["GET"]),
        Route("/metrics", _metrics(service), methods=["GET"]),
    ]
    app = Starlette(
        routes=routes, exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _api_error}
    )
    app.router.redirect_slashes = False  # a redirection is no error that a client understands
    return app


async def _api_error(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: f"there is nothing at {request.url.path[:80]}", 405: f"{request.method[:20]} is not possible here"}
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    detail = error.detail if isinstance(error, HTTPException) else ""
    answer = ApiError(status, words.get(status, detail), None, codes.get(status)).response()
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)  # which methods are
    return answer


class _Speech:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> "SpeechResponse | Response":
        service, engine = self._service, self._service.engine
        check_type(request.headers, "application/json", needed=False)
        body = await request.body()
        asked = await asyncio.to_thread(speech_request, body, [service.model], service.most_characters)
        voice = service.voices.find(asked.voice)
        delivery = Delivery(engine.wake)
        job = Job(
            asked.text,
            service.voices.rows_of(voice.name),
            delivery,
            seed=asked.seed,
            language=asked.language,
            adapters=service.voices.adapters_of(voice.name),
        )
        encoder = Encoder(asked.response_format, whole=asked.whole)
        try:
            await asyncio.to_thread(job.prepare, engine.speaker)  # a long text takes a while
            engine.submit(job)
        except Exception as error:
            return as_api_error(error).response()
        return SpeechResponse(job, delivery, encoder, engine.metrics, whole=asked.whole, events=asked.events)


class _Voices:
    def __init__(self, service: Service) -> None:
        self._service, self._uploads = service, 0

    async def list(self, request: Request) -> Response:
        found = self._service.voices.all()
        return _json(
            {
                "object": "list",
                "data": [voice.body() for voice in found],
                "first_id": found[0].name if found else None,
                "last_id": found[-1].name if found else None,
                "has_more": False,
                "voices": [{"id": voice.name, "name": voice.name} for voice in found],  # what Open WebUI reads
            }
        )

    async def get(self, request: Request) -> Response:
        return _json(self._found(request).body())

    async def delete(self, request: Request) -> Response:
        name = self._found(request).name
        self._service.voices.remove(name)
        return _json({"id": name, "object": "audio.voice.deleted", "deleted": True})

    def _found(self, request: Request) -> Any:
        try:
            return self._service.voices.find(request.path_params["name"].lower())
        except ApiError as error:
            raise ApiError(404, error.message, error.param, error.code) from None

    async def create(self, request: Request) -> Response:
        if self._uploads >= UPLOADS:
            raise ApiError(429, "too many uploads at once; try again in a moment", None, "too_many_uploads")
        self._uploads += 1
        try:
            return await self._create(request)
        finally:
            self._uploads -= 1

    async def _create(self, request: Request) -> Response:
        voices, engine = self._service.voices, self._service.engine
        voices.check_possible()
        check_type(request.headers, "multipart/form-data")
        try:
            opened = await request.form(max_files=1, max_fields=8, max_part_size=16 * MOST_CONSENT)
        except OSError as e:  # larger clips lie in a temporary file
            raise ApiError(507, f"the clip cannot be kept ({e.strerror})", None, "storage") from None
        async with _closed_at_the_end(opened) as form:
            _check_fields([field for field, _ in form.multi_items()])
            name, consent, file = (form.get(field) for field in ("name", "consent", SAMPLE))
            if form.get("type", SAMPLE) != SAMPLE:
                raise ApiError(400, f"type: only {SAMPLE} is possible", "type", "unsupported_value")
            for field, value in (("name", name), ("consent", consent)):
                if not isinstance(value, str):
                    raise ApiError(400, f"{field} is missing", field, f"{field}_required")
            if file is None or isinstance(file, str):
                raise ApiError(400, f"{SAMPLE} is missing: the clip as a file", SAMPLE, "audio_sample_required")
            voices.check_new(name, consent)
            content = await file.read()
        samples = await asyncio.to_thread(voices.read_clip, content)
        warnings = await asyncio.to_thread(voices.warnings_of, samples)
        try:
            made = engine.call(lambda: voices.add(name, consent, content, samples))
            voice = await asyncio.wrap_future(made)
        except Exception as error:
            return as_api_error(error).response()
        return _json(voice.body() | ({"warnings": warnings} if warnings else {}))


@contextlib.asynccontextmanager
async def _closed_at_the_end(form: FormData) -> AsyncIterator[FormData]:
    try:
        yield form
    finally:
        await form.close()


def _check_fields(fields: list[str]) -> None:
    """Refuse a form with a field twice, or with one that would be ignored. Raises ApiError."""
    for field in fields:
        if field not in FIELDS:
            raise ApiError(400, f"{field!r:.60} is not known here; there are {', '.join(FIELDS)}", field[:80],
                           "unknown_parameter")  # fmt: skip
        if fields.count(field) > 1:
            raise ApiError(400, f"{field} is there twice; send it once", field, "duplicate_parameter")


class _Models:
    def __init__(self, service: Service) -> None:
        self._model = {"id": service.model, "object": "model", "created": 0, "owned_by": "mlx_voxclone"}

    async def list(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._model], "models": [{"id": self._model["id"]}]})

    async def get(self, request: Request) -> Response:
        if (name := request.path_params["name"]) != self._model["id"]:
            raise ApiError(404, f"there is no model {name!r:.80}", "model", "model_not_found")
        return _json(self._model)


def _health(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def health(request: Request) -> Response:
        return _json({"status": "ok", "model": service.model, "version": __version__})

    return health


def _metrics(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(request: Request) -> Response:
        content, media = service.engine.metrics.page()
        return Response(content, media_type=media)

    return metrics


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), media_type="application/json")
