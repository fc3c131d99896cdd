"""Replay a synthetic workload through Envoy, and the same one in the simulation.

    python -m bench.limits_live [--minutes M] [--load FRACTION] [--seed N]

64 clients, a stack of `tollhouse up`, a scripted backend. Prints the figures of both
and how far they are apart. docs/simulation.md keeps some runs.
"""

import argparse
import asyncio
import json
import random
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml
from msgspec.structs import replace

from bench.scripted import running_scripted
from bench.shapes import Shape, running_tollhouse
from tollhouse.cli.private_redis import private_redis
from tollhouse.cli.simulation import Reserving, simulate
from tollhouse.core.buckets import Bucket
from tollhouse.core.catalog import Weights
from tollhouse.core.estimate import MESSAGE_TOKENS
from tollhouse.core.setting import Setting, simulated_model
from tollhouse.core.trial import Figures, Trial, sum_up
from tollhouse.core.workload import Arrival, Synthetic

_CLIENTS = 64
_LIMIT = 800_000
_TOKEN_SECONDS = 0.004
"""As fast as a small model on a large GPU, so that 64 clients are enough."""
_LEAST_INPUT = 32
"""Tokens whose bytes have room for the script."""
_BURST_SECONDS = 10.0
_BYTES_PER_TOKEN = 4
_NEAR = 0.03
"""How far apart the two may be."""


@dataclass
class _Live:
    """What the clients have seen; `late`: by how many seconds the latest came late."""

    trial: Trial
    late: float = 0.0
    failed: list[str] = field(default_factory=list)


def main() -> int:
    """Run both and print; 1 if they are further apart than promised."""
    setting = _setting(_arguments())
    live = _run(setting)
    if live.failed:
        raise SystemExit(f"{len(live.failed)} requests failed: {live.failed[0]}")
    figures = sum_up([live.trial], setting.run_ms)
    simulated = asyncio.run(_simulate(setting))
    print(
        f"{figures.offered:,} requests of {setting.mean_units:,.0f} units on average"
        f" in {setting.run_ms / 1000:.0f} s, {setting.units_per_minute:,} units per"
        f" minute; {_CLIENTS} clients, none more than {1000 * live.late:.0f} ms late.\n"
    )
    print("| | live | simulated | points apart |\n|---|---|---|---|")
    print(f"| admitted | {figures.admitted:,} | {simulated.admitted:,} | |")
    furthest = 0.0
    for name in ("utilisation", "false_refusals"):
        one, other = getattr(figures, name), getattr(simulated, name)
        furthest = max(furthest, abs(one - other))
        print(
            f"| {name.replace('_', ' ')} | {one:.1%} | {other:.1%} |"
            f" {100 * abs(one - other):.1f} |"
        )
    return int(furthest > _NEAR)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="limits_live",
        description="Compare a live run of a workload with its simulation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long")
    parser.add_argument("--load", type=float, default=1.2, help="offered ÷ limit")
    parser.add_argument("--seed", type=int, default=0, help="another draw")
    return parser.parse_args()


def _setting(arguments: argparse.Namespace) -> Setting:
    weights, shape = Weights(), Synthetic(token_seconds=_TOKEN_SECONDS)
    drawn = shape.draw(
        random.Random(arguments.seed),  # noqa: S311 - it keeps no secret
        units=round(_LIMIT * arguments.load * arguments.minutes),
        minutes=arguments.minutes,
        weights=weights,
    )
    return Setting(
        arrivals=[replace(it, input=max(it.input, _LEAST_INPUT)) for it in drawn],
        units_per_minute=_LIMIT,
        burst_seconds=_BURST_SECONDS,
        model=simulated_model(weights, shape.most_output),
    )


def _run(setting: Setting) -> _Live:
    with tempfile.TemporaryDirectory(prefix="th-") as name, socket.socket() as backend:
        folder = Path(name)
        config = folder / "tollhouse.yaml"
        config.write_text(yaml.safe_dump(_config(setting)), "utf-8")
        backend.bind(("127.0.0.1", 0))
        port = backend.getsockname()[1]
        with running_tollhouse(folder, port, workers=1, config=config) as shapes:
            return asyncio.run(_load(setting, shapes[0], backend))


def _config(setting: Setting) -> dict[str, object]:
    """Say the setting as a tollhouse.yaml."""
    model = setting.model
    return {
        "models": {
            "tiny-chat": {
                "cluster": "tiny-chat",
                "operations": ["chat"],
                "context": model.context,
                "default_output_tokens": model.default_output_tokens,
                "max_output_tokens": model.max_output_tokens,
                "bytes_per_token": model.bytes_per_token,
            }
        },
        "plans": {
            "demo": {
                "tenant_model": {"units_per_minute": setting.units_per_minute},
                "burst_seconds": setting.burst_seconds,
            }
        },
    }


async def _load(setting: Setting, shape: Shape, backend: socket.socket) -> _Live:
    live = _Live(Trial(Bucket.of(setting.limit)))
    began = asyncio.get_running_loop().time() + 0.5
    waiting = iter(setting.arrivals)
    async with (
        running_scripted(backend),
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{shape.port}/v1",
            headers={"authorization": f"Bearer {shape.key}"},
            timeout=120.0,
            limits=httpx.Limits(max_connections=_CLIENTS),
        ) as http,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(_CLIENTS):
            clients.create_task(_client(http, live, setting, waiting, began))
    return live


async def _client(
    http: httpx.AsyncClient,
    live: _Live,
    setting: Setting,
    waiting: Iterator[Arrival],
    began: float,
) -> None:
    """Send the next request nobody has sent, when it is due, until there is none."""
    clock = asyncio.get_running_loop().time
    began -= setting.arrivals[0].at
    for arrival in waiting:
        await asyncio.sleep(began + arrival.at - clock())
        live.late = max(live.late, clock() - began - arrival.at)
        body = _body(arrival)
        async with http.stream("POST", "/chat/completions", json=body) as response:
            at_ms = round((clock() - began) * 1000)
            units = arrival.units(setting.model.weights)
            if response.status_code == httpx.codes.OK:
                live.trial.admit(at_ms, units)
            elif response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                live.trial.refuse(at_ms, units)
            else:
                live.failed.append(f"status {response.status_code}")
            await response.aread()


def _body(arrival: Arrival) -> dict[str, object]:
    """A request whose prompt says what the answer is to be, and is as long as that."""
    script = {
        "input": arrival.input,
        "output": arrival.output,
        "seconds": arrival.duration,
    }
    line = f"\n{json.dumps(script)}"
    text = "x" * ((arrival.input - MESSAGE_TOKENS) * _BYTES_PER_TOKEN - len(line))
    body: dict[str, object] = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": text + line}],
        "stream": True,
    }
    if arrival.max_tokens is not None:
        body["max_tokens"] = arrival.max_tokens
    return body


async def _simulate(setting: Setting) -> Figures:
    async with private_redis() as url:
        result = await simulate(url, setting, Reserving.LEARNED, lambda _: None)
        return result.figures


if __name__ == "__main__":
    sys.exit(main())
