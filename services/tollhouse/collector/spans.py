"""Spans as they came, and the traces they make: the latest, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tollhouse.adapters.conventions import EXCHANGE

MOST_TRACES = 1000
MOST_SPANS_PER_TRACE = 500
MOST_SPANS = 20_000

Value = str | int | float | bool | list[object] | dict[str, object] | None


class Link(msgspec.Struct, frozen=True):
    """Another span that this one refers to."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Value]


class Event(msgspec.Struct, frozen=True):
    """Something that happened during a span."""

    name: str
    at_ns: int
    attributes: Mapping[str, Value]


class Span(msgspec.Struct, frozen=True):
    """One span. Ids in lower-case hex; `parent` is "" for the first of a trace.

    Times in Unix nanoseconds. `message` is the status' own, whether or not it
    `has_failed`. `events` are the first of them.
    """

    service: str
    instance: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    links: list[Link]
    events: list[Event]
    has_failed: bool
    message: str


class Root(msgspec.Struct, frozen=True):
    """What a trace began with."""

    service: str
    name: str
    started_ns: int


class Summary(msgspec.Struct, frozen=True):
    """One trace in the list of them. `root` is null while its first span is to come."""

    trace_id: str
    root: Root | None
    spans: int
    quiet_seconds: float
    """Since the last span came."""
    ended_ns: int
    """When its exchange ended, as extproc says; 0: it did not, or has none."""


class Trace(msgspec.Struct, frozen=True):
    """A trace, its spans in the order in which they began."""

    trace_id: str
    spans: list[Span]


class _Held:
    """One trace that is kept."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.heard_at = 0.0

    @property
    def root(self) -> Root | None:
        """The earliest server's: a first span may have a parent that is a client's."""
        firsts = (
            it
            for it in self.spans.values()
            if it.kind == "server" and it.parent not in self.spans
        )
        first = min(firsts, key=lambda it: it.started_ns, default=None)
        if first is None:
            return None
        return Root(first.service, first.name, first.started_ns)

    @property
    def ended_ns(self) -> int:
        """Of a reaped exchange all there is: its Envoy is gone with the first span."""
        exchanges = (
            it.ended_ns
            for it in self.spans.values()
            if it.kind == "client" and EXCHANGE in it.attributes
        )
        return max(exchanges, default=0)


class Traces:
    """The traces that were heard of last; the oldest go first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._spans = 0

    def take(self, spans: Iterable[Span]) -> None:
        """Keep spans; one that comes again replaces itself."""
        for span in spans:
            held = self._held.setdefault(span.trace_id, _Held())
            self._held.move_to_end(span.trace_id)
            held.heard_at = self._clock()
            is_new = span.span_id not in held.spans
            if is_new and len(held.spans) >= MOST_SPANS_PER_TRACE:
                continue
            held.spans[span.span_id] = span
            self._spans += is_new
        while len(self._held) > MOST_TRACES or self._spans > MOST_SPANS:
            _, oldest = self._held.popitem(last=False)
            self._spans -= len(oldest.spans)

    def latest(self, count: int) -> list[Summary]:
        """List traces, the one heard of last first."""
        now = self._clock()
        newest = [*reversed(self._held.items())][:count]
        return [
            Summary(
                trace_id,
                it.root,
                len(it.spans),
                round(now - it.heard_at, 3),
                it.ended_ns,
            )
            for trace_id, it in newest
        ]

    def find(self, trace_id: str) -> Trace | None:
        """Return a trace, None if it is not kept."""
        held = self._held.get(trace_id)
        if held is None:
            return None
        return Trace(
            trace_id, sorted(held.spans.values(), key=lambda it: it.started_ns)
        )
