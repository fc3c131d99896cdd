"""The crash proof: `python -m tests.chaos`, or `make chaos`."""

import argparse
import asyncio
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.chaos.controls import CONTROLS
from tests.chaos.rig import RigError
from tests.chaos.run import Plan, Result, run
from tests.chaos.schedule import Shape
from tollhouse.cli.console import Console

KEPT = Path(".tollhouse") / "chaos"
COLUMNS = (
    *("run", "aggregators", "requests", "kills of blows", "records", "exact"),
    *("in doubt", "of these lost ends", "records recognised"),
    *("events recognised", "calls failed", "drained in s", "verdict"),
)
_CONTROL_SEEDS = 3
"""Tried until one notices; the reduced form in `make test` leaves nothing to chance."""
_CONTROL_REQUESTS = 1500
_MOST_SHOWN = 12

_DESCRIPTION = """\
Prove that no crash loses or doubles usage. For each seed: the real gateway in front of
a scripted backend, a load of streams and non-streams, and every 1 to 2 s a part is
killed or stopped, or the provider (Stripe's stand-in, 40 % of its calls go wrong) is
away. Then all is left alone, has to drain within 30 s, and three ledgers are compared:
what the engine generated, what Redis recorded and billed, what the provider took.
Then the controls: mistakes that the same comparison has to notice.
"""
_EXAMPLES = """\
examples:
  make chaos
  make chaos ARGS="--seeds 7 --no-controls"
  make chaos ARGS="--seeds 1 --control no-dedupe"

Exit status: 0 every seed is sound and every control was noticed, 1 not, 2 the command
line or the machine is not right. What failed is kept; the last lines say where.
"""


def main() -> int:
    """Run what the command line asks for."""
    options = _options()
    console = Console()
    shape = Shape(options.exchanges, options.rate)
    keep: Path = options.keep
    results = []
    console.line(f"{_line(COLUMNS)}\n{_line(['---'] * len(COLUMNS))}")
    try:
        if options.control is None:
            for seed in options.seeds:
                plan = Plan(seed, shape, (keep / f"seed-{seed}").absolute())
                results.append(_run(plan, console, f"seed {seed}"))
        for control in _controls(options):
            first = options.seeds[0]
            results.append(_run_control(options, console, control, first))
    except RigError as error:
        console.error(str(error))
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    for result in results:
        _tell(result, console)
    return int(not all(it.is_as_it_should for it in results))


def _controls(options: argparse.Namespace) -> Sequence[str]:
    if options.control is not None:
        return options.control if "all" not in options.control else list(CONTROLS)
    return [] if options.no_controls else list(CONTROLS)


def _run_control(
    options: argparse.Namespace, console: Console, control: str, first: int
) -> Result:
    """Run a control, and again with other seeds: a blow has to meet its mistake."""
    requests = min(options.exchanges, _CONTROL_REQUESTS)
    seed = first
    while True:
        folder = (options.keep / f"{control}-{seed}").absolute()
        plan = Plan(seed, Shape(requests, options.rate), folder, control)
        result = _run(plan, console, control)
        seed += 1
        if result.is_as_it_should or seed == first + _CONTROL_SEEDS:
            return result


def _run(plan: Plan, console: Console, name: str) -> Result:
    result = asyncio.run(_stoppable(plan, console, name))
    console.line(_row(result))
    if result.is_as_it_should:
        shutil.rmtree(plan.folder)
    else:
        text = "\n".join(result.verdict.findings)
        (plan.folder / "findings.txt").write_text(text + "\n", "utf-8")
    return result


async def _stoppable(plan: Plan, console: Console, name: str) -> Result:
    task = asyncio.ensure_future(run(plan, lambda share: console.progress(name, share)))
    # So that the parts of the run are ended too.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _row(result: Result) -> str:
    plan, verdict, calls = result.plan, result.verdict, result.calls
    duplicates = calls.get("duplicate", 0)
    failed = sum(calls.values()) - calls.get("accepted", 0) - duplicates
    seconds = result.drained_seconds
    findings = len(verdict.findings)
    word = "sound" if plan.control is None else f"noticed, {findings} findings"
    unlike = "FAILED" if plan.control is None else "not noticed"
    cells = (
        *(plan.control or f"seed {plan.seed}", plan.aggregators, result.requests),
        *(f"{result.kills} of {result.blows}", verdict.records, verdict.exact),
        *(verdict.in_doubt, verdict.lost_ends, result.recognised),
        *(duplicates, failed, "–" if seconds is None else f"{seconds:.1f}"),
        word if result.is_as_it_should else unlike,
    )
    return _line(cells)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _tell(result: Result, console: Console) -> None:
    if result.is_as_it_should:
        return
    plan = result.plan
    console.line()
    if plan.control is not None:
        console.error(f"control {plan.control} was not noticed (seed {plan.seed})")
    else:
        console.error(f"seed {plan.seed}: {len(result.verdict.findings)} findings")
        for finding in result.verdict.findings[:_MOST_SHOWN]:
            console.line(f"  {finding}")
    control = f" --control {plan.control}" if plan.control else " --no-controls"
    console.line(f"  kept: {plan.folder}")
    console.line(
        f'  again: make chaos ARGS="--seeds {plan.seed}'
        f' --exchanges {plan.shape.requests} --rate {plan.shape.rate:g}{control}"'
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=list(range(1, 11)),
        metavar="N-M",
        help="one, or first and last (default: 1-10); controls take the first",
    )
    parser.add_argument(
        "--exchanges",
        type=int,
        default=3000,
        metavar="N",
        help="requests per seed (default: %(default)s; a control takes at most"
        f" {_CONTROL_REQUESTS})",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=40.0,
        metavar="N",
        help="requests a second, as far as the machine can (default: %(default)g)",
    )
    parser.add_argument(
        "--control",
        action="append",
        choices=("all", *CONTROLS),
        metavar="NAME",
        help="only this control, or all: " + ", ".join(CONTROLS),
    )
    parser.add_argument("--no-controls", action="store_true", help="seeds only")
    parser.add_argument(
        "--keep",
        type=Path,
        default=KEPT,
        metavar="DIR",
        help="where runs are, and stay when they fail (default: %(default)s)",
    )
    return parser.parse_args()


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    try:
        found = list(range(int(first), int(last or first) + 1))
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"`{text}` is no seed and no range of them")
    return found


if __name__ == "__main__":
    sys.exit(main())
