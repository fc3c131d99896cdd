"""Tools, their choice and formats of answers in chats: accepted, or refused by name."""

import json
from typing import Any

import pytest

from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.chat_request import parse_chat, parse_completion
from tollhouse.frontend.request import Request

MESSAGES = [{"role": "user", "content": "hi"}]
_FUNCTION = {"type": "function", "function": {"name": "f"}}


def chat(**fields: Any) -> Request:
    """Parse a chat with these fields."""
    body = {"model": "m", "messages": MESSAGES} | fields
    return parse_chat(json.dumps(body).encode())


def test_tools_and_the_choice_among_them():
    """Auto where there are tools; a choice binds the model or takes them away."""
    named = {"type": "function", "function": {"name": "g"}}
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]

    def forced(**fields: Any) -> tuple[str, ...] | None:
        asked = chat(tools=tools, **fields).tools
        return None if asked is None else asked.forced

    assert forced() == ()
    assert forced(tool_choice="auto") == ()
    assert forced(tool_choice="required") == ("f", "g")
    assert forced(tool_choice=named) == ("g",)
    assert forced(tool_choice="none") is None
    single = chat(tools=tools, parallel_tool_calls=False).tools
    assert single is not None
    assert not single.parallel
    assert single.described()[0] == {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [_FUNCTION, _FUNCTION]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
        ),
        ({"tools": [_FUNCTION] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        (
            {"tools": [_FUNCTION], "tool_choice": {"type": "allowed_tools"}},
            "tool_choice.type",
        ),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": "["}}],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_tools_and_formats_are_judged(fields: dict[str, Any], param: str):
    """Every fault names its field."""
    with pytest.raises(Problem) as caught:
        chat(**fields)

    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize("name", ["tools", "response_format", "tool_choice"])
def test_completions_call_nothing(name: str):
    """They have neither tools nor formats."""
    value = {"tools": [_FUNCTION], "response_format": {"type": "json_object"}}
    body = {"model": "m", "prompt": "p", name: value.get(name, "required")}
    with pytest.raises(Problem) as caught:
        parse_completion(json.dumps(body).encode())

    assert caught.value.kind is Kind.UNSUPPORTED
