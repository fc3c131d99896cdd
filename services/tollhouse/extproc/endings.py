"""Tells of ended exchanges: one log line each, the metrics, a span where it is wanted.

Behind the settler, which is behind everybody's back: nothing waits for it, nothing
fails by it. Each is told of once, when Redis has it: a ledger that is read again tells
nobody anew, as far as Redis still knows what was settled. Of one that was never
admitted Redis keeps too little to know, so there the lines of the last hour are told.
"""

import time
from collections.abc import Callable, Iterable

import structlog

from tollhouse.adapters import conventions
from tollhouse.adapters.exchange_metrics import ExchangeMetrics, attributes
from tollhouse.adapters.logs import Together
from tollhouse.adapters.tracing import Kind, Span, Tracing, Value
from tollhouse.core.ending import Ending, Outcome
from tollhouse.core.exchange import Settlement
from tollhouse.core.ledger import Line

OLDEST_REFUSAL_SECONDS = 3600.0
"""A refusal that is older comes from a ledger that is read again from its start."""
_NS_PER_MS = 1_000_000

_log = structlog.get_logger()


class Endings:
    """Tells of what a settler has settled, or reaped."""

    def __init__(
        self,
        metrics: ExchangeMetrics,
        tracing: Tracing,
        *,
        slow_seconds: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`slow_seconds`: from when on an exchange is worth a span, at the moment."""
        self._metrics = metrics
        self._tracing = tracing
        self._slow_seconds = slow_seconds
        self._clock = clock

    def tell(self, endings: Iterable[Ending], started_ns: int, ended_ns: int) -> None:
        """Tell of these; raises nothing. Times are of the trip that settled them."""
        now, slow_seconds = self._clock(), self._slow_seconds()
        lines = Together()
        for it in endings:
            try:
                if it.settlement is None and _is_old(it.line, now):
                    continue
                lines.info("exchange.ended", _facts(it))
                self._metrics.ended(it)
                self._trace(it, slow_seconds, started_ns, ended_ns)
            except Exception:  # noqa: BLE001 - the boundary: settling goes on without us
                _log.exception("telling.failed", exchange_id=it.exchange_id)
        try:
            lines.write()
        except Exception:  # noqa: BLE001 - likewise
            _log.exception("telling.failed")

    def _trace(
        self, it: Ending, slow_seconds: float, started_ns: int, ended_ns: int
    ) -> None:
        settlement = it.settlement
        if settlement is None:  # its refusal has a span where it was decided
            return
        has_failed = it.outcome is Outcome.FAILED
        is_notable = has_failed or (it.duration_seconds or 0.0) >= slow_seconds
        if not self._tracing.wants(it.trace, is_notable=is_notable):
            return
        names = attributes(settlement)
        operation = names[conventions.OPERATION]
        settling = Span("extproc.settle", started_ns, ended_ns)
        # A reaped one ended nobody knows when; it held its room until now.
        is_known = it.line is not None
        exchange_ended_ns = settlement.ended_ms * _NS_PER_MS if is_known else ended_ns
        span = Span(
            f"{operation} {names[conventions.REQUEST_MODEL]}",
            settlement.started_ms * _NS_PER_MS,
            exchange_ended_ns,
            Kind.CLIENT,
            names | _span_attributes(it, settlement),
            it.error if has_failed else "",
            children=(settling,),
        )
        self._tracing.tell(it.trace, span)


def _is_old(line: Line | None, now: float) -> bool:
    if line is None:
        return False
    ended_at = float(line.started_at) + (line.duration_ms or 0) / 1000
    return now - ended_at > OLDEST_REFUSAL_SECONDS


def _facts(it: Ending) -> dict[str, object]:
    """The line's keys; those of Envoy's own log have the same names."""
    return {
        "exchange_id": it.exchange_id,
        **({} if it.line is None else _of_line(it.line)),
        "trace_id": None if it.trace is None else it.trace.trace_id,
        "tenant": it.tenant,
        "outcome": it.outcome.value,
        "error": it.error or None,
        "source": it.source,
        "duration_seconds": it.duration_seconds,
        **({} if it.settlement is None else _of_settlement(it, it.settlement)),
    }


def _of_line(line: Line) -> dict[str, object]:
    return {
        "request_id": line.request_id,
        "key_id": line.key_id,
        "code": line.code,
        "grpc_status": line.grpc_status,
        "flags": line.flags,
        "details": line.details,
        "refusal": line.refusal,
        "cluster": line.upstream_cluster,
        "upstream": line.upstream_host,
    }


def _of_settlement(it: Ending, settlement: Settlement) -> dict[str, object]:
    facts, usage = settlement.facts, settlement.usage
    return {
        "key_id": facts.key_id,
        "plan": facts.plan,
        "operation": facts.operation,
        "requested_model": facts.requested_model,
        "model": facts.served_model,
        "kind": settlement.kind.name.lower(),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "input_source": settlement.input_source.name.lower(),
        "output_source": settlement.output_source.name.lower(),
        "reserved_units": facts.reserved_units,
        "used_units": usage.units(facts.weights),
        "first_token_seconds": it.first_token_seconds,
        "cluster": facts.cluster,
    }


def _span_attributes(it: Ending, settlement: Settlement) -> dict[str, Value | None]:
    facts, usage = settlement.facts, settlement.usage
    return {
        conventions.REQUEST_MAX_TOKENS: facts.output_cap,
        conventions.FIRST_CHUNK_SECONDS: it.first_token_seconds,
        conventions.INPUT_TOKENS: usage.input_tokens,
        conventions.OUTPUT_TOKENS: usage.output_tokens,
        conventions.CACHED_INPUT_TOKENS: usage.cached_input_tokens,
        conventions.REASONING_TOKENS: usage.reasoning_tokens,
        conventions.EXCHANGE: it.exchange_id,
        conventions.TENANT: it.tenant,
        conventions.KEY_ID: facts.key_id,
        conventions.PLAN: facts.plan,
        conventions.OUTCOME: it.outcome.value,
        conventions.USAGE_KIND: settlement.kind.name.lower(),
        conventions.ESTIMATED_INPUT_TOKENS: facts.input_estimate,
        conventions.ESTIMATED_OUTPUT_TOKENS: facts.output_estimate,
        conventions.RESERVED_UNITS: facts.reserved_units,
        conventions.USED_UNITS: usage.units(facts.weights),
    }
