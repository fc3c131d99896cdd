"""The life of one exchange's money: the reference of what the Lua scripts do.

                ┌── beat ──┐
    RESERVE ──▶ RESERVED ◀─┘ ── settle ──▶ SETTLED ◀── settle (adjusts) ── ABANDONED
                │  ▲  │  └── reap ────────────────────────────────────────▶ ┘
                │  └──┘ reserve (a further request)
                └── release ──▶ RELEASED ── settle ──▶ SETTLED

A pure function (stored state, event) → (new state, record, what the limits get). Each
event may come late, twice or after the state was lost, from any worker; an admitted
exchange still gets exactly one record, and what the limits were charged is what the
record says, except that an abandoned exchange keeps its reservation.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from tollhouse.core.ids import created_ms
from tollhouse.core.room import Costs
from tollhouse.core.usage import (
    ADJUSTMENT_SUFFIX,
    CountSource,
    Facts,
    TokenUsage,
    UsageKind,
    UsageRecord,
)

RESTORE_MS = 3_300_000
"""A beat this young opens an exchange that Redis has lost; less than a settled one is
remembered for (an hour), so that a replayed ledger never opens it again. One that ended
longer ago is charged to no limit: a ledger replayed from its start must not fill them.
So this is for how long Redis may be away before budgets miss what was admitted then."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Room was found in every limit; take it.

    `ordinal` counts the requests of the exchange, of which a stream has several;
    `costs` are of this one, `facts` of all up to it.
    """

    exchange_id: str
    facts: Facts
    costs: Costs
    ordinal: int = 1


@dataclass(frozen=True, slots=True)
class Release:
    """It was never admitted: give back what it may have reserved."""

    exchange_id: str
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """An admitted exchange runs; its counts so far, cumulative.

    Unix milliseconds: `started_ms`; `first_ms` of the first token, 0 for never; `at_ms`
    when this was written.
    """

    exchange_id: str
    facts: Facts
    usage: TokenUsage
    input_source: CountSource
    output_source: CountSource
    started_ms: int
    first_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """An admitted exchange ended; its final counts, decided by the caller.

    Unix milliseconds, `first_ms` 0 for never. `flags` are Envoy's response flags.
    """

    exchange_id: str
    facts: Facts
    kind: UsageKind
    usage: TokenUsage
    input_source: CountSource
    output_source: CountSource
    started_ms: int
    first_ms: int
    ended_ms: int
    flags: str


@dataclass(frozen=True, slots=True)
class Reap:
    """Its lease ran out and no ledger knows an end."""

    exchange_id: str


Event = Reserve | Release | Beat | Settlement | Reap


@dataclass(frozen=True, slots=True)
class Reserved:
    """Open: holds a lease; `charged` is taken from the limits, for `requests`."""

    facts: Facts
    charged: Costs
    last_beat: Beat | None = None
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Reaped: `record` was written, `charged` stays taken."""

    charged: Costs
    record: UsageRecord


@dataclass(frozen=True, slots=True)
class Settled:
    """Over: its record is written."""


@dataclass(frozen=True, slots=True)
class Released:
    """Over before it began: a RESERVE that comes now is refused."""


NOTHING = Costs(0, 0)

Stored = Reserved | Abandoned | Settled | Released | None
"""None: unknown, or lost."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event leads to; `costs` and requests are charged, or refunded if < 0.

    `late_ms`: how long ago that was used, where nothing was known of the exchange. Of
    what a bucket is charged time has drained its part since: else who used its limit
    while Redis was away would be refused for as long again.
    """

    stored: Stored
    record: UsageRecord | None = None
    costs: Costs = NOTHING
    requests: int = 0
    late_ms: int = 0


def advance(stored: Stored, event: Event, now_ms: int) -> Transition:
    """Apply one event to one exchange; `now_ms` is Redis' time."""
    match event:
        case Reserve():
            return _reserve(stored, event)
        case Beat():
            return _beat(stored, event, now_ms)
        case Settlement():
            return _settle(stored, event, now_ms)
        case Release():
            return _release(stored, event, now_ms)
        case Reap():
            return _reap(stored, event, now_ms)
        case unreachable:
            assert_never(unreachable)


def _reserve(stored: Stored, event: Reserve) -> Transition:
    match stored:
        case None:
            # Of a further request, too: Redis was away, or has lost what was before it.
            before = Reserved(event.facts, NOTHING, requests=0)
        case Reserved(requests=known) if event.ordinal > known:
            before = stored
        case _:
            return Transition(stored)
    after = replace(
        before,
        facts=event.facts,
        charged=before.charged + event.costs,
        requests=event.ordinal,
    )
    return Transition(after, costs=event.costs, requests=1)


def _beat(stored: Stored, event: Beat, now_ms: int) -> Transition:
    is_new = stored is None
    if stored is None and now_ms - event.at_ms <= RESTORE_MS:
        stored = Reserved(event.facts, NOTHING)
    if not isinstance(stored, Reserved):
        return Transition(stored)
    last = stored.last_beat
    if last is not None:
        event = _joined(last, event)
    charged = stored.charged.at_least(_used(event))
    return Transition(
        replace(stored, charged=charged, last_beat=event),
        costs=charged - stored.charged,
        late_ms=max(0, now_ms - event.at_ms) if is_new else 0,
    )


