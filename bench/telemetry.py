"""What traces and metrics cost, and what a collector in trouble costs.

    python -m bench.telemetry [--pairs N] [--seconds S] [--only CASE]

Two stacks of `tollhouse up` under load, by turns, for each case: without telemetry and
with it, then with a collector that works and with one that is stopped, slow (takes
spans and never answers) or refusing (UNAVAILABLE). Prints medians of the pairs'
ratios; docs/bench.md keeps one run. Needs wrk and a C compiler.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.loads import Load, wrk
from bench.shapes import (
    ROOT,
    Shape,
    free_port,
    running_process,
    running_tollhouse,
    running_upstream,
)

_CONNECTIONS = 32
_PROMISED_CPU, _PROMISED_P99 = 1.05, 1.25
_DEFAULT_RATIO = 0.01


@dataclass(frozen=True)
class Setup:
    """How one stack is told to tell of itself."""

    collector: str
    """off, healthy, stopped, slow or refusing."""
    ratio: float = _DEFAULT_RATIO


@dataclass(frozen=True)
class Case:
    """Two setups that are compared."""

    base: Setup
    other: Setup
    is_promised: bool = True
    """Whether the ratios of docs/bench.md are promised here."""


CASES = {
    "default": Case(Setup("off"), Setup("healthy"), is_promised=False),
    "all": Case(Setup("off"), Setup("healthy", 1.0), is_promised=False),
    **{it: Case(Setup("healthy"), Setup(it)) for it in ("stopped", "slow", "refusing")},
    **{
        f"{it}-all": Case(Setup("healthy", 1.0), Setup(it, 1.0))
        for it in ("stopped", "slow", "refusing")
    },
}


def main() -> int:
    """Measure and print, or be a collector."""
    arguments = _arguments()
    if arguments.collect_at is not None:
        asyncio.run(_collect(arguments.collect_at, arguments.how))
        return 0
    print(
        f"{arguments.pairs} alternating pairs of {arguments.seconds} s for each case,"
        f" {_CONNECTIONS} connections\n"
    )
    print(
        "| case | CPU µs per request | ratio | p99, ms | ratio |"
        " largest Envoy, MiB | largest Python, MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in arguments.only or CASES:
        with tempfile.TemporaryDirectory(prefix="th-") as folder:
            print(_compared(name, CASES[name], Path(folder), arguments), flush=True)
    print(f"\npromised: CPU ≤ {_PROMISED_CPU} ×, p99 ≤ {_PROMISED_P99} × (marked *)")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.telemetry",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=10, help="of loads, for each case")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument(
        "--only", choices=CASES, action="append", help="this case; may be repeated"
    )
    parser.add_argument("--collect-at", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compared(
    name: str, case: Case, folder: Path, arguments: argparse.Namespace
) -> str:
    """Run the pairs of one case; return its row."""
    base: list[Load] = []
    other: list[Load] = []
    with (
        running_upstream(folder, interval_ms=1, chunks=1) as upstream,
        _running(folder / "base", upstream, case.base) as first,
        _running(folder / "other", upstream, case.other) as second,
    ):
        for shape in (first, second):
            wrk(shape, 8, 1)  # connections and interpreters warm
        for number in range(arguments.pairs):
            sys.stderr.write(f"{name}: pair {number + 1} of {arguments.pairs}\n")
            turns = [(first, base), (second, other)]
            for shape, loads in turns if number % 2 else reversed(turns):
                loads.append(wrk(shape, _CONNECTIONS, arguments.seconds))
    mark = " *" if case.is_promised else ""
    return (
        f"| {name}{mark} | {_row(_cpu, base, other)} | {_row(_p99, base, other)} |"
        f" {_memory('envoy', base, other)} | {_memory('python', base, other)} |"
    )


def _row(figure: Any, base: Sequence[Load], other: Sequence[Load]) -> str:
    before, after = (statistics.median(map(figure, it)) for it in (base, other))
    ratios = [figure(b) / figure(a) for a, b in zip(base, other, strict=True)]
    return f"{before:.1f} → {after:.1f} | {statistics.median(ratios):.3f} ×"


def _cpu(load: Load) -> float:
    return sum(load.cpu_us.values())


def _p99(load: Load) -> float:
    return load.p99_ms


def _memory(group: str, base: Sequence[Load], other: Sequence[Load]) -> str:
    """Of the first load and of the last: what grows with an outage would show."""

    def of(loads: Sequence[Load]) -> str:
        return f"{loads[0].rss_mib[group]:.0f} … {loads[-1].rss_mib[group]:.0f}"

    return f"{of(base)} → {of(other)}"


@contextlib.contextmanager
def _running(folder: Path, upstream: int, setup: Setup) -> Iterator[Shape]:
    """Run a stack and its collector."""
    folder.mkdir()
    config = folder / "tollhouse.yaml"
    text = (ROOT / "bench" / "tollhouse.yaml").read_text("utf-8")
    config.write_text(f"{text}\ntelemetry: {{sample_ratio: {setup.ratio}}}\n", "utf-8")
    environment = {}
    with contextlib.ExitStack() as stack:
        if setup.collector != "off":
            port = free_port()
            environment = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                # So that every load has some of them.
                "OTEL_METRIC_EXPORT_INTERVAL": "2000",
            }
            if setup.collector != "stopped":
                command = (sys.executable, "-m", "bench.telemetry")
                stack.enter_context(
                    running_process(
                        folder,
                        "collector",
                        *(*command, "--collect-at", str(port)),
                        *("--how", setup.collector),
                        place=port,
                    )
                )
        shapes = stack.enter_context(
            running_tollhouse(
                folder, upstream, workers=1, config=config, environment=environment
            )
        )
        yield shapes[0]


async def _collect(port: int, how: str) -> None:
    """Be a collector until killed: healthy, slow or refusing."""
    server = grpc.aio.server(handlers=[_Anything(how)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class _Anything(grpc.GenericRpcHandler):
    """Takes every export, whatever of."""

    def __init__(self, how: str) -> None:
        self._how = how

    def service(self, _: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._export)

    async def _export(
        self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        match self._how:
            case "slow":
                await asyncio.Event().wait()
            case "refusing":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b""


if __name__ == "__main__":
    sys.exit(main())
