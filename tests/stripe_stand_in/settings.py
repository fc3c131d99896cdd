"""What a test may ask of the stand-in."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tests.stripe_stand_in.faults import WEIGHTS, FaultKind


@dataclasses.dataclass
class Settings:
    """All of them may change while it runs."""

    seed: int = 7
    fault_share: float = 0.0
    """Of all calls, 0 to 1."""
    fault_weights: Mapping[FaultKind, float] = dataclasses.field(
        default_factory=lambda: dict(WEIGHTS)
    )
    hang_seconds: float = 3.0
    latency_seconds: float = 0.0
    """How long a meter event holds the lock of its customer and meter."""
    calls_per_second: float | None = None
    """Above it 429; none: no limit."""
    summary_delay_seconds: float = 0.0
    """By its own clock, until an event shows in summaries."""
    empty_summaries: bool = True
    """Whether a range without usage has no summary, or one of 0: not documented."""
    checked_later: set[str] = dataclasses.field(
        default_factory=lambda: {"meter_event_customer_not_found"}
    )
    """Codes of flaws that v1 meter events accept and report by webhook.

    The documents say that events are processed asynchronously and which codes the
    reports carry, not which of them v1 refuses at once. Users report a 400 "No active
    meter found for event name", so no_meter is not among them.
    """
    api_keys: set[str] = dataclasses.field(default_factory=lambda: {"rk_test_standin"})
    restricted_keys: dict[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: {"rk_test_restricted": ()}
    )
    """Keys that may call only paths that begin so; elsewhere they get a 403."""
    webhook_url: str | None = None
    webhook_secret: str = "whsec_standin"
    report_delay_seconds: float = 0.05
    """How long flaws of one meter are gathered into one report, in real time."""

    def change(self, values: Mapping[str, Any]) -> None:
        """Set several by name; raises ValueError for a name there is not."""
        for name, value in values.items():
            if name not in {field.name for field in dataclasses.fields(self)}:
                raise ValueError(f"there is no setting {name}")
            # JSON has lists where these are sets.
            is_set = isinstance(value, list) and isinstance(getattr(self, name), set)
            setattr(self, name, set(value) if is_set else value)
