"""OpenAI's Responses API through the unmodified client."""

from typing import Any

import openai
import pytest

from tests.e2e.frontend.calls import (
    NEEDS_A_CALL,
    WEATHER,
    check_arguments,
    new_exchange,
)
from tests.e2e.frontend.stack import Triton

FLAT: Any = {"type": "function", **WEATHER["function"]}


async def test_responses_whole_and_streamed(sdk: openai.AsyncOpenAI, triton: Triton):
    """The stream's events add up to the answer in one piece."""
    exchange = new_exchange()
    ask: dict[str, Any] = {
        "model": "tiny-chat",
        "input": "What is a toll?",
        "instructions": "Be brief.",
        "max_output_tokens": 12,
    }
    whole = await sdk.responses.create(
        **ask, extra_headers={"x-tollhouse-exchange": exchange}
    )
    events = [event async for event in await sdk.responses.create(**ask, stream=True)]
    (truth,) = triton.truths(exchange)

    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.instructions == "Be brief."
    assert whole.usage is not None
    assert whole.usage.input_tokens == truth["input_tokens"]
    assert whole.usage.output_tokens == truth["output_tokens"] == 12
    deltas = [it.delta for it in events if it.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [it.type for it in events if it.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [it.sequence_number for it in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


async def test_responses_call_functions(sdk: openai.AsyncOpenAI):
    """Streamed or not, and with the call and its result handed back as items."""
    ask: dict[str, Any] = {
        "model": "tiny-chat",
        "input": NEEDS_A_CALL,
        "tools": [FLAT],
    }
    whole = await sdk.responses.create(**ask)
    async with sdk.responses.stream(**ask) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_response()

    assert whole.status == "completed"
    (call,) = whole.output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    check_arguments(call.arguments)
    (again,) = streamed.output
    assert again.type == "function_call"
    assert again.arguments == call.arguments
    assert "response.function_call_arguments.delta" in kinds
    assert kinds[-1] == "response.completed"

    handed: Any = [
        *NEEDS_A_CALL,
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."},
    ]
    after = await sdk.responses.create(
        model="tiny-chat", input=handed, tools=[FLAT], max_output_tokens=20
    )
    assert after.output_text
    forced = await sdk.responses.create(
        model="tiny-chat",
        input="Hello.",
        tools=[FLAT],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    assert forced.output[0].type == "function_call"


async def test_a_response_that_breaks_off_says_so(sdk: openai.AsyncOpenAI):
    """An error event, and then no end that looks like one."""
    stream = await sdk.responses.create(
        model="tiny-chat", input="sim_fault=midstream:2", stream=True
    )
    events: list[Any] = []

    async def read() -> None:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - kept although it raises

    with pytest.raises(openai.APIError):
        await read()

    assert events[-1].type == "error"
    assert events[-1].code == "upstream_error"
