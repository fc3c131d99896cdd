"""What befell an admission on its way, told as a span when it is over.

Every admission leaves a trail, for only its end shows whether anybody will look at it
(adapters/tracing): until then it is noted and no more.
"""

import time
from collections.abc import Iterator, Mapping
from enum import StrEnum

from tollhouse.adapters import conventions as names
from tollhouse.adapters.metrics import Rung
from tollhouse.adapters.redis.client import Run
from tollhouse.adapters.tracing import Kind, Span, Tracing, Value
from tollhouse.core.identity import Principal
from tollhouse.core.limits import Limit
from tollhouse.core.problems import Problem
from tollhouse.core.reservation import Reservation
from tollhouse.core.trace_context import TraceContext

MOST_RUNS = 64
"""Scripts that are kept of one admission: a stream may ask for room without end."""
_SERVER_ERROR = 500


class Decision(StrEnum):
    """What an admission comes to."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    NAMED = "named"
    """A stream of requests, which another call of Envoy's is about."""
    PASSED = "passed"
    """On to a backend, without an exchange."""
    ANSWERED = "answered"
    """By ourselves, without an exchange."""
    LEFT = "left"
    """Envoy, or the client, went before the end."""
    FAILED = "failed"
    """By our fault, or Envoy broke the contract."""


class Trail:
    """That of one request, or of a whole stream of them.

    `reservation` is the last that was asked for, `rung` who judged it, `limit` the one
    that refused it, `problem` what the client was told. `ended_ns` is when the last
    reply was made: what we do once Envoy has it is no part of the wait. 0: none was.
    """

    __slots__ = (
        "_runs",
        "context",
        "decision",
        "ended_ns",
        "exchange_id",
        "held_seconds",
        "limit",
        "principal",
        "problem",
        "reservation",
        "rung",
        "started_ns",
    )

    def __init__(self, context: TraceContext | None = None) -> None:
        """Begin; `context` is that of Envoy's call."""
        self.context = context
        self.started_ns = time.time_ns()
        self.ended_ns = 0
        self.decision = Decision.LEFT
        self.exchange_id = ""
        self.principal: Principal | None = None
        self.reservation: Reservation | None = None
        self.rung: Rung | None = None
        self.held_seconds = 0.0
        self.limit: Limit | None = None
        self.problem: Problem | None = None
        self._runs: list[tuple[Run, int, int, str]] = []

    @property
    def trace_id(self) -> str:
        """What the client can tell us; empty without a trace."""
        return "" if self.context is None else self.context.trace_id

    @property
    def traceparent(self) -> str:
        """Where the admission stands, for its facts; empty without a trace."""
        return "" if self.context is None else self.context.traceparent

    def ran(self, run: Run, started_ns: int, ended_ns: int, error: str) -> None:
        """Note a run of a script (`adapters.redis.client.Observe`)."""
        if len(self._runs) < MOST_RUNS:
            self._runs.append((run, started_ns, ended_ns, error))

    def replied(self) -> None:
        """Note that the last reply is made."""
        self.ended_ns = time.time_ns()

    def refused(self, problem: Problem) -> None:
        """Note what the client is told."""
        self.decision, self.problem = Decision.REFUSED, problem

    def tell(self, tracing: Tracing) -> None:
        """Tell of it, if it is of a trace that is kept or stands out by itself.

        Without a trace there is nothing it could be a part of.
        """
        is_notable = self.decision in _NOTABLE
        if self.context is None or not tracing.wants(
            self.context, is_notable=is_notable
        ):
            return
        span = Span(
            "extproc.admit",
            self.started_ns,
            self.ended_ns or time.time_ns(),
            Kind.SERVER,
            {**self._of_caller(), **self._of_reservation(), **self._of_end()},
            self._error,
            children=tuple(self._scripts()),
        )
        tracing.tell(self.context, span)

    @property
    def _error(self) -> str:
        if self.decision is Decision.FAILED:
            return "internal"
        problem = self.problem
        if problem is None or problem.status < _SERVER_ERROR:
            return ""  # the client's own doing is no failure of ours
        return problem.kind.name.lower()

    def _of_caller(self) -> Mapping[str, Value | None]:
        caller = self.principal
        return {
            names.EXCHANGE: self.exchange_id or None,
            names.TENANT: None if caller is None else caller.tenant,
            names.KEY_ID: None if caller is None else caller.key_id,
            names.PLAN: None if caller is None else caller.plan,
        }

    def _of_reservation(self) -> Mapping[str, Value | None]:
        if self.reservation is None:
            return {}
        facts = self.reservation.whole
        return {
            names.OPERATION: names.operation_name(facts.operation),
            names.REQUEST_MODEL: facts.requested_model,
            names.RESPONSE_MODEL: facts.served_model,
            names.ESTIMATED_INPUT_TOKENS: facts.input_estimate,
            names.ESTIMATED_OUTPUT_TOKENS: facts.output_estimate,
            names.RESERVED_UNITS: facts.reserved_units,
            names.REQUESTS: self.reservation.ordinal,
            names.RUNG: self.rung,
            names.HELD_SECONDS: self.held_seconds or None,
        }

    def _of_end(self) -> Mapping[str, Value | None]:
        limit, problem = self.limit, self.problem
        return {
            names.DECISION: self.decision,
            names.PROBLEM: None if problem is None else problem.kind.name.lower(),
            names.LIMIT: None if limit is None else limit.word,
        }

    def _scripts(self) -> Iterator[Span]:
        for (script, keys, _), started_ns, ended_ns, error in self._runs:
            yield Span(
                f"redis.{script.name}",
                started_ns,
                ended_ns,
                Kind.CLIENT,
                {
                    names.DB_SYSTEM: "redis",
                    names.DB_OPERATION: "EVALSHA",
                    names.SCRIPT: script.name,
                    names.SLOT: keys[0].partition("}")[0].removeprefix("{"),
                },
                error,
            )


_NOTABLE = frozenset((Decision.REFUSED, Decision.FAILED))
