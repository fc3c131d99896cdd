"""The engine's own account of what it generated, against what was billed for it.

Joined by exchange id. Who reads to the end pays for all of it; of a stream that was
cut, what was forwarded, which is never more than what was generated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tollhouse.core.catalog import Operation
from tollhouse.core.exchange import Beat, Settlement
from tollhouse.core.ids import created_ms
from tollhouse.core.ledger import Entry
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

GRACE_SECONDS = 60
"""How long after its end an exchange may be in no ledger and have no record: its lease
(20 s) has to run out, its record to be made and carried."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What the engine did for an exchange, over all its choices, the last ended `at`.

    `at` is Unix seconds.
    """

    input_tokens: int
    output_tokens: int
    at: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the ledger says last of an exchange; None of one that was not admitted.

    `succeeded`: it was answered with a 2xx. An error costs nothing, whatever the
    engine did for it.
    """

    entry: Beat | Settlement | None
    succeeded: bool


class Fault(StrEnum):
    """How the two differ."""

    MORE_BILLED = "billed more"
    """More than the engine generated."""
    LESS_BILLED = "billed less"
    """Less, though the end was seen."""
    UNBILLED = "not billed"
    """The engine served it; no ledger line, no record."""
    NOT_ADMITTED = "not admitted"
    """The engine served what the gateway never let through."""
    NOT_SERVED = "not served"
    """Billed, and the engine knows nothing of it."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One exchange that differs; tokens are input and output."""

    fault: Fault
    exchange_id: str
    tenant: str
    billed: tuple[int, int]
    generated: tuple[int, int]


@dataclass(slots=True)
class Ledger:
    """The ledger's last word on each exchange, and when it begins (Unix seconds)."""

    spoken: dict[str, Spoken]
    starts_at: float | None = None

    def hear(self, entry: Entry | None, *, at: float, succeeded: bool) -> None:
        """Take in a line, in the order of the files."""
        if self.starts_at is None:
            self.starts_at = at
        if entry is None:
            return
        known = self.spoken.get(entry.exchange_id)
        if known is not None and isinstance(known.entry, Settlement):
            return
        told = entry if isinstance(entry, Beat | Settlement) else None
        self.spoken[entry.exchange_id] = Spoken(told, succeeded)


def add_up(
    lines: Iterable[tuple[str, int, int, float]],
) -> dict[str, Generated]:
    """Join the engine's lines (id, input, output, at) by exchange.

    A choice of several has `#` and a number behind the id, and the same input again.
    What has an id of another kind is no exchange of ours.
    """
    found: dict[str, Generated] = {}
    for request_id, input_tokens, output_tokens, at in lines:
        id_ = request_id.partition("#")[0]
        try:
            created_ms(id_)
        except ValueError:
            continue
        known = found.get(id_, Generated(0, 0, 0.0))
        found[id_] = Generated(
            max(known.input_tokens, input_tokens),
            known.output_tokens + output_tokens,
            max(known.at, at),
        )
    return found


def unheard(
    generated: Mapping[str, Generated], ledger: Ledger, now: float
) -> list[str]:
    """Exchanges that ended while the ledger was there and that it has no line of.

    Envoy may have died with them: then they have a record (ABANDONED), as time allows.
    """
    starts_at = ledger.starts_at
    return [
        id_
        for id_, it in generated.items()
        if id_ not in ledger.spoken
        and starts_at is not None
        and starts_at < it.at < now - GRACE_SECONDS
    ]


def mismatches(
    generated: Mapping[str, Generated], ledger: Ledger, provider: str
) -> list[Mismatch]:
    """Compare the exchanges that both know, and what the ledger alone has.

    `provider`: whose exchanges the engine serves, as facts name it.
    """
    starts_at = min((it.at for it in generated.values()), default=None)
    found = []
    for id_, spoken in ledger.spoken.items():
        truth = generated.get(id_)
        if truth is not None:
            found += _compared(id_, spoken, truth)
        elif (
            isinstance(spoken.entry, Settlement)
            and spoken.entry.facts.provider == provider
            # Triton is told of these by their client's id, which is not ours.
            and spoken.entry.facts.operation != Operation.INFER
            and _paid(spoken.entry) != (0, 0)
            and starts_at is not None
            and created_ms(id_) / 1000 > starts_at
        ):
            found.append(_mismatch(Fault.NOT_SERVED, id_, spoken.entry, (0, 0)))
    return found


def not_billed(id_: str, truth: Generated) -> Mismatch:
    """Say that an exchange is in no book of ours."""
    counts = truth.input_tokens, truth.output_tokens
    return Mismatch(Fault.UNBILLED, id_, "", (0, 0), counts)


def _compared(id_: str, spoken: Spoken, truth: Generated) -> list[Mismatch]:
    counts = truth.input_tokens, truth.output_tokens
    entry = spoken.entry
    if entry is None:
        if counts == (0, 0):
            return []
        return [Mismatch(Fault.NOT_ADMITTED, id_, "", (0, 0), counts)]
    is_exact = (
        isinstance(entry, Settlement)
        and entry.kind is UsageKind.FINAL
        and entry.output_source is CountSource.BACKEND
        and spoken.succeeded
    )
    input_tokens, output_tokens = _paid(entry)
    differ = []
    # An estimated input may be off either way; that is what its source says.
    if entry.input_source is not CountSource.ESTIMATE:
        differ.append(truth.input_tokens - input_tokens)
    differ.append(truth.output_tokens - output_tokens)
    if min(differ) < 0:
        return [_mismatch(Fault.MORE_BILLED, id_, entry, counts)]
    if is_exact and any(differ):
        return [_mismatch(Fault.LESS_BILLED, id_, entry, counts)]
    return []


def _mismatch(
    fault: Fault, id_: str, entry: Beat | Settlement, counts: tuple[int, int]
) -> Mismatch:
    return Mismatch(fault, id_, entry.facts.tenant, _paid(entry), counts)


def _paid(entry: Beat | Settlement) -> tuple[int, int]:
    usage: TokenUsage = entry.usage
    return usage.input_tokens, usage.output_tokens
