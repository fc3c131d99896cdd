"""What a flood of bad keys costs the tenants whose keys are good.

    python -m bench.bad_keys [--pairs N] [--seconds S] [--per-minute N]

A stack of `tollhouse up` under load, by turns with and without somebody who tries
keys, each another one. Prints medians of the pairs' ratios, and what the tries cost
Redis; docs/bench.md keeps one run. Needs wrk and a C compiler.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.loads import Load, wrk
from bench.shapes import Shape, running_tollhouse, running_upstream
from tests.stack_redis import open_redis

_CONNECTIONS = 32
_TRIES_AT_ONCE = 8
_PROMISED_CPU, _PROMISED_P99 = 1.05, 1.25


def main() -> int:
    """Measure and print, or be the one who tries keys."""
    arguments = _arguments()
    if arguments.try_at is not None:
        tries = asyncio.run(_try_keys(arguments))
        print(tries)
        return 0
    with tempfile.TemporaryDirectory(prefix="th-") as name:
        folder = Path(name)
        with (
            running_upstream(folder, interval_ms=1, chunks=1) as upstream,
            running_tollhouse(folder, upstream, workers=1) as shapes,
        ):
            return _compare(shapes[0], arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.bad_keys",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=10, help="of loads")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--per-minute", type=int, default=10_000, help="bad keys")
    parser.add_argument("--try-at", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(shape: Shape, arguments: argparse.Namespace) -> int:
    wrk(shape, 8, 1)  # connections and interpreters warm
    cpu, p99, rows = [], [], []
    tries = look_ups = 0
    for number in range(arguments.pairs):
        sys.stderr.write(f"pair {number + 1} of {arguments.pairs}\n")
        loads: dict[bool, Load] = {}
        for is_flooded in (False, True) if number % 2 else (True, False):
            with _flood(shape, arguments) if is_flooded else _calm() as flood:
                before = _look_ups(shape)
                loads[is_flooded] = wrk(shape, _CONNECTIONS, arguments.seconds)
            if is_flooded:
                tries += flood[0]
                look_ups += _look_ups(shape) - before
        cpu.append(_cpu(loads[True]) / _cpu(loads[False]))
        p99.append(loads[True].p99_ms / loads[False].p99_ms)
        rows.append(loads)
    calm, flooded = ([loads[which] for loads in rows] for which in (False, True))
    print(
        f"{arguments.pairs} alternating pairs of {arguments.seconds} s,"
        f" {_CONNECTIONS} connections, {arguments.per_minute} bad keys a minute\n"
    )
    print("| | without | with | ratio, median | promised |")
    print("|---|---|---|---|---|")
    for what, figure, ratios, promised in (
        ("CPU µs per good request", _cpu, cpu, _PROMISED_CPU),
        ("p99, ms", lambda load: load.p99_ms, p99, _PROMISED_P99),
    ):
        without, with_ = (
            statistics.median(map(figure, loads)) for loads in (calm, flooded)
        )
        print(
            f"| {what} | {without:.1f} | {with_:.1f} |"
            f" {statistics.median(ratios):.3f} × | ≤ {promised} × |"
        )
    print(f"\n{tries} bad keys, {look_ups / max(tries, 1):.2f} look-ups each in Redis")
    return 0


def _cpu(load: Load) -> float:
    return sum(load.cpu_us.values())


@contextlib.contextmanager
def _calm() -> Iterator[list[int]]:
    yield []


@contextlib.contextmanager
def _flood(shape: Shape, arguments: argparse.Namespace) -> Iterator[list[int]]:
    """Have somebody try keys; yields a list that has their number afterwards."""
    tried: list[int] = []
    command = (
        *(sys.executable, "-m", "bench.bad_keys", "--try-at", str(shape.port)),
        *("--per-minute", str(arguments.per_minute)),
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        time.sleep(0.5)  # it tries when it has its modules
        yield tried
        output, _ = process.communicate("")
    tried.append(int(output))


async def _try_keys(arguments: argparse.Namespace) -> int:
    """Try keys, evenly, until standard input ends; the number of tries."""
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
            # 503: the look-up took too long on a machine this busy.
            if not {"401", "503"} & set(status.split(" ", 2)[:2]):
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
