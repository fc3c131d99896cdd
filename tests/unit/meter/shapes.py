"""Streams of the APIs beside chat, and the errors that a stream may end with."""

import json
from typing import Any

from tests.unit.meter import corpus

Events = list[list[bytes]]
CANARY = "Traceback of /srv/backend"


def _named(payload: dict[str, Any]) -> list[bytes]:
    """One event with its type as its name, as responses and messages have it."""
    return [f"event: {payload['type']}".encode(), *corpus.event(payload)]


def responses() -> Events:
    """A stream of the responses API: text, a call, reasoning, then all of it again."""
    usage = {
        "input_tokens": 412,
        "input_tokens_details": {"cached_tokens": 128},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 418,
    }
    response: dict[str, Any] = {
        "id": "resp_1",
        "error": None,
        "output": [],
        "usage": None,
    }
    text = {"type": "output_text", "text": corpus.SPOOF, "delta": "x"}
    item = {"type": "message", "content": [text], "usage": usage | {"output_tokens": 9}}
    deltas = [
        ("reasoning_text", "Hm"),
        ("reasoning_summary_text", "Hm"),
        ("output_text", corpus.SPOOF),
        ("output_text", ""),
        ("output_text", 'a "delta"'),
        ("refusal", "no"),
        ("function_call_arguments", '{"delta":"b"}'),
    ]
    return [
        _named({"type": "response.created", "response": response}),
        *(
            _named(
                {"type": f"response.{of}.delta", "sequence_number": n, "delta": said}
            )
            for n, (of, said) in enumerate(deltas)
        ),
        _named({"type": "response.output_text.done", "text": corpus.SPOOF}),
        _named({"type": "response.output_item.done", "item": item}),
        _named(
            {
                "response": response | {"output": [item], "usage": usage},
                "type": "response.completed",
            }
        ),
    ]


def messages(*, cached: int | None = 100) -> Events:
    """A stream of Anthropic's messages."""
    usage = {"input_tokens": 12, "output_tokens": 1}
    if cached is not None:
        usage |= {"cache_read_input_tokens": cached, "cache_creation_input_tokens": 300}
    blocks = [
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "signature_delta", "signature": "c2ln"},
        {"type": "text_delta", "text": corpus.SPOOF},
        {"type": "text_delta", "text": ""},
        {"type": "text_delta", "text": 'b "text"'},
        {"type": "input_json_delta", "partial_json": '{"usage":{"output_tokens":9}}'},
    ]
    message: dict[str, Any] = {
        "id": "msg_1",
        "content": [],
        "stop_reason": None,
        "usage": usage,
    }
    return [
        _named({"type": "message_start", "message": message}),
        _named({"type": "ping"}),
        *(
            _named({"type": "content_block_delta", "index": n % 2, "delta": block})
            for n, block in enumerate(blocks)
        ),
        _named(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 4},
            }
        ),
        _named(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 6},
            }
        ),
        _named({"type": "message_stop"}),
    ]


def generated(output: int | list[int], text: str | list[str]) -> dict[str, Any]:
    """One response of Triton's generate."""
    return {
        "model_name": "ensemble",
        "model_version": "1",
        "cum_log_probs": [0.0, 0.0],
        "num_input_tokens": 412,
        "num_output_tokens": output,
        "text_output": text,
    }


def generate() -> Events:
    """A stream of generate_stream: it has no names and no [DONE]."""
    return [
        corpus.event(generated(1, "Hello")),
        corpus.event(generated(1, "")),
        corpus.event(generated(3, 'é中\\ "usage":{')),
        corpus.event(generated([2, 1], [corpus.SPOOF, "b"])),
        corpus.event({"text_output": "no counts", "model_version": "1"}),
    ]


ERRORS: dict[str, list[bytes]] = {
    "openai": corpus.event({"error": {"message": CANARY, "content": CANARY}}),
    "flat": corpus.event({"object": "error", "message": CANARY, "code": 500}),
    "typed": corpus.event({"type": "error", "code": None, "message": CANARY}),
    "anthropic": _named({"type": "error", "error": {"message": CANARY}}),
    "failed": _named(
        {
            "type": "response.failed",
            "response": {
                "error": {"code": "server_error", "message": CANARY},
                "usage": {"input_tokens": 412, "output_tokens": 6},
            },
        }
    ),
    "triton": corpus.event({"error": CANARY}),
    "like output": [b"event: error", *corpus.event(corpus.chunk(CANARY))],
    "named": [b"event: error", *corpus.event({"message": CANARY})],
    "text": corpus.event(CANARY),
    "with output": corpus.event(corpus.chunk(CANARY) | {"error": {"message": CANARY}}),
}
"""By shape: what a backend may say when it fails. Only Triton's passes for nobody."""


def broken(head: Events, error: str) -> bytes:
    """Return the stream that begins so, with this error as its fourth event."""
    return corpus.joined([*head[:3], ERRORS[error], head[3]])


def document(**members: Any) -> bytes:
    """Return a JSON answer with model's text beside these members."""
    text = {"content": [{"text": corpus.SPOOF, "usage": corpus.usage(9)}]}
    return json.dumps({"output": [text], "id": 'x"\\'} | members).encode()
