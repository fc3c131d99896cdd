"""Functions and schemas through the unmodified OpenAI client."""

import json
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, Field

from tests.e2e.frontend.calls import (
    NEEDS_A_CALL,
    PARAMETERS,
    WEATHER,
    check_arguments,
    new_exchange,
)
from tests.e2e.frontend.stack import Triton

TOLL: Any = {
    "type": "function",
    "function": {"name": "get_toll", "parameters": PARAMETERS},
}


class Wagon(BaseModel):
    """What `.parse()` is asked for."""

    kind: Literal["cart", "coach"]
    wheels: int = Field(ge=2, le=6)
    load: list[str]
    owner: str | None


async def test_a_call_and_its_result(sdk: openai.AsyncOpenAI, triton: Triton):
    """The model calls, gets the result, and answers: the loop of every agent."""
    exchange = new_exchange()
    answer = await sdk.chat.completions.create(
        model="tiny-chat",
        messages=NEEDS_A_CALL,
        tools=[WEATHER, TOLL],
        extra_headers={"x-tollhouse-exchange": exchange},
    )
    (choice,) = answer.choices
    (truth,) = triton.truths(exchange)

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"
    check_arguments(call.function.arguments)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == truth["input_tokens"]
    assert answer.usage.completion_tokens == truth["output_tokens"]

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    said: Any = choice.message.model_dump(exclude_none=True)
    after = await sdk.chat.completions.create(
        model="tiny-chat",
        messages=[*NEEDS_A_CALL, said, result],
        tools=[WEATHER, TOLL],
        max_tokens=8,
    )
    assert after.choices[0].message.content
    assert after.choices[0].message.tool_calls is None
    assert after.usage is not None
    assert after.usage.prompt_tokens > answer.usage.prompt_tokens


async def test_streamed_calls_are_the_whole_ones(sdk: openai.AsyncOpenAI):
    """Two calls in one answer; the SDK puts the deltas together to the same."""
    ask: dict[str, Any] = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": "get_weather and get_toll"}],
        "tools": [WEATHER, TOLL],
        "seed": 4,
    }
    whole = await sdk.chat.completions.create(**ask)
    async with sdk.chat.completions.stream(**ask) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_completion()

    calls = whole.choices[0].message.tool_calls
    assert calls is not None
    assert len(calls) == 2
    assert [
        _content(call) for call in streamed.choices[0].message.tool_calls or ()
    ] == [_content(call) for call in calls]
    assert streamed.choices[0].finish_reason == "tool_calls"
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert kinds.count("tool_calls.function.arguments.delta") > 10


async def test_one_call_at_a_time(sdk: openai.AsyncOpenAI, triton: Triton):
    """`parallel_tool_calls: false` ends the answer with the first call."""
    exchange = new_exchange()
    answer = await sdk.chat.completions.create(
        model="tiny-chat",
        messages=[{"role": "user", "content": "get_weather and get_toll"}],
        tools=[WEATHER, TOLL],
        parallel_tool_calls=False,
        extra_headers={"x-tollhouse-exchange": exchange},
    )
    triton.truths(exchange)

    assert answer.choices[0].finish_reason == "tool_calls"
    assert len(answer.choices[0].message.tool_calls or ()) == 1


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_toll"}),
        ({"type": "function", "function": {"name": "get_toll"}}, {"get_toll"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_due_comes(
    sdk: openai.AsyncOpenAI, choice: Any, names: set[str], *, stream: bool
):
    """Guided decoding: whatever the user says, the model calls."""
    ask: dict[str, Any] = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": "Hello."}],
        "tools": [WEATHER, TOLL],
        "tool_choice": choice,
    }
    if stream:
        async with sdk.chat.completions.stream(**ask) as streaming:
            answer: Any = await streaming.get_final_completion()
    else:
        answer = await sdk.chat.completions.create(**ask)
    (call,) = answer.choices[0].message.tool_calls

    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name in names
    check_arguments(call.function.arguments)


async def test_no_call_without_leave(sdk: openai.AsyncOpenAI):
    """`tool_choice: none` offers nothing."""
    answer = await sdk.chat.completions.create(
        model="tiny-chat",
        messages=NEEDS_A_CALL,
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=5,
    )

    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "length"


async def test_parse_gives_the_users_own_type(sdk: openai.AsyncOpenAI):
    """`.parse()` with a pydantic model, in both APIs."""
    chat = await sdk.chat.completions.parse(
        model="tiny-chat", messages=NEEDS_A_CALL, response_format=Wagon, seed=2
    )
    response = await sdk.responses.parse(
        model="tiny-chat", input="A wagon, please.", text_format=Wagon
    )

    assert isinstance(chat.choices[0].message.parsed, Wagon)
    assert chat.choices[0].finish_reason == "stop"
    assert isinstance(response.output_parsed, Wagon)


@pytest.mark.parametrize("model", ["tiny-chat", "tiny-bls"])
async def test_any_json_object(sdk: openai.AsyncOpenAI, model: str):
    """`json_object` is an object, cut off only by max_tokens."""
    answer = await sdk.chat.completions.create(
        model=model,
        messages=NEEDS_A_CALL,
        response_format={"type": "json_object"},
    )
    cut = await sdk.chat.completions.create(
        model=model,
        messages=NEEDS_A_CALL,
        response_format={"type": "json_object"},
        max_tokens=2,
    )

    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert cut.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_without_guided_decoding_it_is_refused(
    sdk: openai.AsyncOpenAI, fields: dict[str, Any], param: str
):
    """The llmapi contract has none: 400 with the field's name."""
    create: Any = sdk.chat.completions.create
    with pytest.raises(openai.BadRequestError) as caught:
        await create(model="tiny-llmapi", messages=NEEDS_A_CALL, **fields)
    free = await create(
        model="tiny-llmapi", messages=NEEDS_A_CALL, tools=[WEATHER], stream=False
    )

    assert caught.value.param == param
    assert caught.value.code == "unsupported_parameter"
    assert free.choices[0].finish_reason == "tool_calls"


async def test_a_schema_the_engine_refuses(sdk: openai.AsyncOpenAI):
    """The engine's refusal is the client's fault, and says nothing of the engine."""
    schema: dict[str, object] = {"type": "string", "pattern": "^secret-word$"}
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(
            model="tiny-chat",
            messages=NEEDS_A_CALL,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": schema},
            },
        )

    assert caught.value.code == "unsupported_parameter"
    assert "secret-word" not in str(caught.value)


def _content(call: Any) -> tuple[str, str]:
    return call.function.name, call.function.arguments
