"""One trace as lines for a terminal: who did what, when, for how long."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tollhouse.adapters import conventions as names
from tollhouse.cli.console import Console

_TOLD = (
    *("http.method", "http.route", "http.status_code"),
    *(names.ERROR_TYPE, names.OUTCOME, names.DECISION, names.VERDICT),
    *(names.TENANT, names.LIMIT, names.RUNG),
    *(names.REQUEST_MODEL, names.INPUT_TOKENS, names.OUTPUT_TOKENS),
    *(names.FINISH_REASONS, names.FIRST_CHUNK_SECONDS),
    *(names.RESERVED_UNITS, names.USED_UNITS, names.SCRIPT),
)
"""Attributes worth a place in a line; the others are on the page."""
_LONGEST_VALUE = 60
_NS_PER_MS = 1e6


class Link(msgspec.Struct, frozen=True):
    """Another span that one refers to."""

    trace_id: str
    span_id: str


class Span(msgspec.Struct, frozen=True):
    """One span, as the collector's page has it."""

    service: str
    name: str
    span_id: str
    parent: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    links: Sequence[Link]
    has_failed: bool


class Trace(msgspec.Struct, frozen=True):
    """One trace, as the collector's page has it: in the order of beginnings."""

    trace_id: str
    spans: Sequence[Span]


def lines(trace: Trace, console: Console) -> Iterator[str]:
    """Yield the tree. A span whose parent is not there stands where a first one does.

    Times are in ms, the start counted from the trace's own.
    """
    began = min((it.started_ns for it in trace.spans), default=0)
    yield console.bold(f"trace {trace.trace_id}")
    yield console.dim("  start ms      took")
    for rails, span in _walk(trace.spans):
        start = (span.started_ns - began) / _NS_PER_MS
        took = (span.ended_ns - span.started_ns) / _NS_PER_MS
        name = f"{_plain(span.service)}: {_plain(span.name)}"
        if span.has_failed:
            name = console.red(name)
        facts = console.dim("".join(f"  {it}" for it in _facts(span)))
        yield f"{start:10.1f}{took:10.1f}  {rails}{name}{facts}"


def _walk(spans: Sequence[Span]) -> Iterator[tuple[str, Span]]:
    known = {it.span_id for it in spans}
    below: dict[str, list[Span]] = {}
    for span in spans:
        above = span.parent if span.parent in known else ""
        below.setdefault(above, []).append(span)
    # A list for a stack: a trace may be deeper than Python's own.
    waiting = [("", "", it) for it in reversed(below.get("", []))]
    while waiting:
        rails, indent, span = waiting.pop()
        yield rails, span
        children = below.pop(span.span_id, [])
        for child in reversed(children):
            is_last = child is children[-1]
            rail, space = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            waiting.append((indent + rail, indent + space, child))


def _facts(span: Span) -> Iterator[str]:
    for name in _TOLD:
        if (value := span.attributes.get(name)) is not None:
            short = "error" if name == names.ERROR_TYPE else name.rpartition(".")[2]
            yield f"{short}={_plain(value)}"
    for link in span.links:
        yield f"→ {_plain(link.trace_id)[:8]}"


def _plain(value: object) -> str:
    """Return one line's worth: a terminal must not obey what a client named a model."""
    if isinstance(value, float):
        value = round(value, 4)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    cut = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
    return "".join(
        it if it.isprintable() else "\N{REPLACEMENT CHARACTER}" for it in cut
    )
