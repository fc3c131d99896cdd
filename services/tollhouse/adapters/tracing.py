"""Spans: told when they are over, exported by OTLP/gRPC.

An exchange that nobody will look at costs a comparison: only its end tells whether it
failed, was refused or took long, so that is when spans are made, with their times of
then. What is kept: traces that Envoy chose (its ratio, the sampled flag), and of all
others the spans that are notable by themselves, up to `NOTABLE_PER_SECOND`: whoever
floods us with bad keys must not make us pay for spans, too.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry.trace import SpanKind

from tollhouse.adapters import otlp
from tollhouse.core.trace_context import TraceContext, parse_traceparent

NOTABLE_PER_SECOND = 20
"""A process keeps so many of traces that were not chosen; it tells of any outage."""

Value = str | int | float | bool | tuple[str, ...]
Kind = SpanKind


@dataclass(frozen=True, slots=True)
class Span:
    """Something that is over; times in Unix nanoseconds.

    An attribute that is None is left out. `error` is its `error.type`, a word of a
    small set; "" is a success. `span_id`, 16 hex digits, only where others were told it
    before the end (`new_span_id`).
    """

    name: str
    started_ns: int
    ended_ns: int
    kind: Kind = Kind.INTERNAL
    attributes: Mapping[str, Value | None] = field(default_factory=dict)
    error: str = ""
    links: Sequence[TraceContext] = ()
    children: Sequence["Span"] = ()
    span_id: str = ""


def new_span_id() -> str:
    """Choose the id of a span that is to come."""
    return secrets.token_hex(8)


def context_of(metadata: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """Where a gRPC call stands, by its metadata; None if it does not say."""
    for name, value in metadata:
        if name == "traceparent" and isinstance(value, str):
            return parse_traceparent(value)
    return None


class Exporter(Protocol):
    """Where spans go."""

    @property
    def lost(self) -> int:
        """How many did not get there."""

    def export(self, parent: TraceContext | None, span: Span) -> TraceContext:
        """Take one with its children, without waiting; return where it stands."""

    def close(self) -> None:
        """Deliver what is left; blocks for a moment."""


class Tracing:
    """Takes the spans of one process; without an exporter it takes none."""

    def __init__(
        self,
        exporter: Exporter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exporter = exporter
        self._clock = clock
        self._second = 0
        self._notable = 0

    @classmethod
    def open(cls, service: str, instance: str) -> "Tracing":
        """Export where the environment says, else take nothing (`otlp`)."""
        if not otlp.is_exported("TRACES"):
            return cls()
        # Only who exports pays for it: 0.2 s of a start.
        from tollhouse.adapters.span_export import SpanExport  # noqa: PLC0415

        return cls(SpanExport.open(service, instance))

    @property
    def is_on(self) -> bool:
        """Whether anything is exported."""
        return self._exporter is not None

    @property
    def lost(self) -> int:
        """How many spans did not reach the collector."""
        return 0 if self._exporter is None else self._exporter.lost

    def wants(self, context: TraceContext | None, *, is_notable: bool = False) -> bool:
        """Whether to tell a span that is to stand there: ask once, before making it."""
        if self._exporter is None:
            return False
        if context is not None and context.is_sampled:
            return True
        return is_notable and self._may_stand_out()

    def _may_stand_out(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._notable = second, 0
        self._notable += 1
        return self._notable <= NOTABLE_PER_SECOND

    def tell(self, parent: TraceContext | None, span: Span) -> TraceContext | None:
        """Export a span with its children; without a parent it begins a trace.

        Returns where it stands, None if nothing is exported. Never waits, never raises
        for a collector.
        """
        if self._exporter is None:
            return None
        return self._exporter.export(parent, span)

    def close(self) -> None:
        """Export what is left; blocks for a moment."""
        if self._exporter is not None:
            self._exporter.close()
