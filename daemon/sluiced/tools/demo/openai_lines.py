"""What stands in the files of OpenAI's jobs: requests, what is wrong with them, what they used."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .provider import Document, decode

MOST_LINES = 50_000


def requests_of(content: bytes, endpoint: str) -> tuple[list[Document], list[Document]]:
    """The requests that are well formed, and the errors of all others, as a job's `errors.data`."""
    requests: list[Document] = []
    errors: list[Document] = []
    seen: set[str] = set()
    for number, line in enumerate(content.splitlines(), 1):
        code, request = _mistake(line, endpoint, seen)
        if not code and requests and _model(request) != _model(requests[0]):
            code = "model_mismatch"
        if code:
            errors.append(problem(code, f"line {number}: {code.replace('_', ' ')}", number))
        else:
            requests.append(request)
    if not content.strip():
        errors.append(problem("empty_file", "no lines"))
    return requests, errors


def problem(code: str, message: str, line: int | None = None) -> Document:
    return {"code": code, "message": message, "param": None, "line": line}


def _model(request: Document) -> object:
    return request["body"].get("model")


def _mistake(text: bytes, endpoint: str, seen: set[str]) -> tuple[str, Document]:
    """The code of what is wrong with a line of the input, and the line."""
    try:
        request = decode(text)
    except msgspec.DecodeError:
        return "invalid_json_line", {}
    if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
        return "invalid_json_line", {}
    if request.get("url") != endpoint or request.get("method") != "POST":
        return "url_mismatch", request
    if request.get("custom_id") in seen:
        return "duplicate_custom_id", request
    seen.add(request.get("custom_id", ""))
    return ("too_many_tasks" if len(seen) > MOST_LINES else ""), request


def usage_of(output: Iterable[Document]) -> Document:
    """The tokens of all answers: chat completions and embeddings call them otherwise."""
    used = [line["response"]["body"].get("usage") or {} for line in output]
    taken = sum(u.get("prompt_tokens") or u.get("input_tokens") or 0 for u in used)
    given = sum(u.get("completion_tokens") or u.get("output_tokens") or 0 for u in used)
    return {
        "input_tokens": taken,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": given,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": taken + given,
    }
