"""What a model of the stand-in says: the end of what it was told, in each endpoint's own shape."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import blake2b

from .provider import Document

# Of a line's custom_id and body: an HTTP status and a body, or None for a line of which no output
# tells.
Answer = Callable[[str, Document], tuple[int, Document] | None]

OUT = 9  # tokens of every answer that is a text
IMAGE = 1056  # tokens of an image


def told(
    custom_id: str, body: Document, endpoint: str = "/v1/chat/completions"
) -> tuple[int, Document]:
    """An answer, or an error for a body that lacks what the endpoint needs."""
    needed, made = _ENDPOINTS.get(endpoint, _ENDPOINTS["/v1/chat/completions"])
    for name in needed:
        if name not in body:
            text = f"Missing required parameter: '{name}'."
            detail = {"type": "invalid_request_error", "param": name, "code": "missing_parameter"}
            return 400, {"error": {"message": text, **detail}}
    return 200, made(custom_id, body)


def _chat(custom_id: str, body: Document) -> Document:
    heard = _text(body["messages"][-1].get("content", "") if body["messages"] else "")
    return completion(custom_id, body["model"], _heard(heard), tokens(heard), OUT)


def completion(custom_id: str, model: str, text: str, taken: int, given: int) -> Document:
    """A chat completion with this text, and so many tokens that went in and came out."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-{custom_id}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage("prompt", "completion", taken, given),
    }


def _response(custom_id: str, body: Document) -> Document:
    asked = body["input"]
    heard = _text(asked if isinstance(asked, str) else asked[-1].get("content", ""))
    content = {"type": "output_text", "text": _heard(heard), "annotations": []}
    return {
        "id": f"resp_{custom_id}",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": {},
        "model": body["model"],
        "output": [
            {
                "type": "message",
                "id": f"msg_{custom_id}",
                "status": "completed",
                "role": "assistant",
                "content": [content],
            }
        ],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            **_usage("input", "output", tokens(heard), OUT),
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _embeddings(custom_id: str, body: Document) -> Document:
    asked = body["input"] if isinstance(body["input"], list) else [body["input"]]
    size = min(64, body.get("dimensions", 8))
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(_text(each), size)}
        for index, each in enumerate(asked)
    ]
    taken = sum(tokens(_text(each)) for each in asked)
    usage = {"prompt_tokens": taken, "total_tokens": taken}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _images(custom_id: str, body: Document) -> Document:
    """As of the models that count tokens; the answer does not say which one it was."""
    heard, count = body["prompt"], body.get("n") or 1
    image = b64encode(_heard(heard).encode()).decode()
    details = {"image_tokens": 0, "text_tokens": tokens(heard)}
    return {
        "created": 1,
        "data": [{"b64_json": image} for _ in range(count)],
        "size": body.get("size", "1024x1024"),
        "usage": {
            **_usage("input", "output", tokens(heard), IMAGE * count),
            "input_tokens_details": details,
        },
    }


_ENDPOINTS: dict[str, tuple[tuple[str, ...], Callable[[str, Document], Document]]] = {
    "/v1/chat/completions": (("model", "messages"), _chat),
    "/v1/responses": (("model", "input"), _response),
    "/v1/embeddings": (("model", "input"), _embeddings),
    "/v1/images/generations": (("prompt",), _images),
}


def _heard(text: str) -> str:
    return f"heard: {text[-200:]}"


def _text(content: object) -> str:
    """Of a content that is a text, or made of parts."""
    if not isinstance(content, list):
        return str(content)
    return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def tokens(text: str) -> int:
    """Of four characters each, as those of English texts are."""
    return len(text) // 4 + 1


def _usage(taken: str, given: str, count: int, out: int) -> Document:
    return {f"{taken}_tokens": count, f"{given}_tokens": out, "total_tokens": count + out}


def _vector(text: str, size: int) -> list[float]:
    """The same for the same text, and hardly ever for two."""
    return [byte / 255 for byte in blake2b(text.encode(), digest_size=size).digest()]
