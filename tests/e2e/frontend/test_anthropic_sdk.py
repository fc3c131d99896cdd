"""The unmodified Anthropic client takes our answers, and errors, for Anthropic's."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest

from tests.e2e.frontend.calls import new_exchange
from tests.e2e.frontend.stack import Frontend, Triton

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
    },
}
TOLL: Any = {**WEATHER, "name": "get_toll"}
ASK: dict[str, Any] = {
    "model": "tiny-chat",
    "max_tokens": 12,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [{"role": "user", "content": "What is a toll?"}],
}
NEEDS_A_CALL: dict[str, Any] = {
    "model": "tiny-chat",
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "Use get_weather for Rome, please."}],
    "tools": [WEATHER, TOLL],
}


@pytest.fixture
async def sdk(frontend: Frontend) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """A client as users make one, but for the Unix socket."""
    transport = httpx2.AsyncHTTPTransport(uds=frontend.socket)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        anthropic.AsyncAnthropic(
            base_url=frontend.url, api_key="none", http_client=http, max_retries=0
        ) as client,
    ):
        yield client


async def test_streams_and_whole_answers(sdk: anthropic.AsyncAnthropic, triton: Triton):
    """Both ways give the same text and usage, which is the engine's."""
    exchange = new_exchange()
    whole = await sdk.messages.create(
        **ASK, extra_headers={"x-tollhouse-exchange": exchange}
    )
    async with sdk.messages.stream(**ASK) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        streamed = await stream.get_final_message()
    (truth,) = triton.truths(exchange)

    (block,) = whole.content
    assert block.type == "text"
    assert block.text == text
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    assert whole.usage.input_tokens == truth["input_tokens"]
    assert whole.usage.output_tokens == truth["output_tokens"] == 12
    assert streamed.usage.output_tokens == 12
    assert streamed.usage.input_tokens == whole.usage.input_tokens


async def test_events_come_in_anthropics_order(sdk: anthropic.AsyncAnthropic):
    """One block of text between the start and the end of the message."""
    events = [
        event.type async for event in await sdk.messages.create(**ASK, stream=True)
    ]

    assert events[:2] == ["message_start", "content_block_start"]
    assert set(events[2:-3]) == {"content_block_delta"}
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_the_stop_sequence_is_named(sdk: anthropic.AsyncAnthropic):
    """`stop_sequence` says which one it was; it is not in the text."""
    full = await sdk.messages.create(**ASK | {"max_tokens": 40})
    (block,) = full.content
    assert block.type == "text"
    stop = block.text[20:26]
    cut = await sdk.messages.create(
        **ASK | {"max_tokens": 40}, stop_sequences=["never said", stop]
    )

    assert cut.stop_reason == "stop_sequence"
    assert cut.stop_sequence == stop
    assert stop not in getattr(cut.content[0], "text", "")


async def test_a_call_and_its_result(sdk: anthropic.AsyncAnthropic):
    """The model calls, gets the result, and answers."""
    whole = await sdk.messages.create(**NEEDS_A_CALL)
    async with sdk.messages.stream(**NEEDS_A_CALL) as stream:
        streamed = await stream.get_final_message()

    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    (call,), (again,) = whole.content, streamed.content
    assert call.type == again.type == "tool_use"
    assert call.name == "get_weather"
    assert call.input.keys() == {"place"}
    assert again.input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    after = await sdk.messages.create(
        **NEEDS_A_CALL
        | {
            "max_tokens": 8,
            "messages": [
                *NEEDS_A_CALL["messages"],
                {"role": "assistant", "content": whole.content},
                {"role": "user", "content": [result]},
            ],
        }
    )
    assert after.content[0].type == "text"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "any"}, {"get_weather", "get_toll"}),
        ({"type": "tool", "name": "get_toll"}, {"get_toll"}),
    ],
)
async def test_a_call_that_is_due_comes(
    sdk: anthropic.AsyncAnthropic, choice: Any, names: set[str]
):
    """Whatever the user says, the model calls."""
    messages: Any = [{"role": "user", "content": "Hello."}]
    answer = await sdk.messages.create(
        **NEEDS_A_CALL | {"messages": messages, "tool_choice": choice}
    )
    (call,) = answer.content

    assert call.type == "tool_use"
    assert call.name in names


async def test_errors_are_typed(sdk: anthropic.AsyncAnthropic):
    """Each status arrives as the exception that users catch, also in mid-stream."""
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await sdk.messages.create(**ASK | {"model": "nobody"})
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await sdk.messages.create(**ASK | {"max_tokens": 0})
    messages: Any = [{"role": "user", "content": "sim_fault=midstream:2"}]
    with pytest.raises(anthropic.APIStatusError, match="api_error"):
        async for _ in await sdk.messages.create(
            **ASK | {"messages": messages}, stream=True
        ):
            pass
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.count_tokens(model="tiny-chat", messages=messages)

    assert isinstance(unknown.value.body, dict)
    assert unknown.value.body["error"]["type"] == "not_found_error"
