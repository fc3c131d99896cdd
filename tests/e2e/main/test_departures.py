"""Clients that leave an answer of our frontend, in each API it speaks.

The engine stops in the middle of each, and goes no further until it is cancelled: that
a client was slow to leave, or the engine quick, changes nothing of what is asserted.
"""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.e2e.departure import leave_unanswered
from tests.e2e.main import books
from tollhouse.core.usage import CountSource, UsageKind

ANSWER = 40
TENTHS = range(ANSWER // 10, ANSWER, ANSWER // 10)
"""After how many tokens the engine stops and the client leaves."""
SHAPES = {
    "/chat/completions": ("messages", "max_completion_tokens"),
    "/completions": ("prompt", "max_tokens"),
    "/responses": ("input", "max_output_tokens"),
    "/messages": ("messages", "max_tokens"),
}
"""What the prompt and the cap are called."""


def asked(path, after, **more):
    """A request whose answer stops after so many of its tokens."""
    prompt, cap = SHAPES[path]
    text: Any = f"Tell me about the road. sim_fault=hang:{after}"
    if prompt == "messages":
        text = [{"role": "user", "content": text}]
    return {"model": "tiny-chat", prompt: text, cap: ANSWER, **more}


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


async def leave(client, path, after):
    """Read so many events with text, which are all that come; close; the exchange."""
    body, events = asked(path, after, stream=True), 0
    async with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == httpx.codes.OK, await answer.aread()
        async for line in answer.aiter_lines():
            events += line.startswith("data: {") and has_text(json.loads(line[6:]))
            if events == after:
                break
        return answer.headers["x-tollhouse-exchange"]


def settled(stack, tenant, count):
    """A tenant's settlements by exchange, once so many are there."""
    books.within(30, lambda: len(books.settlements(stack.state_dir, tenant)) >= count)
    return books.settlements(stack.state_dir, tenant)


@pytest.mark.parametrize("path", SHAPES)
async def test_who_leaves_pays_for_what_was_sent(stack, make_key, path):
    """At each tenth one record, counted by the backend, to the token."""
    tenant = "leaves" + path.replace("/", "-")
    headers = {"authorization": f"Bearer {make_key(tenant, 'roomy')}"}
    async with httpx.AsyncClient(
        base_url=stack.base_url, headers=headers, timeout=30
    ) as client:
        left = await asyncio.gather(*(leave(client, path, it) for it in TENTHS))
    read = dict(zip(left, TENTHS, strict=True))
    records, truth = (
        settled(stack, tenant, len(read)),
        books.truth(stack.state_dir, read),
    )

    assert read.keys() == records.keys()
    for exchange, events in read.items():
        record, generated = records[exchange], truth[exchange]
        assert UsageKind.PARTIAL is record.kind
        assert ("cancelled", events) == (generated.outcome, generated.output_tokens)
        assert record.output_source is record.input_source is CountSource.BACKEND
        assert generated.input_tokens == record.usage.input_tokens
        assert events == record.usage.output_tokens


def test_who_leaves_an_answer_in_one_piece_pays_the_prompt(stack, make_key):
    """By estimate: nobody saw a token of it, whatever the engine made."""
    key = make_key("leaves-whole", "roomy")
    for path in SHAPES:
        leave_whole(stack, key, path)
    records = settled(stack, "leaves-whole", len(SHAPES)).values()

    assert len(SHAPES) == len(records)
    for record in records:
        assert UsageKind.PARTIAL is record.kind
        assert CountSource.ESTIMATE is record.input_source
        assert record.facts.input_estimate == record.usage.input_tokens > 0
        assert 0 == record.usage.output_tokens


def leave_whole(stack, key, path):
    """Leave once Envoy has given the request to the frontend."""
    before = given(stack)
    leave_unanswered(stack, key, path, asked(path, 20), lambda: given(stack) > before)


def given(stack):
    """How many requests the frontend has had of Envoy."""
    name = "cluster.tiny-chat.upstream_rq_total"
    stats = httpx.get(f"{stack.admin_url}/stats", params={"filter": f"^{name}$"}).text
    return int(stats.rpartition(" ")[2])
