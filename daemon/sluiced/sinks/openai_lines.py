"""The lines of OpenAI's files: requests as they go up, and answers as they come down."""

from __future__ import annotations

import msgspec

from .job_answers import count


class _Usage(msgspec.Struct):
    """Chat completions and embeddings say prompt and completion, the others input and output."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _Answer(msgspec.Struct):
    model: str = ""
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(b"null")


class LineError(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Failure(msgspec.Struct):
    error: LineError | str | None = None


class ResultLine(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: LineError | None = None


class _Request(msgspec.Struct):
    custom_id: str


result_line = msgspec.json.Decoder(ResultLine).decode
request_line = msgspec.json.Decoder(_Request).decode
_answer = msgspec.json.Decoder(_Answer).decode
_failure = msgspec.json.Decoder(_Failure).decode


def counted(body: msgspec.Raw) -> tuple[str, int, int]:
    """The model, and the tokens that went in and came out, as far as the answer says."""
    try:
        answer = _answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", 0, 0
    usage = answer.usage or _Usage()
    taken = usage.prompt_tokens or usage.input_tokens
    given = usage.completion_tokens or usage.output_tokens
    return answer.model, count(taken), count(given)


def message_of(body: msgspec.Raw) -> str:
    try:
        error = _failure(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return (error if isinstance(error, str) else error and error.message) or ""


def on_one_line(value: bytes) -> bytes:
    """Between the tokens of JSON a line break is a space, and within a string none stands."""
    return value.translate(_BREAKS) if b"\n" in value or b"\r" in value else value


_BREAKS = bytes.maketrans(b"\r\n", b"  ")
