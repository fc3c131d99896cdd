"""What Stripe has counted: the summaries of meter events.

https://docs.stripe.com/api/billing/meter-event-summary. They follow within minutes.
"""

from stripe.billing import MeterEventSummary

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.outcome import CallError, reading
from tollhouse.core.chunk import UnanswerableError, Verdict
from tollhouse.core.problems import Unavailable

_PAGE = 100
_NOT_FOUND = 404
_ACTIVE = "active"


class Totals:
    """Totals of customers per meter."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._meters: dict[str, str] = {}

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """Sum of a customer's events from `start` to before `end`, whole minutes.

        Raises Unavailable when Stripe does not say, UnanswerableError when it has no
        such customer, or no such meter at work.
        """
        try:
            with reading():
                meter = await self._meter(event_name)
                return await self._sum(meter, customer, start, end)
        except CallError as error:
            if error.status == _NOT_FOUND:
                self._meters.pop(event_name, None)
            failure = error.unavailable()
            if error.verdict is Verdict.POISON:
                failure = UnanswerableError(str(failure), transient=False)
        raise failure

    async def _sum(self, meter: str, customer: str, start: int, end: int) -> int:
        page = await self._client.sdk.v1.billing.meters.event_summaries.list_async(
            meter,
            {
                "customer": customer,
                "start_time": start,
                "end_time": end,
                "limit": _PAGE,
            },
        )
        total = 0
        async for summary in page.auto_paging_iter():
            total += _whole(summary)
        return total

    async def _meter(self, event_name: str) -> str:
        """The id of the meter at work, looked up once."""
        if event_name not in self._meters:
            archived = await self._look_up()
            if event_name not in self._meters:
                what = "archived" if event_name in archived else "missing"
                raise UnanswerableError(
                    f"Stripe's meter {event_name} is {what}: see `tollhouse billing"
                    " setup`",
                    transient=False,
                )
        return self._meters[event_name]

    async def _look_up(self) -> set[str]:
        """Learn the meters at work; returns the names of the others."""
        archived = set()
        page = await self._client.sdk.v1.billing.meters.list_async({"limit": _PAGE})
        async for meter in page.auto_paging_iter():
            if meter.status == _ACTIVE:
                self._meters[meter.event_name] = meter.id
            else:
                archived.add(meter.event_name)
        return archived


def _whole(summary: MeterEventSummary) -> int:
    value = summary.aggregated_value
    if value != int(value):
        raise Unavailable("Stripe's total is no whole number", transient=False)
    return int(value)
