"""Chunks as events of Stripe's meter event stream, up to a hundred a call.

`POST /v2/billing/meter_event_stream` (https://docs.stripe.com/api/v2/billing-meter-stream):
10,000 calls a second and no limit per customer, with the token of a session, good for
15 minutes. Events are checked later: what is wrong with one, also that its identifier
exists, comes by webhook at best. A report names the call's Idempotency-Key, which leads
to a chunk only where it was sent alone; else the summaries show what is missing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.meter_events import NAME, payload
from tollhouse.adapters.stripe.outcome import CallError, reading
from tollhouse.adapters.stripe.totals import Totals
from tollhouse.core.chunk import Answer, Attempt, Verdict
from tollhouse.core.problems import Unavailable

MOST_AT_ONCE = 100

_RENEW_SECONDS = 60.0
"""How long before its end a session is replaced."""
_SHORTEST_SECONDS = 5.0

# 401 by the documents, 400 in the tests of Stripe's own SDKs.
_EXPIRED = frozenset(
    {"billing_meter_event_session_expired", "temporary_session_expired"}
)

_WHOLE = 1.5
"""How many times that of a call all calls for one batch may take."""

_BLAMED = (Verdict.POISON, Verdict.DUPLICATE, Verdict.CONFLICT)


class MeterEventStream:
    """Stripe as the provider of core.chunk, for many chunks."""

    name = NAME
    most_at_once = MOST_AT_ONCE

    def __init__(
        self, client: Client, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` gives monotonic seconds: sessions end by it."""
        self._client = client
        self._clock = clock
        self._session = _Session(client, clock)
        self._totals = Totals(client)

    async def ship(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
        """Send up to a hundred chunks. Raises Unavailable for a refused key.

        The answer is that of the call, for all. When it blames an event it is asked
        again by halves, so that only the one is left with the blame.
        """
        until = self._clock() + _WHOLE * self._client.timeout_seconds
        return await self._ship(attempts, until)

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """What Stripe has of a customer and meter. Raises Unavailable."""
        return await self._totals.total(customer, event_name, start, end)

    async def _ship(
        self, attempts: Sequence[Attempt], until: float
    ) -> Sequence[Answer]:
        left = until - self._clock()
        try:
            async with asyncio.timeout(left):
                await self._send(attempts)
        except TimeoutError:
            failed = CallError(Verdict.UNKNOWN, "timeout")
        except CallError as error:
            failed = error
        else:
            return [Answer(Verdict.ACCEPTED)] * len(attempts)
        if len(attempts) > 1 and failed.verdict in _BLAMED:
            middle = len(attempts) // 2
            return [
                *await self._ship_part(attempts[:middle], until),
                *await self._ship_part(attempts[middle:], until),
            ]
        return [failed.answer()] * len(attempts)

    async def _ship_part(
        self, attempts: Sequence[Attempt], until: float
    ) -> Sequence[Answer]:
        if self._clock() >= until:
            # Refused in company, and there is no time left to send it without.
            return [Answer(Verdict.REFUSED, "not_tried")] * len(attempts)
        try:
            return await self._ship(attempts, until)
        except Unavailable:
            # The other half may have been taken: that must not be lost.
            return [Answer(Verdict.REFUSED, "key_refused")] * len(attempts)

    async def _send(self, attempts: Sequence[Attempt]) -> None:
        token = await self._session.token()
        try:
            await self._create(attempts, token)
        except CallError as error:
            if not (error.is_key_refused or error.code in _EXPIRED):
                raise
        else:
            return
        self._session.end(token)
        token = await self._session.token()
        await self._create(attempts, token)

    async def _create(self, attempts: Sequence[Attempt], token: str) -> None:
        await self._client.sdk.v2.billing.meter_event_stream.create_async(
            {
                "events": [
                    {
                        "event_name": attempt.chunk.event_name,
                        "payload": payload(attempt.chunk),
                        "identifier": attempt.chunk.identifier,
                        "timestamp": _rfc3339(attempt.chunk.timestamp),
                    }
                    for attempt in attempts
                ]
            },
            {"api_key": token, "idempotency_key": _key(attempts)},
        )


class _Session:
    """The token of the running session; a new one in time."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._ends_at = 0.0

    async def token(self) -> str:
        """Of a session that is good for a while.

        Raises CallError; other than for a refused key it is REFUSED, for no event was
        sent.
        """
        async with self._lock:
            if not self._token or self._clock() >= self._ends_at:
                await self._begin()
            return self._token

    def end(self, token: str) -> None:
        """Don't use this token any more."""
        if token == self._token:
            self._token = ""

    async def _begin(self) -> None:
        begun_at = self._clock()
        sessions = self._client.sdk.v2.billing.meter_event_session
        try:
            with reading():
                session = await sessions.create_async()
                # By its own two times: our clock may be another.
                seconds = (
                    datetime.fromisoformat(session.expires_at)
                    - datetime.fromisoformat(session.created)
                ).total_seconds()
                self._token = session.authentication_token
        except CallError as error:
            if error.is_key_refused:
                raise
            failed = CallError(Verdict.REFUSED, error.code, status=error.status)
        else:
            self._ends_at = begun_at + max(seconds - _RENEW_SECONDS, _SHORTEST_SECONDS)
            return
        raise failed


def _key(attempts: Sequence[Attempt]) -> str:
    """Of these attempts alone; that of the attempt where there is just one.

    That of several has a colon: no report that names it is taken for a chunk's.
    """
    if len(attempts) == 1:
        return attempts[0].key
    digest = blake2b(digest_size=20)
    for attempt in attempts:
        digest.update(f"{attempt.key}\n".encode())
    return f"th1_batch:{digest.hexdigest()}"


def _rfc3339(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
