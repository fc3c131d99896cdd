"""The limits of one worker while the shared ones can't be reached.

Each worker admits its part: it charges what it admits to its own copy of a limit as
often as there are workers, as if all the others had admitted the same meanwhile. The
copy starts at the level that was last seen of the shared limit, less what time has
drained, so that losing Redis gives nobody a fresh burst; and the next answer of the
shared limit replaces it: what was admitted here is charged there when it settles.

Parts are whole. Of n requests (places, units) a worker of `workers` gets those whose
number leaves its turn as the remainder: together the workers admit n, however few n
are, and not one each. What is larger than a worker's part of a burst is saved up for.

What all workers admit while Redis is away, T minutes, whatever the traffic's spread:

    bucket      burst + limit * T; less by what each saw used. Where it saw nothing or
                long ago it starts with its part of the burst: no more than one burst
                is then admitted twice. In any 60 s: limit + the larger of the burst
                and 2 * workers * the largest request.
    budget      what was left when last seen; of one never seen a tenth, so that even
                a spent one is exceeded by no more than that, once per worker and start
    concurrent  the limit, if exchanges last as long as is typical: nobody tells us how
                they end
    capacity    as concurrent, and one exchange more per worker
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

from tollhouse.core import room
from tollhouse.core.buckets import GRAINS
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.local_copies import Copy, Seen, as_seen, unseen
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.usage import Facts

MOST_REMEMBERED = 50_000
"""Limits of single owners, the longest unused forgotten first: 20 MB."""


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of every limit: `turn` is its place among `workers`, from 0."""

    turn: int
    workers: int


class LocalLimits:
    """Remembers the shared limits' levels and judges by them when it must.

    Times are milliseconds of any clock that never goes back; budgets go by the time in
    the exchange's id. `lease_ms` is how long a place is held where nothing is known of
    how long exchanges last.
    """

    def __init__(
        self, *, lease_ms: int = 20_000, most_remembered: int = MOST_REMEMBERED
    ) -> None:
        self._lease_ms = lease_ms
        self._most_remembered = most_remembered
        self._known: OrderedDict[str, Seen | Copy] = OrderedDict()

    def remember(
        self, reservation: Reservation, verdict: Granted | Refused, now_ms: int
    ) -> None:
        """Take over what the shared limits said; local copies of them are dropped."""
        side = None if isinstance(verdict, Granted) else verdict.limit.scope.is_fleet
        created = created_ms(reservation.exchange_id)
        facts, known = reservation.facts, self._known
        names = _names(
            reservation.limits, facts.tenant, facts.key_id, facts.served_model
        )
        for (name, is_fleet), level in zip(names, verdict.levels, strict=True):
            # Of a refusal only the side that refused was looked at for sure.
            if side is None or side is is_fleet:
                known[name] = Seen(level, now_ms, created)
                known.move_to_end(name)
        self._forget()

    def reserve(
        self, reservation: Reservation, share: Share, now_ms: int
    ) -> Granted | Refused:
        """Take the estimate from this worker's part of every limit, or from none."""
        limits, facts = reservation.limits, reservation.facts
        at_ms = created_ms(reservation.exchange_id)
        costs = [room.Costs.of(reservation).of_measure(it.measure) for it in limits]
        copies = [self._copy(it, reservation, now_ms, at_ms) for it in limits]
        self._forget()
        others = _of_others(limits, costs, facts, share)
        waits = [
            copy.wait_ms(limit, cost, more, now_ms, at_ms)
            for copy, limit, cost, more in zip(
                copies, limits, costs, others, strict=True
            )
        ]
        verdict = room.judge(limits, waits)
        if verdict.binding is not None:
            levels = [
                max(0, copy.level + (more if wait else 0))
                for copy, more, wait in zip(copies, others, waits, strict=True)
            ]
            return room.refused(limits, levels, verdict.binding, verdict.wait_ms)
        ends_ms = now_ms + (reservation.typical.duration_ms or self._lease_ms)
        debits = []
        for index, limit in enumerate(limits):
            if index not in verdict.shadowed:
                copies[index].charge(costs[index], share.workers, ends_ms)
                debits.append(room.debit(limit, at_ms))
        levels = [max(0, copy.level) for copy in copies]
        return room.granted(limits, levels, tuple(debits), verdict.shadowed)

    def _copy(
        self, limit: Limit, reservation: Reservation, now_ms: int, at_ms: int
    ) -> Copy:
        facts = reservation.facts
        name = _name(limit, facts.tenant, facts.key_id, facts.served_model)
        known = self._known.get(name)
        if known is None or isinstance(known, Seen):
            lasts_ms = reservation.typical.duration_ms or self._lease_ms
            known = (
                unseen(limit, now_ms, at_ms)
                if known is None
                else as_seen(limit, known, lasts_ms)
            )
            self._known[name] = known
        self._known.move_to_end(name)
        return known

    def _forget(self) -> None:
        while len(self._known) > self._most_remembered:
            self._known.popitem(last=False)


@lru_cache(maxsize=8192)
def _names(
    limits: tuple[Limit, ...], tenant: str, key_id: str, model: str
) -> tuple[tuple[str, bool], ...]:
    """Of each limit, and whether it is the fleet's."""
    return tuple(
        (_name(limit, tenant, key_id, model), limit.scope.is_fleet) for limit in limits
    )


def _name(limit: Limit, tenant: str, key_id: str, model: str) -> str:
    match limit.scope:
        case Scope.KEY:
            return f"{limit.measure:d}k{key_id}"
        case Scope.TENANT:
            return f"{limit.measure:d}t{tenant}"
        case Scope.TENANT_MODEL:
            return f"{limit.measure:d}x{tenant}:{model}"
        case Scope.MODEL:
            return f"{limit.measure:d}m{model}"
        case _:
            return f"{limit.measure:d}g"


def _of_others(
    limits: Sequence[Limit], costs: Sequence[int], facts: Facts, share: Share
) -> list[int]:
    """What must be free of each limit beside the cost for that to be of our part.

    The first of what is indivisible leaves room for those whose turn is before ours,
    each further one for all the others.
    """
    # One turn for all limits of a tenant: or one worker would have the only place of
    # its key, and another the only one of the tenant.
    turn = (share.turn + crc32(facts.tenant.encode())) % share.workers
    others = []
    for limit, cost in zip(limits, costs, strict=True):
        if limit.measure is Measure.CAPACITY or not cost:
            others.append(0)
            continue
        one = GRAINS if limit.measure.is_bucket else 1
        mine = share.turn if limit.scope.is_fleet else turn
        others.append(mine * one + (share.workers - 1) * (cost - one))
    return others
