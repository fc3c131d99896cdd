"""What became of an exchange, for who looks after the fleet; no bill rests on it."""

from dataclasses import dataclass
from enum import StrEnum

from tollhouse.core.exchange import Release, Settlement
from tollhouse.core.ledger import Line, Metered, read_meter
from tollhouse.core.trace_context import TraceContext, parse_traceparent

_SUCCESS = 2  # xx
_REFUSAL = 4  # xx
_FAILURE = 5  # xx
_LEFT = frozenset(("DC", "DR"))
"""Envoy's response flags for a client that closed its connection or reset its stream
(access log documentation, RESPONSE_FLAGS)."""
_GRPC_FAILURES = frozenset((2, 4, 13, 14))
"""UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE: what a 5xx is over gRPC, where
every answer is a 200 (https://grpc.io/docs/guides/status-codes/)."""
_OPERATORS = frozenset((401, 402, 403, 407, 429))
"""What a backend answers for the credentials it was given, or for its load: of all 4xx
these are not the client's doing once it was admitted."""
_GRPC_REFUSALS = frozenset((3, 5, 9, 11, 12))
"""INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED: what a
backend answers to a client that asked for the wrong thing."""
_GRPC_EXHAUSTED = 8
_REAPED = "abandoned"


class Outcome(StrEnum):
    """How an exchange ended, as its client would tell."""

    COMPLETED = "completed"
    LEFT = "left"
    """The client went before the end."""
    FAILED = "failed"
    """It got an error that is ours or the backend's, or a part of an answer."""
    REFUSED = "refused"
    """It asked for what it can't have: a limit, or a 4xx of its own doing."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An exchange that is over.

    `settlement` is None where it was never admitted, `line` where no line said that it
    ended: it was reaped. `error` says in one word of few why it failed or was refused,
    "" where it was neither: the HTTP status, Envoy's response flag, `grpc_<status>`,
    `broken` for an answer in which the backend said that it failed, `cut` for one
    without its end, `abandoned`.
    """

    exchange_id: str
    tenant: str
    outcome: Outcome
    error: str = ""
    line: Line | None = None
    settlement: Settlement | None = None

    @property
    def source(self) -> str:
        """Who said that it is over: `ledger`, or `reap`, because nobody did."""
        return "reap" if self.line is None else "ledger"

    @property
    def duration_seconds(self) -> float | None:
        """From the request's first byte to the end, where that is known."""
        if self.line is None or self.line.duration_ms is None:
            return None
        return self.line.duration_ms / 1000

    @property
    def first_token_seconds(self) -> float | None:
        """From the request's first byte to the first token; None: none was streamed."""
        settled = self.settlement
        if settled is None or not settled.first_ms:
            return None
        return max(0, settled.first_ms - settled.started_ms) / 1000

    @property
    def token_seconds(self) -> float | None:
        """Per output token after the first, of a streamed answer that came to its end.

        As the GenAI conventions define it: (duration - first) / (tokens - 1).
        """
        first, duration = self.first_token_seconds, self.duration_seconds
        if self.outcome is not Outcome.COMPLETED or self.settlement is None:
            return None
        tokens = self.settlement.usage.output_tokens
        if first is None or duration is None or tokens <= 1:
            return None
        return max(0.0, duration - first) / (tokens - 1)

    @property
    def trace(self) -> TraceContext | None:
        """The edge's span of it, sampled as the edge chose; None: not known."""
        facts = None if self.settlement is None else self.settlement.facts
        admitted = None if facts is None else parse_traceparent(facts.trace)
        line = self.line
        if line is None or not line.trace_id or not line.span_id:
            return admitted
        is_sampled = admitted is not None and admitted.is_sampled
        return TraceContext(line.trace_id, line.span_id, is_sampled)


def ending(line: Line, entry: Settlement | Release) -> Ending:
    """Say how an exchange ended, by its last line and what that asks for."""
    if isinstance(entry, Release):
        outcome, error = _of_refusal(line)
        return Ending(entry.exchange_id, line.tenant, outcome, error, line)
    outcome, error = _of_answer(line)
    return Ending(entry.exchange_id, line.tenant, outcome, error, line, entry)


def reaped(settlement: Settlement) -> Ending:
    """Say so of an exchange that was reaped, with what it is billed for."""
    tenant = settlement.facts.tenant
    return Ending(
        settlement.exchange_id, tenant, Outcome.FAILED, _REAPED, settlement=settlement
    )


def _of_refusal(line: Line) -> tuple[Outcome, str]:
    if _has_left(line):
        return Outcome.LEFT, ""
    if line.grpc_status:
        is_failure = line.grpc_status in _GRPC_FAILURES
    else:
        is_failure = line.code // 100 == _FAILURE
    return Outcome.FAILED if is_failure else Outcome.REFUSED, _status(line)


def _of_answer(line: Line) -> tuple[Outcome, str]:
    metered = read_meter(line.meter)
    is_error = bool(line.grpc_status) or line.code // 100 != _SUCCESS
    # Of a stream that ended with an error the meter may have seen every answer.
    if metered.finished and not is_error:
        return Outcome.COMPLETED, ""
    if _has_left(line):
        return Outcome.LEFT, ""
    if is_error:
        is_refusal = _is_clients(line, metered)
        return Outcome.REFUSED if is_refusal else Outcome.FAILED, _status(line)
    if metered.broke:
        return Outcome.FAILED, "broken"
    return Outcome.FAILED, line.first_flag or "cut"


def _is_clients(line: Line, metered: Metered) -> bool:
    """Whether an error after admission is the client's doing."""
    if line.grpc_status == _GRPC_EXHAUSTED:
        # Of ours, where the backend ended well: a further message was over a limit.
        return not metered.broke
    if line.grpc_status:
        return line.grpc_status in _GRPC_REFUSALS
    return line.code // 100 == _REFUSAL and line.code not in _OPERATORS


def _status(line: Line) -> str:
    """What the client got; a gRPC answer is a 200 whatever it says."""
    return f"grpc_{line.grpc_status}" if line.grpc_status else str(line.code)


def _has_left(line: Line) -> bool:
    return line.code == 0 or line.first_flag in _LEFT
