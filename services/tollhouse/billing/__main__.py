"""The billing aggregator: `python -m tollhouse.billing`."""

import grpc.aio

from tollhouse.adapters import telemetry
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.windows import Windows
from tollhouse.billing.config import Settings
from tollhouse.billing.servicer import UsageIngest, UsageQuery
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

_SERVICES = (
    "tollhouse.usage.v1.UsageIngestService",
    "tollhouse.usage.v1.UsageQueryService",
)


async def main(process: Process) -> None:
    """Wire the process and serve."""
    settings = read_settings(Settings)
    telemetry.configure(process.name, settings.log_level)
    try:
        redis = await Redis.connect(settings.billing_redis_url)
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_BILLING_REDIS_URL: {error}") from error
    windows = Windows(redis, dedupe_hours=settings.dedupe_hours)

    def add_servicers(server: grpc.aio.Server) -> None:
        ingest = UsageIngest(windows, process.stopping)
        usage_grpc.add_UsageIngestServiceServicer_to_server(ingest, server)
        query = UsageQuery(windows)
        usage_grpc.add_UsageQueryServiceServicer_to_server(query, server)

    await serve(process, add_servicers, settings.listen, service_names=_SERVICES)
    await redis.close()


if __name__ == "__main__":
    run("billing", main)
