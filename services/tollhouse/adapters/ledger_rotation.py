"""Keeps the ledger from growing for ever.

The reader's process renames the file, asks Envoy to open a new one, and deletes the old
one once all of it is settled and committed. What is left to do is read off the folder,
so that whoever holds the lock next goes on with it.
"""

import asyncio
import time
from http import HTTPStatus

import structlog

from tollhouse.adapters.address import Address
from tollhouse.adapters.http_client import http_request
from tollhouse.adapters.ledger import LedgerReader

_log = structlog.get_logger()

LARGEST_BYTES = 64 * 1024 * 1024
ROUND_SECONDS = 1.0
"""Many times Envoy's flush interval (100 ms), within which it does as it was asked."""


class Rotation:
    """The rotation of the ledger that a reader reads; idle unless it has the lock.

    `admin` is where Envoy's admin listener is.
    """

    def __init__(
        self,
        reader: LedgerReader,
        admin: Address,
        *,
        largest_bytes: int = LARGEST_BYTES,
    ) -> None:
        self._reader = reader
        self._folder = reader.folder
        self._admin = admin
        self._largest_bytes = largest_bytes
        # Envoy may have been asked by a process that died; once more does no harm.
        self._is_reopening = True
        self._trouble = ""

    async def run(self) -> None:
        """Tend the ledger for as long as the process lives."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            if self._reader.is_locked:
                await self.tend()

    async def tend(self) -> None:
        """Take the next step there is, if any; steps are ROUND_SECONDS apart.

        No step has to be repeated at once: one that fails is taken again next time.
        """
        try:
            await self._step()
        except (OSError, TimeoutError) as error:
            self._complain(str(error) or "no answer")
        else:
            self._trouble = ""

    async def _step(self) -> None:
        current = self._folder.current()
        is_large = current is not None and current.size >= self._largest_bytes
        if is_large and self._folder.may_be_renamed:
            path = self._folder.set_aside(time.time_ns())
            _log.info("ledger.rotated", path=str(path))
        rotated = [it for it in self._folder.files(()) if it.is_rotated]
        # Renamed, by an operator too, or removed: Envoy still writes to that file.
        is_missing = self._folder.is_absent
        if rotated or (is_missing and self._reader.is_following):
            self._is_reopening |= is_missing
            if self._is_reopening:
                await self._reopen()
                self._is_reopening = False
                return
        # An empty file may be anybody's: a line in it says that Envoy is there, and has
        # closed the one before.
        if current is None or not current.size:
            return
        for file in rotated:
            if self._reader.has_finished(file):
                file.path.unlink()
                self._reader.forget(file)
                _log.info("ledger.deleted", path=str(file.path), bytes=file.size)
            else:
                self._reader.end(file)

    async def _reopen(self) -> None:
        status, _ = await http_request(self._admin, "/reopen_logs", method="POST")
        if status != HTTPStatus.OK:
            raise ConnectionError(f"POST /reopen_logs: status {status}")
        _log.info("ledger.reopened")

    def _complain(self, reason: str) -> None:
        """Say what is wrong once, not at every try."""
        if reason != self._trouble:
            self._trouble = reason
            _log.error("rotation.failed", reason=reason)
