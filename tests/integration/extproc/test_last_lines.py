"""The process's end: what Envoy wrote last is settled and delivered before it."""

import json
import signal
import sys
import time

import pytest

from tests import examples
from tests.integration.billing.conftest import CONFIG, Aggregator, Part
from tests.stack_redis import open_redis
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.shards import SHARDS
from tollhouse.core.ids import exchange_id

EXCHANGES = 300
FACTS = examples.facts(tenant="acme")
START_SECONDS = 60.0


def line(number):
    id_ = exchange_id(time.time_ns() // 1_000_000, number.to_bytes(10))
    said = {
        "type": "DownstreamEnd",
        "exchange": id_,
        "tenant": "acme",
        "key_id": "k",
        "admitted": True,
        "facts": FACTS.encode().decode(),
        "meter": "sse,9,7,1,11,22,0,-,0,0,DF,0",
        "started_at": f"{time.time():.3f}",
        "duration_ms": 5,
        "code": 200,
        "flags": "-",
        "upstream_host": "h:1",
    }
    return json.dumps(said) + "\n"


@pytest.fixture
def extproc(tmp_path, redis_url):
    """An extproc at work, and an aggregator for it."""
    aggregator = Aggregator(tmp_path, redis_url)
    (tmp_path / "proof").write_text("p" * 40)
    (tmp_path / "ledger.jsonl").touch()
    settings = {
        "LISTEN": f"unix:{tmp_path}/extproc.sock",
        "REDIS_URL": redis_url,
        "CONFIG": str(CONFIG),
        "ADMISSION_PROOF_FILE": str(tmp_path / "proof"),
        "LEDGER": str(tmp_path / "ledger.jsonl"),
        "BILLING_TARGET": aggregator.target,
    }
    extproc = Part(
        [sys.executable, "-m", "tollhouse.extproc"],
        {f"TOLLHOUSE_{name}": value for name, value in settings.items()},
        tmp_path / "extproc.log",
    )
    aggregator.start()
    extproc.start()
    deadline = time.monotonic() + START_SECONDS
    while "aggregator.connected" not in extproc.log:
        assert time.monotonic() < deadline, extproc.log
        time.sleep(0.02)
    yield extproc
    for part in (aggregator, extproc):
        part.kill()


def test_the_last_lines_are_settled_before_it_ends(tmp_path, extproc, redis_url):
    """SIGTERM right behind them; the ledger may then go with its pod."""
    with (tmp_path / "ledger.jsonl").open("a") as ledger:
        ledger.write("".join(map(line, range(EXCHANGES))))

    assert 0 == extproc.kill(signal.SIGTERM), extproc.log

    with open_redis(RedisAccess(redis_url)) as client:
        waiting = sum(client.xlen(f"{{s{it}}}:outbox") for it in range(SHARDS))
        billed = [client.hgetall(it) for it in client.scan_iter("{b*}:exchanges:*")]
    assert 0 == waiting
    assert EXCHANGES == sum(int(it[b"final"]) for it in billed)
