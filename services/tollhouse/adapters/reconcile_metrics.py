"""What a reconciliation found, for alerts; see docs/telemetry.md."""

import time
from collections.abc import Mapping

from tollhouse.adapters.metric_export import close_export, open_export

_INSTANCE = "reconcile"
"""The same for every run: the next one's word takes the place of the last one's."""


def export_reconciled(differences: Mapping[str, int]) -> None:
    """Export once what differs, by what it is, and that a run came to its end.

    Does nothing where nothing is exported; blocks for a moment where something is.
    """
    export = open_export("reconcile", _INSTANCE)
    if export is None:
        return
    meter = export.get_meter("tollhouse")
    difference = meter.create_gauge(
        "tollhouse.reconcile.difference",
        unit="{token}",
        description="Tokens that are not where they should be, by finding",
    )
    for what, tokens in differences.items():
        difference.set(tokens, {"what": what})
    meter.create_gauge(
        "tollhouse.reconcile.finished",
        unit="s",
        description="When a reconciliation came to its end, Unix time",
    ).set(time.time())
    close_export(export)
