"""What each call on meter events does once it was let in, v1 and v2."""

import datetime as dt
import secrets
from typing import Any

from tests.stripe_stand_in.meter_events import LONGEST, Flaw, MeterEvent
from tests.stripe_stand_in.object_endpoints import Request
from tests.stripe_stand_in.objects import Object
from tests.stripe_stand_in.refusals import INVALID, Refusal, invalid, malformed, missing
from tests.stripe_stand_in.reports import rfc3339
from tests.stripe_stand_in.stand_in import StandIn
from tests.stripe_stand_in.summaries import summaries

SESSION_SECONDS = 15 * 60
MOST_EVENTS = 100
# Refused before anything runs, so no Idempotency-Key remembers them.
_MALFORMED = frozenset(
    {
        "meter_event_invalid_value",
        "meter_event_no_customer_defined",
        "meter_event_value_too_many_digits",
        "timestamp_in_future",
        "timestamp_too_far_in_past",
    }
)


class EventEndpoints:
    """One method per call; each returns the answer's JSON or raises Refusal."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._objects = stand_in.objects

    async def send_event(self, request: Request) -> Object:
        """POST /v1/billing/meter_events."""
        now = int(self._stand_in.clock.now())
        timestamp = int(request.form.get("timestamp", now))
        event = self._event(request.form, timestamp)
        flaw = self._stand_in.meter_events.flaw(event)
        if flaw and flaw.code not in self._stand_in.settings.checked_later:
            raise _refused(flaw)
        await self._take(event, flaw, _duplicate(event.identifier))
        if flaw:
            request_name = request.idempotency_key or event.identifier
            self._stand_in.reports.add(flaw, request_name)
        return {
            "object": "billing.meter_event",
            "created": now,
            "event_name": event.event_name,
            "identifier": event.identifier,
            "livemode": False,
            "payload": event.payload,
            "timestamp": event.timestamp,
        }

    async def cancel_event(self, request: Request) -> Object:
        """POST /v1/billing/meter_event_adjustments."""
        form = request.form
        if form["type"] != "cancel" or not form.get("cancel", {}).get("identifier"):
            raise malformed(
                "Missing required param: cancel[identifier].",
                "parameter_missing",
                "cancel[identifier]",
            )
        identifier = form["cancel"]["identifier"]
        self._stand_in.meter_events.cancel(form["event_name"], identifier)
        return {
            "object": "billing.meter_event_adjustment",
            "cancel": {"identifier": identifier},
            "event_name": form["event_name"],
            "livemode": False,
            "status": "pending",
            "type": "cancel",
        }

    async def summarize(self, request: Request) -> Object:
        """GET /v1/billing/meters/{id}/event_summaries."""
        meter = self._objects.get("billing.meter", request.ids[0])
        customer = request.form["customer"]
        self._objects.get("customer", customer, param="customer", status=400)
        settings = self._stand_in.settings
        until = self._stand_in.clock.now() - settings.summary_delay_seconds
        shown = [
            it
            for it in self._stand_in.meter_events.counting()
            if it.pair == (customer, meter["event_name"]) and it.received <= until
        ]
        empty = settings.empty_summaries
        return summaries(meter, shown, request.form, empty=empty)

    async def open_session(self, _: Request) -> Object:
        """POST /v2/billing/meter_event_session."""
        now = self._stand_in.clock.now()
        token = f"token_test_{secrets.token_hex(16)}"
        self._stand_in.sessions[token] = now + SESSION_SECONDS
        self._stand_in.journal.append(
            "session", token=token, ends=now + SESSION_SECONDS
        )
        return {
            "id": f"bmes_test_{len(self._stand_in.sessions):08d}",
            "object": "v2.billing.meter_event_session",
            "authentication_token": token,
            "created": rfc3339(now),
            "expires_at": rfc3339(now + SESSION_SECONDS),
            "livemode": False,
        }

    async def stream(self, request: Request) -> Object:
        """POST /v2/billing/meter_event_stream: nothing is checked before the answer."""
        given = request.form["events"]
        if not 0 < len(given) <= MOST_EVENTS:
            text = f"events must have from 1 to {MOST_EVENTS} elements."
            raise malformed(text, "parameter_invalid_array", "events")
        for one in given:
            event = self._event(one, self._time(one))
            if self._stand_in.meter_events.is_taken(event.identifier):
                continue  # dropped without a word
            flaw = self._stand_in.meter_events.flaw(event)
            event.counted = flaw is None
            self._stand_in.meter_events.take(event)
            if flaw:
                name = request.idempotency_key or event.identifier
                self._stand_in.reports.add(flaw, name)
        return {}

    async def send_event_v2(self, request: Request) -> Object:
        """POST /v2/billing/meter_events: everything is checked at once."""
        event = self._event(request.form, self._time(request.form))
        flaw = self._stand_in.meter_events.flaw(event)
        if flaw:
            raise _refused(flaw)
        refusal = invalid(
            "A meter event with a duplicate identifier has already been submitted.",
            "duplicate_meter_event",
            "identifier",
        )
        refusal.outcome = "duplicate"
        await self._take(event, None, refusal)
        return {
            "object": "v2.billing.meter_event",
            "created": rfc3339(self._stand_in.clock.now()),
            "event_name": event.event_name,
            "identifier": event.identifier,
            "livemode": False,
            "payload": event.payload,
            "timestamp": rfc3339(event.timestamp),
        }

    async def thin_event(self, request: Request) -> Object:
        """GET /v2/core/events/{id}: the full event behind a thin one."""
        event = self._stand_in.reports.events.get(request.ids[0])
        if event is None:
            raise missing("event", request.ids[0])
        return event

    async def _take(
        self, event: MeterEvent, flaw: Flaw | None, duplicate: Refusal
    ) -> None:
        """Take an event, alone on its customer and meter; `duplicate` if it's known."""
        with self._stand_in.only_call(event.pair):
            await self._stand_in.wait(self._stand_in.settings.latency_seconds)
            if self._stand_in.meter_events.is_taken(event.identifier):
                raise duplicate
            event.counted = flaw is None
            self._stand_in.meter_events.take(event)

    def _event(self, form: dict[str, Any], timestamp: int) -> MeterEvent:
        identifier = form.get("identifier", secrets.token_hex(16))
        for name, value in (
            ("identifier", identifier),
            ("event_name", form["event_name"]),
        ):
            if not 0 < len(value) <= LONGEST:
                text = f"Invalid {name}: it has from 1 to {LONGEST} characters."
                raise malformed(text, "parameter_invalid_string", name)
        payload = form["payload"]
        now = self._stand_in.clock.now()
        return MeterEvent(identifier, form["event_name"], payload, timestamp, now)

    def _time(self, form: dict[str, Any]) -> int:
        """When an event of v2 happened."""
        try:
            text = form.get("timestamp", rfc3339(self._stand_in.clock.now()))
            at = dt.datetime.fromisoformat(text)
        except ValueError:
            code = "parameter_invalid_timestamp"
            raise malformed("Invalid timestamp", code, "timestamp") from None
        return int(at.timestamp())


def _duplicate(identifier: str) -> Refusal:
    """Reported by users: a message, no code, and the header."""
    return Refusal(
        400,
        INVALID,
        f"An event already exists with identifier {identifier}.",
        headers={"Stripe-Should-Retry": "false"},
        outcome="duplicate",
    )


def _refused(flaw: Flaw) -> Refusal:
    refusal = invalid(flaw.message, flaw.code, flaw.param)
    refusal.stored = flaw.code not in _MALFORMED
    return refusal
