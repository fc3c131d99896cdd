"""The shapes of answers: streams add up to the whole, and the meter reads them all."""

import json
from typing import Any

import pytest

from tollhouse.core import sse
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.answer import (
    CallArguments,
    CallOpened,
    ChoiceResult,
    Finish,
    Form,
    Part,
    Usage,
)
from tollhouse.frontend.chat_form import ChatForm
from tollhouse.frontend.messages_form import MessagesForm
from tollhouse.frontend.request import Request
from tollhouse.frontend.responses_form import ResponsesForm

REQUEST = Request(model="m", messages=(), echo={"instructions": "Be brief."})
USAGE = Usage(10, 4, 3)
PARTS: list[Part] = [
    "Let me ",
    "see.",
    CallOpened(0, "a1", "f"),
    CallArguments(0, '{"x":'),
    CallArguments(0, "1}"),
    CallOpened(1, "b2", "g"),
    CallArguments(1, "{}"),
]
CALLED = Finish("tool_calls")
FORMS = [ChatForm, ResponsesForm, MessagesForm]


def streamed(form: Form, parts: list[Part], finish: Finish) -> list[sse.Event]:
    """Return the events of a stream; the output grows by one with each part."""
    count = 0

    def usage() -> Usage:
        return Usage(10, count, 3)

    sent = form.opening(0, usage())
    for part in parts:
        count += 1
        sent += form.part(0, part, usage())
    sent += form.finish(0, finish, usage()) + form.closing(usage())
    return sse.Parser().feed(sent)


def whole(form: Form, parts: list[Part], finish: Finish) -> Any:
    """Return the answer in one piece."""
    result = ChoiceResult(finish=finish)
    for part in parts:
        result.add(part)
    return json.loads(form.whole([result], USAGE))


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize("finish", [CALLED, Finish("length"), Finish("stop", "x")])
def test_usage_stands_before_every_event(make: Any, finish: Finish):
    """Cumulative, so that a stream that breaks off is metered up to there."""
    events = streamed(make(REQUEST, "0190-ab", 7), PARTS, finish)
    if events[-1].data == "[DONE]":
        events.pop()
    counts = []
    for event in events:
        (comment,) = event.comments
        name, _, numbers = comment.partition(" ")
        input_, output, cached = map(int, numbers.split(","))
        assert (name, input_, cached) == ("usage", 10, 3)
        counts.append(output)

    assert counts == sorted(counts)
    assert set(counts) == set(range(len(PARTS) + 1))


@pytest.mark.parametrize("make", [ResponsesForm, MessagesForm])
def test_events_are_named_as_they_say(make: Any):
    """The newer APIs name their events, twice."""
    for event in streamed(make(REQUEST, "0190-ab", 7), PARTS, CALLED):
        assert event.name == json.loads(event.data)["type"]


def test_a_chat_with_calls():
    """Deltas by index; the whole has the same calls and no empty text."""
    form = ChatForm(REQUEST, "0190-ab", 7)
    *events, done = streamed(form, PARTS, CALLED)
    deltas = [json.loads(event.data)["choices"][0]["delta"] for event in events]
    opened = {"index": 1, "id": "call_b2", "type": "function"}

    assert done.data == "[DONE]"
    assert [delta.get("content") for delta in deltas[:3]] == ["", "Let me ", "see."]
    assert deltas[4] == {
        "tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]
    }
    assert deltas[6]["tool_calls"] == [
        {**opened, "function": {"name": "g", "arguments": ""}}
    ]
    (choice,) = whole(form, PARTS, CALLED)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    assert choice["message"]["tool_calls"][0] == {
        "id": "call_a1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"x":1}'},
    }
    (silent,) = whole(form, PARTS[2:], CALLED)["choices"]
    assert silent["message"]["content"] is None


