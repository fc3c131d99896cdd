"""Rollouts under load: `python -m tests.rollout`, or `make rollout`."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.rollout.run import Plan, run

_DESCRIPTION = """\
Replace gateways under running streams, as Kubernetes does it. Two gateways (Envoy,
authz, extproc) behind one client share Redis, the aggregator and a scripted backend.
In each roll another one starts, gets ready and joins; the oldest leaves the endpoints
half a second after its preStop hooks began, is drained by them, and gets SIGTERM: Envoy
first, then its sidecars. As there, the next roll begins meanwhile. What is run is what
deploy/base/gateway.yaml says.

Clients speak HTTP/1.1 and HTTP/2 on connections they keep. No stream may be cut, no
request refused, every ledger must be settled when its pod is gone, and in the end the
engine's truth, the clients' view and `tollhouse usage` must agree.
"""
_MOST_SHOWN = 20


def main() -> int:
    """Run it; 0 if nothing was found, else 1."""
    parser = argparse.ArgumentParser(
        prog="make rollout",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rolls", type=int, default=10)
    parser.add_argument("--streams", type=int, default=100, help="that run at once")
    parser.add_argument(
        "--longest", type=float, default=10.0, help="seconds of the longest stream"
    )
    parser.add_argument(
        "--keep", type=Path, help="an empty folder for logs and ledgers"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="th-roll-") as folder:
        kept = Path(folder) if options.keep is None else options.keep
        kept.mkdir(parents=True, exist_ok=True)
        plan = Plan(options.rolls, options.streams, options.longest, kept)
        found = asyncio.run(run(plan, _say))
    for text in found[:_MOST_SHOWN]:
        _say(text)
    _say(f"FAILED: {len(found)} findings" if found else "nothing was cut or lost")
    return 1 if found else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
