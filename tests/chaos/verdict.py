"""Whether the ledgers of a run agree: the rules, and what breaks them.

1. An exchange that was admitted, and not given back, has one record; nothing else has.
   Nothing ran that was given back.
2. An exchange that the engine finished and whose client read it to its end is billed
   exactly. The one exception is an Envoy that was killed within `FLUSH_SECONDS` after:
   its line of that end was not written yet, the record says ABANDONED, and rule 3
   holds.
3. What is billed of any other exchange is at least what its client has read, or what
   its last beat said when it was abandoned, and at most what the engine generated.
   Where nobody had counted the input, the record says that it is an estimate.
4. Per tenant, model, token type and hour: records = window = sealed = accepted by the
   provider = what the provider says it has. Nothing is parked.
5. Per tenant, model and hour, windows count as many exchanges as there are records.
6. Per tenant, model and token type the provider has at least what the engine finished
   for clients that read it, and at most all that the engine generated. (But for the
   exception.)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.ledgers import KINDS, Counts, Generated, Ledgers, Line, typed
from tests.chaos.load import View
from tests.chaos.redis_log import ESTIMATED, Record

FLUSH_SECONDS = 1.0
"""Envoy writes its ledger every 100 ms, later when the machine is busy."""
_ABANDONED, _ADJUSTMENT = 3, 4
_OK = 200
_UNDERSTOOD = (0, _OK, 429, 502, 503, 504)
"""Anything else a client would take for its own or the model's fault."""


@dataclass(slots=True)
class _Exchange:
    """All that is known of one exchange."""

    id: str
    generated: Generated | None = None
    view: View | None = None
    records: list[Record] = field(default_factory=list)
    adjustments: list[Record] = field(default_factory=list)

    @property
    def billed(self) -> Counts:
        """Over its record and its adjustment."""
        rows = [*self.records, *self.adjustments]
        return (
            sum(it.input for it in rows),
            sum(it.cached for it in rows),
            sum(it.output for it in rows),
        )

    @property
    def was_read_whole(self) -> bool:
        """Whether the engine finished it and its client read all of it."""
        seen = self.view.seen if self.view else None
        return (
            self.generated is not None
            and self.generated.is_whole
            and seen is not None
            and seen.end == "complete"
        )

    @property
    def is_left_abandoned(self) -> bool:
        """Whether its end was never found."""
        return not self.adjustments and any(
            it.kind == _ABANDONED for it in self.records
        )

    @property
    def letters(self) -> int:
        """Tokens of output that its client has read."""
        seen = self.view.seen if self.view else None
        return 0 if seen is None else seen.letters


@dataclass(slots=True)
class Verdict:
    """What is wrong, and what there was."""

    findings: list[str] = field(default_factory=list)
    records: int = 0
    exact: int = 0
    """Exchanges that had to be billed exactly."""
    in_doubt: int = 0
    """Exchanges that had to be billed within bounds."""
    lost_ends: int = 0
    """Of these, those whose end Envoy had not written yet when it was killed."""


def judge(
    ledgers: Ledgers, views: Sequence[View], envoy_killed_at: Sequence[float]
) -> Verdict:
    """Compare the ledgers. Times are Unix seconds."""
    verdict = Verdict(records=sum(it.kind != _ADJUSTMENT for it in ledgers.log.records))
    exchanges = _gather(ledgers, views)
    verdict.findings += _admissions(ledgers, exchanges)
    verdict.findings += _oddities(exchanges, views)
    for exchange in exchanges.values():
        if not exchange.records:
            continue
        if exchange.was_read_whole and not _is_end_lost(exchange, envoy_killed_at):
            verdict.exact += 1
            verdict.findings += _inexact(exchange)
        else:
            verdict.in_doubt += 1
            verdict.lost_ends += exchange.was_read_whole
            verdict.findings += _out_of_bounds(exchange, ledgers)
    verdict.findings += _unequal_sums(ledgers)
    verdict.findings += _unequal_numbers(ledgers)
    verdict.findings += _unowed(ledgers, exchanges, envoy_killed_at)
    return verdict


def _gather(ledgers: Ledgers, views: Sequence[View]) -> dict[str, _Exchange]:
    exchanges: dict[str, _Exchange] = {}

    def of(id_: str) -> _Exchange:
        return exchanges.setdefault(id_, _Exchange(id_))

    for id_, done in ledgers.engine.items():
        of(id_).generated = done[0]
    for record in ledgers.log.records:
        if record.kind == _ADJUSTMENT:
            of(record.corrects).adjustments.append(record)
        else:
            of(record.id).records.append(record)
    for view in views:
        if view.seen is not None and view.seen.exchange and view.seen.status == _OK:
            of(view.seen.exchange).view = view
    return exchanges


def _admissions(ledgers: Ledgers, exchanges: dict[str, _Exchange]) -> Iterator[str]:
    log = ledgers.log
    for id_, done in ledgers.engine.items():
        if len(done) > 1:
            yield f"{id_}: ran {len(done)} times"
        if id_ in log.released:
            yield f"{id_}: ran although it was given back"
    admitted = (log.reserved | ledgers.engine.keys()) - log.released
    for id_ in sorted(admitted | {it for it, ex in exchanges.items() if ex.records}):
        number = len(exchanges[id_].records) if id_ in exchanges else 0
        if id_ not in admitted:
            yield f"{id_}: has a record, and was not admitted"
        elif number != 1:
            yield f"{id_}: has {number} records"


