"""How few calls many records become."""

import time
from collections import Counter
from typing import Any, cast

from tests.integration.billing.records import Record
from tests.integration.stripe.parts import stripe_account
from tests.stripe_stand_in.server import running_stand_in
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.billing_keys import BILLING_SHARDS
from tollhouse.adapters.redis.chunks import Chunks
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.dedupe import Dedupe
from tollhouse.adapters.redis.leadership import Leadership
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.stripe.meter_events import MeterEvents
from tollhouse.adapters.tracing import Tracing
from tollhouse.billing.pace import Pace
from tollhouse.billing.sealer import Sealer
from tollhouse.billing.servicer import UsageIngest
from tollhouse.billing.shipper import Shipper
from tollhouse.core.chunk import Account
from tollhouse.core.ids import exchange_id
from tollhouse.core.windows import AS_PROMISED, BILLED, SECONDS_PER_HOUR
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

RECORDS = 100_000
TENANTS = [f"tenant-{number}" for number in range(50)]
MODELS = ["small", "medium", "large"]
MOST_CALLS = 600
BATCH = 500


class Clock:
    """Unix seconds, set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def accounts(tenants):
    return {tenant: Account("stripe", f"cus_{tenant}") for tenant in tenants}


async def test_a_busy_hour_is_a_few_hundred_calls(client: Redis):
    """One per tenant, model and billed token type, whatever the traffic."""
    clock = Clock(time.time())
    owed: Counter[tuple[str, str]] = Counter()
    metrics = BillingMetrics()
    leadership, chunks = Leadership(client, "test"), Chunks(client)
    windows = Windows(client, clock)
    dedupe = Dedupe(client, hours=48)
    ingest = UsageIngest(windows, dedupe, metrics, cast("Any", None), Tracing())
    async with (
        running_stand_in() as stand_in,
        stripe_account(stand_in, seconds=60) as account,
    ):
        for tenant in TENANTS:
            stand_in.add_customer(f"cus_{tenant}")
        for model in MODELS:
            for type_ in ("uncached_input", "cached_input", "output"):
                stand_in.add_meter(f"tollhouse.{model}.{type_}")
        pace = Pace(1000, longest_pause_seconds=1)
        provider = MeterEvents(account)
        sealer = Sealer(
            chunks,
            leadership,
            accounts,
            clock,
            cadence=AS_PROMISED,
            metrics=metrics,
        )
        shipper = Shipper(
            chunks,
            provider,
            leadership,
            pace,
            clock,
            metrics=metrics,
            tracing=Tracing(),
            call_seconds=60,
            longest_pause_seconds=1,
        )

        kinds = [
            _kind(number, clock.now) for number in range(len(TENANTS) * len(MODELS))
        ]
        for start in range(0, RECORDS, BATCH):
            batch = usage_pb.UsageBatch(batch_id=start + 1)
            for number in range(start, start + BATCH):
                kind = kinds[number % len(kinds)]
                record = batch.records.add()
                record.CopyFrom(kind)
                record.record_id = _id(number, clock.now)
                tokens = kind.usage.input_tokens + kind.usage.output_tokens
                owed[f"cus_{kind.tenant}", kind.served_model] += tokens
            request = usage_pb.ReportUsageRequest(batch=batch)
            answer = await ingest.ReportUsage(request, cast("Any", None))
            assert BATCH == answer.ack.applied
        clock.now += SECONDS_PER_HOUR + AS_PROMISED.delay_seconds
        stand_in.clock.set(clock.now)
        await leadership.renew()
        while not await sealer.look():
            await leadership.renew()
        while await chunks.due(range(BILLING_SHARDS), clock(), 1):
            await leadership.renew()
            await shipper.look()
            await shipper.rest()

        accepted: Counter[tuple[str, str]] = Counter()
        for (customer, event_name, _), value in stand_in.totals().items():
            accepted[customer, event_name.split(".")[1]] += value
        assert owed == accepted
        windows_sent = len(TENANTS) * len(MODELS) * len(BILLED)
        assert windows_sent == len(stand_in.calls) <= MOST_CALLS


def _kind(number: int, now: float) -> usage_pb.UsageRecord:
    record = Record.make(
        made_ms=round(now * 1000),
        tenant=TENANTS[number % len(TENANTS)],
        model=MODELS[number % len(MODELS)],
        input=100 + number % 7,
        cached=1 + number % 50,
        output=1 + number % 90,
    )
    return record.to_pb()


def _id(number: int, now: float) -> str:
    return exchange_id(round(now * 1000), number.to_bytes(10))
