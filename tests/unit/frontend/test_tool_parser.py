"""Calls out of text: the same for every split, and never a word lost."""

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.frontend.answer import ChoiceResult
from tollhouse.frontend.tool_parser import ToolReader, tool_reader
from tollhouse.frontend.tools import Function, Tools

FUNCTIONS = [Function(name="f"), Function(name="g_2")]
Said = list[str | tuple[str, str]]


def reader(*, forced: Sequence[str] = (), parallel: bool = True) -> ToolReader:
    """Return a reader of a Hermes model's text."""
    return tool_reader(Tools(FUNCTIONS, tuple(forced), parallel), "hermes")


def said(reading: ToolReader, pieces: Sequence[str]) -> Said:
    """Return text and calls (name, arguments), in order."""
    result = ChoiceResult()
    for piece in pieces:
        for part in reading.feed(piece):
            result.add(part)
    for part in reading.flush():
        result.add(part)
    return [
        block.text if block.call is None else (block.call.name, block.text)
        for block in result.blocks
    ]


def splits(text: str) -> list[list[str]]:
    """Return the text whole, by characters, and cut in two everywhere."""
    cuts = [[text[:at], text[at:]] for at in range(1, len(text))]
    return [[text], list(text), *cuts]


ARGUMENTS = '{"a": [1, "}\\"{</tool_call>"]}'
CALL = f'<tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n</tool_call>'
EMPTY = '<tool_call>{"name":"g_2","arguments":{}}</tool_call>'
CASES: list[tuple[str, Said]] = [
    ("", []),
    ("Just text, 1 < 2 <tool", ["Just text, 1 < 2 <tool"]),
    (CALL, [("f", ARGUMENTS)]),
    (
        f"Let me see.\n\n{CALL}\n{EMPTY}",
        ["Let me see.", ("f", ARGUMENTS), ("g_2", "{}")],
    ),
    (f"{EMPTY}\nDone.", [("g_2", "{}"), "\nDone."]),
    # the other order, and what the model never closed
    (
        '<tool_call>{"arguments": {"b": 1}, "name": "f"}</tool_call>',
        [("f", '{"b": 1}')],
    ),
    ('<tool_call>{"arguments": {"b": 1}, "name": "f"}', [("f", '{"b": 1}')]),
    ('<tool_call>{"name": "f", "arguments": {"b": 1', [("f", '{"b": 1')]),
    ('<tool_call>{"name": "f", "arguments": {"b": 1}}', [("f", '{"b": 1}')]),
    # no calls: the model's own words, as it wrote them
    ("<tool_call>nonsense</tool_call>", ["<tool_call>nonsense</tool_call>"]),
    ("<tool_call>\nnonsense", ["<tool_call>\nnonsense"]),
    (
        'a <tool_call>{"name": "h", "arguments": {}}</tool_call> b',
        ["a ", '<tool_call>{"name": "h", "arguments": {}}</tool_call> b'],
    ),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_every_split_reads_the_same(text: str, expected: Said):
    """Tokens end anywhere, also inside a tag or an escape."""
    joined = expected
    if len(expected) > 1 and all(isinstance(it, str) for it in expected):
        joined = ["".join(str(it) for it in expected)]
    for pieces in splits(text):
        assert said(reader(), pieces) == joined


def test_arguments_come_as_they_are_written():
    """A client sees them grow: nothing waits for the end of the call."""
    reading = reader()
    parts = [reading.feed(character) for character in CALL]
    deltas = [len(found) for found in parts]

    assert sum(deltas) == 1 + len(ARGUMENTS)
    assert max(deltas) == 2  # the call is opened with its first brace


def test_a_named_function_gets_its_arguments_bare():
    """The guide leaves no room for anything else."""
    for pieces in splits(ARGUMENTS):
        assert said(reader(forced=["g_2"]), pieces) == [("g_2", ARGUMENTS)]
    assert said(reader(forced=["g_2"]), ["", ""]) == []


def test_a_required_call_comes_without_tags():
    """The guide leaves the choice of the function."""
    text = '{"name": "f", "arguments": ' + ARGUMENTS + "}"
    for pieces in splits(text):
        assert said(reader(forced=["f", "g_2"]), pieces) == [("f", ARGUMENTS)]


def test_one_call_at_a_time():
    """The second is not wanted; the first may come to its end."""
    alone = reader(parallel=False)
    assert said(alone, [CALL, "\nDone."]) == [("f", ARGUMENTS), "\nDone."]
    assert not alone.is_full
    for pieces in splits(f"Well.\n{CALL}\n{CALL}\nAnd so on."):
        reading = reader(parallel=False)
        assert said(reading, pieces) == ["Well.", ("f", ARGUMENTS)]
        assert reading.is_full
        assert reading.calls == 1


def test_ids_are_never_the_same():
    """A result names its call by it."""
    ids = {part.id for part in reader().feed(CALL + CALL) if hasattr(part, "id")}

    assert len(ids) == 2


@given(
    arguments=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
    cuts=st.lists(st.integers(0, 200), max_size=5),
)
def test_any_arguments_survive(arguments: dict[str, object], cuts: list[int]):
    """Whatever is in the strings: braces, quotes, tags."""
    written = json.dumps(arguments, ensure_ascii=False)
    text = f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>'
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]

    assert said(reader(), pieces) == [("f", written)]
