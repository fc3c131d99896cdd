"""One row of the attack table: what is sent, and what must come of it."""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from tests.e2e.attacks.rig import Gateway
from tests.e2e.attacks.seen import Reply, Seen
from tests.e2e.edge.backend import Received
from tollhouse.core.problems import Dialect

Send = Callable[[Gateway], Awaitable[Seen]]
Arrived = Callable[[Received], object]
"""Whether a request that reached the backend is what it should be."""

ANY = ""
"""Any code that the gateway has."""
NO_BYTE = 0
"""In place of a status: the connection or stream ends without an answer."""


@dataclasses.dataclass(frozen=True)
class Expect:
    """What the attacker gets.

    `statuses` of the only answer; of several, one after the other, `each` has them.
    `code` is that of OpenAI's error object, None for the code `null`; other dialects
    have none.
    """

    statuses: frozenset[int] = frozenset({200})
    code: str | None = ANY
    each: tuple[int, ...] = ()
    grpc: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    fits: Callable[[Seen], object] | None = None
    is_plain: bool = False
    """Envoy's admin answers, which has words of its own."""

    def faults(self, seen: Seen) -> Iterator[str]:
        """Say what is otherwise."""
        got = tuple(reply.status for reply in seen.replies)
        if self.each:
            if got != self.each:
                yield f"answers {got}, not {self.each}"
        elif not got:
            if NO_BYTE not in self.statuses or not seen.has_ended:
                yield "no answer"
        elif len(got) > 1 or got[0] not in self.statuses:
            yield f"answers {got}, not one of {sorted(self.statuses)}"
        for reply in seen.replies:
            yield from self._reply_faults(reply, seen.dialect)
        if self.fits is not None and not self.fits(seen):
            yield "the answer is not as it should be"

    def _reply_faults(self, reply: Reply, dialect: Dialect) -> Iterator[str]:
        if self.grpc is not None and reply.header("grpc-status") != str(self.grpc):
            yield f"grpc-status {reply.header('grpc-status')!r}, not {self.grpc}"
        for name, value in self.headers:
            if reply.header(name) != value:
                yield f"{name}: {reply.header(name)!r}, not {value!r}"
        is_named = self.code != ANY and dialect is Dialect.OPENAI
        has_code = reply.status >= 400 and reply.has_error_in(Dialect.OPENAI)
        if is_named and has_code and reply.error_code != self.code:
            yield f"code {reply.error_code!r}, not {self.code!r}"


@dataclasses.dataclass(frozen=True)
class Row:
    """An attack. `arrived` is None where nothing may reach the backend."""

    id: str
    threat: str
    mitigation: str
    send: Send
    expect: Expect
    arrived: Arrived | None = None
    variant: str = "main"
    """The gateway it is sent to, as in `rig`."""

    @property
    def family(self) -> str:
        """Its id without the number."""
        return self.id.rpartition("-")[0]


def refused(*statuses: int, code: str | None = ANY, **more: Any) -> Expect:
    """An error of ours, in the protocol spoken."""
    return Expect(frozenset(statuses), code, **more)


def says(*texts: str, status: int = 400) -> Expect:
    """A refusal that says why; for dialects without codes."""

    def fits(seen: Seen) -> bool:
        return all(text.encode() in seen.replies[0].body for text in texts)

    return refused(status, fits=fits)


UNAUTHENTICATED = refused(401, code="invalid_api_key")
UNKNOWN_URL = refused(404, code="unknown_url")
NOT_HTTP = refused(400, code="bad_request")
INVALID = refused(400, code=None)
UNSUPPORTED = refused(400, code="unsupported_parameter")
NO_MODEL = refused(404, code="model_not_found")
PASSES = Expect()
UNIMPLEMENTED = Expect(grpc=12)


def rows(family: str, made: Iterable[tuple[Any, ...]]) -> list[Row]:
    """Make rows of tuples: number, threat, mitigation, send, expect[, arrived]."""
    return [Row(f"{family}-{number:02}", *rest) for number, *rest in made]
