"""Clients that leave a streamed answer of our frontend, in each API it speaks."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.main import books
from tollhouse.core.usage import CountSource, UsageKind

CAP = 4000
"""Tokens of the whole answer: 20 s, which nobody waits for."""
LEFT_AFTER = range(4, 40, 4)
"""Events with text that are read of it, each time."""
TALK = [{"role": "user", "content": "Tell me about the road."}]
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": TALK}, "max_completion_tokens"),
    "/v1/completions": ({"prompt": "Tell me about the road."}, "max_tokens"),
    "/v1/responses": ({"input": TALK}, "max_output_tokens"),
    "/v1/messages": ({"messages": TALK}, "max_tokens"),
}


def has_text(event):
    """Whether an event has some of the answer, in whatever API."""
    match event:
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return bool(text)
        case {"choices": [{"text": str(text)}]}:
            return bool(text)
        case {"type": "response.output_text.delta"}:
            return True
        case {"type": "content_block_delta"}:
            return True
        case _:
            return False


def leave(stack, key, path, after):
    """Read so many events with text, then close; return the exchange."""
    fields, cap = SHAPES[path]
    body = {"model": "tiny-chat", "stream": True, cap: CAP, **fields}
    headers = {"authorization": f"Bearer {key}"}
    url = stack.base_url.removesuffix("/v1") + path
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as answer:
        assert answer.status_code == httpx.codes.OK, answer.read()
        lines = answer.iter_lines()
        while after:
            line = next(lines)
            if line.startswith("data: {") and has_text(json.loads(line[6:])):
                after -= 1
        return answer.headers["x-tollhouse-exchange"]


@pytest.mark.parametrize("path", SHAPES)
def test_who_leaves_pays_for_what_was_sent(stack, make_key, path):
    """One record each, counted by the backend, of no more than it made.

    What was under way when the client left counts as sent.
    """
    tenant = "leaves" + path.replace("/", "-")
    key = make_key(tenant, "roomy")
    read = {leave(stack, key, path, after): after for after in LEFT_AFTER}
    books.within(
        30, lambda: len(books.settlements(stack.state_dir, tenant)) >= len(read)
    )
    records, truth = (
        books.settlements(stack.state_dir, tenant),
        books.truth(stack.state_dir, read),
    )

    assert read.keys() == records.keys()
    for exchange, events in read.items():
        record, generated = records[exchange], truth[exchange]
        assert record.kind is UsageKind.PARTIAL
        assert "cancelled" == generated.outcome
        assert record.output_source is record.input_source is CountSource.BACKEND
        assert record.usage.input_tokens == generated.input_tokens
        assert events <= record.usage.output_tokens <= generated.output_tokens
