"""The spans of one request: its own, and one for each choice that Triton was asked for.

They are told when all is over (adapters/tracing). Triton is told of the trace before,
so the ids of its calls are chosen before, too.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tollhouse.adapters import conventions as names
from tollhouse.adapters.tracing import Kind, Span, Tracing, Value, new_span_id
from tollhouse.core.problems import Problem, Unavailable
from tollhouse.core.trace_context import TraceContext, parse_traceparent

_SERVER_ERROR = 500


@dataclass(slots=True)
class Call:
    """What Triton is asked for one choice; `attributes` and `error` are for its end."""

    metadata: Sequence[tuple[str, str]] = ()
    span_id: str = ""
    attributes: Mapping[str, Value | None] | None = None
    error: str = ""
    started_ns: int = 0
    ended_ns: int = 0

    def end(self, attributes: Mapping[str, Value | None]) -> None:
        """It is over, whatever came of it."""
        self.ended_ns, self.attributes = time.time_ns(), attributes

    @property
    def span(self) -> Span:
        """As it is told."""
        return Span(
            "triton.infer",
            self.started_ns,
            self.ended_ns or time.time_ns(),
            Kind.CLIENT,
            self.attributes or {},
            self.error,
            span_id=self.span_id,
        )


class Trail:
    """Where one request stands in a trace, and what Triton was asked for it."""

    def __init__(self, tracing: Tracing, traceparent: str) -> None:
        """Begin; `traceparent` is the header's value, "" for none."""
        self._tracing = tracing
        self._context = parse_traceparent(traceparent)
        self._is_kept = tracing.wants(self._context)
        self._started_ns = time.time_ns()
        self._calls: list[Call] = []

    @property
    def trace_id(self) -> str:
        """What the client can tell us; empty without a trace."""
        return "" if self._context is None else self._context.trace_id

    def call(self) -> Call:
        """Begin a call of Triton.

        A trace that is not kept is not mentioned: Triton traces whatever comes with a
        context, however it is flagged and at any rate of its own (measured, 2.51).
        """
        call = Call(started_ns=time.time_ns())
        context = self._context
        if context is not None and context.is_sampled:
            if self._is_kept:
                call.span_id = new_span_id()
                context = TraceContext(context.trace_id, call.span_id, is_sampled=True)
            call.metadata = (("traceparent", context.traceparent),)
        self._calls.append(call)
        return call

    def tell(
        self, attributes: Mapping[str, Value | None], error: str, *, is_notable: bool
    ) -> None:
        """Tell of all, if the trace is kept or this stands out by itself."""
        if not self._is_kept and not self._tracing.wants(
            self._context, is_notable=is_notable
        ):
            return
        span = Span(
            "frontend.generate",
            self._started_ns,
            time.time_ns(),
            Kind.SERVER,
            attributes,
            error,
            children=[it.span for it in self._calls],
        )
        self._tracing.tell(self._context, span)


def error_type(error: Exception) -> str:
    """Return a failure's `error.type`, "" for what is the caller's own doing."""
    match error:
        case Problem():
            is_ours = error.status >= _SERVER_ERROR
            return error.kind.name.lower() if is_ours else ""
        case Unavailable():
            return "unavailable"
    return "internal"


def call_facts(
    model: str, output_tokens: int, finish_reason: str
) -> Mapping[str, Value | None]:
    """Return the attributes of one choice's call."""
    return {
        names.REQUEST_MODEL: model,
        names.OUTPUT_TOKENS: output_tokens,
        names.FINISH_REASONS: (finish_reason,) if finish_reason else None,
    }
