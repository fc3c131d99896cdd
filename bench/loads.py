"""Loads on a shape: requests by wrk, streams by a small C program; what they cost."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.shapes import ROOT, Shape

STREAMS = 100
_SETTLE_SECONDS = 0.5
"""A load's window ends so long after its last request: settlement is part of it."""
_MIB = 1 << 20


@dataclass(frozen=True)
class Load:
    """What one load did to one shape."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: Mapping[str, float]
    """CPU microseconds per request, by group of processes."""
    rss_mib: Mapping[str, float]
    """Resident memory of the largest process of each group."""


def wrk(
    shape: Shape,
    connections: int,
    seconds: int,
    *,
    ended: Callable[[], object] = lambda: None,
) -> Load:
    """Ask without a pause on so many connections.

    `ended` is called with the last request: whoever else loads the shape stops then,
    and what is settled afterwards is this load's alone.
    """
    command = (
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"),
        *("-s", str(ROOT / "bench" / "post.lua")),
        *(f"http://127.0.0.1:{shape.port}/v1/chat/completions", "--", shape.key),
    )
    output, cpu, rss = _measured(shape, command, ended)
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    requests, failed, duration, p50, p99 = map(int, line.split()[1:])
    _refuse(shape, failed, requests)
    return Load(
        requests,
        duration / 1e6,
        p50 / 1e3,
        p99 / 1e3,
        {group: used / requests * 1e6 for group, used in cpu.items()},
        rss,
    )


def stream(shape: Shape, binary: str, seconds: int) -> Load:
    """Have `STREAMS` streams run all the time."""
    began = time.monotonic()
    output, cpu, rss = _measured(
        shape, (binary, str(shape.port), str(STREAMS), str(seconds), shape.key)
    )
    complete, failed, p50, p99 = map(float, output.split())
    _refuse(shape, int(failed), int(complete))
    return Load(
        int(complete),
        time.monotonic() - began,
        p50,
        p99,
        {group: used / complete * 1e6 for group, used in cpu.items()},
        rss,
    )


def _refuse(shape: Shape, failed: int, requests: int) -> None:
    if failed or not requests:
        raise SystemExit(f"{shape.name}: {failed} of {requests} requests failed")


def _measured(
    shape: Shape,
    command: Sequence[str],
    ended: Callable[[], object] = lambda: None,
) -> tuple[str, dict[str, float], dict[str, float]]:
    shape.prepare()
    before = _cpu_seconds(shape)
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = dict.fromkeys(shape.groups, 0.0)
    while load.poll() is None:
        time.sleep(0.2)
        for group, processes in shape.groups.items():
            largest = max(process.memory_info().rss for process in processes) / _MIB
            peak[group] = max(peak[group], largest)
    output, _ = load.communicate()
    ended()
    time.sleep(_SETTLE_SECONDS)
    after = _cpu_seconds(shape)
    return output, {group: after[group] - before[group] for group in before}, peak


def _cpu_seconds(shape: Shape) -> dict[str, float]:
    return {
        group: sum(sum(process.cpu_times()[:2]) for process in processes)
        for group, processes in shape.groups.items()
    }