def test_a_response_is_repeated_at_its_end():
    """The last event has what the whole answer has."""
    events = streamed(ResponsesForm(REQUEST, "0190-ab", 7), PARTS, CALLED)
    bodies = [json.loads(event.data) for event in events]
    answer = whole(ResponsesForm(REQUEST, "0190-ab", 7), PARTS, CALLED)

    assert [data["sequence_number"] for data in bodies] == list(range(len(bodies)))
    assert bodies[-1]["type"] == "response.completed"
    assert bodies[-1]["response"] | {"usage": 0} == answer | {"usage": 0}
    assert answer["id"] == "resp_0190ab"
    assert answer["instructions"] == "Be brief."
    assert answer["usage"]["total_tokens"] == 14
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 3
    assert [item["type"] for item in answer["output"]] == [
        "message",
        "function_call",
        "function_call",
    ]
    done = [data["item"] for data in bodies if data["type"].endswith("item.done")]
    added = [data["item"] for data in bodies if data["type"].endswith("item.added")]
    assert done == answer["output"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert {item["status"] for item in added} == {"in_progress"}


def test_a_response_that_was_cut():
    """By max_output_tokens: the last item is not complete, those before are."""
    answer = whole(ResponsesForm(REQUEST, "0190-ab", 7), PARTS, Finish("length"))
    events = streamed(ResponsesForm(REQUEST, "0190-ab", 7), [], Finish("length"))

    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in answer["output"]] == [
        "completed",
        "completed",
        "incomplete",
    ]
    assert events[-1].name == "response.incomplete"
    (item,) = json.loads(events[-1].data)["response"]["output"]
    assert item["content"][0]["text"] == ""


def test_a_message_and_its_blocks():
    """Blocks open and close one after the other; the whole has the same."""
    form = MessagesForm(REQUEST, "0190-ab", 7)
    bodies = [json.loads(event.data) for event in streamed(form, PARTS, CALLED)]
    answer = whole(MessagesForm(REQUEST, "0190-ab", 7), PARTS, CALLED)
    shape = [(data["type"], data.get("index")) for data in bodies]

    assert shape[:5] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
    ]
    assert shape[-4:] == [
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert bodies[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert bodies[-2]["usage"]["output_tokens"] == len(PARTS)
    assert answer["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "toolu_a1", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "toolu_b2", "name": "g", "input": {}},
    ]
    # Anthropic counts what came from a cache apart.
    assert answer["usage"]["input_tokens"] == 7
    assert answer["usage"]["cache_read_input_tokens"] == 3


@pytest.mark.parametrize(
    ("finish", "reason", "sequence"),
    [
        (Finish("stop"), "end_turn", None),
        (Finish("stop", "x"), "stop_sequence", "x"),
        (Finish("length"), "max_tokens", None),
    ],
)
def test_why_a_message_ends(finish: Finish, reason: str, sequence: str | None):
    """Anthropic's words for it; arguments that were cut off are left out."""
    cut: list[Part] = [CallOpened(0, "a1", "f"), CallArguments(0, '{"x')]
    answer = whole(MessagesForm(REQUEST, "0190-ab", 7), cut, finish)

    assert answer["stop_reason"] == reason
    assert answer["stop_sequence"] == sequence
    assert answer["content"][0]["input"] == {}


def test_each_api_words_its_errors():
    """In the stream too, and with the usage up to there."""
    problem = Problem(Kind.UPSTREAM_FAILED, "The model failed.")

    def said(form: Form) -> sse.Event:
        (event,) = sse.Parser().feed(form.broken(problem, USAGE))
        assert event.comments == ("usage 10,4,3",)
        return event

    chat = json.loads(said(ChatForm(REQUEST, "1", 7)).data)
    response, message = (
        said(ResponsesForm(REQUEST, "1", 7)),
        said(MessagesForm(REQUEST, "1", 7)),
    )
    assert chat["error"]["code"] == "upstream_error"
    assert response.name == message.name == "error"
    assert json.loads(response.data)["message"] == "The model failed."
    assert json.loads(message.data) == {
        "type": "error",
        "error": {"type": "api_error", "message": "The model failed."},
    }


def test_text_after_a_call_is_text_again():
    """It belongs to no arguments, in a stream neither."""
    parts: list[Part] = [CallOpened(0, "a1", "f"), CallArguments(0, "{}"), "Done."]
    message = whole(MessagesForm(REQUEST, "1", 7), parts, CALLED)
    response = whole(ResponsesForm(REQUEST, "1", 7), parts, CALLED)
    events = streamed(MessagesForm(REQUEST, "1", 7), parts, CALLED)
    started = [json.loads(it.data) for it in events if it.name == "content_block_start"]

    assert [block["type"] for block in message["content"]] == ["tool_use", "text"]
    assert [it["type"] for it in response["output"]] == ["function_call", "message"]
    assert [it["content_block"]["type"] for it in started] == ["tool_use", "text"]
