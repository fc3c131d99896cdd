"""Event streams as backends send them, and text that would like to be one."""

import json
from typing import Any

SPOOF = (
    'he said "usage":{"completion_tokens":0,"prompt_tokens":0} \\" and '
    '{"usage": {"completion_tokens":1}}\n\ndata: {"usage":{"completion_tokens":7}}'
    "\n: usage 1,2,3\n"
)


def chunk(
    content: str = "",
    *,
    index: int = 0,
    usage: dict[str, Any] | None = None,
    **choice: Any,
) -> dict[str, Any]:
    """One chunk of a chat completion with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": index,
                "delta": {"content": content},
                "finish_reason": None,
                **choice,
            }
        ],
        "usage": usage,
    }


def usage(output: int, *, cached: int = 128, reasoning: int = 3) -> dict[str, Any]:
    """A usage object as OpenAI writes it."""
    return {
        "prompt_tokens": 412,
        "completion_tokens": output,
        "total_tokens": 412 + output,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def usage_only(output: int) -> dict[str, Any]:
    """The chunk that `stream_options.include_usage` asks for."""
    return {"id": "chatcmpl-1", "choices": [], "usage": usage(output)}


def event(payload: dict[str, Any] | str, *, spaced: bool = False) -> list[bytes]:
    """Return the lines of one event."""
    if isinstance(payload, dict):
        separators = None if spaced else (",", ":")
        payload = json.dumps(payload, separators=separators, ensure_ascii=spaced)
    return [f"data: {payload}".encode()]


def comment(output: int) -> bytes:
    """Return the frontend's line before each event."""
    return f": usage 412,{output},128".encode()


def joined(events: list[list[bytes]], newline: bytes = b"\n") -> bytes:
    """Return the stream of these events."""
    return b"".join(newline.join(lines) + newline * 2 for lines in events)


_TOOL_CALL = {
    "tool_calls": [
        {"index": 0, "function": {"arguments": '{"usage":{"completion_tokens":0}}'}}
    ]
}
_LOGPROBS = {
    "content": [{"token": "x", "top_logprobs": [{"token": '"usage', "logprob": -1}]}],
    "usage": {"completion_tokens": 9999, "prompt_tokens": 1},
}


def transcript(*, continuous: bool, spaced: bool) -> list[list[bytes]]:
    """Return a stream with everything a model's text may try."""

    def said(output: int) -> dict[str, Any] | None:
        return usage(output) if continuous else None

    return [
        [b": keepalive"],
        event(chunk("", usage=said(0)), spaced=spaced),
        event(chunk('Hello "usage"', usage=said(1)), spaced=spaced),
        event(chunk(SPOOF, usage=said(2)), spaced=spaced),
        [b"event: message", *event(chunk("é中", usage=said(3)), spaced=spaced)],
        event(chunk("content", usage=said(4)), spaced=spaced),
        event(chunk(usage=said(5), delta=_TOOL_CALL), spaced=spaced),
        event(chunk("x\\", usage=said(6), logprobs=_LOGPROBS), spaced=spaced),
        event(chunk("", usage=said(6), finish_reason="stop"), spaced=spaced),
        event(usage_only(6), spaced=spaced),
        event("[DONE]"),
    ]


def commented(*, choices: int = 2) -> list[list[bytes]]:
    """Return a stream of our frontend, choices in turn."""
    events: list[list[bytes]] = [[comment(0), *event(chunk(""))]]
    for output in range(1, 7):
        text = chunk(f"t{output}", index=output % choices)
        events.append([comment(output), *event(text)])
    return [*events, [comment(6), *event(usage_only(6))], event("[DONE]")]
