"""The header that says where a request stands in a trace."""

import pytest

from tollhouse.core.trace_context import TraceContext, parse_traceparent

_TRACE, _SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("00", False), ("01", True), ("03", True), ("02", False)]
)
def test_reads(flags, is_sampled):
    """Ids as they are; of the flags one bit counts."""
    read = parse_traceparent(f"00-{_TRACE}-{_SPAN}-{flags}")

    assert read == TraceContext(_TRACE, _SPAN, is_sampled)


@pytest.mark.parametrize("is_sampled", [False, True])
def test_what_it_writes_it_reads(is_sampled):
    """A context survives the way through a header."""
    context = TraceContext(_TRACE, _SPAN, is_sampled)

    assert parse_traceparent(context.traceparent) == context


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00",
        f"00-{_TRACE}-{_SPAN}",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{_TRACE[1:]}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-0x",
        f" 00-{_TRACE}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-01\n",
        f"00-{_TRACE}-{_SPAN}-01-x",
        f"cc-{_TRACE}-{_SPAN}-01",
        f"cc-{_TRACE}-{_SPAN}-01-what-is-new",
    ],
)
def test_refuses(text):
    """Whatever is none stands nowhere; nor does what Envoy would make no trace of."""
    assert parse_traceparent(text) is None