def _joined(last: Beat, event: Beat) -> Beat:
    """Two beats of an exchange: counts that only grow, told in any order.

    An estimate of the input ends where somebody has counted it.
    """
    usage = event.usage.at_least(last.usage)
    newer = last if last.at_ms > event.at_ms else event
    counted = [
        it for it in (last, event) if it.input_source is not CountSource.ESTIMATE
    ]
    if len(counted) == 1:
        (beat,) = counted
        usage = replace(
            usage,
            input_tokens=beat.usage.input_tokens,
            cached_input_tokens=beat.usage.cached_input_tokens,
        )
        newer = replace(newer, input_source=beat.input_source)
    return replace(newer, usage=usage)


def _used(event: Beat | Settlement) -> Costs:
    facts, usage = event.facts, event.usage
    return Costs(usage.units(facts.weights), usage.units(facts.prices))


def _settle(stored: Stored, event: Settlement, now_ms: int) -> Transition:
    if isinstance(stored, Settled):
        return Transition(stored)
    charged = stored.charged if isinstance(stored, Reserved | Abandoned) else NOTHING
    record = _record(event, now_ms)
    costs = _used(event) - charged
    if stored is None and now_ms - record.ended_ms > RESTORE_MS:
        costs = NOTHING
    if isinstance(stored, Abandoned):
        return Transition(Settled(), _adjustment(stored.record, record), costs)
    late_ms = now_ms - record.ended_ms if stored is None else 0
    return Transition(Settled(), record, costs, late_ms=late_ms)


def _record(event: Settlement, now_ms: int) -> UsageRecord:
    return UsageRecord(
        record_id=event.exchange_id,
        kind=event.kind,
        usage=event.usage,
        input_source=event.input_source,
        output_source=event.output_source,
        started_ms=event.started_ms,
        first_token_ms=event.first_ms or None,
        ended_ms=_clamp(event.ended_ms, event.exchange_id, now_ms),
        flags=event.flags,
        facts=event.facts,
    )


def _adjustment(wrong: UsageRecord, right: UsageRecord) -> UsageRecord | None:
    difference = right.usage - wrong.usage
    if difference == TokenUsage():
        return None
    return replace(
        right,
        record_id=wrong.record_id + ADJUSTMENT_SUFFIX,
        kind=UsageKind.ADJUSTMENT,
        usage=difference,
        ended_ms=wrong.ended_ms,
        corrects=wrong.record_id,
    )


def _release(stored: Stored, event: Release, now_ms: int) -> Transition:
    match stored:
        case None | Released():
            return Transition(Released())
        case Reserved():
            costs, requests = NOTHING - stored.charged, -stored.requests
            return Transition(Released(), costs=costs, requests=requests)
        case Abandoned():
            reaped = stored.record
            nothing = nothing_used(
                event.exchange_id, reaped.facts, reaped.started_ms, reaped.ended_ms
            )
            return _settle(stored, nothing, now_ms)
        case Settled():
            return Transition(stored)
        case unreachable:
            assert_never(unreachable)


def nothing_used(
    exchange_id: str, facts: Facts, started_ms: int, ended_ms: int
) -> Settlement:
    """The settlement that takes back the record of an exchange never admitted."""
    return Settlement(
        exchange_id=exchange_id,
        facts=facts,
        kind=UsageKind.FINAL,
        usage=TokenUsage(),
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=started_ms,
        first_ms=0,
        ended_ms=ended_ms,
        flags="",
    )


def abandoned(exchange_id: str, facts: Facts, last: Beat | None) -> Settlement:
    """The settlement of one that is reaped: its last beat, else the estimate."""
    created = created_ms(exchange_id)
    return Settlement(
        exchange_id=exchange_id,
        facts=facts,
        kind=UsageKind.ABANDONED,
        usage=last.usage if last else TokenUsage(input_tokens=facts.input_estimate),
        input_source=last.input_source if last else CountSource.ESTIMATE,
        output_source=last.output_source if last else CountSource.ESTIMATE,
        started_ms=last.started_ms if last else created,
        first_ms=last.first_ms if last else 0,
        ended_ms=last.at_ms if last else created,
        flags="",
    )


def _reap(stored: Stored, event: Reap, now_ms: int) -> Transition:
    if not isinstance(stored, Reserved):
        # Of a lost one nothing is known but the id: no record, and no coming back.
        return Transition(stored or Released())
    settlement = abandoned(event.exchange_id, stored.facts, stored.last_beat)
    record = _record(settlement, now_ms)
    return Transition(Abandoned(stored.charged, record), record)


def _clamp(ended_ms: int, exchange_id: str, now_ms: int) -> int:
    """Not before the id was made, not after now: a ledger may be replayed late."""
    return min(max(ended_ms, created_ms(exchange_id)), now_ms)
