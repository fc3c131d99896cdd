"""What `tollhouse reconcile` prints."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from tollhouse.adapters.redis.records import iso
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.reconcile_engine import EngineBooks
from tollhouse.core.book import Book
from tollhouse.core.reconciliation import (
    EXCHANGES,
    Difference,
    Finding,
    Flow,
    RowBooks,
    Totals,
)
from tollhouse.core.truth import Mismatch
from tollhouse.core.windows import BILLED, SECONDS_PER_HOUR, Position


@dataclass(slots=True)
class Report:
    """All that was compared."""

    rows: Sequence[RowBooks]
    totals: Totals
    differences: list[Difference] = field(default_factory=list)
    engine: EngineBooks | None = None
    provider_days: int = 0
    unasked: Sequence[str] = ()
    failures: Sequence[str] = ()

    @property
    def is_balanced(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not (self.engine and self.engine.mismatches)

    @property
    def sums(self) -> dict[str, int]:
        """How much differs, by finding, 0 where nothing does.

        Tokens, but for `exchanges`; `engine` only where its log was compared.
        """
        sums = {it.value: 0 for it in Finding} | {EXCHANGES: 0}
        for it in self.differences:
            of = EXCHANGES if it.quantity == EXCHANGES else it.finding.value
            sums[of] += abs(it.found - it.expected)
        if self.engine is not None:
            sums["engine"] = sum(
                abs(billed - generated)
                for it in self.engine.mismatches
                for billed, generated in zip(it.billed, it.generated, strict=True)
            )
        return sums


def show(report: Report, *, as_json: bool, everything: bool) -> None:
    """Print a report; `everything` lists rows without a difference too."""
    if as_json:
        keyring.print_json(_to_json(report, everything=everything))
        return
    console = Console()
    if everything and report.rows:
        _print_rows(report.rows)
        console.line()
    if report.differences:
        _print_differences(report.differences)
        console.line()
    if report.engine is not None and report.engine.mismatches:
        _print_mismatches(report.engine.mismatches)
        console.line()
    console.line(_summary(report))


def _print_differences(differences: Sequence[Difference]) -> None:
    header = ("FINDING", "TENANT", "HOUR (UTC)", "MODEL", "OF")
    numbers = ("EXPECTED", "FOUND", "DIFFERENCE")
    keyring.print_table(
        (*header, *numbers),
        [
            (
                it.finding.value,
                it.place.tenant,
                _hour(it.place),
                it.place.model,
                it.quantity,
                f"{it.expected:,}",
                f"{it.found:,}",
                f"{it.found - it.expected:+,}",
            )
            for it in differences
        ],
    )


def _print_mismatches(found: Sequence[Mismatch]) -> None:
    keyring.print_table(
        ("FINDING", "EXCHANGE", "TENANT", "BILLED IN", "OUT", "GENERATED IN", "OUT"),
        [
            (
                it.fault.value,
                it.exchange_id,
                it.tenant or "-",
                *(f"{count:,}" for count in (*it.billed, *it.generated)),
            )
            for it in found
        ],
    )


def _print_rows(rows: Sequence[RowBooks]) -> None:
    header = ("TENANT", "HOUR (UTC)", "MODEL", "OF", "SETTLED", "OUTBOX", "REFUSED")
    counted = ("WINDOW", "NOT SEALED", "UNDER WAY", "PARKED", "DISCARDED", "ACCEPTED")
    table = []
    for row in rows:
        flows = row.flows or {}
        for token_type in BILLED:
            flow = flows.get(token_type, Flow())
            book = row.books.get(token_type, Book())
            names = (row.place.tenant, _hour(row.place), row.place.model, token_type)
            settled = "-" if row.flows is None else f"{flow.settled.high:,}"
            numbers = (
                *(flow.outbox.low, flow.refused + flow.dropped, book.total),
                *(book.unsealed, book.under_way, book.parked),
                *(book.discarded, book.accepted),
            )
            table.append((*names, settled, *(f"{it:,}" for it in numbers)))
    keyring.print_table((*header, *counted), table)


def _summary(report: Report) -> str:
    totals = report.totals
    places = (
        ("outbox", totals.outbox),
        ("refused", totals.refused),
        ("dropped", totals.dropped),
        ("not sealed", totals.unsealed),
        ("under way", totals.under_way),
        ("parked", totals.parked),
        ("discarded", totals.discarded),
        ("with the provider", totals.accepted),
    )
    where = ", ".join(f"{name} {number:,}" for name, number in places)
    counts = f"{totals.exchanges:,} exchanges, {totals.tokens:,} tokens"
    parts = [f"{totals.rows:,} rows checked: {counts} ({where})"]
    if totals.not_covered:
        parts.append(f"settled sums not covered: {totals.not_covered:,} older rows")
    if totals.moving:
        parts.append(f"{totals.moving:,} rows in motion")
    if report.provider_days:
        parts.append(f"provider: {report.provider_days:,} totals asked")
    if report.unasked:
        parts.append(f"provider not asked: {', '.join(report.unasked)}")
    if report.engine is not None:
        parts.append(f"engine: {report.engine.exchanges:,} exchanges")
    faults = len(report.differences)
    faults += len(report.engine.mismatches) if report.engine else 0
    parts.append(f"{faults:,} differences" if faults else "balanced")
    return "; ".join(parts)


def _hour(place: Position) -> str:
    text = iso(place.hour * SECONDS_PER_HOUR) or ""
    return text[:16].replace("T", " ")


def _to_json(report: Report, *, everything: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "balanced": report.is_balanced,
        "differences": [
            {
                "finding": it.finding.value,
                **_place(it.place),
                "of": it.quantity,
                "expected": it.expected,
                "found": it.found,
            }
            for it in report.differences
        ],
        "summary": asdict(report.totals),
        "provider": {
            "totals_asked": report.provider_days,
            "not_asked": list(report.unasked),
            "failures": list(report.failures),
        },
        "engine": None,
    }
    if report.engine is not None:
        document["engine"] = {
            "exchanges": report.engine.exchanges,
            "differences": [
                {
                    "finding": it.fault.value,
                    "exchange": it.exchange_id,
                    "tenant": it.tenant or None,
                    "billed_input_tokens": it.billed[0],
                    "billed_output_tokens": it.billed[1],
                    "generated_input_tokens": it.generated[0],
                    "generated_output_tokens": it.generated[1],
                }
                for it in report.engine.mismatches
            ],
        }
    if everything:
        document["rows"] = list(map(_row_json, report.rows))
    return document


def _row_json(row: RowBooks) -> dict[str, object]:
    flows = row.flows
    return {
        **_place(row.place),
        "exchanges": row.counted.get(EXCHANGES, 0),
        "settled": None
        if flows is None
        else {name: flow.settled.high for name, flow in flows.items()},
        "outbox": {}
        if flows is None
        else {k: it.outbox.low for k, it in flows.items()},
        "windows": {
            token_type.value: {
                "total": book.total,
                "not_sealed": book.unsealed,
                "under_way": book.under_way,
                "parked": book.parked,
                "discarded": book.discarded,
                "accepted": book.accepted,
            }
            for token_type, book in row.books.items()
        },
    }


def _place(place: Position) -> dict[str, object]:
    return {
        "tenant": place.tenant,
        "hour": iso(place.hour * SECONDS_PER_HOUR),
        "model": place.model,
    }
