"""Run admin: `python -m tollhouse.admin`, settings from the environment."""

import contextlib
import uuid
from collections.abc import Callable

import structlog

from tollhouse.adapters import logs, metric_export
from tollhouse.adapters.dependency_metrics import watch_dependencies
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.pepper import Pepper, PepperError, PepperFile
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.audit import AuditEntry
from tollhouse.adapters.redis.audit_tail import AuditTail
from tollhouse.adapters.redis.changes import MOVED
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.redis_py import asyncio_clients
from tollhouse.adapters.redis.subscription import Subscription
from tollhouse.adapters.tls import server_tls
from tollhouse.admin.calls import Calls
from tollhouse.admin.config import Settings
from tollhouse.admin.mover import Mover
from tollhouse.admin.servicer import SERVICES, add_to
from tollhouse.admin.tokens import Tokens, TokensError

_log = structlog.get_logger()


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    logs.configure(process.name, settings.log_level)
    tls = server_tls(settings.listen, settings)
    try:
        tokens = Tokens(settings.admin_tokens_file)
        at = settings.pepper_file
        peppers = None if at is None else PepperFile(at)
        access = settings.redis_access
        clients = asyncio_clients(access)
        pepper = None if peppers is None else _current(peppers)
        ring = Keyring(access, pepper, who="admin")
        redis = await Redis.connect(access)
    except (PepperError, TokensError) as error:
        raise StartError(str(error)) from error
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_REDIS_URL: {error}") from error
    mover = Mover(ring)
    moved = Subscription(clients, MOVED, heard=mover.heard, began=lambda: None)
    tail = AuditTail(clients, _record)
    calls = Calls(ring, tokens)
    export = metric_export.open_export(process.name, str(uuid.uuid4()))
    watches = watch_dependencies(export, settings, redis)
    await tail.begin()
    background = [tail.run, moved.run, mover.run, *watches]
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(contextlib.closing(ring))
        stack.push_async_callback(redis.close)
        stack.callback(metric_export.close_export, export)
        await serve(
            process,
            lambda server: add_to(server, calls),
            settings.listen,
            service_names=SERVICES,
            tls=tls,
            health_listen=settings.health_listen,
            background=[*background, peppers.run] if peppers else background,
        )


def _current(peppers: PepperFile) -> Callable[[], Pepper]:
    return lambda: peppers.pepper


def _record(entry: AuditEntry) -> None:
    """Have each change in the log too, whoever made it."""
    _log.info(
        "audit.recorded",
        entry=entry.id,
        who=entry.who,
        action=entry.action,
        tenant=entry.tenant,
        key_id=entry.key_id,
        changed=sorted(entry.changes),
    )


if __name__ == "__main__":
    run("admin", main)
