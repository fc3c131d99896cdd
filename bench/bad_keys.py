"""What a flood of bad keys costs the tenants whose keys are good.

    python -m bench.bad_keys [--pairs N] [--seconds S] [--per-minute N]

A stack of `tollhouse up` under load, by turns with and without somebody who tries
keys, each another one, for as long as the load lasts. Prints medians of the pairs'
ratios, where the CPU time goes, and what the tries cost Redis; docs/bench.md keeps one
run. Needs wrk and a C compiler.
"""

import argparse
import asyncio
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.loads import Load, wrk
from bench.shapes import Shape, running_tollhouse, running_upstream
from tests.stack_redis import open_redis

_CONNECTIONS = 32
_TRIES_AT_ONCE = 8
_PROMISED_CPU, _PROMISED_P99 = 1.05, 1.25
_REACHED = frozenset({"envoy", "authz", "redis"})
"""Parts that a bad key comes to; the others work for good requests alone."""


@dataclass(frozen=True)
class _Pair:
    """The same load without and with bad keys."""

    calm: Load
    flooded: Load
    tries: int
    look_ups: int


def main() -> int:
    """Measure and print, or be the one who tries keys."""
    arguments = _arguments()
    if arguments.try_at is not None:
        print(asyncio.run(_try_keys(arguments)))
        return 0
    with tempfile.TemporaryDirectory(prefix="th-") as name:
        folder = Path(name)
        with (
            running_upstream(folder, interval_ms=1, chunks=1) as upstream,
            running_tollhouse(folder, upstream, workers=1, by_part=True) as shapes,
        ):
            wrk(shapes[0], 8, 1)  # connections and interpreters warm
            pairs = [_pair(shapes[0], arguments, it) for it in range(arguments.pairs)]
    _print(pairs, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.bad_keys",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=10, help="of loads")
    parser.add_argument("--seconds", type=int, default=20, help="of each load")
    parser.add_argument("--per-minute", type=int, default=10_000, help="bad keys")
    parser.add_argument("--try-at", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _pair(shape: Shape, arguments: argparse.Namespace, number: int) -> _Pair:
    sys.stderr.write(f"pair {number + 1} of {arguments.pairs}\n")
    if number % 2:
        calm = wrk(shape, _CONNECTIONS, arguments.seconds)
        return _Pair(calm, *_flooded(shape, arguments))
    flooded = _flooded(shape, arguments)
    return _Pair(wrk(shape, _CONNECTIONS, arguments.seconds), *flooded)


def _flooded(shape: Shape, arguments: argparse.Namespace) -> tuple[Load, int, int]:
    """The load beside somebody who tries keys; how many, and the look-ups of Redis."""
    command = (
        *(sys.executable, "-m", "bench.bad_keys", "--try-at", str(shape.port)),
        *("--per-minute", str(arguments.per_minute)),
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as flood:
        if flood.stdin is None or flood.stdout is None:
            raise AssertionError
        flood.stdout.readline()  # it has its modules
        before = _look_ups(shape)
        flood.stdin.write("go\n")
        flood.stdin.flush()
        load = wrk(shape, _CONNECTIONS, arguments.seconds, ended=flood.stdin.close)
        tries = int(flood.stdout.readline())
    return load, tries, _look_ups(shape) - before


def _print(pairs: list[_Pair], arguments: argparse.Namespace) -> None:
    tries = sum(it.tries for it in pairs)
    seconds = sum(it.flooded.seconds for it in pairs)
    print(
        f"{arguments.pairs} alternating pairs of {arguments.seconds} s,"
        f" {_CONNECTIONS} connections, {tries / seconds * 60:.0f} bad keys a minute\n"
    )
    parts = sorted(pairs[0].calm.cpu_us)
    unreached = [it for it in parts if it not in _REACHED]
    print("| | without | with | ratio, median | promised |")
    print("|---|---|---|---|---|")
    for what, promised, figures in (
        (
            "CPU µs per good request",
            f"≤ {_PROMISED_CPU} ×",
            [(_cpu(it.calm, parts), _cpu(it.flooded, parts)) for it in pairs],
        ),
        (
            f"of it in parts that no bad key reaches ({', '.join(unreached)})",
            "",
            [(_cpu(it.calm, unreached), _cpu(it.flooded, unreached)) for it in pairs],
        ),
        (
            "p99, ms",
            f"≤ {_PROMISED_P99} ×",
            [(it.calm.p99_ms, it.flooded.p99_ms) for it in pairs],
        ),
    ):
        without, with_ = (statistics.median(it) for it in zip(*figures, strict=True))
        ratio = statistics.median(after / before for before, after in figures)
        print(f"| {what} | {without:.1f} | {with_:.1f} | {ratio:.3f} × | {promised} |")
    print("\n| CPU µs | a good request, without bad keys | a bad key |")
    print("|---|---|---|")
    for name, some in (*((it, [it]) for it in parts), ("all", parts)):
        good = statistics.median(_cpu(it.calm, some) for it in pairs)
        bad = statistics.median(_of_a_bad_key(it, some) for it in pairs)
        print(f"| {name} | {good:.0f} | {bad:.0f} |")
    look_ups = sum(it.look_ups for it in pairs)
    print(f"\n{tries} bad keys, {look_ups / max(tries, 1):.2f} look-ups each in Redis")


def _cpu(load: Load, parts: Iterable[str]) -> float:
    return sum(load.cpu_us[it] for it in parts)


def _of_a_bad_key(pair: _Pair, parts: Iterable[str]) -> float:
    """What parts did more than the good requests of the other load explain."""
    more = sum(pair.flooded.cpu_us[it] - pair.calm.cpu_us[it] for it in parts)
    return more * pair.flooded.requests / max(pair.tries, 1)


async def _try_keys(arguments: argparse.Namespace) -> int:
    """Try keys, evenly, from a line of standard input to its end; how many."""
    print("ready", flush=True)
    sys.stdin.readline()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    count = 0

    async def one() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", arguments.try_at)
        pause = 60 * _TRIES_AT_ONCE / arguments.per_minute
        due = time.monotonic() + random.uniform(0, pause)  # noqa: S311
        while not ended.done():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += pause
            writer.write(_request())
            status = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = int(status.lower().partition("content-length: ")[2].split()[0])
            await reader.readexactly(length)
            # 429: the network has no tries left. 503: the look-up took too long on a
            # machine this busy.
            if not {"401", "429", "503"} & set(status.split(" ", 2)[:2]):
                raise SystemExit(f"a bad key was answered {status.splitlines()[0]}")
            count += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(_TRIES_AT_ONCE)))
    return count


def _request() -> bytes:
    def letters(alphabet: str, length: int) -> str:
        return "".join(random.choices(alphabet, k=length))  # noqa: S311

    key_id = letters(string.ascii_lowercase + string.digits, 12)
    key = f"th_{key_id}_{letters(string.ascii_letters + string.digits, 43)}"
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: 2\r\n\r\n{{}}"
    ).encode()


def _look_ups(shape: Shape) -> int:
    if shape.redis is None:
        return 0
    with open_redis(shape.redis) as client:
        stats: dict[str, Any] = client.info("commandstats")
        return int(stats.get("cmdstat_hmget", {}).get("calls", 0))


if __name__ == "__main__":
    sys.exit(main())
