"""Meter events: what is wrong with one, which identifiers are taken, what counts."""

import collections
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from tests.stripe_stand_in.clock import Clock
from tests.stripe_stand_in.journal import Journal
from tests.stripe_stand_in.objects import Object, Objects
from tests.stripe_stand_in.refusals import invalid

HOUR = 3600
DAY = 86_400
OLDEST_SECONDS = 35 * DAY
FUTURE_SECONDS = 300
IDENTIFIER_SECONDS = DAY
"""The promise is "at least 24 hours"; no client may count on more, so more is none."""
CANCEL_SECONDS = DAY
LONGEST = 100
MOST_DIGITS = 15
"""meter_event_value_too_many_digits says that there is a limit; 15 is a guess."""
_WHOLE = re.compile(r"-?\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Flaw:
    """Why an event can't count; codes are those of the error reports."""

    code: str
    message: str
    param: str
    meter_id: str | None = None


@dataclasses.dataclass(slots=True)
class MeterEvent:
    """One event that was taken."""

    identifier: str
    event_name: str
    payload: dict[str, str]
    timestamp: int
    received: float
    """By the stand-in's clock."""
    customer: str = ""
    value: int = 0
    counted: bool = True
    """False: it was accepted, found wrong and reported."""
    cancelled: bool = False

    @property
    def pair(self) -> tuple[str, str]:
        """What at most one call at a time may concern."""
        return self.customer, self.event_name


class MeterEvents:
    """The provider's ledger of usage."""

    def __init__(self, clock: Clock, objects: Objects, journal: Journal) -> None:
        self._clock = clock
        self._objects = objects
        self._journal = journal
        self.taken: list[MeterEvent] = []
        self._latest: dict[str, MeterEvent] = {}

    def load(self, line: dict[str, Any]) -> None:
        """Take one line of the state file: an event or a cancellation."""
        if line["kind"] == "cancelled":
            self._latest[line["identifier"]].cancelled = True
        else:
            self._remember(MeterEvent(**line["event"]))

    def flaw(self, event: MeterEvent) -> Flaw | None:
        """Find what is wrong with it; fills in its customer and value."""
        meter = self.meter(event.event_name)
        keys = _payload_keys(meter)
        event.customer = event.payload.get(keys["customer"], "")
        value = event.payload.get(keys["value"], "")
        return (
            self._wrong_time(event, meter)
            or _wrong_value(event, value, meter, keys["value"])
            or self._wrong_meter(event, meter)
            or self._wrong_customer(event, meter, keys["customer"])
        )

    def is_taken(self, identifier: str) -> bool:
        """Whether an event with it came within the last 24 hours."""
        latest = self._latest.get(identifier)
        if latest is None:
            return False
        return self._clock.now() - latest.received < IDENTIFIER_SECONDS

    def take(self, event: MeterEvent) -> None:
        """Keep it, on disk too."""
        self._remember(event)
        fields = {name: getattr(event, name) for name in MeterEvent.__slots__}
        self._journal.append("meter_event", event=fields)

    def cancel(self, event_name: str, identifier: str) -> None:
        """Take one back; raises Refusal where there is none of the last 24 hours."""
        event = self._latest.get(identifier)
        if event is None or event.event_name != event_name or event.cancelled:
            raise invalid(
                f"No meter event found with identifier {identifier}.",
                "resource_missing",
                "cancel[identifier]",
            )
        if self._clock.now() - event.received >= CANCEL_SECONDS:
            raise invalid(
                "Meter events can only be cancelled within 24 hours of being received.",
                param="cancel[identifier]",
            )
        event.cancelled = True
        self._journal.append("cancelled", identifier=identifier)

    def totals(self) -> dict[tuple[str, str, int], int]:
        """What counts, by customer, event name and UTC hour since 1970."""
        totals: collections.Counter[tuple[str, str, int]] = collections.Counter()
        for event in self.counting():
            hour = event.timestamp // HOUR
            totals[event.customer, event.event_name, hour] += event.value
        return dict(totals)

    def counting(self) -> Iterable[MeterEvent]:
        """Those neither found wrong nor cancelled, in order of arrival."""
        return (it for it in self.taken if it.counted and not it.cancelled)

    def meter(self, event_name: str) -> Object | None:
        """The meter of this name: the active one, or else the last archived."""
        named = [
            it
            for it in self._objects.all("billing.meter")
            if it["event_name"] == event_name
        ]
        active = [it for it in named if it["status"] == "active"]
        found = active or named
        return found[-1] if found else None

    def _remember(self, event: MeterEvent) -> None:
        self.taken.append(event)
        self._latest[event.identifier] = event

    def _wrong_time(self, event: MeterEvent, meter: Object | None) -> Flaw | None:
        age = self._clock.now() - event.timestamp
        if age > OLDEST_SECONDS:
            code, text = "timestamp_too_far_in_past", "more than 35 days in the past"
        elif age < -FUTURE_SECONDS:
            code, text = "timestamp_in_future", "more than 5 minutes in the future"
        else:
            return None
        return Flaw(code, f"The timestamp is {text}.", "timestamp", _id(meter))

    @staticmethod
    def _wrong_meter(event: MeterEvent, meter: Object | None) -> Flaw | None:
        if meter is not None and meter["status"] == "active":
            return None
        code = "no_meter" if meter is None else "archived_meter"
        text = f'No active meter found for event name "{event.event_name}".'
        return Flaw(code, text, "event_name", _id(meter))

    def _wrong_customer(
        self, event: MeterEvent, meter: Object | None, key: str
    ) -> Flaw | None:
        if not event.customer:
            code = "meter_event_no_customer_defined"
            text = f"Customer mapping key {key} not found in payload."
        else:
            known = self._objects.find("customer", event.customer)
            if known is not None and not known.get("deleted"):
                return None
            code = "meter_event_customer_not_found"
            text = f"No such customer: '{event.customer}'"
        return Flaw(code, text, f"payload[{key}]", _id(meter))


def _wrong_value(
    event: MeterEvent, value: str, meter: Object | None, key: str
) -> Flaw | None:
    if not value and meter is not None and _counts(meter):
        return None
    if not _WHOLE.fullmatch(value):
        code, text = "meter_event_invalid_value", "must be a whole number"
    elif len(value.removeprefix("-")) > MOST_DIGITS:
        code, text = "meter_event_value_too_many_digits", "has too many digits"
    else:
        event.value = int(value)
        return None
    return Flaw(code, f"The value {text}.", f"payload[{key}]", _id(meter))


def _counts(meter: Object) -> bool:
    return bool(meter["default_aggregation"]["formula"] == "count")


def _payload_keys(meter: Object | None) -> dict[str, str]:
    """Which keys of a payload name the customer and the value."""
    if meter is None:
        return {"customer": "stripe_customer_id", "value": "value"}
    return {
        "customer": meter["customer_mapping"]["event_payload_key"],
        "value": meter["value_settings"]["event_payload_key"],
    }


def _id(meter: Object | None) -> str | None:
    return None if meter is None else str(meter["id"])
