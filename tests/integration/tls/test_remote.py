"""The relay and the command line, and the real aggregator on TCP."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from tests.certificates import Authority, Pair
from tests.integration.billing.conftest import CONFIG, START_SECONDS, Part
from tests.integration.billing.records import Record, settle, wait_drained, wait_until
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.outbox import Outbox
from tollhouse.adapters.redis.shards import shard
from tollhouse.adapters.remote import Remote, RemoteSettings, open_remote
from tollhouse.extproc.relay import Relay

RELAY, OPERATOR = "extproc.test", "operator.test"


@pytest.fixture
def target(
    tmp_path: Path,
    redis_url: str,
    authority: Authority,
    free_port: Callable[[], int],
) -> Iterator[str]:
    """An aggregator that expects a relay and an operator."""
    pair = authority.issue("localhost", into="aggregator")
    target = f"localhost:{free_port()}"
    settings = {
        "TOLLHOUSE_LISTEN": target,
        "TOLLHOUSE_TLS_CERT_FILE": str(pair.certificate),
        "TOLLHOUSE_TLS_KEY_FILE": str(pair.key),
        "TOLLHOUSE_TLS_CLIENT_CA_FILE": str(authority.file),
        "TOLLHOUSE_TLS_CLIENT_NAMES": f"{RELAY},{OPERATOR}",
        "TOLLHOUSE_BILLING_REDIS_URL": redis_url,
        "TOLLHOUSE_CONFIG": str(CONFIG),
        "TOLLHOUSE_BILLING_LEDGER": str(tmp_path / "ledger"),
    }
    part = Part(
        [sys.executable, "-m", "tollhouse.billing"], settings, tmp_path / "billing.log"
    )
    part.start()
    try:
        wait_until(lambda: "server.started" in part.log, "started", START_SECONDS)
        yield target
    finally:
        part.kill()


@pytest.fixture
def db(redis_url: str) -> Iterator[redis.Redis]:
    """A look from outside into the run's Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def remote(
    target: str, trusted: Authority, pair: Pair, server_name: str | None = None
) -> Remote:
    return open_remote(
        RemoteSettings(
            target=("TARGET", target),
            ca_file=("CA", trusted.file),
            cert_file=("CERT", pair.certificate),
            key_file=("KEY", pair.key),
            server_name=("NAME", server_name),
        )
    )


@contextlib.asynccontextmanager
async def relaying(redis_url: str, aggregator: Remote) -> AsyncIterator[Relay]:
    """A relay in this process."""
    client = await Redis.connect(redis_url, budget_seconds=2.0)
    relay = Relay(Outbox(client, "here"), aggregator)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()


def usage(target: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `tollhouse usage`."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "tollhouse.cli", "usage", "--json"),
            *("--target", target, *options),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def with_tls(trusted: Authority, pair: Pair) -> list[str]:
    return [
        *("--ca-file", str(trusted.file)),
        *("--cert-file", str(pair.certificate), "--key-file", str(pair.key)),
    ]


async def test_records_and_questions_over_mtls(target, redis_url, authority, db):
    """From an outbox to the aggregator, and from there to an operator."""
    pair = authority.issue(RELAY)
    settle(db, [Record.make()])
    async with relaying(redis_url, remote(target, authority, pair)) as relay:
        relay.notify({shard("acme")})
        await asyncio.to_thread(wait_drained, db)

    operator = authority.issue(OPERATOR)
    done = await asyncio.to_thread(usage, target, *with_tls(authority, operator))
    assert (done.returncode, done.stderr) == (0, "")
    assert [it["tenant"] for it in json.loads(done.stdout)] == ["acme"]


async def test_new_certificates_need_no_restart(target, redis_url, authority, db):
    """A relay that is refused by name is let in with the certificate it gets then."""
    pair = authority.issue("stranger.test", into="relay")
    settle(db, [Record.make()])
    with capture_logs() as logs:
        async with relaying(redis_url, remote(target, authority, pair)):

            def was_refused() -> bool:
                return any(
                    it["event"] == "aggregator.lost"
                    and it["reason"].startswith("PERMISSION_DENIED")
                    for it in logs
                )

            await asyncio.to_thread(wait_until, was_refused, "refused")
            authority.issue(RELAY, into="relay")
            await asyncio.to_thread(wait_drained, db)


async def test_an_aggregator_of_another_name_gets_nothing(
    target, redis_url, authority, db
):
    """Its name is the target's host, unless another is set."""
    pair = authority.issue(RELAY)
    settle(db, [Record.make()])
    elsewhere = remote(target, authority, pair, server_name="billing.test")
    with capture_logs() as logs:
        async with relaying(redis_url, elsewhere):
            lost = "aggregator.lost"
            await asyncio.to_thread(
                wait_until, lambda: any(it["event"] == lost for it in logs), "refused"
            )
    assert "Hostname Verification" in logs[-1].get("reason", str(logs))
    assert "aggregator.connected" not in [it["event"] for it in logs]
    by_number = target.replace("localhost", "127.0.0.1")
    named = remote(by_number, authority, pair, server_name="localhost")
    async with relaying(redis_url, named):
        await asyncio.to_thread(wait_drained, db)


def test_what_an_operator_is_told(target, authority, tmp_path):
    """Whose fault it is: the name, the certificate, the command line."""
    stranger = with_tls(authority, authority.issue("stranger.test"))
    done = usage(target, *stranger)
    assert done.returncode == 1
    assert "does not know your certificate's name" in done.stderr
    other = with_tls(Authority(tmp_path / "other"), authority.issue(OPERATOR))
    for options in (other, []):
        done = usage(target, *options)
        assert done.returncode == 1
        assert "can't be reached, its certificate or ours is refused" in done.stderr
    done = usage("billing.test:9004")
    assert done.returncode == 2
    assert "without TLS everybody between could read" in done.stderr
    assert "set --ca-file, --cert-file and --key-file" in done.stderr
