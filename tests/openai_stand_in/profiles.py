"""What each server does differently, as its source or its documents say.

| profile | read in |
|---|---|
| vllm | vllm/entrypoints/openai (protocol, serving), vllm/entrypoints/anthropic |
| nim | docs.nvidia.com/nim/large-language-models: "backed by vLLM" |
| trtllm-serve | tensorrt_llm/serve/openai_protocol.py, openai_server.py |
| triton-openai | triton-inference-server/server, python/openai/openai_frontend |
| sglang | python/sglang/srt/entrypoints/openai (protocol, serving_base, utils) |
| other | platform.openai.com/docs/api-reference |
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CANARY = "canary-0451 /opt/engine/secret.py 10.9.8.7"
"""In every error's text: what a client must never read."""
TOKENS_PER_EVENT = 3
"""Where an event tells its counts: nobody may take one event for one token."""

Body = dict[str, Any]
Error = Callable[[int, str, str | None], Body]
"""An error's body, from its status, text and field."""


def nested(status: int, text: str, param: str | None) -> Body:
    """As vLLM's ErrorResponse: OpenAI's, with a number as the code."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"message": text, "type": kind, "param": param, "code": status}}


def flat(status: int, text: str, param: str | None) -> Body:
    """ErrorResponse of trtllm-serve and SGLang: not in an `error`."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {
        "object": "error",
        "message": text,
        "type": kind,
        "param": param,
        "code": status,
    }


def detail(status: int, text: str, param: str | None) -> Body:
    """FastAPI's HTTPException, which Triton's frontend raises."""
    if status == 422 and param is not None:
        return {"detail": [{"loc": ["body", param], "msg": text, "type": "x"}]}
    return {"detail": text}


def openai(status: int, text: str, param: str | None) -> Body:
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "context_length_exceeded" if "maximum context" in text else None
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One server."""

    error: Error
    too_long: str
    engine_failed: int
    """Status of an answer whose engine failed."""
    unknown_model: tuple[int, str]
    continuous: bool = False
    """Knows `continuous_usage_stats`."""
    forbids: bool = False
    """Answers 400 to a field it does not know, as pydantic's extra="forbid" does."""
    null_usage: bool = False
    """Other chunks have `usage: null` where usage was asked for."""


_VLLM = Profile(
    error=nested,
    too_long="This model's maximum context length is 8 tokens.",
    engine_failed=500,
    unknown_model=(404, "The model `x` does not exist."),
    continuous=True,
)

PROFILES: Mapping[str, Profile] = {
    "vllm": _VLLM,
    "nim": _VLLM,
    "trtllm-serve": Profile(
        error=flat,
        too_long="The sum of prompt length (9) should not exceed max_num_tokens (8)",
        engine_failed=400,  # create_error_response(str(e)): any exception is a 400
        unknown_model=(404, "Unknown path"),
        continuous=True,
        forbids=True,
    ),
    "triton-openai": Profile(
        error=detail,
        too_long="Prompt length (9) exceeds maximum input length (8).",
        engine_failed=400,  # routers/chat.py: HTTPException(400, f"{e}")
        unknown_model=(400, "Unknown model: x"),
    ),
    "sglang": Profile(
        error=flat,
        too_long="The input (9 tokens) is longer than the model's context length (8).",
        engine_failed=500,
        unknown_model=(404, "The model does not exist."),
        continuous=True,
    ),
    "other": Profile(
        error=openai,
        too_long="This model's maximum context length is 8 tokens.",
        engine_failed=500,
        unknown_model=(404, "The model `x` does not exist."),
        null_usage=True,
    ),
}

Fault = Callable[[Profile], tuple[int, Body]]


def _always(status: int) -> Fault:
    return lambda it: (status, it.error(status, f"failed: {CANARY}", None))


def _unknown(profile: Profile) -> tuple[int, Body]:
    status, text = profile.unknown_model
    return status, profile.error(status, f"{text} {CANARY}", "model")


