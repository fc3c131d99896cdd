"""The stand-in as a process of its own: see README.md.

It is our reading of Stripe's documents and was never compared with the real Stripe.
"""

import argparse
import asyncio
import json
import signal
from pathlib import Path

from tests.stripe_stand_in.server import running_stand_in
from tests.stripe_stand_in.settings import Settings


async def _run(options: argparse.Namespace) -> None:
    settings = Settings(seed=options.seed, fault_share=options.faults)
    settings.change(json.loads(options.settings))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running_stand_in(
        options.state, port=options.port, settings=settings
    ) as stand_in:
        if options.port_file is not None:
            # Whole or not at all: somebody waits for it.
            written = options.port_file.with_suffix(".new")
            written.write_text(stand_in.url.rpartition(":")[2])
            written.replace(options.port_file)
        await stopped.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stripe_stand_in",
        description="A stand-in for Stripe on 127.0.0.1, for tests.",
    )
    parser.add_argument("--port", type=int, default=0, help="0: any (default)")
    parser.add_argument("--port-file", type=Path, help="where to write the port")
    parser.add_argument("--seed", type=int, default=7, help="of the faults")
    parser.add_argument("--faults", type=float, default=0.0, help="share of calls")
    parser.add_argument("--state", type=Path, help="JSON lines, kept and loaded")
    parser.add_argument("--settings", default="{}", help="further settings, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_run(_options()))
