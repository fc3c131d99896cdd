"""Drain an Envoy through its admin listener: what runs ends, new requests go elsewhere.

SIGTERM ends all streams at once, so whoever is about to send it comes here first.
"""

import asyncio
import re
from http import HTTPStatus
from urllib.parse import quote

from tollhouse.adapters.address import Address
from tollhouse.adapters.http_client import http_request

_STATS = quote(r"^http\.edge\.downstream_rq_(active|total)$")
_COUNT = re.compile(rb"downstream_rq_(active|total): (\d+)")
_POLL_SECONDS = 0.1


class DrainError(Exception):
    """Envoy is there and does not drain; the text says why."""


async def drain_envoy(
    admin: Address,
    *,
    notice_seconds: float,
    quiet_seconds: float,
    most_seconds: float,
) -> int:
    """Return when nothing runs any more; else, at `most_seconds`, how much still does.

    Load balancers need `notice_seconds` to notice, twice. Some look at the endpoints,
    from which we are gone, and send what comes meanwhile to who is still ready; so it
    stays ready that long. Others look at its readiness, which fails then; from there on
    each answer also asks the client to leave the connection. All the while, and while
    the listeners drain, new connections are served.

    Nothing runs when for `quiet_seconds` no request has come either: between two looks
    one might. 0 also where Envoy ends meanwhile.

    Raises DrainError when it can't be reached at all, refuses, or does not answer until
    `most_seconds`: then nothing is known of what runs.
    """
    envoy = _Envoy(admin, most_seconds)
    try:
        await envoy.requests()
        await asyncio.sleep(min(notice_seconds, envoy.left))
        await envoy.post("/healthcheck/fail")
        await asyncio.sleep(min(notice_seconds, envoy.left))
        await envoy.post("/drain_listeners?graceful&skip_exit")
        return await envoy.until_quiet(quiet_seconds)
    except OSError as error:
        if envoy.was_seen:
            return 0  # it ended
        raise DrainError(f"{admin} can't be reached: {error}") from error


class _Envoy:
    """One that is being drained. Methods raise OSError when it is gone."""

    def __init__(self, admin: Address, most_seconds: float) -> None:
        self._admin = admin
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + most_seconds
        self.was_seen = False

    @property
    def left(self) -> float:
        """Seconds until all must be over."""
        return max(0.0, self._deadline - self._clock())

    async def post(self, path: str) -> None:
        await self._ask(path, "POST")

    async def until_quiet(self, quiet_seconds: float) -> int:
        """Return how many requests run, as soon as that is 0 and stays so."""
        total, since = -1, self._clock()
        while True:
            active, seen = await self.requests()
            if active or seen != total:
                total, since = seen, self._clock()
            elif self._clock() - since >= quiet_seconds:
                return 0
            if not self.left:
                return active
            await asyncio.sleep(_POLL_SECONDS)

    async def requests(self) -> tuple[int, int]:
        """How many are running, and how many there ever were."""
        text = await self._ask(f"/stats?filter={_STATS}", "GET")
        found = {name: int(value) for name, value in _COUNT.findall(text)}
        try:
            return found[b"active"], found[b"total"]
        except KeyError as error:
            raise DrainError(f"{self._admin} does not know its requests") from error

    async def _ask(self, path: str, method: str) -> bytes:
        """Ask until it answers: one that is busy is slow, and still to be drained."""
        while True:
            try:
                status, body = await http_request(self._admin, path, method=method)
            except TimeoutError as error:  # an OSError too
                if not self.left:
                    raise DrainError(f"{self._admin} does not answer") from error
                continue
            self.was_seen = True
            if status != HTTPStatus.OK:
                raise DrainError(f"{method} {path}: status {status}")
            return body
