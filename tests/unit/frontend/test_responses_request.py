"""The Responses API: what becomes of items, and what needs a memory is refused."""

import json
from typing import Any

import pytest

from tollhouse.core.problems import Problem
from tollhouse.frontend.request import Request
from tollhouse.frontend.responses_request import parse_response

FUNCTION = {"type": "function", "name": "f", "parameters": {"a": 1}}


def response(**fields: Any) -> Request:
    """Parse a request with these fields."""
    return parse_response(json.dumps({"model": "m", "input": "hi"} | fields).encode())


def test_a_string_is_a_users_message():
    """Instructions come before it."""
    assert response().messages == ({"role": "user", "content": "hi"},)
    assert response(instructions="Be brief.").messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    )


def test_items_become_a_conversation():
    """Calls join the message they came with; a result is a message."""
    text = {"type": "output_text", "text": "So:", "annotations": [], "logprobs": []}
    request = response(
        input=[
            {"role": "developer", "content": "d"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_text", "text": "b"},
                ],
            },
            {"type": "message", "role": "assistant", "id": "x", "content": [text]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": ""},
            {"type": "function_call_output", "call_id": "1", "output": "r"},
            {
                "type": "function_call_output",
                "call_id": "2",
                "output": [{"type": "input_text", "text": "s"}],
            },
            {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
        ]
    )

    def call(id_: str, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": {}}
        return {"id": id_, "type": "function", "function": function}

    assert request.messages == (
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "So:",
            "tool_calls": [call("1", "f"), call("2", "g")],
        },
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "tool", "tool_call_id": "2", "content": "s"},
        {"role": "assistant", "content": "", "tool_calls": [call("3", "f")]},
    )


def test_what_else_is_asked_for():
    """Cap, sampling, tools, format: as in chats."""
    request = response(
        max_output_tokens=5,
        temperature=0.5,
        stream=True,
        tools=[FUNCTION],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": {"b": 2}}},
    )

    assert request.max_tokens == 5
    assert request.sampling == {"temperature": 0.5}
    assert request.stream
    assert request.tools is not None
    assert request.tools.forced == ("f",)
    assert not request.tools.parallel
    assert request.guide is not None
    assert request.guide.schema == '{"b":2}'
    assert request.guide.param == "text.format"
    any_object = response(text={"format": {"type": "json_object"}}).guide
    assert any_object is not None
    assert any_object.kind == "json"
    assert response(text={"format": {"type": "text"}}).guide is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"input": []}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"type": "function_call", "name": "f", "arguments": "1"}]},
            "input[0].arguments",
        ),
        ({"input": [{"type": "function_call_output"}]}, "input[0].output"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str):
    """400, with the field as OpenAI names it."""
    with pytest.raises(Problem) as caught:
        response(**fields)

    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "background": False, "truncation": "disabled"},
        {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": None}},
        {"metadata": {"a": "b"}, "user": "u", "prompt_cache_key": "k"},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_asks_for_nothing_passes(fields: dict[str, Any]):
    """No client has to leave out what it always sends."""
    assert response(**fields).messages
