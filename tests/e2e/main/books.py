"""The three books of one stack: the engine's truth log, the ledger, the usage rows."""

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.e2e.running_stack import RunningStack, wait_until
from tollhouse.adapters.redis.shards import SHARDS, shard
from tollhouse.core.exchange import Settlement
from tollhouse.core.ledger import judge, parse


@dataclass(frozen=True)
class Truth:
    """What the engine generated for one exchange, over all its choices."""

    input_tokens: int
    output_tokens: int
    outcome: str


def truth(state_dir: Path, of: Collection[str] = ()) -> dict[str, Truth]:
    """The engine's log by exchange id, once it has these.

    That their clients left, the gateway may have told before the engine noticed.
    """
    within(30, lambda: _truth(state_dir).keys() >= set(of))
    return _truth(state_dir)


def _truth(state_dir: Path) -> dict[str, Truth]:
    found: dict[str, Truth] = {}
    for text in _whole_lines(state_dir / "truth.jsonl"):
        entry = json.loads(text)
        id_ = entry["id"].partition("#")[0]
        before = found.get(id_)
        found[id_] = Truth(
            entry["input_tokens"],
            entry["output_tokens"] + (before.output_tokens if before else 0),
            entry["outcome"],
        )
    return found


def _whole_lines(path: Path) -> list[bytes]:
    """All but one that is just being written."""
    return path.read_bytes().split(b"\n")[:-1]


def settlements(state_dir: Path, tenant: str) -> dict[str, Settlement]:
    """What the ledger's end lines say of each of a tenant's admitted exchanges."""
    found = {}
    for raw in _whole_lines(state_dir / "ledger" / "ledger.jsonl"):
        entry = judge(parse(raw))
        if isinstance(entry, Settlement) and entry.facts.tenant == tenant:
            found[entry.exchange_id] = entry
    return found


def usage(stack: RunningStack, tenant: str) -> Counter[str]:
    """Sums over the rows of `tollhouse usage`; exchanges by kind."""
    total: Counter[str] = Counter()
    for row in json.loads(stack.run("usage", "--json", "--tenant", tenant)):
        exchanges = row.pop("exchanges")
        total.update({k: v for k, v in row.items() if isinstance(v, int)})
        total.update(exchanges)
    return total


def was_judged_alone(stack: RunningStack) -> bool:
    """Whether a worker admitted anything without Redis: it would have noted it."""
    return any((stack.state_dir / "ledger").glob("ledger.jsonl-admitted-*"))


def is_at_rest(stack: RunningStack) -> bool:
    """Whether every exchange is settled and every record acknowledged."""
    with connect(stack) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(SHARDS):
            pipeline.zcard(f"{{s{number}}}:leases")
            pipeline.xlen(f"{{s{number}}}:outbox")
        return sum(pipeline.execute()) == 0


def rest(stack: RunningStack, seconds: float = 60.0) -> None:
    """Wait until `is_at_rest`; fail when it takes longer."""
    within(seconds, lambda: is_at_rest(stack))


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail when it does not come."""
    wait_until(condition, seconds)
    assert condition(), f"not within {seconds} s"


def units_bucket(stack: RunningStack, tenant: str) -> tuple[int, int]:
    """Grains used of the tenant's units for the model, and when (Unix ms)."""
    with connect(stack) as client:
        key = f"{{s{shard(tenant)}}}:bucket:model:{tenant}:tiny-chat:units"
        used, at = client.get(key).split()
    return int(used), int(at)


def concurrent(stack: RunningStack, tenant: str) -> int:
    """Places the tenant's exchanges hold."""
    with connect(stack) as client:
        key = f"{{s{shard(tenant)}}}:concurrent:model:{tenant}:tiny-chat"
        return int(client.zcard(key))


def connect(stack: RunningStack) -> redis.Redis:
    """Redis as an outsider sees it."""
    return stack.redis()
