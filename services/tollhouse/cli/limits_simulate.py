"""`tollhouse limits simulate`: what policies would make of a workload."""

import argparse
import asyncio
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent

from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.private_redis import private_redis
from tollhouse.cli.simulation import Reserving, Result, simulate
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.catalog import Weights
from tollhouse.core.limits import (
    DEFAULT_BURST_SECONDS,
    LONGEST_BURST_SECONDS,
    MOST_PER_MINUTE,
)
from tollhouse.core.setting import Setting, simulated_model
from tollhouse.core.workload import TRACE, Arrival, Synthetic, parse_trace

DEFAULT_LIMIT = 1_000_000
PLOT_SUFFIXES = (".svg", ".png")

_SHAPE = Synthetic()

_DESCRIPTION = """\
Replay a workload through the limiter and compare policies: how many requests each
admits, how much of the limit it uses, and how far it overshoots. The scripts, the
estimator and what it learns are those of the gateway, in a Redis of this command's own;
only clients, model and time are simulated.

policies
  charge-after  reserves nothing: admits unless the limit is in debt, charges at the end
  reserve-max   reserves all that a request may produce: its cap, or --max-output
  learned       reserves what recent answers say, charges the rest as it happens

workloads
  --synthetic   lognormal answers with a heavy tail (some are 50 times the median), caps
                far above them or none, and crowds of clients that come together
  --trace FILE  your own: one JSON object a line, one line a request
{trace}

figures
  utilisation     used by what was admitted / what the limit gave in that time
  overshoot       charges of the worst 60 s beyond burst and limit / limit
  false refusals  refused although what they really use would have fitted / offered

examples:
  tollhouse limits simulate --synthetic
  tollhouse limits simulate --synthetic --load 2 --clients 300 --plot limits.svg
  tollhouse limits simulate --trace monday.jsonl --limit 600000 --policy learned --json

Exit status: 0 done; 2 the command line, a file or the machine is not right.
""".replace("{trace}", indent(TRACE, 18 * " "))


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        commands,
        "simulate",
        summary="compare policies on a workload",
        description=_DESCRIPTION,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--synthetic", action="store_true", help="draw a workload")
    source.add_argument("--trace", type=Path, metavar="FILE", help="replay this one")
    parser.add_argument(
        "--limit",
        type=_at_least_one,
        metavar="UNITS",
        help=f"units per minute (default with --synthetic: {DEFAULT_LIMIT})",
    )
    parser.add_argument(
        "--burst-seconds",
        type=_burst,
        default=DEFAULT_BURST_SECONDS,
        metavar="S",
        help="how much of the limit may be used at once (default: %(default)s)",
    )
    parser.add_argument(
        "--policy",
        action="append",
        choices=[policy.value for policy in Reserving],
        metavar="POLICY",
        help="only this one; repeatable (default: all three)",
    )
    parser.add_argument(
        "--weights",
        type=_weights,
        default=Weights(),
        metavar="IN:OUT",
        help="units per token of input and output (default: 1:5)",
    )
    parser.add_argument(
        "--max-output",
        type=_at_least_one,
        default=_SHAPE.most_output,
        metavar="TOKENS",
        help="longest answer of the model (default: %(default)s)",
    )
    drawing = parser.add_argument_group("with --synthetic")
    drawing.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="another draw (default: %(default)s)",
    )
    drawing.add_argument(
        "--minutes",
        type=_positive,
        default=10.0,
        metavar="M",
        help="for how long requests come (default: %(default)s)",
    )
    drawing.add_argument(
        "--load",
        type=_positive,
        default=0.97,
        metavar="FRACTION",
        help="units offered, of those the limit gives (default: %(default)s)",
    )
    drawing.add_argument(
        "--clients",
        type=_at_least_one,
        default=_SHAPE.clients,
        metavar="N",
        help="that come together, once a minute (default: %(default)s)",
    )
    parser.add_argument(
        "--plot",
        type=_plot_file,
        metavar="FILE",
        help="draw the charges and figures: .svg or .png",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=keyring.reporting(_run))


def _run(args: argparse.Namespace) -> None:
    setting = _setting(args)
    policies = list(dict.fromkeys(map(Reserving, args.policy or Reserving)))
    results = asyncio.run(_simulate(setting, policies))
    if args.plot is not None:
        _plot(args.plot, setting, results)
    if args.json:
        keyring.print_json(_to_json(setting, results))
    else:
        _print(setting, results)


