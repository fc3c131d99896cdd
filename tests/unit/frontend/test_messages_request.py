"""Anthropic's Messages API: what becomes of blocks, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tollhouse.core.problems import Problem
from tollhouse.frontend.messages_request import parse_message
from tollhouse.frontend.request import Request

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "description": "d", "input_schema": {"a": 1}}


def message(**fields: Any) -> Request:
    """Parse a request with these fields."""
    body = {"model": "m", "max_tokens": 9, "messages": MESSAGES} | fields
    return parse_message(json.dumps(body).encode())


def test_a_plain_message():
    """Only what was said."""
    request = message(
        system="Be brief.", stop_sequences=["a"], temperature=0, top_k=3, stream=True
    )

    assert request.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    )
    assert request.max_tokens == 9
    assert request.stops == ("a",)
    assert request.sampling == {"temperature": 0, "top_k": 3}
    assert request.stream
    assert request.tools is None


def test_blocks_become_a_conversation():
    """Texts are joined, calls and results get their own places, in order."""
    request = message(
        system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "c"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "d", "citations": None},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "1", "content": "r"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "2",
                        "content": [{"type": "text", "text": "s"}],
                    },
                    {"type": "text", "text": "e"},
                    {"type": "text", "text": "f"},
                ],
            },
        ],
    )

    assert request.messages == (
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "c"},
        {
            "role": "assistant",
            "content": "d",
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "f", "arguments": {"x": 1}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "tool", "tool_call_id": "2", "content": "s"},
        {"role": "user", "content": "ef"},
    )


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        (None, ()),
        ({"type": "auto"}, ()),
        ({"type": "any"}, ("f", "g")),
        ({"type": "tool", "name": "g"}, ("g",)),
        ({"type": "none"}, None),
    ],
)
def test_tool_choice(choice: Any, forced: tuple[str, ...] | None):
    """Anthropic's words for the same four choices."""
    tools = message(tools=[TOOL, TOOL | {"name": "g"}], tool_choice=choice).tools

    assert (None if tools is None else tools.forced) == forced


def test_tools_and_formats():
    """One call at a time, and an answer by a schema."""
    one = {"type": "auto", "disable_parallel_tool_use": True}
    tools = message(tools=[TOOL], tool_choice=one).tools
    form = {"type": "json_schema", "schema": {"b": 2}}
    guide = message(output_config={"format": form}).guide
    older = message(output_format=form).guide

    assert tools is not None
    assert not tools.parallel
    assert tools.described()[0]["function"] == {
        "name": "f",
        "description": "d",
        "parameters": {"a": 1},
    }
    assert guide is not None
    assert guide.schema == '{"b":2}'
    assert older == replace(guide, param="output_format")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [*MESSAGES, {"role": "assistant", "content": "So"}]},
            "messages[1].role",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": ["a"] * 5}, "stop_sequences"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "a b"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        (
            {"output_config": {"format": {"type": "json_schema"}}},
            "output_config.format.schema",
        ),
        ({"output_format": {"type": "xml"}}, "output_format.type"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str):
    """400; Anthropic's errors have no field for it, so the message says it."""
    with pytest.raises(Problem) as caught:
        message(**fields)

    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}, "service_tier": "auto"},
        {"thinking": {"type": "disabled"}, "mcp_servers": [], "output_config": {}},
    ],
)
def test_what_asks_for_nothing_passes(fields: dict[str, Any]):
    """No client has to leave out what it always sends."""
    assert message(**fields).messages == tuple(MESSAGES)
