"""What clients may ask for, checked before anything is computed."""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.serve.errors import ApiError
from mlx_voxclone.serve.web.formats import MEDIA, STATES_LENGTH

MOST_CHARACTERS = 20_000  # of a text: about 20 minutes of speech
MOST_SEED = 2**63 - 1
ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")  # names that many programs send and cannot change
_MESSAGES = {"missing": "is missing", "extra_forbidden": "is not known here"}


class VoiceId(BaseModel):
    """A voice as an object, which OpenAI's clients may send in the place of its name."""

    model_config = ConfigDict(strict=True, extra="forbid")
    id: str


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    model: str | None = None
    input: str
    voice: str | VoiceId
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    stream: bool | None = None
    stream_format: Literal["audio", "sse"] = "audio"
    speed: float = 1.0
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    instructions: str | None = None
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*$", max_length=35)] = "en"


@dataclass(frozen=True)
class SpeechRequest:
    """A request for speech that can be carried out, if its voice is there.

    Attributes:
        text: what of it can be spoken shows when its job is prepared.
        voice: in lower case.
        whole: the audio is sent when all of it is there; otherwise as it comes.
        events: as server-sent events.
    """

    text: str
    voice: str
    response_format: str
    whole: bool
    events: bool
    seed: int
    language: str


def speech_request(body: bytes, models: list[str], most_characters: int = MOST_CHARACTERS) -> SpeechRequest:
    """The request in a body of JSON.

    Args:
        models: names that `model` may have.
        most_characters: of the text.

    Raises:
        ApiError: one line on what is wrong with which field.
    """
    asked = _parsed(body)
    if asked.model is not None and asked.model not in (*models, *ALIASES):
        raise ApiError(
            404, f"there is no model {_shown(asked.model)}; there is {models[0]}", "model", "model_not_found"
        )
    if asked.speed != 1:
        raise ApiError(
            400, f"speed {asked.speed!r} is not possible: the model speaks at its own pace; leave it out", "speed",
            "unsupported_value",
        )  # fmt: skip
    if asked.instructions and asked.instructions.strip():
        raise ApiError(
            400, "instructions are not possible: the voice decides how it speaks; leave them out", "instructions",
            "unsupported_value",
        )  # fmt: skip
    voice = asked.voice if isinstance(asked.voice, str) else asked.voice.id
    events = asked.stream_format == "sse"
    stream = asked.stream if asked.stream is not None else events or asked.response_format not in STATES_LENGTH
    if len(asked.input) > most_characters:
        raise ApiError(
            400, f"input has {len(asked.input):,} characters, {most_characters:,} are possible; send it in parts",
            "input", "string_above_max_length",
        )  # fmt: skip
    return SpeechRequest(
        asked.input,
        voice.lower(),
        asked.response_format,
        not stream,
        events,
        asked.seed,
        asked.language,
    )


def check_type(headers: Mapping[str, str], kind: str, *, needed: bool = True) -> None:
    """Refuse a body that says it is something else, is compressed or in another encoding than UTF-8.

    Args:
        headers: of the request, found by names in small letters.
        kind: the media type that is expected, such as `application/json`.
        needed: it must be stated.

    Raises:
        ApiError: what is expected.
    """
    message = Message()
    message["content-type"] = stated = headers.get("content-type", "")
    try:
        charset = message.get_param("charset", "utf-8")
    except TypeError:  # of Python's own, where the parameter comes in numbered pieces and whole
        charset = None
    if (stated or needed) and stated.partition(";")[0].strip().lower() != kind:
        raise ApiError(415, f"the body must be {kind}; send it as Content-Type", None, "unsupported_content_type")
    if not isinstance(charset, str) or charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(415, "the body must be UTF-8", None, "unsupported_content_type")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "a compressed body is not read; send it as it is", None, "unsupported_content_type")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a field twice: readers disagree which one counts."""
    content = dict(pairs)
    if len(content) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ApiError(400, f"{_shown(name)} is there twice; send it once", _unicode(name), "duplicate_parameter")
    return content


def _unicode(name: str) -> str:
    return name[:80].encode("utf-8", "backslashreplace").decode("utf-8")


def _parsed(body: bytes) -> _Body:
    try:
        content = parse_json(body.decode("utf-8"), _once)
    except ValueError as e:  # UnicodeDecodeError, too
        reason = "not UTF-8" if isinstance(e, UnicodeDecodeError) else str(e)[:100]
        raise ApiError(400, f"the body is no JSON ({reason})", None, "invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object", None, "invalid_json")
    try:
        return _Body.model_validate(content)
    except ValidationError as e:
        raise _wrong(e) from None


def _wrong(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    param, kind = place[0] if place else None, first["type"]
    if param is None:  # not even a field's name is one
        return ApiError(400, "the name of a field holds characters that are no Unicode", None, "invalid_value")
    if kind == "string_unicode":
        return ApiError(400, f"{param} holds characters that are no Unicode; send it as UTF-8", param, "invalid_value")
    if param == "response_format" and first["input"] == "aac":
        return ApiError(400, f"aac is not possible; take one of {', '.join(MEDIA)}", param, "unsupported_value")
    message = f"{_shown(param)} {_MESSAGES.get(kind) or _reason(first)}"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(param[:80], _Body.model_fields, n=1)
        message += f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_Body.model_fields)}"
        return ApiError(400, message, _unicode(param), "unknown_parameter")
    return ApiError(400, message, param, "missing_required_parameter" if kind == "missing" else "invalid_value")


def _reason(first: Any) -> str:
    if first["loc"][0] == "language":
        return "must be a language code such as en or pt-br"
    return f"is wrong: {first['msg'][0].lower()}{first['msg'][1:]}"


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, str) or not value.isidentifier() else value
    return text if len(text) <= 60 else f"{text[:57]}..."
