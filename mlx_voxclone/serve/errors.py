"""What goes wrong with a request, as a status and the body that OpenAI's clients read."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from mlx_voxclone.errors import DataError, VoxcloneError
from mlx_voxclone.serve.engine import BusyError, EndingError, tell_once

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass
class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        message: one line: what, and what to do.
        param: the field of the request that is wrong.
        code: a short word for programs.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def content(self) -> bytes:
        return json.dumps(self.body()).encode()

    def response(self) -> Response:
        headers = {"retry-after": "1"} if self.status in (429, 503) else None
        return Response(self.content(), self.status, headers, "application/json")


def as_api_error(error: Exception) -> ApiError:
    """Any error as one that can be answered; what is a defect of ours says no more than that, and is printed."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, "too many requests are waiting; try again in a moment", None, "queue_full")
    if isinstance(error, EndingError):
        return ApiError(503, "the server is shutting down", None, "shutting_down")
    if isinstance(error, DataError):
        return ApiError(400, str(error), "input", "invalid_input")
    if isinstance(error, VoxcloneError):
        return ApiError(500, str(error), None, "model_error")
    if isinstance(error, MemoryError):
        return ApiError(503, "not enough memory for this request; try a shorter text", None, "out_of_memory")
    tell_once(error)
    return ApiError(500, "the server has failed at this request; its log says more", None, "internal_error")
