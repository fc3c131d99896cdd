"""The billing aggregator: `python -m tollhouse.billing`."""

import contextlib
import time
import uuid
from collections.abc import Callable
from functools import partial

import grpc.aio

from tollhouse.adapters import logs, metric_export
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.adapters.dependency_metrics import watch_dependencies
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.live import Live
from tollhouse.adapters.loss_metrics import watch_lost_spans
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.backlog import Backlogs
from tollhouse.adapters.redis.chunks import Chunks
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.dedupe import Dedupe
from tollhouse.adapters.redis.leadership import Leadership
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.script_metrics import script_observer
from tollhouse.adapters.tls import server_tls
from tollhouse.adapters.tracing import Tracing
from tollhouse.billing import upkeep
from tollhouse.billing.config import Settings
from tollhouse.billing.pace import Pace
from tollhouse.billing.sealer import Sealer
from tollhouse.billing.servicer import UsageIngest, UsageQuery
from tollhouse.billing.shipper import Shipper
from tollhouse.billing.shipping import open_shipping
from tollhouse.core.problems import Unavailable
from tollhouse.core.windows import Cadence
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

_SERVICES = (
    "tollhouse.usage.v1.UsageIngestService",
    "tollhouse.usage.v1.UsageQueryService",
)


async def main(process: Process, clock: Callable[[], float] = time.time) -> None:
    """Wire the process and serve; `clock` gives Unix seconds."""
    settings = read_settings(Settings)
    logs.configure(process.name, settings.log_level)
    tls = server_tls(settings.listen, settings)
    try:
        live = Live(settings.config)
    except ConfigurationError as error:
        raise StartError(str(error)) from error
    async with contextlib.AsyncExitStack() as stack:
        holder = str(uuid.uuid4())
        export = metric_export.open_export(process.name, holder)
        stack.callback(metric_export.close_export, export)
        tracing = Tracing.open(process.name, holder)
        stack.callback(tracing.close)
        watch_lost_spans(export, lambda: tracing.lost)
        try:
            redis = await Redis.connect(
                settings.redis_access, observe=script_observer(export)
            )
        except ValueError as error:
            raise StartError(f"TOLLHOUSE_BILLING_REDIS_URL: {error}") from error
        stack.push_async_callback(redis.close)
        watches = watch_dependencies(export, settings, redis)
        metrics = BillingMetrics(export)
        chunks = Chunks(redis, deployment=settings.deployment)
        shipping = open_shipping(
            settings,
            stack,
            redis=redis,
            chunks=chunks,
            catalog=lambda: live.catalog,
            clock=clock,
            metrics=metrics,
        )
        cadence = Cadence(settings.seal_delay_seconds, settings.seal_every_seconds)
        windows = Windows(redis, clock, cadence)
        dedupe = Dedupe(redis, hours=settings.dedupe_hours)
        leadership = Leadership(redis, holder)
        sealer = Sealer(
            chunks,
            leadership,
            shipping.accounts,
            clock,
            cadence=cadence,
            metrics=metrics,
        )
        shipper = Shipper(
            chunks,
            shipping.provider,
            leadership,
            Pace(
                settings.calls_per_second,
                longest_pause_seconds=settings.longest_pause_seconds,
            ),
            clock,
            metrics=metrics,
            tracing=tracing,
            call_seconds=settings.call_seconds,
            longest_pause_seconds=settings.longest_pause_seconds,
        )

        def add_servicers(server: grpc.aio.Server) -> None:
            ingest = UsageIngest(windows, dedupe, metrics, process.stopping, tracing)
            usage_grpc.add_UsageIngestServiceServicer_to_server(ingest, server)
            query = UsageQuery(windows)
            usage_grpc.add_UsageQueryServiceServicer_to_server(query, server)

        await serve(
            process,
            add_servicers,
            settings.listen,
            service_names=_SERVICES,
            tls=tls,
            health_listen=settings.health_listen,
            background=[
                live.run,
                sealer.run,
                shipper.run,
                *watches,
                partial(upkeep.lead, leadership),
                partial(upkeep.forget, dedupe, clock),
                partial(upkeep.measure, Backlogs(redis), metrics, clock),
                *shipping.background,
            ],
        )
        with contextlib.suppress(Unavailable):
            await leadership.resign()


if __name__ == "__main__":
    run("billing", main)
