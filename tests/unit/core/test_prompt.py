"""The texts of a prompt are those whose bytes were counted."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.catalog import Operation
from tollhouse.core.prompt import texts
from tollhouse.core.request import parse

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def part(text):
    return {"type": "text", "text": text}


def refusal(text):
    return {"type": "refusal", "refusal": text}


parts = st.lists(
    st.one_of(words.map(part), words.map(refusal), st.just(IMAGE)), max_size=4
)
messages = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, words | parts),
    st.just({"role": "assistant", "content": None, "tool_calls": CALLS}),
)


@given(st.lists(messages, min_size=1, max_size=5), st.sampled_from([None, [], CALLS]))
def test_of_a_chat(conversation, tools):
    body = {"model": "m", "messages": conversation, "tools": tools}
    request = parse(Operation.CHAT, json.dumps(body).encode())

    assert request.text_bytes == sum(len(text.encode()) for text in texts(request))


def test_in_their_order():
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "one"},
            {"role": "user", "content": [part("two"), IMAGE, refusal("three")]},
            {"role": "assistant", "tool_calls": [{"a": 1}]},
        ],
        "tools": [{"b": 2}],
    }
    request = parse(Operation.CHAT, json.dumps(body).encode())

    assert ["one", "two", "three", '[{"a":1}]', '[{"b":2}]'] == texts(request)


def test_of_a_completion():
    for prompt in ("hello", ["hello"]):
        body = json.dumps({"model": "m", "prompt": prompt}).encode()

        assert ["hello"] == texts(parse(Operation.COMPLETIONS, body))
