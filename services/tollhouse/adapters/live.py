"""The configuration while it changes: the catalog of the last good tollhouse.yaml.

The file is looked at every second and read once it has been still for one look, so
that half of it is not taken for the whole. What counts is where its path leads: a
Kubernetes ConfigMap is changed by turning a link. A file with a fault changes nothing.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.file_stamp import Stamp, stamp_of
from tollhouse.core.catalog import Catalog

INTERVAL_SECONDS = 1.0

_log = structlog.get_logger()

_UNSEEN: Stamp = (-1,)


class Live:
    """The catalog as it is now; what has begun with an older one ends with it."""

    def __init__(
        self,
        path: Path,
        *,
        prepare: Callable[[Catalog], None] = lambda _: None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """Read the file. Raises ConfigurationError with all faults.

        `prepare` gets ready what a catalog needs before it is used, in a thread but
        for the first, and raises ConfigurationError where it can't.
        """
        self._prepare = prepare
        self._path = path
        self.catalog: Catalog = self._read()
        """Replaced whole, never changed."""
        self._interval_seconds = interval_seconds
        self._refused = ""

    async def run(self) -> None:
        """Follow the file until cancelled; never returns."""
        # In threads: the disk may be slow, requests are not to feel it.
        last = taken = _UNSEEN
        while True:
            now = await asyncio.to_thread(stamp_of, self._path)
            if now == last and now != taken:
                taken = now
                await self._take()
            last = now
            await asyncio.sleep(self._interval_seconds)

    async def _take(self) -> None:
        """Read the file and replace the catalog, if it is good and says otherwise."""
        try:
            catalog = await asyncio.to_thread(self._read)
        except ConfigurationError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                _log.error("config.refused", faults=self._refused.splitlines())
            return
        changes = _changes(self.catalog, catalog)
        if changes or self._refused:
            self.catalog, self._refused = catalog, ""
            _log.info("config.reloaded", **changes)

    def _read(self) -> Catalog:
        catalog = load(self._path).catalog()
        self._prepare(catalog)
        return catalog


def _changes(old: Catalog, new: Catalog) -> dict[str, object]:
    """Names of what differs; empty: nothing."""
    changes: dict[str, object] = {"limits_changed": old.limits != new.limits}
    for kind, before, after in (
        ("models", old.models, new.models),
        ("plans", old.plans, new.plans),
        ("issuers", old.issuers, new.issuers),
    ):
        both = before.keys() & after.keys()
        changes[f"{kind}_added"] = sorted(after.keys() - both)
        changes[f"{kind}_removed"] = sorted(before.keys() - both)
        changes[f"{kind}_changed"] = sorted(
            it for it in both if before[it] != after[it]
        )
    return {name: it for name, it in changes.items() if it}
