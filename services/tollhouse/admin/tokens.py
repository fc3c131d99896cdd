"""Who may call: tokens by name, in a file that may change while we run.

A line is `name:token`, or `name:token:read` for a token that changes nothing; empty
lines and those that begin with # count for nothing. A name may have several tokens, so
that one can take over from another. A file that can't be used opens nothing.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from tollhouse.adapters.file_stamp import stamp_of
from tollhouse.adapters.secret_file import openness
from tollhouse.core.identity import bearer_of

SHORTEST_TOKEN: Final = 32
MOST_TOKENS: Final = 1000

_LINE = re.compile(r"([a-z0-9][a-z0-9-]{0,31}):([A-Za-z0-9._~+/=-]{1,4096})(:read)?")

_log = structlog.get_logger()


class TokensError(Exception):
    """The file can't be used; one line with the remedy, which shows no token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and whether only to read."""

    name: str
    reads_only: bool

    @property
    def who(self) -> str:
        """As it stands in the audit log."""
        return f"api:{self.name}"


class Tokens:
    """The tokens of a file, as it is at the moment."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises TokensError."""
        self._path = path
        self._stamp = stamp_of(path)
        self._callers = _read(path)

    def caller(self, authorization: Sequence[str]) -> Caller | None:
        """Who shows this; `authorization` has all values of that name, one is right."""
        self._follow()
        bearer = bearer_of(authorization[0]) if len(authorization) == 1 else None
        if bearer is None:
            return None
        shown, found = _digest(bearer), None
        # All of them, so that the time tells nothing of where it is, or whether.
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, shown):
                found = caller
        return found

    def _follow(self) -> None:
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._callers = _read(self._path)
        except TokensError as error:
            self._callers = []
            _log.error("tokens.refused", reason=str(error))
        else:
            _log.info("tokens.reloaded", count=len(self._callers))


def _read(path: Path) -> list[tuple[bytes, Caller]]:
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise TokensError(f"tokens file {path}: {error.strerror}") from error
    if wrong := openness(path, mode):
        raise TokensError(f"tokens file {path}: {wrong}")
    callers: dict[bytes, Caller] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        where = f"tokens file {path} line {number}"
        if match is None:
            raise TokensError(
                f"{where}: write name:token or name:token:read; a name is 1 to 32 of "
                "a-z, 0-9 and -"
            )
        name, token, role = match.groups()
        if len(token) < SHORTEST_TOKEN:
            raise TokensError(
                f"{where}: the token has {len(token)} characters, needs "
                f"{SHORTEST_TOKEN}; `openssl rand -hex 32` makes good ones"
            )
        if _digest(token) in callers:
            raise TokensError(f"{where}: the token is given twice")
        callers[_digest(token)] = Caller(name, reads_only=role is not None)
    if not callers:
        raise TokensError(f"tokens file {path}: there is no token in it")
    if len(callers) > MOST_TOKENS:
        raise TokensError(
            f"tokens file {path}: {len(callers)} tokens, at most {MOST_TOKENS}"
        )
    return list(callers.items())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
