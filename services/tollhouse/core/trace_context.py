"""Where something stands in a trace (W3C Trace Context, version 00)."""

import re

import msgspec

# As Envoy writes it, of whatever version and case it was (measured, 1.40). A client's
# that is longer goes past Envoy as it came, and is the context of no trace.
_TRACEPARENT = re.compile(
    r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)
_SAMPLED = 1


class TraceContext(msgspec.Struct, frozen=True):
    """One span, as others refer to it: ids in lower-case hex, 32 and 16 digits.

    `is_sampled`: whoever began the trace chose to keep it.
    """

    trace_id: str
    span_id: str
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        """As a header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02d}"


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Read a header's value; None for none, and for one that can't be read."""
    match = _TRACEPARENT.fullmatch(text or "")
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