def _oddities(exchanges: dict[str, _Exchange], views: Sequence[View]) -> Iterator[str]:
    for exchange in exchanges.values():
        if len(exchange.adjustments) > 1:
            yield f"{exchange.id}: has {len(exchange.adjustments)} adjustments"
        if exchange.view is not None and exchange.generated is None:
            yield f"{exchange.id}: was answered by nobody"
    for view in views:
        if view.seen is not None and view.seen.status not in _UNDERSTOOD:
            yield f"a client saw status {view.seen.status}"


def _is_end_lost(exchange: _Exchange, envoy_killed_at: Sequence[float]) -> bool:
    if not exchange.is_left_abandoned or exchange.generated is None:
        return False
    ended_at = exchange.generated.ended_at
    return any(ended_at <= it <= ended_at + FLUSH_SECONDS for it in envoy_killed_at)


def _inexact(exchange: _Exchange) -> Iterator[str]:
    generated = exchange.generated
    if generated is not None and exchange.billed != generated.counts:
        yield (
            f"{exchange.id}: billed {exchange.billed}, read to its end was"
            f" {generated.counts} (input, cached, output)"
        )


def _out_of_bounds(exchange: _Exchange, ledgers: Ledgers) -> Iterator[str]:
    generated = exchange.generated
    most = (0, 0, 0) if generated is None else generated.counts
    least = (0, 0, exchange.letters)
    if exchange.is_left_abandoned:
        # A beat that came later than the reader's last look is not in the record.
        least = ledgers.log.beats.get(exchange.id, (0, 0, 0))
    billed = exchange.billed
    if any(it.input_source == ESTIMATED for it in exchange.records):
        # Nobody told the input: it is the estimate, and nothing of it was cached.
        billed, least = (most[0], 0, billed[2]), (0, 0, least[2])
    for low, value, high in zip(least, billed, most, strict=True):
        if not low <= value <= high:
            yield f"{exchange.id}: billed {billed}, must be {least} to {most}"
            return


def _unequal_sums(ledgers: Ledgers) -> Iterator[str]:
    recorded: Counter[Line] = Counter()
    for it in ledgers.log.records:
        for type_, tokens in typed((it.input, it.cached, it.output)):
            recorded[Line(it.tenant, it.model, type_, it.hour)] += tokens
    for line in sorted(
        recorded.keys() | ledgers.windows.keys() | ledgers.provider.keys()
    ):
        window = ledgers.windows.get(line)
        sums = {
            "records": recorded[line],
            "window": window.total if window else 0,
            "sealed": window.sealed if window else 0,
            "accepted": window.accepted if window else 0,
            "provider": ledgers.provider.get(line, 0),
        }
        for (name, value), (next_, after) in pairwise(sums.items()):
            if value != after:
                yield f"{_name(line)}: {name} {value}, {next_} {after}"
        if window is not None and (window.is_open or window.parked):
            yield f"{_name(line)}: parked {window.parked}, open {window.is_open}"


def _unequal_numbers(ledgers: Ledgers) -> Iterator[str]:
    recorded: dict[tuple[str, str, int], Counter[str]] = {}
    for it in ledgers.log.records:
        if it.kind != _ADJUSTMENT:
            numbers = recorded.setdefault((it.tenant, it.model, it.hour), Counter())
            numbers[KINDS[it.kind - 1]] += 1
    for row in sorted(recorded.keys() | ledgers.exchanges.keys()):
        ours, theirs = recorded.get(row, Counter()), ledgers.exchanges.get(row)
        if ours != (theirs or Counter()):
            yield f"{' '.join(map(str, row))}: records {ours}, counted {theirs}"


def _unowed(
    ledgers: Ledgers, exchanges: dict[str, _Exchange], envoy_killed_at: Sequence[float]
) -> Iterator[str]:
    """Rule 6: the engine against the provider, past all that is in between."""
    least: Counter[Line] = Counter()
    most: Counter[Line] = Counter()
    for exchange in exchanges.values():
        generated = exchange.generated
        estimate = max(
            (it.input for it in exchange.records if it.input_source == ESTIMATED),
            default=0,
        )
        if generated is None:
            for it in exchange.records:
                most[Line(it.tenant, it.model, "uncached_input", 0)] += estimate
            continue
        is_exact = exchange.was_read_whole and not _is_end_lost(
            exchange, envoy_killed_at
        )
        for type_, tokens in typed(generated.counts):
            line = Line(generated.tenant, generated.model, type_, 0)
            most[line] += tokens
            least[line] += tokens if is_exact else 0
        if estimate:
            line = Line(generated.tenant, generated.model, "uncached_input", 0)
            most[line] += estimate
    provided: Counter[Line] = Counter()
    for line, value in ledgers.provider.items():
        provided[Line(line.tenant, line.model, line.type, 0)] += value
    for line in sorted(most.keys() | provided.keys()):
        if not least[line] <= provided[line] <= most[line]:
            yield (
                f"{line.tenant} {line.model} {line.type}: the provider has"
                f" {provided[line]}, owed are {least[line]} to {most[line]}"
            )


def _name(line: Line) -> str:
    return f"{line.tenant} {line.model} {line.type} hour {line.hour}"
