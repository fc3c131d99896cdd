"""Run authz: `python -m tollhouse.authz`, settings from the environment."""

import uuid
from collections.abc import Callable, Mapping

from tollhouse.adapters import logs, metric_export
from tollhouse.adapters.authz_metrics import watch_checks
from tollhouse.adapters.certificate_metrics import watch_certificates
from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.jwts import Jwts
from tollhouse.adapters.live import Live
from tollhouse.adapters.loss_metrics import watch_lost_spans
from tollhouse.adapters.pepper import PepperError, PepperFile
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.changes import CHANGED
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.adapters.redis.redis_py import asyncio_clients
from tollhouse.adapters.redis.subscription import Subscription
from tollhouse.adapters.tls import server_tls
from tollhouse.adapters.tracing import Tracing
from tollhouse.authz.config import Settings
from tollhouse.authz.servicer import SERVICE, AuthorizationServicer
from tollhouse.core.issuer import Issuer

LOOKUP_SECONDS = 0.2
"""Of Redis' time for each of a look-up's two trips at most; Envoy waits for 0.5 s."""


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    logs.configure(process.name, settings.log_level)
    tls = server_tls(settings.listen, settings)
    try:
        live = None if settings.config is None else Live(settings.config)
        jwts = Jwts(_issuers(live))
        peppers = PepperFile(settings.pepper_file)
        clients = asyncio_clients(settings.redis_access)
        redis_ = await Redis.connect(
            settings.redis_access, budget_seconds=LOOKUP_SECONDS
        )
    except (ConfigurationError, PepperError) as error:
        raise StartError(str(error)) from error
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_REDIS_URL: {error}") from error
    instance = str(uuid.uuid4())
    tracing = Tracing.open(process.name, instance)
    servicer = AuthorizationServicer(
        Credentials(redis_), lambda: peppers.pepper, jwts, tracing
    )
    export = metric_export.open_export(process.name, instance)
    watch_lost_spans(export, lambda: tracing.lost)
    watch_certificates(export, settings)
    watch_checks(export, verdicts=servicer.verdicts, lookups=servicer.lookups)
    changes = Subscription(
        clients, CHANGED, heard=servicer.changed, began=servicer.missed
    )
    followed = [] if live is None else [live.run]
    try:
        await serve(
            process,
            servicer.add_to,
            settings.listen,
            service_names=[SERVICE],
            tls=tls,
            health_listen=settings.health_listen,
            background=[changes.run, peppers.run, jwts.run, *followed],
        )
    finally:
        await redis_.close()
        tracing.close()
        metric_export.close_export(export)


def _issuers(live: Live | None) -> Callable[[], Mapping[str, Issuer]]:
    """Say who may issue JWTs at the moment: nobody, without a tollhouse.yaml."""
    nobody: Mapping[str, Issuer] = {}
    return lambda: nobody if live is None else live.catalog.issuers


if __name__ == "__main__":
    run("authz", main)
