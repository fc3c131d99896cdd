"""Run extproc: `python -m tollhouse.extproc`, settings from the environment."""

from tollhouse.adapters import logs, metric_export
from tollhouse.adapters.address import Address
from tollhouse.adapters.admission_notes import AdmissionNotes
from tollhouse.adapters.admission_proof import read_proof
from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.adapters.dependency_metrics import watch_dependencies
from tollhouse.adapters.exchange_metrics import ExchangeMetrics
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.ledger_rotation import Rotation
from tollhouse.adapters.live import Live
from tollhouse.adapters.loss_metrics import watch_lost_spans
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.experience import Lessons, Refresher
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.outbox import Outbox
from tollhouse.adapters.redis.positions import Positions
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.workers import Workers
from tollhouse.adapters.remote import Remote, RemoteSettings, open_remote
from tollhouse.adapters.script_metrics import script_observer
from tollhouse.adapters.tls import server_tls
from tollhouse.adapters.tokenizer import Tokenizers
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.experience import Experience
from tollhouse.extproc.backends import Backends
from tollhouse.extproc.config import Settings
from tollhouse.extproc.drain import draining
from tollhouse.extproc.endings import Endings
from tollhouse.extproc.ladder import Ladder
from tollhouse.extproc.last_lines import LastLines
from tollhouse.extproc.learner import Learner
from tollhouse.extproc.relay import Relay
from tollhouse.extproc.servicer import SERVICE, ExternalProcessorServicer
from tollhouse.extproc.settler import Settler


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    logs.configure(process.name, settings.log_level)
    tls = server_tls(settings.listen, settings)
    aggregator = _aggregator(settings)
    tokenizers = Tokenizers()
    try:
        live = Live(
            settings.config, prepare=lambda it: tokenizers.load(it.models.values())
        )
    except ConfigurationError as error:
        raise StartError(str(error)) from error
    proof = _proof(settings)
    admin = _admin(settings)
    reader = _reader(settings)
    worker = f"{settings.node}/{settings.worker}"
    export = metric_export.open_export(process.name, worker)
    tracing = Tracing.open(process.name, worker)
    watch_lost_spans(export, lambda: tracing.lost)
    try:
        redis = await Redis.connect(
            settings.redis_access, observe=script_observer(export)
        )
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_REDIS_URL: {error}") from error
    watches = watch_dependencies(export, settings, redis)
    metrics = Metrics(export)
    endings = Endings(
        ExchangeMetrics(export),
        tracing,
        slow_seconds=lambda: live.catalog.telemetry.slow_seconds,
    )
    limiter = Limiter(redis)
    workers = Workers(redis, worker, minimum=settings.min_workers)
    experience = Experience()
    learner = Learner(Lessons(redis), metrics)
    relay = Relay(Outbox(redis, settings.worker), aggregator, watched=metrics.waits)
    positions = Positions(redis, settings.node)
    settler = Settler(
        reader,
        positions,
        limiter,
        Reaper(redis),
        redis,
        settled=relay.notify,
        learn=learner.learn,
        tell=endings.tell,
        faulty=metrics.faulty,
    )
    last_lines = LastLines(settler, relay, most_seconds=settings.finish_seconds)
    metrics.watch_ledger(reader.lag)
    notes = AdmissionNotes(settings.ledger, settings.worker)
    backends = Backends(admin, live)
    rotation = (
        []
        if admin is None
        else [Rotation(reader, admin, largest_bytes=settings.ledger_rotate_bytes).run]
    )
    servicer = ExternalProcessorServicer(
        live=live,
        experience=experience,
        tokenizers=tokenizers,
        ladder=Ladder(limiter, workers, metrics, note=notes.note),
        metrics=metrics,
        proof=proof,
        stopping=process.stopping,
        tracing=tracing,
        down=lambda: backends.down,
    )
    try:
        with draining(settings, admin, last_lines.settle) as drain:
            await serve(
                process,
                servicer.add_to,
                settings.listen,
                service_names=[SERVICE],
                tls=tls,
                health_listen=settings.health_listen,
                finish=last_lines.finish,
                background=[
                    settler.read,
                    positions.keep,
                    settler.reap,
                    relay.run,
                    live.run,
                    workers.beat,
                    Refresher(redis, experience).run,
                    learner.run,
                    backends.run,
                    *watches,
                    *rotation,
                    *drain,
                ],
            )
        await servicer.drain()
    finally:
        notes.close()
        reader.close()
        await redis.close()
        tracing.close()
        metric_export.close_export(export)


def _proof(settings: Settings) -> bytes:
    try:
        return read_proof(settings.admission_proof_file).encode()
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_ADMISSION_PROOF_FILE: {error}") from error


def _aggregator(settings: Settings) -> Remote:
    cert, key, of = settings.billing_cert_file, settings.billing_key_file, "BILLING"
    if settings.billing_ca_file is not None and cert is None and key is None:
        cert, key, of = settings.tls_cert_file, settings.tls_key_file, "TLS"
        if cert is None:  # nor has the server one: the remedy is the client's own
            of = "BILLING"
    return open_remote(
        RemoteSettings(
            target=("TOLLHOUSE_BILLING_TARGET", settings.billing_target),
            ca_file=("TOLLHOUSE_BILLING_CA_FILE", settings.billing_ca_file),
            cert_file=(f"TOLLHOUSE_{of}_CERT_FILE", cert),
            key_file=(f"TOLLHOUSE_{of}_KEY_FILE", key),
            server_name=("TOLLHOUSE_BILLING_SERVER_NAME", settings.billing_server_name),
        )
    )


def _admin(settings: Settings) -> Address | None:
    if settings.envoy_admin is None:
        return None
    try:
        return Address.parse(settings.envoy_admin)
    except ValueError as error:
        raise StartError(f"TOLLHOUSE_ENVOY_ADMIN: {error}") from error


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
