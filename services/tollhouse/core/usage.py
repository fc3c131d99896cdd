"""What an exchange used: token counts, where they come from, and the record of them.

A usage record is immutable. Its id is the exchange id; an adjustment's is that id
with `#adj`. Counts follow OpenTelemetry's GenAI names: cached input is a part of the
input, reasoning a part of the output, neither is ever added on top.

Times are Unix milliseconds as integers: Envoy's ledger and Redis give and take these,
and a sum of floats would not be the same number in Lua and here.
"""

from dataclasses import dataclass
from enum import IntEnum

import msgspec

from tollhouse.core.limits import Debit
from tollhouse.core.problems import ProtocolError

ADJUSTMENT_SUFFIX = "#adj"


class UsageKind(IntEnum):
    """How an exchange ended; the values are those of usage.proto and the outbox."""

    FINAL = 1
    """The meter saw the end, or no host was reached."""
    PARTIAL = 2
    """A 2xx without the end: client left, upstream reset, time limit, meter error."""
    ABANDONED = 3
    """Reaped: no end line came; the last checkpoint, else the input estimate."""
    ADJUSTMENT = 4
    """Signed difference to an ABANDONED record; not an exchange when counting."""


class CountSource(IntEnum):
    """Who counted; the values are those of usage.proto and the outbox."""

    BACKEND = 1
    METER = 2
    ESTIMATE = 3


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token counts of one exchange; signed in an adjustment.

    `cached_input_tokens` is a subset of the input, `reasoning_tokens` of the output.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    def __sub__(self, other: "TokenUsage") -> "TokenUsage":
        """Difference of each count."""
        return TokenUsage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cached_input_tokens - other.cached_input_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
        )

    def at_least(self, other: "TokenUsage") -> "TokenUsage":
        """Maximum of each count: counts that only grow, told out of order."""
        return TokenUsage(
            max(self.input_tokens, other.input_tokens),
            max(self.output_tokens, other.output_tokens),
            max(self.cached_input_tokens, other.cached_input_tokens),
            max(self.reasoning_tokens, other.reasoning_tokens),
        )

    def units(self, weights: tuple[int, int, int]) -> int:
        """Weighted tokens, what limits count; `weights` = input, cached, output.

        Weighed by prices they are money.

        A cached token counts by the cached weight alone. A backend that reports more
        cached than input tokens is believed up to the input.
        """
        cached = min(self.cached_input_tokens, self.input_tokens)
        return (
            (self.input_tokens - cached) * weights[0]
            + cached * weights[1]
            + self.output_tokens * weights[2]
        )


class Facts(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "weights": "w",
        "prices": "p",
        "reserved_units": "units",
        "input_estimate": "in",
        "output_estimate": "out",
        "text_bytes": "bytes",
        "choices": "n",
        "output_cap": "cap",
        "runs_on": "on",
        "trace": "tp",
    },
):
    """What was decided about an exchange at admission; made once, never changed.

    Kept with the reservation, logged in Envoy's ledger and copied into the outbox, so
    that a record can be written even when Redis has lost the reservation.

    `weights` and `prices`: units, and money in `core.limits.MONEY`, per input, cached
    input and output token. `debits`: the limits the exchange is charged to. The four
    after the estimates say what the estimator may learn from it: bytes of prompt text,
    tokens beside that text (chat template, images), choices, and the output cap of one
    choice that was forwarded, None for none. `runs_on`: the backend goes on to the end
    after its client has left. `trace`: the W3C traceparent it came with, or empty.
    """

    tenant: str
    key_id: str
    plan: str
    operation: str
    requested_model: str
    served_model: str
    cluster: str
    provider: str
    weights: tuple[int, int, int]
    prices: tuple[int, int, int] = (0, 0, 0)
    reserved_units: int
    input_estimate: int
    output_estimate: int
    text_bytes: int = 0
    framing: int = 0
    choices: int = 1
    output_cap: int | None = None
    runs_on: bool = False
    trace: str = ""
    debits: tuple[Debit, ...] = ()  # last, where reserve.lua puts what it charged

    def encode(self) -> bytes:
        """Compact JSON."""
        return _encoder.encode(self)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Facts)


def decode_facts(text: str | bytes) -> Facts:
    """Read what `Facts.encode` wrote; raises ProtocolError for anything else."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError("not the facts of an exchange") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """Immutable facts of one ended exchange; zero counts are values.

    `flags`: Envoy's response flags of the end, empty for a clean one. `corrects`: the
    record an adjustment belongs to.
    """

    record_id: str
    kind: UsageKind
    usage: TokenUsage
    input_source: CountSource
    output_source: CountSource
    started_ms: int
    first_token_ms: int | None
    ended_ms: int
    flags: str
    facts: Facts
    corrects: str | None = None
