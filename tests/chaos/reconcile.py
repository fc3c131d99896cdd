"""`tollhouse reconcile` two hours ahead: `python -m tests.chaos.reconcile OPTIONS`.

A run's chunks are sealed an hour ahead of time, and what Stripe was sent within the
last hour is not asked about: its summaries may lag behind.
"""

import sys
import time
from types import SimpleNamespace

from tests.chaos.controls import swap
from tests.chaos.part import AHEAD_SECONDS
from tollhouse.cli import reconcile, reconcile_engine, reconcile_provider
from tollhouse.cli.__main__ import main
from tollhouse.core.chunk import PATIENCE_SECONDS

if __name__ == "__main__":
    clock = SimpleNamespace(
        time=lambda: time.time() + AHEAD_SECONDS + PATIENCE_SECONDS + 60,
        monotonic=time.monotonic,
    )
    for module in (reconcile, reconcile_engine, reconcile_provider):
        swap(module, "time", clock)
    sys.exit(main(["reconcile", "--provider", *sys.argv[1:]]))
