"""Measure Tollhouse beside Envoy alone and the bare shape, alternating, in one run.

    make bench            python -m bench.run [--rounds N] [--seconds S] [--workers N]

All run at once and idle in turn, on the same backend. Figures are medians over
the rounds. CPU is that of whole processes (/proc/<pid>/stat), settlement included: a
load's window ends half a second after its last request. Prints Markdown; docs/bench.md
keeps one run.
"""

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.loads import STREAMS, Load, stream, wrk
from bench.shapes import (
    Shape,
    compiled,
    running_alone,
    running_bare,
    running_tollhouse,
    running_upstream,
)

_CHUNKS = 200
_INTERVAL_MS = 5
_GROUPS = ("envoy", "python", "redis")


Figures = dict[str, dict[str, list[Load]]]
"""By shape, then by load."""


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    for tool, package in (("wrk", "wrk"), ("cc", "gcc libc6-dev")):
        if not shutil.which(tool):
            sys.stderr.write(f"bench: `{tool}` is missing: apt-get install {package}\n")
            return 2
    with _shapes(arguments.workers) as (folder, shapes):
        streams = compiled("streams", folder)
        loads: dict[str, Callable[[Shape], Load]] = {
            "c=1": lambda shape: wrk(shape, 1, arguments.seconds),
            "c=32": lambda shape: wrk(shape, 32, arguments.seconds),
            "streams": lambda shape: stream(shape, streams, arguments.seconds),
        }
        figures: Figures = {shape.name: {} for shape in shapes}
        for shape in shapes:
            wrk(shape, 8, 1)  # connections and interpreters warm
        for number in range(arguments.rounds):
            sys.stderr.write(f"round {number + 1} of {arguments.rounds}\n")
            for name, load in loads.items():
                for shape in shapes:
                    figures[shape.name].setdefault(name, []).append(load(shape))
    _print(figures, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure Envoy alone, the bare shape and Tollhouse in one run, and"
        " print Markdown (docs/bench.md explains it). Needs wrk and a C compiler.",
        epilog='example: make bench ARGS="--rounds 1 --seconds 1"',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="over all shapes")
    parser.add_argument("--seconds", type=int, default=3, help="of each load")
    parser.add_argument("--workers", type=int, default=1, help="extproc processes")
    return parser.parse_args()


@contextlib.contextmanager
def _shapes(workers: int) -> Iterator[tuple[Path, list[Shape]]]:
    with contextlib.ExitStack() as stack:
        # Short: a Unix socket's path ends at 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="th-")))
        upstream = stack.enter_context(
            running_upstream(folder, interval_ms=_INTERVAL_MS, chunks=_CHUNKS)
        )
        shapes = [
            stack.enter_context(running_alone(folder, upstream)),
            stack.enter_context(running_bare(folder, upstream)),
            *stack.enter_context(running_tollhouse(folder, upstream, workers=workers)),
        ]
        yield folder, shapes


def _median(loads: Sequence[Load], figure: Callable[[Load], float]) -> float:
    return statistics.median(figure(load) for load in loads)


def _print(figures: Figures, arguments: argparse.Namespace) -> None:
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python"
        f" {platform.python_version()}; Envoy --concurrency 1, {arguments.workers}"
        f" extproc; medians of {arguments.rounds} alternating rounds of"
        f" {arguments.seconds} s.\n"
    )
    print(
        "| shape | c=1 p50 / p99 ms | c=32 req/s | c=32 p50 / p99 ms |"
        " Envoy / Python / Redis µs per request |"
        f" {_CHUNKS}-chunk stream p50 / p99 ms | µs per stream | largest RSS MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for shape, loads in figures.items():
        one, many, streams = loads["c=1"], loads["c=32"], loads["streams"]
        rate = _median(many, lambda load: load.requests / load.seconds)
        print(
            f"| {shape} | {_times(one)} | {rate:.0f} | {_times(many)} |"
            f" {_cpu(many)} | {_times(streams)} | {_cpu(streams)} |"
            f" {_rss(streams)} |"
        )
    _print_promises(figures)


def _print_promises(figures: Figures) -> None:
    alone, bare, tollhouse, _ = figures.values()

    def added(shape: dict[str, list[Load]]) -> float:
        return _median(shape["c=1"], _p50) - _median(alone["c=1"], _p50)

    def rate(shape: dict[str, list[Load]]) -> float:
        return _median(shape["c=32"], lambda load: load.requests / load.seconds)

    def python(shape: dict[str, list[Load]]) -> float:
        return _median(shape["streams"], lambda load: load.cpu_us["python"])

    largest = max(max(load.rss_mib.values()) for load in tollhouse["streams"])
    print("\n| Tollhouse against the bare shape | measured | promised |")
    print("|---|---|---|")
    print(f"| req/s at c=32 | {rate(tollhouse) / rate(bare):.2f} × | ≥ 0.60 × |")
    print(
        f"| Python CPU per {_CHUNKS}-chunk stream |"
        f" {python(tollhouse) / python(bare):.2f} × | ≤ 1.70 × |"
    )
    print(f"| added p50 at c=1 | {added(tollhouse) / added(bare):.2f} × | ≤ 1.50 × |")
    print(f"| RSS per process at {STREAMS} streams | {largest:.0f} MB | ≤ 150 MB |")


def _p50(load: Load) -> float:
    return load.p50_ms


def _times(loads: Sequence[Load]) -> str:
    return f"{_median(loads, _p50):.2f} / {_median(loads, lambda it: it.p99_ms):.2f}"


def _cpu(loads: Sequence[Load]) -> str:
    return " / ".join(
        f"{_median(loads, lambda it, g=group: it.cpu_us[g]):.0f}"  # type: ignore[misc]
        for group in _GROUPS
        if group in loads[0].cpu_us
    )


def _rss(loads: Sequence[Load]) -> str:
    return " / ".join(
        f"{max(load.rss_mib[group] for load in loads):.0f}"
        for group in _GROUPS
        if group in loads[0].rss_mib
    )


if __name__ == "__main__":
    sys.exit(main())
