"""What the services wrote of a rollout, beside what its clients saw."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis

from tests.rollout.load import TENANT
from tests.rollout.pod import PodStack
from tests.stack_redis import open_redis
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.shards import SHARDS


def unsettled_bytes(stack: PodStack) -> int:
    """How much of a pod's ledger nobody has settled."""
    with open_redis(stack.redis_access()) as client:
        places = client.hgetall(f"th:ledger:{stack.name}")
    offsets = {int(inode): int(it.split()[0]) for inode, it in places.items()}
    files = stack.state.ledger.glob("ledger.jsonl*")
    found = [it.stat() for it in files if it.suffix != ".lock"]
    return sum(it.st_size - offsets.get(it.st_ino, 0) for it in found)


def is_at_rest(access: RedisAccess) -> bool:
    """Whether no reservation is held and no record waits."""
    with open_redis(access) as client:
        pipeline: redis.client.Pipeline = client.pipeline(transaction=False)
        for number in range(SHARDS):
            pipeline.zcard(f"{{s{number}}}:leases")
            pipeline.xlen(f"{{s{number}}}:outbox")
        return sum(pipeline.execute()) == 0


def findings(
    state_dir: Path, engine: Path, answers: Mapping[str, int]
) -> Iterator[str]:
    """Yield where engine, clients and usage disagree."""
    lines = [json.loads(it) for it in engine.read_text("utf-8").splitlines()]
    generated = Counter(it["exchange"] for it in lines)
    if twice := [id_ for id_, count in generated.items() if count > 1]:
        yield f"{len(twice)} exchanges were generated twice"
    if generated.keys() != answers.keys():
        yield f"{len(generated)} exchanges were generated, {len(answers)} were seen"
    if torn := sum(not it["is_whole"] for it in lines):
        yield f"{torn} answers are not whole"
    expected = {
        "final": len(lines),
        "partial": 0,
        "abandoned": 0,
        "input_tokens": sum(it["input"] for it in lines),
        "output_tokens": sum(it["output"] for it in lines),
    }
    used = _usage(state_dir)
    for name, count in expected.items():
        if used[name] != count:
            yield f"usage has {name} {used[name]}, it should be {count}"


def _usage(state_dir: Path) -> Counter[str]:
    command = [sys.executable, "-m", "tollhouse.cli", "usage", "--json"]
    command += ["--tenant", TENANT, "--state-dir", str(state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total: Counter[str] = Counter()
    for row in json.loads(done.stdout):
        total.update(row.pop("exchanges"))
        total.update({key: it for key, it in row.items() if isinstance(it, int)})
    return total
