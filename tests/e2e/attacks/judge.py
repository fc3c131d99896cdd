"""Send a row to a gateway and say what went otherwise than the row says."""

import asyncio
import itertools
import re
from collections.abc import Iterator

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.rig import Gateway
from tests.e2e.attacks.row import Row
from tests.e2e.attacks.seen import Reply, Seen
from tests.e2e.edge.backend import Received
from tollhouse.core.problems import Dialect, Kind

WITHIN_SECONDS = 8.0
"""No attack may hang longer, whatever it does not send."""
CODES = {kind.value[2] for kind in Kind} | {
    *("bad_request", "headers_too_large", "http_version_not_supported"),
    *("method_not_allowed", "request_timeout", "request_too_large", "unknown_url"),
    *("unsupported_content_encoding", "upgrade_not_supported"),
}
"""All codes of OpenAI's error object that a client of ours may get."""
_PRIVATE = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "accept-encoding"),
        *("grpc-accept-encoding", "baggage", "x-client-trace-id"),
        *("x-tollhouse-admitted", "x-tollhouse-cluster", "content-encoding"),
        *("forwarded", "x-real-ip", "x-forwarded-for", "x-forwarded-host"),
        *("x-client-ip", "true-client-ip", "cf-connecting-ip", "b3", "x-b3-traceid"),
        *("x-api-key", "api-key"),
    }
)
_OURS = frozenset({"x-tollhouse-exchange", "x-tollhouse-default-max-tokens"})
# Words of what is behind us, or of a program that failed.
_TELLTALE = re.compile(
    rb"Traceback|File \"|upstream|\.py|\.sock|grpcio|redis|envoy|extproc|authz|127\.0",
    re.IGNORECASE,
)
_numbers = itertools.count()


async def faults(
    row: Row, gateway: Gateway, *, within: float = WITHIN_SECONDS
) -> list[str]:
    """Send it, then a plain request; one line for each thing that is not as it must be.

    The backend saw what the row says and, after it, the plain request: nothing else.
    """
    found: list[str] = []
    before = len(gateway.backend.received)
    try:
        async with asyncio.timeout(within):
            seen = await row.send(gateway)
    except TimeoutError:
        found.append(f"no end within {within:g} s")
    else:
        found += row.expect.faults(seen)
        found += _answer_faults(row, seen)
    if row.variant not in ("no-authz", "no-extproc"):
        found += await _probe(gateway)
    arrived = gateway.backend.received[before:]
    found += _arrival_faults(row, [it for it in arrived if not _is_probe(it)])
    return [f"{row.id}: {fault}" for fault in found]


async def _probe(gateway: Gateway) -> list[str]:
    body = words.BODY.replace(b'"hi"', b'"probe-%d"' % next(_numbers))
    before = len(gateway.backend.received)
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            seen = await ask(body=body)(gateway)
    except (TimeoutError, OSError) as error:
        return [f"afterwards a plain request fails: {error!r}"]
    served = [it for it in gateway.backend.received[before:] if _is_probe(it)]
    statuses = [reply.status for reply in seen.replies]
    if statuses != [200] or len(served) != 1:
        return [f"afterwards a plain request gets {statuses}"]
    return []


def _is_probe(received: Received) -> bool:
    return b'"probe-' in received.body


def _answer_faults(row: Row, seen: Seen) -> Iterator[str]:
    """What no answer may have, whatever was asked."""
    for reply in seen.replies:
        if reply.status >= 500 and reply.status not in row.expect.statuses:
            yield f"a failure of ours: {reply.status}"
        if "x-envoy" in " ".join(name for name, _ in reply.headers):
            yield "tells what it is made of"
        # Of 400 on only: what a good answer says is the model's.
        if reply.status >= 400 or reply.is_grpc:
            yield from _refusal_faults(row, reply, seen.dialect)


def _refusal_faults(row: Row, reply: Reply, dialect: Dialect) -> Iterator[str]:
    said = reply.body + (reply.header("grpc-message") or "").encode()
    if word := _TELLTALE.search(said):
        yield f"says {word[0]!r}"
    if words.EVIL.encode() in said:
        yield "says what the attacker said"
    if reply.is_grpc:
        message = reply.header("grpc-message") or ""
        failed = reply.header("grpc-status") in (None, "0", "2", "13")
        if reply.body or failed or "{" in message:
            yield f"not gRPC's refusal: {reply.headers} {reply.body[:100]!r}"
        return
    if row.expect.is_plain or reply.is_bodiless:
        return
    if dialect is Dialect.GRPC:  # asked for in another protocol
        dialect = Dialect.OPENAI
    if not reply.has_error_in(dialect):
        yield f"not an error object of {dialect}: {reply.body[:100]!r}"
    elif dialect is Dialect.OPENAI and reply.error_code not in CODES:
        yield f"code {reply.error_code!r} is none of ours"


def _arrival_faults(row: Row, arrived: list[Received]) -> Iterator[str]:
    if row.arrived is None:
        if arrived:
            yield f"the backend got {[it.line for it in arrived]}"
        return
    if len(arrived) != 1:
        yield f"the backend got {len(arrived)} requests, not one"
    for received in arrived:
        yield from unclean(received)
        if not row.arrived(received):
            yield f"the backend got what it should not: {received}"


def unclean(received: Received) -> Iterator[str]:
    """What no request at a backend may have."""
    names = received.headers.keys()
    for name in sorted(names):
        ours = name.startswith(("x-tollhouse-", "x-envoy-"))
        if name in _PRIVATE or (ours and name not in _OURS):
            yield f"the backend got a header {name}"
    if words.EVIL in received.head.lower():
        yield f"the backend got {received.head!r}"
    # Envoy's own: it begins a trace of its own, and none is kept here.
    trace = received.headers.get("traceparent", "")
    if words.TRACE in trace or not trace.endswith("-00"):
        yield f"the backend got the trace {trace!r}"
    if "transfer-encoding" in names or len(received.body) != int(
        received.headers.get("content-length", "0")
    ):
        yield "the backend got a body of no certain length"