FAULTS: Mapping[str, Fault] = {
    "#context": lambda it: (400, it.error(400, f"{it.too_long} {CANARY}", None)),
    "#field": lambda it: (400, it.error(400, f"bad value, {CANARY}", "temperature")),
    "#invalid": lambda it: (422, it.error(422, f"bad value, {CANARY}", "temperature")),
    "#engine": lambda it: (
        it.engine_failed,
        it.error(it.engine_failed, f"[TensorRT-LLM][ERROR] CUDA error {CANARY}", None),
    ),
    "#unknown": _unknown,
    "#key": _always(401),
    "#denied": _always(403),
    "#413": _always(413),
    "#busy": _always(429),
    "#overloaded": _always(529),
    "#500": _always(500),
    "#503": _always(503),
    "#504": _always(504),
}


def _raw(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", *headers, f"content-length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


_LONG = json.dumps({"error": {"message": f"maximum context length {CANARY}"}}).encode()
_LARGE = json.dumps({"error": {"message": "x" * 20_000 + f"context length {CANARY}"}})
_JSON = "content-type: application/json"
_WHOLE = json.dumps({"choices": [{"message": {"content": CANARY}}]}).encode()
UNTOLD = (
    *("x-tollhouse-model", "x-tollhouse-exchange", "x-tollhouse-trace"),
    *("x-tollhouse-evil", "x-ratelimit-limit-tokens", "x-ratelimit-limit-requests"),
    *("x-ratelimit-remaining-tokens", "x-ratelimit-remaining-requests"),
    *("x-ratelimit-reset-tokens", "x-ratelimit-reset-requests", "x-ratelimit-evil"),
    *("set-cookie", "alt-svc", "www-authenticate", "proxy-authenticate", "location"),
    *("link", "server", "via", "refresh", "x-powered-by", "x-served-by"),
)
"""Names of headers that no backend's answer brings to a client."""

RAW: Mapping[str, bytes] = {
    "#plain": _raw(400, CANARY.encode(), "content-type: text/plain"),
    "#html": _raw(502, f"<html>{CANARY}</html>".encode(), "content-type: text/html"),
    "#gzip": _raw(400, gzip.compress(_LONG), _JSON, "content-encoding: gzip"),
    "#identity": _raw(400, _LONG, _JSON, "content-encoding: identity"),
    "#large": _raw(400, _LARGE.encode(), _JSON),
    "#empty": _raw(500, b""),
    "#redirect": _raw(307, b"", f"location: http://{CANARY.split()[2]}/"),
    "#cookie": _raw(401, b"", f"www-authenticate: {CANARY}", f"set-cookie: a={CANARY}"),
    "#chunked": (
        f"HTTP/1.1 400 X\r\n{_JSON}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        + b"".join(b"%x\r\n%s\r\n" % (1, bytes([it])) for it in _LONG)
        + b"0\r\n\r\n"
    ),
    "#enormous": _raw(400, CANARY.encode() * 300_000, _JSON),
    "#text": _raw(200, _WHOLE, "content-type: text/plain"),
    "#untyped": _raw(200, _WHOLE),
    "#problem": _raw(200, _WHOLE, "content-type: application/problem+json"),
    "#compressed": _raw(200, gzip.compress(_WHOLE), _JSON, "content-encoding: gzip"),
    "#book": _raw(200, _WHOLE * 60_000, "content-type: text/plain"),
    "#nothing": b"HTTP/1.1 204 X\r\n\r\n",
    "#chatty": _raw(
        200,
        json.dumps({"choices": [], "usage": {"completion_tokens": 1}}).encode(),
        f"{_JSON}; charset=utf-8",
        "cache-control: no-cache",
        *(f"{name}: {CANARY}" for name in UNTOLD),
    ),
    "#hangup": b"",
    "#garbage": f"{CANARY}\r\n\r\n".encode(),
}
"""Whole answers that no server gives and a proxy between may; then the line is cut."""
