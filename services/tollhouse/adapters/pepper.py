"""Peppers: the secrets without which stored key digests are worth nothing.

The file has one pepper to a line, `v2:<secret>`, the one for new digests first; a
single line without a version is v1. To replace a pepper without an outage:

1. Add the new one as the *last* line, with a higher version than all before it,
   everywhere. It is only looked up by.
2. Make it the first line, everywhere. New keys get its digests, and keys in use move
   to it as they are seen.
3. Remove the old line once `tollhouse keys list --pepper v1` shows no key that matters.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import structlog

from tollhouse.adapters.secret_file import openness
from tollhouse.core.key_terms import version_of

# Below this a stolen Redis could be searched for the pepper itself.
SHORTEST_BYTES = 32
# BLAKE2b takes keys up to 64 bytes (RFC 7693 §2.1).
_LONGEST_BYTES = 64
MOST_PEPPERS = 4
"""Each costs an unknown key one more command in its look-up."""

LOOK_SECONDS = 1.0
"""How often a file that is followed is looked at."""

_log = structlog.get_logger()

_LINE = re.compile(rb"(?:(v[1-9][0-9]{0,5}):)?(\S+)")


class PepperError(Exception):
    """The pepper file can't be used; the text is one line with the remedy."""


class Pepper:
    """Turns keys into digests, by one pepper or by several during a rotation.

    A digest names the version of the pepper it was made with.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        """Take secrets by version, the one for new digests first."""
        if not secrets:
            raise ValueError("there is no pepper")
        for version, secret in secrets.items():
            if len(secret) < SHORTEST_BYTES:
                raise ValueError(
                    f"pepper {version} has {len(secret)} bytes, needs {SHORTEST_BYTES} "
                    "or more; `openssl rand -hex 32` makes good ones"
                )
        self._secrets = [
            (f"{version}:", _fit(secret)) for version, secret in secrets.items()
        ]

    @classmethod
    def read(cls, path: Path) -> "Pepper":
        """Read the file; white space around its lines is not part of them.

        Raises PepperError when it is missing, too short or open to everybody.
        """
        try:
            mode = path.stat().st_mode
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise PepperError(f"pepper file {path}: {error.strerror}") from error
        if wrong := openness(path, mode):
            raise PepperError(f"pepper file {path}: {wrong}")
        try:
            return cls(_parse([line.strip() for line in lines if line.strip()]))
        except ValueError as error:
            raise PepperError(f"pepper file {path}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pepper) and self._secrets == other._secrets

    def __hash__(self) -> int:
        return hash(tuple(self._secrets))

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions at hand, that of new digests first."""
        return tuple(prefix[:-1] for prefix, _ in self._secrets)

    def digest(self, key: str) -> str:
        """What is stored of a new key."""
        return _digest(key, *self._secrets[0])

    def digests(self, key: str) -> tuple[str, ...]:
        """What a key may be stored under: by each pepper, that of new digests first."""
        return tuple(_digest(key, *secret) for secret in self._secrets)


def is_older(digest: str, other: str) -> bool:
    """Whether a digest was made with a pepper of a lower version than another."""
    return _version_number(version_of(digest)) < _version_number(version_of(other))


def _version_number(version: str) -> int:
    return int(version.removeprefix("v"))


class PepperFile:
    """The pepper of a file, also after the file changed; a bad change changes nothing.

    Raises PepperError at first, when it can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.pepper = Pepper.read(path)
        """Replaced whole, never changed."""
        self._refused = ""

    async def run(self) -> None:
        """Follow the file until cancelled; never returns."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                pepper = await asyncio.to_thread(Pepper.read, self._path)
            except PepperError as error:
                if str(error) != self._refused:
                    self._refused = str(error)
                    _log.error("pepper.refused", reason=self._refused)
                continue
            self._refused = ""
            if pepper != self.pepper:
                self.pepper = pepper
                _log.info("pepper.reloaded", versions=pepper.versions)


def _digest(key: str, prefix: str, secret: bytes) -> str:
    keyed = hashlib.blake2b(key.encode(), digest_size=32, key=secret)
    return prefix + keyed.hexdigest()


def _fit(secret: bytes) -> bytes:
    return secret if len(secret) <= _LONGEST_BYTES else hashlib.blake2b(secret).digest()


def _parse(lines: list[bytes]) -> dict[str, bytes]:
    """Read the lines. Raises ValueError; no secret is ever part of its text."""
    if not lines:
        raise ValueError("it is empty; `openssl rand -hex 32` makes a good pepper")
    if len(lines) > MOST_PEPPERS:
        raise ValueError(f"it has {len(lines)} lines, at most {MOST_PEPPERS} are read")
    secrets: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number}: write v2:<secret>, without spaces")
        if match[1] is None and len(lines) > 1:
            raise ValueError(f"line {number}: name its version, as v1:<secret>")
        version = (match[1] or b"v1").decode()
        if version in secrets:
            raise ValueError(f"line {number}: {version} is given twice")
        secrets[version] = match[2]
    _check_order(list(secrets))
    return secrets


def _check_order(versions: list[str]) -> None:
    """Refuse what no rotation leads to: keys never move to a lower version."""
    first = versions[0]
    for number, version in enumerate(versions[1:-1], 2):
        if _version_number(version) > _version_number(first):
            raise ValueError(
                f"line {number}: {version} is newer than {first} in line 1; only the "
                "last line may be, for the pepper that comes next. Put the one for "
                "new digests first"
            )
