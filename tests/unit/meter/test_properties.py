"""Streams nobody thought of, cut anywhere, against the plain reference."""

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.meter import corpus, shapes
from tests.unit.meter.lua_meter import metered, metered_json
from tests.unit.meter.reference import expected

_NEWLINES = st.sampled_from([b"\n", b"\r\n", b"\r"])
_SPOOFS = st.sampled_from(
    [
        corpus.SPOOF,
        'x","usage":{',
        "data: [DONE]",
        "\\",
        '\\"',
        "\r\n\r\n",
        ": usage 1,2,3",
    ]
)
_TEXTS = st.one_of(st.text(max_size=6), _SPOOFS)
_COUNTS = st.integers(0, 10**9)


@st.composite
def _usages(draw: st.DrawFn) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": draw(_COUNTS),
        "completion_tokens": draw(_COUNTS),
    }
    if draw(st.booleans()):
        usage["prompt_tokens_details"] = {"cached_tokens": draw(_COUNTS)}
    if draw(st.booleans()):
        usage["completion_tokens_details"] = {"reasoning_tokens": draw(_COUNTS)}
    names = draw(st.permutations(list(usage)))
    return {name: usage[name] for name in names}


@st.composite
def _choices(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(["content", "reasoning_content", "role", "tool_calls"]))
    value: Any = draw(_TEXTS)
    if name == "tool_calls":
        value = [{"index": 3, "function": {"name": "f", "arguments": value}}]
    choice: dict[str, Any] = {"delta": {name: value}, "finish_reason": None}
    if draw(st.booleans()):
        choice = {"text": draw(_TEXTS), "logprobs": {"text": "x", "content": "y"}}
    if draw(st.booleans()):
        choice = {"index": draw(st.integers(0, 3)), **choice}
    return choice


_ERRORS = st.builds(
    lambda text, error: error | {"content": text},
    _TEXTS,
    st.sampled_from(
        [
            {"error": {"message": "x"}},
            {"error": "x"},
            {"type": "error", "error": {"message": "x"}},
            {"type": "error", "message": "x"},
            {"object": "error", "message": "x"},
            {"type": "response.failed", "response": {"error": {"message": "x"}}},
        ]
    ),
)
_OTHERS = st.one_of(
    st.builds(lambda text: {"type": "response.x.delta", "delta": text}, _TEXTS),
    st.builds(
        lambda name, text: {"type": "content_block_delta", "delta": {name: text}},
        st.sampled_from(["text", "partial_json", "thinking", "signature"]),
        _TEXTS,
    ),
    st.builds(
        lambda inner, usage: {inner: {"text": "usage", "usage": usage}},
        st.sampled_from(["message", "response", "item"]),
        st.none()
        | st.fixed_dictionaries(
            {"input_tokens": _COUNTS, "output_tokens": _COUNTS},
            optional={
                "cache_read_input_tokens": _COUNTS,
                "cache_creation_input_tokens": _COUNTS,
            },
        ),
    ),
    st.builds(lambda output: {"usage": {"output_tokens": output}}, _COUNTS),
    # The length is that of the JSON, which may write other letters in two ways.
    st.builds(
        shapes.generated,
        _COUNTS,
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
        | st.just(corpus.SPOOF),
    ),
)


@st.composite
def _payloads(draw: st.DrawFn) -> list[bytes]:
    """The data lines of one event; JSON may run over several lines."""
    kinds = ["chunk", "chunk", "usage", "error", "done", "text", "other", "other"]
    match draw(st.sampled_from(kinds)):
        case "done":
            return [b"data: [DONE]"]
        case "text":
            return [b"data: hello"]
        case "error":
            payload: dict[str, Any] = draw(_ERRORS)
        case "other":
            payload = draw(_OTHERS)
        case "usage":
            payload = {"choices": [], "usage": draw(_usages())}
        case _:
            payload = {"choices": draw(st.lists(_choices(), max_size=3))}
            if draw(st.booleans()):
                payload["usage"] = draw(st.none() | _usages())
            if draw(st.booleans()):
                payload = dict(reversed(payload.items()))
    text = json.dumps(
        payload,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1])),
        separators=draw(st.sampled_from([None, (",", ":")])),
    )
    space = draw(st.sampled_from([b"data: ", b"data:"]))
    return [space + line.encode() for line in text.split("\n")]


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    lines = list[bytes]()
    others = st.sampled_from(
        [
            b": ping",
            b"event: x",
            b"event: error",
            b": usage 1,2",
            b": usage 1,2,3 ",
            b"data",
            b"id: 1",
        ]
    )
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            counts = (draw(_COUNTS), draw(_COUNTS), draw(_COUNTS))
            lines.append(b": usage %d,%d,%d" % counts)
        lines += draw(st.lists(others, max_size=1))
        lines += draw(_payloads())
        lines += [b""] * draw(st.integers(1, 2))
    if draw(st.booleans()):
        lines = lines[:-1]  # the last event is not ended
    return b"".join(line + draw(_NEWLINES) for line in lines)


@st.composite
def _pieces(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    places = draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    edges = [0, *places, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=500, deadline=None)
@given(st.data(), _streams(), st.booleans(), st.booleans())
def test_any_stream(data, stream, strip, foreign):
    """Counts and bytes are those of the reference, for any stream and any cut."""
    pieces = data.draw(_pieces(stream))

    got = metered(pieces, strip=strip, foreign=foreign)

    assert got == expected(stream, strip=strip, foreign=foreign)


@settings(max_examples=500, deadline=None)
@given(st.data(), st.integers(0, 8), st.booleans())
def test_alike_events(data, count, continuous):
    """Events that differ in their text and counts only read as each by itself."""
    names = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
    lines = list[list[bytes]]()
    for _ in range(count):
        text, index = data.draw(_TEXTS), data.draw(st.integers(0, 1))
        finish = data.draw(st.sampled_from([None, None, "stop"]))
        said = data.draw(_usages()) if continuous else None
        chunk = names | {"index": index, "delta": {"content": text}}
        chunk["finish_reason"] = finish
        others = data.draw(st.lists(_choices(), max_size=1))
        lines.append(corpus.event({"choices": [chunk, *others], "usage": said}))
    stream = corpus.joined(lines)

    assert metered([stream]) == expected(stream, strip=False)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["usage", "choices", "a", '"']), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.dictionaries(_TEXTS, _JSON, max_size=4), _usages())
def test_any_document(data, document, usage):
    """Only the top-level usage of a JSON answer counts, wherever it is cut."""
    document = dict(data.draw(st.permutations(list(document.items()))))
    document.pop("usage", None)
    items = list(document.items())
    items.insert(data.draw(st.integers(0, len(items))), ("usage", usage))
    text = json.dumps(dict(items), indent=data.draw(st.sampled_from([None, 1])))
    pieces = data.draw(_pieces(text.encode()))

    counts = [
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage.get("prompt_tokens_details", {}).get("cached_tokens", "-"),
        usage.get("completion_tokens_details", {}).get("reasoning_tokens", "-"),
    ]
    assert metered_json(pieces) == f"json,0,0,1,{','.join(map(str, counts))},0,0,F,0"
