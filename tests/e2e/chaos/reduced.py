"""A run without Envoy, in seconds: every blow falls where it has to.

Real Redis, extproc, aggregator and provider's stand-in; the ledger's lines are written
here. What a whole run leaves to chance is made to happen once: the provider takes every
chunk and answers 500, extproc dies when its place in the ledger has moved, the
aggregator when it has acknowledged, and its answer for a batch is lost.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import redis

from tests import examples
from tests.chaos import ledgers, rig
from tests.chaos.load import View, Wish, wishes
from tests.chaos.part import AHEAD_SECONDS
from tests.chaos.verdict import Verdict, judge
from tests.e2e.main.load import Seen
from tests.integration.billing.conftest import Part
from tests.redis_process import running_redis
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import Customers
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.shards import SHARDS, outbox
from tollhouse.adapters.usage_pb import to_pb_record
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Debit, Limit, Measure, Scope
from tollhouse.core.reservation import Granted, Reservation
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

EXCHANGES = 40
PATIENCE_SECONDS = 60.0
"""For what has to come, however busy the machine is."""
LEASES_SECONDS = 3.0
_LIMIT = Limit(Scope.KEY, Measure.CONCURRENT, 1000)


async def run(control: str | None) -> Verdict:
    """Make one, with or without a mistake, and compare its ledgers."""
    with tempfile.TemporaryDirectory(prefix="th-") as name:
        folder = Path(name)
        (folder / "state" / "redis").mkdir(parents=True)
        stripe = rig.Stripe(folder, seed=1, faults=0.0, ahead=AHEAD_SECONDS)
        try:
            with running_redis(folder / "state" / "redis", appendonly="yes") as server:
                return await Reduced(folder, server.url, stripe, control).run()
        finally:
            stripe.stop()


class Reduced:
    """One such run."""

    def __init__(
        self, folder: Path, redis_url: str, stripe: rig.Stripe, control: str | None
    ) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._stripe = stripe
        self._ledger = folder / "ledger.jsonl"
        self._views: list[View] = []
        settings = {
            "CONFIG": str(rig.write_config(folder / "tollhouse.yaml")),
            "LISTEN": self._target("billing"),
            "BILLING_REDIS_URL": redis_url,
            "PROVIDER": "stripe",
            "STRIPE_URL": stripe.url,
            "STRIPE_KEY_FILE": str(stripe.key_file),
            "SEAL_DELAY_SECONDS": "0",
            "SEAL_EVERY_SECONDS": "1",
            "CALL_SECONDS": "2",
            "LONGEST_PAUSE_SECONDS": "0.3",
        }
        self._billing = self._part("billing", control, settings)
        (folder / "proof").write_text("p" * 32)
        settings = {
            "CONFIG": settings["CONFIG"],
            "LISTEN": self._target("extproc"),
            "REDIS_URL": redis_url,
            "ADMISSION_PROOF_FILE": str(folder / "proof"),
            "LEDGER": str(self._ledger),
            "BILLING_TARGET": self._target("billing"),
        }
        self._extproc = self._part("extproc", control, settings)

    async def run(self) -> Verdict:
        """Do all of it."""
        wanted = wishes(7, EXCHANGES, rig.TENANTS, rig.MODELS)
        client = await Redis.connect(self._redis_url, budget_seconds=5.0)
        try:
            for tenant in rig.TENANTS:
                await Customers(client).link(tenant, rig.customer(tenant))
            limiter = Limiter(client)
            self._stripe.fail_after_all()
            with self._running(), redis.Redis.from_url(self._redis_url) as db:
                await self._settle_first_half(limiter, db, wanted[: EXCHANGES // 2])
                await self._settle_second_half(limiter, db, wanted[EXCHANGES // 2 :])
                await self._rest(db)
                totals = self._stripe.totals()
                read = ledgers.read(self._folder, RedisAccess(self._redis_url), totals)
        finally:
            await client.close()
        return judge(read, self._views, envoy_killed_at=[])

    async def _settle_first_half(
        self, limiter: Limiter, db: redis.Redis, wanted: list[Wish]
    ) -> None:
        """The reader dies when its place moved, the aggregator when it acked."""
        self._append([await self._admit(limiter, wish) for wish in wanted])
        size = self._ledger.stat().st_size
        await _must(lambda: _place(db) == size)
        self._extproc.kill()
        self._extproc.start()
        await _must(lambda: not ledgers.waiting(db)["outbox"])
        self._billing.kill()

    async def _settle_second_half(
        self, limiter: Limiter, db: redis.Redis, wanted: list[Wish]
    ) -> None:
        """What the aggregator gets comes to it twice."""
        self._append([await self._admit(limiter, wish) for wish in wanted])
        await _must(lambda: ledgers.waiting(db)["outbox"] == len(wanted))
        batch = usage_pb.UsageBatch(batch_id=1, records=_waiting_records(db))
        self._billing.start()
        await _must(lambda: not ledgers.waiting(db)["outbox"])
        async with grpc.aio.insecure_channel(self._target("billing")) as channel:
            ingest = usage_grpc.UsageIngestServiceStub(channel)
            await ingest.ReportUsage(
                usage_pb.ReportUsageRequest(batch=batch), wait_for_ready=True
            )

    async def _rest(self, db: redis.Redis) -> None:
        """The provider has taken some in vain; from then on it answers."""
        await _must(lambda: self._stripe.counts().get("error_after", 0) > 0)
        self._stripe.calm()
        await _must(lambda: not ledgers.waiting(db).keys() - {"leases"})
        # An exchange whose end was lost has one for another 20 s; it is lost now.
        await rig.until(lambda: not ledgers.waiting(db), LEASES_SECONDS)

    async def _admit(self, limiter: Limiter, wish: Wish) -> bytes:
        """Reserve, generate and be read whole; the ledger's line of the end."""
        now = time.time()
        id_ = exchange_id(round(now * 1000), os.urandom(10))
        facts = examples.facts(
            tenant=wish.tenant,
            requested_model=wish.model,
            served_model=wish.model,
            debits=(Debit(_LIMIT.scope, _LIMIT.measure, 0),),
        )
        granted = await limiter.reserve(Reservation(id_, facts, (_LIMIT,)))
        assert isinstance(granted, Granted)
        counts = {"input": wish.input, "cached": wish.cached, "output": wish.output}
        done = {"exchange": id_, "tenant": wish.tenant, "model": wish.model, **counts}
        with (self._folder / "engine.jsonl").open("a") as file:
            file.write(json.dumps({**done, "is_whole": True, "ended_at": now}) + "\n")
        seen = Seen(True, "complete", 200, id_, letters=wish.output)
        self._views.append(View(wish, now, seen))
        usage = f"{wish.input},{wish.output},{wish.cached}"
        line = {
            "type": "DownstreamEnd",
            "exchange": id_,
            "tenant": wish.tenant,
            "admitted": True,
            "facts": facts.encode().decode(),
            "meter": f"sse,9,7,1,{usage},-,0,0,DF,0",
            "started_at": f"{now:.3f}",
            "duration_ms": 5,
            "code": 200,
            "upstream_host": "h:1",
        }
        return json.dumps(line).encode() + b"\n"

    def _append(self, lines: list[bytes]) -> None:
        """At once, as Envoy writes what it has gathered."""
        with self._ledger.open("ab") as file:
            file.write(b"".join(lines))

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        parts = (self._billing, self._extproc)
        try:
            for part in parts:
                part.start()
            yield
        finally:
            for part in parts:
                if part.process is not None and part.process.poll() is None:
                    part.kill(signal.SIGKILL)

    def _part(self, name: str, control: str | None, settings: dict[str, str]) -> Part:
        command = [sys.executable, "-m", "tests.chaos.part", name]
        if control is not None:
            command += ["--control", control]
        env = {f"TOLLHOUSE_{key}": value for key, value in settings.items()}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        return Part(command, env, self._folder / f"{name}.log")

    def _target(self, name: str) -> str:
        return f"unix:{self._folder}/{name}.sock"


async def _must(condition: Callable[[], bool]) -> None:
    took = await rig.until(condition, PATIENCE_SECONDS)
    assert took is not None, "the run does not go on"


def _place(db: redis.Redis) -> int:
    """How far the ledger is committed."""
    places = db.hvals("th:ledger:local")
    return max((int(it.split()[0]) for it in places), default=0)


def _waiting_records(db: redis.Redis) -> list[usage_pb.UsageRecord]:
    found: list[usage_pb.UsageRecord] = []
    for number in range(SHARDS):
        entries: Any = db.xrange(outbox(number))
        found += (to_pb_record(fields) for _, fields in entries)
    return found