async def _simulate(setting: Setting, policies: Sequence[Reserving]) -> list[Result]:
    console = Console(sys.stderr)
    offered = len(setting.arrivals)
    results = []
    async with private_redis() as url:
        for policy in policies:

            def progress(came: int, policy: Reserving = policy) -> None:
                console.progress(policy, came / offered)

            results.append(await simulate(url, setting, policy, progress))
    return results


def _setting(args: argparse.Namespace) -> Setting:
    if args.trace is not None:
        if args.limit is None:
            raise UnusableError("--trace needs --limit: units per minute")
        limit, arrivals = args.limit, _read(args.trace)
    else:
        limit = args.limit or DEFAULT_LIMIT
        shape = replace(_SHAPE, clients=args.clients, most_output=args.max_output)
        arrivals = shape.draw(
            random.Random(args.seed),  # noqa: S311 - it keeps no secret
            units=round(limit * args.load * args.minutes),
            minutes=args.minutes,
            weights=args.weights,
        )
    return Setting(
        arrivals=arrivals,
        units_per_minute=limit,
        burst_seconds=args.burst_seconds,
        model=simulated_model(args.weights, args.max_output),
    )


def _read(path: Path) -> list[Arrival]:
    try:
        with path.open("rb") as lines:
            return parse_trace(lines, str(path))
    except OSError as error:
        raise UnusableError(f"{path}: {error.strerror or error}") from error


def _plot(path: Path, setting: Setting, results: Sequence[Result]) -> None:
    try:
        # Not at the top: it takes most of a second, and few ask for it.
        from tollhouse.cli import simulation_plot  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UnusableError(
            f"--plot: {error.name} is missing; pip install 'tollhouse[simulate]'"
        ) from error
    try:
        simulation_plot.draw(path, setting, results)
    except OSError as error:
        raise UnusableError(f"--plot {path}: {error.strerror or error}") from error


def _to_json(setting: Setting, results: Sequence[Result]) -> dict[str, object]:
    return {
        "policies": [
            {
                "policy": result.policy.value,
                "admitted": result.figures.admitted,
                "utilisation": round(result.figures.utilisation, 6),
                "overshoot": round(result.figures.overshoot, 6),
                "false_refusals": round(result.figures.false_refusals, 6),
            }
            for result in results
        ],
        "offered": len(setting.arrivals),
        "limit": setting.units_per_minute,
        "limits": setting.owners,
        "burst": round(setting.units_per_minute * setting.burst_seconds / 60),
        "seconds": setting.run_ms / 1000,
        "mean_units": round(setting.mean_units, 1),
    }


def _print(setting: Setting, results: Sequence[Result]) -> None:
    limit, mean = setting.units_per_minute, setting.mean_units
    if setting.run_ms < setting.burst_seconds * 1000:
        Console(sys.stderr).warning(
            f"all requests come within {setting.run_ms / 1000:g} s, less than the "
            "burst: utilisation says nothing"
        )
    each = "" if setting.owners == 1 else f" for each of {setting.owners}"
    console = Console()
    console.line(
        f"{len(setting.arrivals):,} requests of {mean:,.0f} units on average in"
        f" {setting.run_ms / 60_000:.1f} min; {limit:,} units per minute{each}"
        f" = {limit / mean:,.0f} of them; burst {setting.burst_seconds:g} s"
    )
    keyring.print_table(
        ("POLICY", "OFFERED", "ADMITTED", "UTILISATION", "OVERSHOOT", "FALSE REFUSALS"),
        [
            (
                result.policy.value,
                f"{result.figures.offered:>7,}",
                f"{result.figures.admitted:>8,}",
                f"{result.figures.utilisation:>11.1%}",
                f"{result.figures.overshoot:>9.1%}",
                f"{result.figures.false_refusals:>14.1%}",
            )
            for result in results
        ],
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PER_MINUTE:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number from 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MOST_PER_MINUTE:
        raise argparse.ArgumentTypeError(f"`{text}` is not a positive number")
    return number


def _burst(text: str) -> float:
    seconds = _positive(text)
    if seconds > LONGEST_BURST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"`{text}` is more than {LONGEST_BURST_SECONDS:g}"
        )
    return seconds


def _weights(text: str) -> Weights:
    match = re.fullmatch(r"(\d{1,3}):([1-9]\d{0,2})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"`{text}` is not IN:OUT, such as 1:5")
    return Weights(input=int(match[1]), output=int(match[2]))


def _plot_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"`{text}` does not end in .svg or .png")
    return path
