"""Which backends have nobody who could answer, as Envoy knows it."""

import asyncio
import re
from collections.abc import Iterable
from http import HTTPStatus

import structlog

from tollhouse.adapters.address import Address
from tollhouse.adapters.http_client import http_request
from tollhouse.adapters.live import Live

_log = structlog.get_logger()

INTERVAL_SECONDS = 1.0
_PATH = "/stats?filter=%5Ecluster%5C..*%5C.membership_healthy%24"
_HEALTHY = re.compile(
    rb"^cluster\.(.+)\.membership_healthy: ([0-9]+)\r?$", re.MULTILINE
)


class Backends:
    """Asks Envoy's admin listener, if there is one and while a model has fallbacks."""

    def __init__(
        self,
        admin: Address | None,
        live: Live,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._admin = admin
        self._live = live
        self._interval_seconds = interval_seconds
        self._trouble = ""
        self.down: frozenset[str] = frozenset()
        """Clusters of the catalog without a healthy host, by the last answer there was.

        A cluster of which nothing is known is not among them.
        """

    async def run(self) -> None:
        """Follow them until cancelled; never returns."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval_seconds)

    async def look(self) -> None:
        """Ask once. Without an answer all stays as it was."""
        models = self._live.catalog.models.values()
        if self._admin is None or not any(model.fallback for model in models):
            self.down = frozenset()
            return
        try:
            status, body = await http_request(self._admin, _PATH)
        except (OSError, TimeoutError) as error:
            self._complain(str(error) or "no answer")
            return
        if status != HTTPStatus.OK:
            self._complain(f"Envoy's admin answered {status}")
            return
        self._trouble = ""
        down = unhealthy(body, {model.cluster for model in models})
        if down != self.down:
            _log.warning("backends.changed", down=sorted(down))
            self.down = down

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("backends.unknown", reason=trouble)


def unhealthy(stats: bytes, clusters: Iterable[str]) -> frozenset[str]:
    """Those clusters that an answer of `/stats` knows to have no healthy host."""
    empty = {
        name.decode(errors="replace")
        for name, healthy in _HEALTHY.findall(stats)
        if int(healthy) == 0
    }
    return frozenset(it for it in clusters if _in_stats(it) in empty)


def _in_stats(cluster: str) -> str:
    """How Envoy writes the name there (Stats::Utility::sanitizeStatsName)."""
    return re.sub("://|:/|:", "_", cluster)
