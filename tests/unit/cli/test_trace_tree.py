"""A trace in the terminal."""

import io

from tollhouse.cli.console import Console
from tollhouse.cli.trace_tree import Link, Span, Trace, lines


def span(
    name: str,
    parent: str = "",
    *,
    attributes: dict[str, object] | None = None,
    links: tuple[Link, ...] = (),
    started_ms: float = 0,
    service: str = "svc",
) -> Span:
    start = 1_000_000_000 + int(started_ms * 1e6)
    end = start + 1_500_000
    return Span(service, name, name, parent, start, end, attributes or {}, links, False)


def drawn(*spans: Span) -> list[str]:
    return list(lines(Trace("t" * 32, spans), Console(io.StringIO())))


def test_children_stand_under_their_parents():
    told = drawn(
        span("a", attributes={"http.status_code": "200", "http.url": "x"}),
        span("b", "a", attributes={"error.type": "x"}, started_ms=1),
        span("d", "b", started_ms=1.25),
        span("c", "a", started_ms=2, links=(Link("0123456789", "x"),)),
        span("e", "not there", started_ms=3),
    )

    assert told == [
        f"trace {'t' * 32}",
        "  start ms      took",
        "       0.0       1.5  svc: a  status_code=200",
        "       1.0       1.5  ├─ svc: b  error=x",
        "       1.2       1.5  │  └─ svc: d",
        "       2.0       1.5  └─ svc: c  → 01234567",
        "       3.0       1.5  svc: e",
    ]


def test_a_terminal_obeys_nobody():
    """Names come from clients: no control characters, nothing endless."""
    told = drawn(
        span("a", attributes={"gen_ai.request.model": "\x1b[2J\n" + "x" * 500})
    )

    assert told[2].isprintable()
    assert len(told[2]) < 120


def test_a_trace_may_go_in_circles_and_deep():
    """Spans are what anybody sent."""
    deep = [span(f"{it}", f"{it - 1}", started_ms=it) for it in range(1, 3000)]

    assert drawn(span("a", "b"), span("b", "a")) == [
        f"trace {'t' * 32}",
        "  start ms      took",
    ]
    assert len(drawn(span("0"), *deep)) == 3002
