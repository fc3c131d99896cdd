"""What an ended exchange teaches about those to come.

Clients decide how long an answer may get and whether they stay for its end. So one that
was cut only teaches where it is longer than expected: tiny caps and early hang-ups must
not teach that answers are short.
"""

from dataclasses import dataclass

from tollhouse.core.exchange import Settlement
from tollhouse.core.experience import Ratio
from tollhouse.core.ids import created_ms
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind

OLDEST_MS = 3_600_000
"""One that ended longer ago is no news: a ledger is being replayed."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One sample of each; none where the exchange says nothing about it.

    `output` is of one choice, 0 for none; `is_cut` says that it is at least so much,
    and not more than was expected. `text` and `refund` are as in `Learned`.
    """

    tenant: str
    model: str
    output: int
    is_cut: bool
    duration_ms: int
    text: Ratio | None
    refund: Ratio | None


def lesson(settlement: Settlement, now_ms: int) -> Lesson | None:
    """Say what a settled exchange teaches; None: nothing, it failed or is long over."""
    facts, usage = settlement.facts, settlement.usage
    if usage == TokenUsage() or now_ms - settlement.ended_ms > OLDEST_MS:
        return None
    output = -(-usage.output_tokens // facts.choices)
    if facts.runs_on and settlement.kind is not UsageKind.FINAL:
        output = 0  # nobody saw how long it became
    expected = facts.output_estimate // facts.choices
    was_cut = settlement.kind is not UsageKind.FINAL or (
        facts.output_cap is not None and output >= facts.output_cap
    )
    return Lesson(
        tenant=facts.tenant,
        model=facts.served_model,
        output=output,
        is_cut=was_cut and output <= expected,
        duration_ms=max(0, settlement.ended_ms - created_ms(settlement.exchange_id)),
        text=_text(settlement),
        refund=_refund(facts, usage),
    )


def _text(settlement: Settlement) -> Ratio | None:
    """Tokens of bytes; a token has at least one, or what is beside the text is off."""
    size = settlement.facts.text_bytes
    tokens = settlement.usage.input_tokens - settlement.facts.framing
    if settlement.input_source is not CountSource.BACKEND or tokens <= 0 or not size:
        return None
    return Ratio(1, min(tokens, size), size)


def _refund(facts: Facts, usage: TokenUsage) -> Ratio | None:
    reserved = facts.reserved_units
    if not reserved:
        return None
    return Ratio(1, max(0, reserved - usage.units(facts.weights)), reserved)
