"""The stack of a run: that of `tollhouse up`, in front of a scripted backend.

`python -m tests.chaos.stack --help`. What differs: its aggregators live an hour ahead,
so that they seal what is used now; there may be two of them; a part that is killed
again and again comes back at once; Redis keeps its whole log, for the comparison.
"""

import argparse
import asyncio
import dataclasses
import os
import sys
import time
from pathlib import Path

from tests.chaos.controls import CONTROLS
from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import load
from tollhouse.cli import edge_file, places, supervisor
from tollhouse.cli.backend import Backend, for_backend
from tollhouse.cli.console import Console
from tollhouse.cli.parts import Stack, StripeAccount
from tollhouse.cli.ports import free_ports, reserved
from tollhouse.cli.running import Running
from tollhouse.cli.state import StateDirectory
from tollhouse.cli.supervisor import Part

ROOT = Path(__file__).parents[2]
BACK_SECONDS = 0.5
"""Longest pause before a part is started again."""

_OF_BILLING = {
    "TOLLHOUSE_SEAL_DELAY_SECONDS": "0",
    # A provider that hangs is given up soon, and what failed is tried soon again: the
    # end of a run is measured.
    "TOLLHOUSE_CALL_SECONDS": "2",
    "TOLLHOUSE_LONGEST_PAUSE_SECONDS": "5",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChaosStack(Stack):
    """The stack with parts of tests.chaos.part."""

    aggregators: int = 1
    seal_seconds: int = 3
    control: str | None = None

    def parts(self) -> list[Part]:
        """All parts; the second aggregator is called billing-2."""
        parts: list[Part] = []
        # Not super(): a dataclass with slots is another class than its methods know.
        for part in Stack.parts(self):
            kind = part.name.partition("-")[0]
            if self.aggregators == 0:
                after = tuple(it for it in part.after if it != "billing")
                part = dataclasses.replace(part, after=after)  # noqa: PLW2901
            if kind == "billing":
                parts += map(self._aggregator, range(1, self.aggregators + 1))
            elif kind == "extproc":
                parts.append(self._ours(part, kind))
            elif kind == "redis":
                command = (*part.command, "--auto-aof-rewrite-percentage", "0")
                parts.append(dataclasses.replace(part, command=command))
            else:
                parts.append(part)
        return parts

    def _aggregator(self, number: int) -> Part:
        name = "billing" if number == 1 else f"billing-{number}"
        stripe = {} if self.stripe is None else self.stripe.settings
        settings = {
            **self._redis_settings("billing"),
            "CONFIG": str(self.config),
            "PROVIDER": "stripe",
            "SEAL_EVERY_SECONDS": str(self.seal_seconds),
            **stripe,
        }
        part = self._service(name, settings, after=("redis",))
        environment = {**part.environment, **_OF_BILLING}
        return self._ours(dataclasses.replace(part, environment=environment), "billing")

    def _ours(self, part: Part, kind: str) -> Part:
        control = () if self.control is None else ("--control", self.control)
        command = (sys.executable, "-P", "-m", "tests.chaos.part", kind, *control)
        path = os.pathsep.join((str(ROOT), str(ROOT / "services")))
        environment = {**part.environment, "PYTHONPATH": path}
        return dataclasses.replace(part, command=command, environment=environment)


def main() -> None:
    """Run until asked to stop."""
    options = _options()
    supervisor.LONGEST_BACKOFF_SECONDS = BACK_SECONDS
    configuration = for_backend(load(options.config))
    state = StateDirectory(options.state_dir)
    with (
        state.hold() as lock,
        reserved(Address(host="127.0.0.1", port=0)) as listen,
    ):
        edge = edge_file.read(places.default_envoy(), configuration)
        (admin,) = free_ports(1)
        stack = ChaosStack(
            state=state,
            config=options.config.absolute(),
            envoy=places.envoy_binary(),
            redis=places.redis_binary(),
            listen=listen,
            admin=Address(host="127.0.0.1", port=admin),
            workers=options.workers,
            engine=None,
            stripe=StripeAccount(options.stripe_key_file, options.stripe_url),
            aggregators=options.aggregators,
            seal_seconds=options.seal_seconds,
            control=options.control,
        )
        edge_file.write(edge, stack, Backend.parse(options.backend))
        running = Running(
            stack,
            configuration,
            Console(),
            ready_file=options.ready_file,
            began=time.monotonic(),
        )
        asyncio.run(running.main(lock))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.stack", description="The stack of a run."
    )
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--backend", required=True, metavar="URL")
    parser.add_argument("--stripe-url", required=True, metavar="URL")
    parser.add_argument("--stripe-key-file", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--aggregators", type=int, default=1)
    parser.add_argument("--seal-seconds", type=int, default=3)
    parser.add_argument("--control", choices=CONTROLS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
