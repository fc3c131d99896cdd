"""What is billed of each server's answers, whole and left early, of each API."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.backends.conftest import OPERATIONS, PATHS, question
from tests.e2e.departure import leave_unanswered
from tests.e2e.main.books import rest, settlements, usage, within
from tests.openai_stand_in.answers import CACHED_TOKENS, INPUT_TOKENS, is_piece
from tests.openai_stand_in.profiles import PROFILES, TOKENS_PER_EVENT
from tollhouse.core.exchange import Settlement
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

PIECES = 20
TENTHS = range(0, PIECES, PIECES // 10)
"""After how many pieces of text a client leaves."""
EVERY = [(server, it) for server, served in OPERATIONS.items() for it in served]
STREAMED = [it for it in EVERY if it[1] != "embeddings"]
CAPS = {"responses": "max_output_tokens"}


@dataclass(frozen=True)
class Answer:
    """What a client saw: its exchange, how many pieces of text, and all the data."""

    exchange_id: str
    pieces: int
    data: list[Any]


def asked(server: str, operation: str, **more: Any) -> dict[str, Any]:
    if operation != "embeddings":
        more[CAPS.get(operation, "max_tokens")] = PIECES
    body: dict[str, Any] = question(server, operation, **more)
    return body


async def stream(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], leave_after: int | None
) -> Answer:
    """Read a stream, to its end or to a number of pieces."""
    pieces, data = 0, list[Any]()
    async with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        exchange_id = response.headers["x-tollhouse-exchange"]
        assert response.headers["x-tollhouse-model"] == body["model"]
        if leave_after == 0:
            return Answer(exchange_id, 0, data)
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            text = line.removeprefix("data: ")
            data.append(text if text == "[DONE]" else json.loads(text))
            pieces += is_piece(data[-1])
            if pieces == leave_after:
                break
    return Answer(exchange_id, pieces, data)


def client_of(stack: Any, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=stack.base_url, headers=headers, timeout=30)


def settled(stack: Any, *answers: Answer) -> list[Settlement]:
    """What the ledger says of them, as soon as all have ended."""

    def found() -> list[Settlement]:
        ended = settlements(stack.state_dir, "roomy")
        return [ended[it.exchange_id] for it in answers if it.exchange_id in ended]

    within(30, lambda: len(found()) == len(answers))
    return found()


def is_cumulative(server: str, operation: str) -> bool:
    return PROFILES[server].continuous and operation in ("chat", "completions")


@pytest.mark.parametrize(("server", "operation"), EVERY)
async def test_a_whole_answer_is_billed_as_the_server_counted(
    stack, roomy_key, server, operation
):
    """Exactly, what was cached as a part of the input."""
    path = PATHS[operation]
    async with client_of(stack, roomy_key) as client:
        response = await client.post(path, json=asked(server, operation))
        assert response.status_code == 200, response.text
        answers = [Answer(response.headers["x-tollhouse-exchange"], 0, [])]
        each = TOKENS_PER_EVENT if is_cumulative(server, operation) else 1
        if operation != "embeddings":
            body = asked(server, operation)
            answers.append(await stream(client, path, body, leave_after=None))
            assert answers[-1].pieces == PIECES

    outputs = [0] if operation == "embeddings" else [PIECES, PIECES * each]
    cached = 0 if operation == "embeddings" else CACHED_TOKENS
    for record, output in zip(settled(stack, *answers), outputs, strict=True):
        assert record.kind is UsageKind.FINAL
        assert record.usage == TokenUsage(INPUT_TOKENS, output, cached)
        assert {record.input_source, record.output_source} == {CountSource.BACKEND}


@pytest.mark.parametrize(("server", "operation"), STREAMED)
async def test_an_answer_that_is_left_is_billed_to_there(
    stack, roomy_key, server, operation
):
    """At each tenth, where nothing is under way: to the token, by who knows it."""
    path = PATHS[operation]
    async with client_of(stack, roomy_key) as client:
        answers = await asyncio.gather(
            *(
                stream(client, path, asked(server, operation, user=f"hold-{it}"), it)
                for it in TENTHS
            )
        )
    told = is_cumulative(server, operation)
    each = TOKENS_PER_EVENT if told else 1
    for answer, record in zip(answers, settled(stack, *answers), strict=True):
        assert record.kind is UsageKind.PARTIAL
        assert record.usage.output_tokens == answer.pieces * each
        if told and answer.pieces:
            assert record.output_source is CountSource.BACKEND
            assert record.usage.input_tokens == INPUT_TOKENS


@pytest.mark.parametrize("server", [it for it in OPERATIONS if it != "triton-openai"])
@pytest.mark.parametrize("operation", ["chat", "completions"])
async def test_all_choices_of_a_stream_that_is_left_are_billed(
    stack, roomy_key, server, operation
):
    """Also where the client would have each event tell one choice's counts."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = asked(server, operation, n=3, stream_options=options, user="hold-30")
    async with client_of(stack, roomy_key) as client:
        answer = await stream(client, PATHS[operation], body, leave_after=30)
    (record,) = settled(stack, answer)

    assert record.kind is UsageKind.PARTIAL
    assert record.usage.output_tokens == 30


def test_who_leaves_an_answer_in_one_piece_pays_the_prompt(stack, stand_in, make_key):
    """By estimate: nobody saw a token of it, whatever the server made."""
    key, before = make_key("leaves", "roomy"), len(stand_in.received)
    leave_unanswered(
        stack,
        key,
        PATHS["chat"],
        asked("vllm", "chat", user="hold-0"),
        lambda: len(stand_in.received) > before,
    )
    within(30, lambda: bool(settlements(stack.state_dir, "leaves")))
    (record,) = settlements(stack.state_dir, "leaves").values()

    assert record.kind is UsageKind.PARTIAL
    assert record.input_source is CountSource.ESTIMATE
    assert record.usage == TokenUsage(record.facts.input_estimate, 0)


@pytest.mark.parametrize("server", OPERATIONS)
@pytest.mark.parametrize("operation", ["chat", "completions"])
async def test_a_client_sees_the_usage_it_asked_for(
    stack, roomy_key, server, operation
):
    """The event that is put in for the meter is taken out for others."""
    path = PATHS[operation]
    async with client_of(stack, roomy_key) as client:
        plain = await stream(client, path, asked(server, operation), None)
        options = {"include_usage": True}
        body = asked(server, operation, stream_options=options)
        told = await stream(client, path, body, None)

    assert not any(
        isinstance(it, dict) and it.get("choices") == [] for it in plain.data
    )
    assert [it["choices"] for it in told.data if isinstance(it, dict)][-1] == []
    assert plain.data[-1] == told.data[-1] == "[DONE]"


def test_each_exchange_has_one_record(stack, roomy_key):
    """The sums over the records are those of the ledger: run last."""
    rest(stack)
    ended = settlements(stack.state_dir, "roomy").values()
    totals = usage(stack, "roomy")

    for name in ("input_tokens", "output_tokens", "cached_input_tokens"):
        assert totals[name] == sum(getattr(it.usage, name) for it in ended), name
    finals = sum(it.kind is UsageKind.FINAL for it in ended)
    assert totals["final"] == finals
    assert totals["partial"] == len(ended) - finals
