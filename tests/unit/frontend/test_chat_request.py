"""What is accepted, what is refused, and that the refusal names the field."""

import json
from typing import Any

import pytest

from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.chat_request import parse_chat, parse_completion
from tollhouse.frontend.request import Request

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Request:
    """Parse a chat with these fields."""
    return parse_chat(
        json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()
    )


def refusal(body: Any, parse: Any = parse_chat) -> Problem:
    """Return the problem a body causes."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Problem) as caught:
        parse(text)
    return caught.value


def test_a_plain_chat():
    """Nothing asked for: nothing set."""
    request = chat()

    assert request == Request(
        model="m",
        messages=({"role": "user", "content": "hi"},),
        size=len(json.dumps({"model": "m", "messages": MESSAGES})),
    )


def test_the_smaller_cap_counts():
    """Both names at once: the smaller one can't be wrong."""
    assert chat(max_tokens=7).max_tokens == 7
    assert chat(max_completion_tokens=8).max_tokens == 8
    assert chat(max_tokens=7, max_completion_tokens=8).max_tokens == 7


def test_sampling_parameters():
    """Zero is a value; null is none."""
    request = chat(temperature=0, top_p=0.5, seed=3, frequency_penalty=None, n=2)

    assert request.sampling == {"temperature": 0, "top_p": 0.5}
    assert request.seed == 3
    assert request.choices == 2


def test_stop_is_a_string_or_a_list():
    """Both forms of OpenAI."""
    assert chat(stop="a").stops == ("a",)
    assert chat(stop=["a", "b"]).stops == ("a", "b")
    assert chat(stop=None).stops == ()


def test_content_parts_are_joined():
    """Text parts become one text; an assistant's content may be absent."""
    request = chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}]},
            {
                "role": "user",
                "name": "Bo",
                "content": [
                    {"type": "text", "text": "b"},
                    {"type": "text", "text": ""},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "c"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "content": None, "refusal": "never"},
        ]
    )

    assert request.messages == (
        {"role": "developer", "content": "a"},
        {"role": "user", "name": "Bo", "content": "b"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "f", "arguments": {"a": 1}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "c"},
        {"role": "assistant", "content": "no"},
        {"role": "assistant", "content": "never"},
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"model": 3}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": 3}, "stop"),
    ],
)
def test_wrong_values_are_refused_by_name(fields: dict[str, Any], param: str):
    """400 with the field in OpenAI's notation, before Triton sees anything."""
    problem = refusal({"model": "m", "messages": MESSAGES} | fields)

    assert problem.kind is Kind.INVALID_REQUEST
    assert problem.param == param
    assert param in problem.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("reasoning_effort", "low"),
        ("verbosity", "high"),
        ("store", True),
        ("logprobs", True),
        ("logprobs", 0),
        ("top_logprobs", 2),
        ("logit_bias", {"1": 5}),
        ("functions", [{}]),
        ("audio", {}),
        ("modalities", ["text", "audio"]),
        ("best_of", 2),
        ("echo", True),
        ("suffix", "x"),
        ("guided_json", {}),
    ],
)
def test_what_the_contract_has_not_is_refused_by_name(name: str, value: object):
    """A field that would change the answer is never silently dropped."""
    problem = refusal({"model": "m", "messages": MESSAGES, name: value})

    assert problem.kind is Kind.UNSUPPORTED
    assert problem.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("tools", None),
        ("tool_choice", "auto"),
        ("response_format", {"type": "text"}),
        ("logprobs", False),
        ("logit_bias", {}),
        ("reasoning_effort", "none"),
        ("store", False),
        ("service_tier", "auto"),
        ("modalities", ["text"]),
        ("user", "somebody"),
        ("metadata", {"a": "b"}),
        ("some_future_field", 1),
    ],
)
def test_harmless_values_pass(name: str, value: object):
    """What asks for nothing, and what only describes the caller, is no reason."""
    assert chat(**{name: value}).choices == 1


def test_images_are_refused_by_name():
    """The part is named, not only the messages."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    problem = refusal({"model": "m", "messages": [{"role": "user", "content": [part]}]})

    assert problem.kind is Kind.UNSUPPORTED
    assert problem.param == "messages[0].content[0].type"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":NaN}']
)
def test_garbage_is_a_clear_400(body: bytes):
    """No body can cause anything else."""
    for parse in (parse_chat, parse_completion):
        problem = refusal(body, parse)

        assert problem.kind is Kind.INVALID_REQUEST


def test_completions():
    """A string, or a list of one."""
    for prompt in ("a", ["a"]):
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        request = parse_completion(body)

        assert request.prompt == "a"
        assert request.messages is None
    for wrong in ([], ["a", "b"], "", [1], None):
        problem = refusal({"model": "m", "prompt": wrong}, parse_completion)

        assert problem.param in {"prompt", "prompt[0]"}


def test_refusals_never_repeat_a_value():
    """A prompt must not come back in an error, which is logged elsewhere."""
    said = "what-the-client-said"
    for fields in (
        {"messages": [{"role": said, "content": "x"}]},
        {"messages": said},
        {"stop": [said, "", said]},
        {"max_tokens": said},
        {"tools": [said]},
    ):
        problem = refusal({"model": "m", "messages": MESSAGES} | fields)

        assert said not in problem.message
