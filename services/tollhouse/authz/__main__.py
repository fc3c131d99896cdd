"""Run authz: `python -m tollhouse.authz`, settings from the environment."""

from tollhouse.adapters import telemetry
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.pepper import Pepper, PepperError
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.authz.config import Settings
from tollhouse.authz.servicer import SERVICE, AuthorizationServicer


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    telemetry.configure(process.name, settings.log_level)
    try:
        pepper = Pepper.read(settings.pepper_file)
        redis = await Redis.connect(settings.redis_url)
    except PepperError as error:
        raise StartError(str(error)) from error
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_REDIS_URL: {error}") from error
    servicer = AuthorizationServicer(Credentials(redis), pepper)
    try:
        await serve(process, servicer.add_to, settings.listen, service_names=[SERVICE])
    finally:
        await redis.close()


if __name__ == "__main__":
    run("authz", main)
