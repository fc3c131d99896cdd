"""Run extproc: `python -m tollhouse.extproc`, settings from the environment."""

import re

from tollhouse.adapters import telemetry
from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.outbox import Outbox
from tollhouse.adapters.redis.positions import Positions
from tollhouse.extproc.config import Settings
from tollhouse.extproc.relay import Relay
from tollhouse.extproc.servicer import SERVICE, ExternalProcessorServicer
from tollhouse.extproc.settler import Settler

# A disk that is busy for a moment stalls every fsync: 50 ms, the client's own budget,
# refused 10 of 6,000 requests then; Envoy waits a second for us (docs/adr/0005).
REDIS_BUDGET_SECONDS = 0.25

# A header value nobody guesses and every proxy takes.
_PROOF = re.compile(rb"[A-Za-z0-9_-]{32,256}")


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    telemetry.configure(process.name, settings.log_level)
    try:
        catalog = load(settings.config).catalog()
    except ConfigurationError as error:
        raise StartError(str(error)) from error
    proof = _proof(settings)
    reader = _reader(settings)
    try:
        redis = await Redis.connect(
            settings.redis_url, budget_seconds=REDIS_BUDGET_SECONDS
        )
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_REDIS_URL: {error}") from error
    limiter = Limiter(redis)
    relay = Relay(Outbox(redis, settings.worker), settings.billing_target)
    settler = Settler(
        reader, Positions(redis, settings.node), limiter, redis, relay.notify
    )
    servicer = ExternalProcessorServicer(catalog, limiter, proof)
    try:
        await serve(
            process,
            servicer.add_to,
            settings.listen,
            service_names=[SERVICE],
            background=[settler.read, settler.reap, relay.run],
        )
        await servicer.drain()
    finally:
        reader.close()
        await redis.close()


def _proof(settings: Settings) -> bytes:
    path = settings.admission_proof_file
    try:
        proof = path.read_bytes().strip()
    except OSError as error:
        raise StartError(
            f"TOLLHOUSE_ADMISSION_PROOF_FILE: can't read {path}: {error.strerror}"
        ) from error
    if not _PROOF.fullmatch(proof):
        raise StartError(
            f"TOLLHOUSE_ADMISSION_PROOF_FILE: {path} must hold 32 to 256 of "
            "A-Z a-z 0-9 _ -, the value Envoy's backend routes require"
        )
    return proof


def _reader(settings: Settings) -> LedgerReader:
    try:
        return LedgerReader(settings.ledger)
    except OSError as error:
        raise StartError(
            f"TOLLHOUSE_LEDGER: can't use the folder of {settings.ledger}: "
            f"{error.strerror}"
        ) from error


if __name__ == "__main__":
    run("extproc", main)
