"""Where an issuer's keys come from: fetched behind the requests, kept when that fails.

Keys that were good once stay for as long as the process lives: an issuer that is down
must not lock everybody out. To take one's trust away, take the issuer out of
tollhouse.yaml. A token never says where keys are.
"""

import asyncio
import logging
import os
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx
import structlog

from tollhouse.adapters.key_set import MOST_BYTES, KeySet, KeySetError, PublicKey
from tollhouse.core.issuer import Algorithm, KeysAt
from tollhouse.core.problems import Unavailable

TIMEOUT_SECONDS = 3.0
"""Of one fetch, whole."""
REFRESH_SECONDS = 300.0
LOOK_SECONDS = 1.0
"""How often a file is looked at."""
RETRY_SECONDS = 1.0
"""After the first failure; then twice as long each time, up to `LONGEST_RETRY`."""
LONGEST_RETRY_SECONDS = 60.0
ASK_SECONDS = 30.0
"""Tokens signed with an unknown key cause a fetch at most so often."""
STALE_SECONDS = 600.0
"""How often it is said that keys are old."""

_JITTER = (0.9, 1.1)

_log = structlog.get_logger()


class SourceError(Exception):
    """There are no keys to be had; the text is one line and no secret."""


class Source(Protocol):
    """Where the bytes of a JWK set are."""

    period_seconds: float

    async def read(self) -> bytes:
        """Return them. Raises SourceError."""


class KeysFile:
    """A JWK set in a file."""

    period_seconds = LOOK_SECONDS

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._content = b""

    async def read(self) -> bytes:
        """Return what is in the file, read anew when it was changed or replaced."""
        try:
            return await asyncio.to_thread(self._read)
        except OSError as error:
            raise SourceError(error.strerror or "can't be read") from error

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            stamp = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                # One byte more than is taken: too large must not look like cut.
                self._content = file.read(MOST_BYTES + 1)
                self._stamp = stamp
        return self._content


class KeysUri:
    """A JWK set behind a URI."""

    period_seconds = REFRESH_SECONDS

    def __init__(self, uri: str, ca_file: Path | None) -> None:
        self._uri = uri
        self._ca_file = ca_file
        for name in ("httpx", "httpcore"):  # a line per call at info
            logging.getLogger(name).setLevel(logging.WARNING)

    async def read(self) -> bytes:
        """Fetch it: one answer, as it is, from the very place."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._fetch()
        except (TimeoutError, httpx.TimeoutException):
            raise SourceError(f"no answer within {TIMEOUT_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            raise SourceError(f"no connection: {type(error).__name__}") from error
        except (httpx.InvalidURL, OSError) as error:
            raise SourceError(f"can't be asked: {type(error).__name__}") from error

    async def _fetch(self) -> bytes:
        # Anew for each fetch: they are rare, and the authorities may have changed.
        tls = await asyncio.to_thread(_tls, self._ca_file)
        async with (
            httpx.AsyncClient(
                verify=tls,
                trust_env=False,
                follow_redirects=False,
                timeout=TIMEOUT_SECONDS,
            ) as client,
            client.stream(
                "GET",
                self._uri,
                headers={"accept": "application/json", "accept-encoding": "identity"},
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise SourceError(f"status {response.status_code}")
            body = bytearray()
            async for piece in response.aiter_raw():  # as it is: never decompressed
                body += piece
                if len(body) > MOST_BYTES:
                    raise SourceError(f"it is larger than {MOST_BYTES} bytes")
            return bytes(body)


class IssuerKeys:
    """The keys of one issuer as they are known. One fetch is under way at a time."""

    def __init__(
        self,
        name: str,
        place: KeysAt,
        *,
        patience_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Take what it works with.

        `name` is what the log calls the issuer. `patience_seconds` is how long `find`
        waits for a fetch; `clock` counts seconds.
        """
        self.place = place
        self._name = name
        self._source = _source_of(place)
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._keys: KeySet | None = None
        self._content = b""
        self._good_at = self._told_at = 0.0
        self._due_at = self._asked_at = float("-inf")
        self._failure = ""
        self._failures = 0
        self._is_told = False
        self._under_way: asyncio.Task[None] | None = None

    async def find(self, name: str | None, algorithm: Algorithm) -> PublicKey | None:
        """The key a token names by its `kid`, None where the issuer has none such.

        Raises Unavailable where that can't be told: no keys were had yet, or those at
        hand are old and there may be a newer one.
        """
        if self._keys is None:
            self.refresh_if_due()
            await self._wait()
        if self._keys is None:
            raise Unavailable(f"no keys of issuer {self._name} yet")
        if self._keys.lacks(name, algorithm):
            self._ask()
            await self._wait()
            is_old = self._failures > 0 or self._under_way is not None
            if is_old and self._keys.lacks(name, algorithm):
                raise Unavailable(f"the keys of issuer {self._name} are old")
        return self._keys.find(name, algorithm)

    def refresh_if_due(self) -> None:
        """Start a fetch when it is time for one; call it often."""
        if self._under_way is None and self._clock() >= self._due_at:
            self._start()

    async def close(self) -> None:
        """Give up a fetch under way."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait({self._under_way})

    def _ask(self) -> None:
        """Start a fetch for a missing key, but not for each who makes one up."""
        now = self._clock()
        if self._under_way is None and now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._start()

    async def _wait(self) -> None:
        if self._under_way is not None:
            await asyncio.wait({self._under_way}, timeout=self._patience_seconds)

    def _start(self) -> None:
        self._under_way = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            content = await self._source.read()
            if self._keys is None or content != self._content:
                self._keys = await asyncio.to_thread(KeySet, content)
                self._content = content
                self._is_told = False
            self._succeeded(self._keys)
        except (SourceError, KeySetError) as error:
            self._failed(str(error))
        except Exception:  # noqa: BLE001 - the boundary: a bug must not end refreshing
            _log.exception("jwks.failed", issuer=self._name)
            self._failed("a bug")
        finally:
            self._under_way = None

    def _succeeded(self, keys: KeySet) -> None:
        self._good_at = self._clock()
        self._due_at = self._good_at + _jittered(self._source.period_seconds)
        self._failures, self._failure = 0, ""
        if not self._is_told:
            self._is_told = True
            _log.info(
                "jwks.loaded",
                issuer=self._name,
                count=keys.size,
                passed_over=dict(keys.passed_over),
            )

    def _failed(self, reason: str) -> None:
        now = self._clock()
        pause = RETRY_SECONDS * 2 ** min(self._failures, 6)
        self._failures += 1
        self._is_told = False
        longest = min(LONGEST_RETRY_SECONDS, self._source.period_seconds)
        self._due_at = now + _jittered(min(pause, longest))
        if reason != self._failure:
            self._failure, self._told_at = reason, now
            say = _log.error if self._keys is None else _log.warning
            say("jwks.failed", issuer=self._name, reason=reason)
        elif self._keys is not None and now - self._told_at >= STALE_SECONDS:
            self._told_at = now
            _log.warning(
                "jwks.stale",
                issuer=self._name,
                age_seconds=round(now - self._good_at),
                reason=reason,
            )


def _source_of(place: KeysAt) -> Source:
    if place.file is not None:
        return KeysFile(place.file)
    return KeysUri(place.uri or "", place.ca_file)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    # Not what the environment names: SSL_CERT_FILE is for others.
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=ca_file)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(*_JITTER)  # noqa: S311 - spreads load, no secret
