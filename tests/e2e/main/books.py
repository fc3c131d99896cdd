"""The three books of one stack: the engine's truth log, the ledger, the usage rows."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from tollhouse.adapters.redis.shards import SHARDS
from tollhouse.core.ledger import Settlement, judge, parse


@dataclass(frozen=True)
class Truth:
    """What the engine generated for one exchange, over all its choices."""

    input_tokens: int
    output_tokens: int
    outcome: str


def truth(state_dir: Path) -> dict[str, Truth]:
    """The engine's log by exchange id."""
    found: dict[str, Truth] = {}
    for text in (state_dir / "truth.jsonl").read_text().splitlines():
        entry = json.loads(text)
        id_ = entry["id"].partition("#")[0]
        before = found.get(id_)
        found[id_] = Truth(
            entry["input_tokens"],
            entry["output_tokens"] + (before.output_tokens if before else 0),
            entry["outcome"],
        )
    return found


def settlements(state_dir: Path) -> dict[str, Settlement]:
    """What the ledger's end lines say of each admitted exchange."""
    found = {}
    for raw in (state_dir / "ledger" / "ledger.jsonl").read_bytes().splitlines():
        entry = judge(parse(raw))
        if isinstance(entry, Settlement):
            found[entry.exchange_id] = entry
    return found


def usage(tollhouse: Path, state_dir: Path, tenant: str) -> Counter[str]:
    """Sums over the rows of `tollhouse usage --json`."""
    command = [tollhouse, "usage", "--json", "--tenant", tenant]
    answer = subprocess.run(
        [*command, "--state-dir", state_dir], check=True, capture_output=True, text=True
    )
    total: Counter[str] = Counter()
    for row in json.loads(answer.stdout):
        total.update(
            {name: value for name, value in row.items() if isinstance(value, int)}
        )
        total.update({f"exchanges_{k}": v for k, v in row["exchanges"].items()})
    return total


def open_reservations(state_dir: Path) -> int:
    """Leases of exchanges that are neither settled, released nor reaped."""
    with redis.Redis(unix_socket_path=str(state_dir / "run" / "redis.sock")) as client:
        pipeline = client.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipeline.zcard(f"{{s{shard}}}:leases")
        return sum(pipeline.execute())


def outbox_length(state_dir: Path) -> int:
    """Records the aggregator has not acknowledged."""
    with redis.Redis(unix_socket_path=str(state_dir / "run" / "redis.sock")) as client:
        pipeline = client.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipeline.xlen(f"{{s{shard}}}:outbox")
        return sum(pipeline.execute())


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll; fails the test by name when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def at_rest(state_dir: Path, seconds: float = 15.0) -> None:
    """Wait until every exchange is settled and every record delivered."""
    wait_until(
        lambda: open_reservations(state_dir) == 0 and outbox_length(state_dir) == 0,
        seconds,
        "all settled and delivered",
    )
