"""Event summaries: what a meter says a customer used between two minutes."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from tests.stripe_stand_in.meter_events import DAY, HOUR, MeterEvent
from tests.stripe_stand_in.objects import Object, page
from tests.stripe_stand_in.refusals import malformed

_MINUTE = 60
_WINDOWS = {"hour": HOUR, "day": DAY}


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """What was asked for, in Unix seconds; the end is not in it."""

    start: int
    end: int
    step: int | None = None
    """Of the windows it is divided into; none: it is one."""

    @classmethod
    def of(cls, form: dict[str, Any]) -> "Range":
        """Read a request; raises Refusal where the times are not aligned."""
        start, end = int(form["start_time"]), int(form["end_time"])
        grouping = form.get("value_grouping_window")
        if grouping not in (None, *_WINDOWS):
            raise malformed(
                f"Invalid value_grouping_window: must be one of {', '.join(_WINDOWS)}",
                "parameter_invalid_enum",
                "value_grouping_window",
            )
        step = None if grouping is None else _WINDOWS[grouping]
        unit = step or _MINUTE
        for name, time in (("start_time", start), ("end_time", end)):
            if time % unit:
                raise malformed(
                    f"{name} must be aligned with {grouping or 'minute'} boundaries.",
                    "parameter_invalid_integer",
                    name,
                )
        if start >= end:
            raise malformed(
                "start_time must be before end_time.",
                "parameter_invalid_integer",
                "end_time",
            )
        return cls(start, end, step)

    def windows(self) -> Iterable[tuple[int, int]]:
        """Each window's start and end, oldest first."""
        step = self.step or self.end - self.start
        return ((at, at + step) for at in range(self.start, self.end, step))


def summaries(
    meter: Object,
    events: Sequence[MeterEvent],
    form: dict[str, Any],
    *,
    empty: bool,
) -> Object:
    """The list of summaries, newest first; `events` are this customer's and meter's.

    `empty` leaves a range without usage out; grouped windows without are always left
    out.
    """
    asked = Range.of(form)
    if window := meter["event_time_window"]:
        events = _newest_of_each(events, _WINDOWS[window])
    rows = []
    for start, end in asked.windows():
        within = [it for it in events if start <= it.timestamp < end]
        if not within and (empty or asked.step):
            continue
        formula = meter["default_aggregation"]["formula"]
        rows.append(
            {
                "id": f"mtrusg_test_{meter['id'][-8:]}_{start}_{end}",
                "object": "billing.meter_event_summary",
                "aggregated_value": _aggregate(formula, within),
                "start_time": start,
                "end_time": end,
                "livemode": False,
                "meter": meter["id"],
            }
        )
    url = f"/v1/billing/meters/{meter['id']}/event_summaries"
    return page(reversed(rows), form, url)


def _aggregate(formula: str, events: Sequence[MeterEvent]) -> int:
    match formula:
        case "count":
            return len(events)
        case "last":
            latest = sorted(events, key=lambda it: it.timestamp)
            return latest[-1].value if latest else 0
        case _:
            return sum(it.value for it in events)


def _newest_of_each(events: Sequence[MeterEvent], step: int) -> list[MeterEvent]:
    """The last to arrive of each window: what "newest" means is not documented."""
    newest = {it.timestamp // step: it for it in events}
    return list(newest.values())
