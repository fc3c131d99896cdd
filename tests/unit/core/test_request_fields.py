"""Requests to the responses, messages and embeddings APIs: read, refused, measured."""

import json
from typing import Any

import pytest

from tests import examples
from tollhouse.core.catalog import Operation, Policy
from tollhouse.core.estimate import estimate
from tollhouse.core.experience import Experience
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.prompt import texts
from tollhouse.core.request import Request, parse

RESPONSES: dict[str, Any] = {"model": "m", "input": "hello"}
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "hello"}],
}
EMBEDDINGS: dict[str, Any] = {"model": "m", "input": "hello"}
PLAIN = {
    Operation.RESPONSES: RESPONSES,
    Operation.MESSAGES: MESSAGES,
    Operation.EMBEDDINGS: EMBEDDINGS,
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SOURCE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def read(operation: Operation, **fields: Any) -> Request:
    return parse(operation, json.dumps(PLAIN[operation] | fields).encode())


def refusal(operation: Operation, **fields: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        read(operation, **fields)
    return caught.value


def user(*parts: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize("operation", PLAIN)
def test_the_plain_request(operation: Operation):
    """One message of five bytes."""
    request = read(operation)

    assert (request.messages, request.text_bytes, request.images) == (1, 5, 0)
    assert request.choices == 1
    assert texts(request) == ["hello"]


def test_all_of_a_responses_prompt_counts():
    """Instructions, items of every kind that is taken, and tools."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "aa"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "bb", "annotations": []}],
        },
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "cc"},
        {"type": "reasoning", "summary": []},
        *user({"type": "input_image", "image_url": PIXEL, "detail": "low"}),
    ]
    request = read(Operation.RESPONSES, input=items, instructions="dd", tools=[TOOL])
    found = texts(request)

    assert found[:6] == ["dd", "aa", "bb", "f", "{}", "cc"]
    assert json.loads(found[-1]) == [TOOL]
    assert request.text_bytes == sum(map(len, found))
    assert (request.messages, request.images) == (7, 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [TOOL, {"type": "mcp", "server_url": "http://x"}]}, "tools[1]"),
        ({"tools": "f"}, "tools"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
        ({"input": [{"role": "root", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": user("x")}, "input[0].content[0]"),
        ({"input": user({"type": "input_file"})}, "input[0].content[0]"),
        ({"input": user({"type": "input_text"})}, "input[0].content[0].text"),
        (
            {"input": user({"type": "input_text", "text": "a", "file_url": "x"})},
            "input[0].content[0]",
        ),
        (
            {"input": user({"type": "input_image", "image_url": "http://x/"})},
            "input[0].content[0].image_url",
        ),
        (
            {"input": user({"type": "input_image", "file_id": "f"})},
            "input[0].content[0]",
        ),
        ({"instructions": ["x"]}, "instructions"),
        ({"messages": MESSAGES["messages"]}, "messages"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"system": "x"}, "system"),
    ],
)
def test_responses_refused(fields: dict[str, Any], param: str):
    """By the field, in OpenAI's notation."""
    problem = refusal(Operation.RESPONSES, **fields)

    assert problem.param == param
    assert problem.status == 400


def test_what_a_responses_client_may_say_of_keeping():
    """SDKs name these with the value that asks for nothing."""
    quiet = {"store": False, "background": False, "previous_response_id": None}
    assert read(Operation.RESPONSES, **quiet).text_bytes == 5


def test_all_of_a_messages_prompt_counts():
    """System, blocks of every kind that is taken, and tools."""
    tool = {"name": "f", "input_schema": {"type": "object"}}
    messages = [
        *user({"type": "text", "text": "aa"}, {"type": "image", "source": SOURCE}),
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "bb", "signature": "s"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {}},
            ],
        },
        *user(
            {
                "type": "tool_result",
                "tool_use_id": "1",
                "content": [
                    {"type": "text", "text": "cc"},
                    {"type": "image", "source": SOURCE},
                ],
            }
        ),
    ]
    request = read(
        Operation.MESSAGES,
        messages=messages,
        system=[{"type": "text", "text": "dd", "cache_control": {"type": "ephemeral"}}],
        tools=[tool],
    )
    found = texts(request)

    assert found[:6] == ["dd", "aa", "bb", "f", "{}", "cc"]
    assert json.loads(found[-1]) == [tool]
    assert request.text_bytes == sum(map(len, found))
    assert (request.messages, request.images) == (4, 2)
    assert request.output_cap == 8


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"tools": [{"type": "web_search_20250305"}]}, "tools[0]"),
        ({"system": 1}, "system"),
        ({"system": [{"type": "image", "source": SOURCE}]}, "system[0]"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": user({"type": "document"})}, "messages[0].content[0]"),
        ({"messages": user({"type": "text"})}, "messages[0].content[0].text"),
        (
            {"messages": user({"type": "image", "source": {"type": "url"}})},
            "messages[0].content[0].source",
        ),
        (
            {
                "messages": user(
                    {"type": "image", "source": SOURCE | {"media_type": "text/html"}}
                )
            },
            "messages[0].content[0].source",
        ),
        (
            {"messages": user({"type": "tool_result", "content": [{"type": "x"}]})},
            "messages[0].content[0].content[0]",
        ),
        ({"prompt": "x"}, "prompt"),
        ({"n": 2}, "n"),
        ({"stream_options": {}, "stream": True}, "stream_options"),
        ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
    ],
)
def test_messages_refused(fields: dict[str, Any], param: str):
    """By the field."""
    problem = refusal(Operation.MESSAGES, **fields)

    assert problem.param == param
    assert problem.status == 400


@pytest.mark.parametrize(
    ("given", "inputs", "text_bytes", "tokens"),
    [
        ("abc", 1, 3, 0),
        (["abc", "de"], 2, 5, 0),
        ([1, 2, 3], 1, 0, 3),
        ([[1, 2], [3]], 2, 0, 3),
    ],
)
def test_inputs_of_embeddings(given: Any, inputs: int, text_bytes: int, tokens: int):
    """Texts, or the tokens a client made of them."""
    request = read(Operation.EMBEDDINGS, input=given)

    assert request.messages == inputs
    assert request.text_bytes == text_bytes
    assert request.prompt_tokens == tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [["a"]]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [2**31]}, "input"),
        ({"input": [{"image": "http://x/"}]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"stream": True}, "stream"),
        ({"messages": MESSAGES["messages"]}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_embeddings_refused(fields: dict[str, Any], param: str):
    """By the field."""
    problem = refusal(Operation.EMBEDDINGS, **fields)

    assert problem.param == param
    assert problem.kind is Kind.INVALID_REQUEST


@pytest.mark.parametrize("policy", Policy)
def test_embeddings_cost_their_input(policy: Policy):
    """Nothing is generated, and each input has the context to itself."""
    model = examples.model(context=10, max_output_tokens=5, default_output_tokens=5)
    given = read(Operation.EMBEDDINGS, input=["x" * 4000, "y" * 4000])
    tokens = read(Operation.EMBEDDINGS, input=[1] * 6)

    for request, expected in ((given, 20), (tokens, 10)):
        found = estimate(request, model, "acme", policy, Experience())
        assert found.output_tokens == 0
        assert found.input_tokens == expected
