"""Error reports: thin events about flaws found later, and their delivery.

A webhook brings the thin event, signed; the full one is fetched by its id. Flaws that
were not reported yet are lost when the stand-in is killed.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import time
from typing import Any

import httpx

from tests.stripe_stand_in.clock import Clock
from tests.stripe_stand_in.journal import Journal
from tests.stripe_stand_in.meter_events import Flaw
from tests.stripe_stand_in.objects import Object
from tests.stripe_stand_in.settings import Settings

_MOST_SAMPLES = 5
_VALIDATION_SECONDS = 10
_TRIES = 3
_PAUSE_SECONDS = 0.1
_THIN = ("id", "object", "type", "created", "livemode", "context", "reason")


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """One try to bring an event to the webhook."""

    event_id: str
    status: int | None
    """None: no answer."""


class Reports:
    """Gathers flaws, makes events of them and sends those."""

    def __init__(self, clock: Clock, settings: Settings, journal: Journal) -> None:
        self._clock = clock
        self._settings = settings
        self._journal = journal
        self._pending: dict[str | None, list[tuple[Flaw, str]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.events: dict[str, Object] = {}
        self.deliveries: list[Delivery] = []

    def load(self, line: dict[str, Any]) -> None:
        """Take one line of the state file."""
        self.events[line["event"]["id"]] = line["event"]

    def add(self, flaw: Flaw, request: str) -> None:
        """Report it soon, with others of its meter; `request` names the call."""
        meter_id = None if flaw.code == "no_meter" else flaw.meter_id
        if meter_id not in self._pending:
            self._pending[meter_id] = []
            task = asyncio.create_task(self._report(meter_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._pending[meter_id].append((flaw, request))

    async def settled(self) -> None:
        """Return when nothing is left to report or to deliver."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await self.settled()

    async def _report(self, meter_id: str | None) -> None:
        await asyncio.sleep(self._settings.report_delay_seconds)
        event = self._event(meter_id, self._pending.pop(meter_id))
        self.events[event["id"]] = event
        self._journal.append("thin_event", event=event)
        if self._settings.webhook_url is not None:
            await self._deliver(self._settings.webhook_url, event)

    async def _deliver(self, url: str, event: Object) -> None:
        thin = {name: event[name] for name in _THIN}
        body = json.dumps({**thin, "related_object": event["related_object"]})
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
            for attempt in range(_TRIES):
                headers = {
                    "Content-Type": "application/json",
                    "Stripe-Signature": signature(body, self._settings.webhook_secret),
                }
                status = None
                try:
                    answer = await client.post(url, content=body, headers=headers)
                    status = answer.status_code
                except httpx.HTTPError:
                    pass
                self.deliveries.append(Delivery(event["id"], status))
                if status is not None and status // 100 == 2:
                    return
                await asyncio.sleep(_PAUSE_SECONDS * 2**attempt)

    def _event(self, meter_id: str | None, flaws: list[tuple[Flaw, str]]) -> Object:
        now = self._clock.now()
        end = now - now % _VALIDATION_SECONDS + _VALIDATION_SECONDS
        related = {
            "id": meter_id,
            "type": "billing.meter",
            "url": f"/v1/billing/meters/{meter_id}",
        }
        noun = "no_meter_found" if meter_id is None else "error_report_triggered"
        many = f"are {len(flaws)} invalid events" if len(flaws) > 1 else None
        return {
            "id": f"evt_test_{len(self.events) + 1:08d}",
            "object": "v2.core.event",
            "type": f"v1.billing.meter.{noun}",
            "created": rfc3339(now),
            "livemode": False,
            "context": None,
            "reason": None,
            "related_object": None if meter_id is None else related,
            "data": {
                "developer_message_summary": f"There {many or 'is 1 invalid event'}",
                "reason": {"error_count": len(flaws), "error_types": _by_type(flaws)},
                "validation_start": rfc3339(end - _VALIDATION_SECONDS),
                "validation_end": rfc3339(end),
            },
        }


def signature(body: str, secret: str) -> str:
    """The Stripe-Signature of a body, by the machine's clock: receivers use theirs."""
    at = int(time.time())
    signed = f"{at}.{body}".encode()
    return f"t={at},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def rfc3339(unix: float) -> str:
    """A time as v2 writes it."""
    at = dt.datetime.fromtimestamp(unix, dt.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _by_type(flaws: list[tuple[Flaw, str]]) -> list[Object]:
    of_code: dict[str, list[Object]] = collections.defaultdict(list)
    for flaw, request in flaws:
        sample = {"error_message": flaw.message, "request": {"identifier": request}}
        of_code[flaw.code].append(sample)
    return [
        {
            "code": code,
            "error_count": len(samples),
            "sample_errors": samples[:_MOST_SAMPLES],
        }
        for code, samples in of_code.items()
    ]
