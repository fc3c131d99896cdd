"""Run authz: `python -m tollhouse.authz`, settings from the environment."""

from tollhouse.adapters import telemetry
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.pepper import PepperError, PepperFile
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.changes import CHANGED
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.adapters.redis.redis_py import asyncio_clients
from tollhouse.adapters.redis.subscription import Subscription
from tollhouse.adapters.tls import server_tls
from tollhouse.authz.config import Settings
from tollhouse.authz.servicer import SERVICE, AuthorizationServicer


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    telemetry.configure(process.name, settings.log_level)
    tls = server_tls(settings.listen, settings)
    try:
        peppers = PepperFile(settings.pepper_file)
        clients = asyncio_clients(settings.redis_access)
        redis_ = await Redis.connect(settings.redis_access)
    except PepperError as error:
        raise StartError(str(error)) from error
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_REDIS_URL: {error}") from error
    servicer = AuthorizationServicer(Credentials(redis_), lambda: peppers.pepper)
    changes = Subscription(
        clients,
        CHANGED,
        heard=servicer.changed,
        began=servicer.missed,
    )
    try:
        await serve(
            process,
            servicer.add_to,
            settings.listen,
            service_names=[SERVICE],
            tls=tls,
            background=[changes.run, peppers.run],
        )
    finally:
        await redis_.close()


if __name__ == "__main__":
    run("authz", main)
