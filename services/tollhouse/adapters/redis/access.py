"""How to get at a Redis: where it is, as whom, and by whom it proves who it is.

The files are read anew for each connection, so what is replaced in them counts from the
next one on, without a restart. None of their content is ever part of an error.
"""

import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from tollhouse.adapters.file_stamp import stamp_of
from tollhouse.adapters.redis.connection import RedisReplyError
from tollhouse.adapters.secret_file import openness

_SCHEMES: Final = ("unix", "redis", "rediss", "redis+cluster", "rediss+cluster")
_MOST_TOLD = 100
_TOO_MANY = "max number of clients"
_COMMAND = re.compile(r"'([\w|.-]{1,40})' command")

_log = structlog.get_logger()


class AccessError(ValueError):
    """What was given can't lead to a Redis; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """A Redis or a Redis Cluster. Raises AccessError for what does not fit together."""

    url: str
    """`unix:///path`, `redis://host:port/0`, `redis+cluster://host:port[,host:port…]`;
    over TLS `rediss://…` and `rediss+cluster://…`. It holds no user, no password."""
    username: str | None = None
    """None with a password: the user `default`."""
    password_file: Path | None = None
    """None: nobody is asked for a password."""
    ca_file: Path | None = None
    """Who signs the server's certificate; None: whom the system trusts."""
    cert_file: Path | None = None
    """The certificate we show, where the server wants one."""
    key_file: Path | None = None

    def __post_init__(self) -> None:
        """Check."""
        place = urlsplit(self.url)
        if place.scheme not in _SCHEMES or "://" not in self.url:
            raise AccessError(
                "a Redis URL starts with unix://, redis:// or redis+cluster://, over"
                " TLS with rediss:// or rediss+cluster://"
            )
        if place.password is not None:
            raise AccessError(
                "a Redis URL must not hold a password: name the user, and a file with"
                " the password"
            )
        if place.username is not None:
            raise AccessError("a Redis URL must not hold a user: name it by itself")
        if self.username and self.password_file is None:
            raise AccessError(f"Redis user {self.username} needs a password file")
        if not self.is_tls and (self.ca_file or self.cert_file or self.key_file):
            raise AccessError(
                "certificates of Redis are for TLS: its URL has to start with rediss://"
                " or rediss+cluster://"
            )
        if (self.cert_file is None) != (self.key_file is None):
            raise AccessError(
                "a client certificate for Redis is two files: the certificate, its key"
            )

    @property
    def is_cluster(self) -> bool:
        """Whether it is a Redis Cluster."""
        return self.url.partition("://")[0].endswith("+cluster")

    @property
    def is_tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.url.startswith("rediss")

    def check(self) -> None:
        """Read all files, to fail early. Raises AccessError."""
        self.credentials()
        self.tls()

    def credentials(self) -> tuple[str, ...]:
        """What AUTH takes, nothing without a password. Raises AccessError."""
        if self.password_file is None:
            return ()
        password = _read_password(self.password_file)
        return (self.username, password) if self.username else (password,)

    def tls(self) -> ssl.SSLContext | None:
        """What a connection is wrapped in; None without TLS. Raises AccessError."""
        if not self.is_tls:
            return None
        files = self.ca_file, self.cert_file, self.key_file
        if self.key_file is not None:
            _refuse_open(self.key_file)
        return _context(*files, tuple(stamp_of(it) for it in files if it))


class Refusals:
    """Says once, not at each attempt, what keeps us out of a Redis until it is mended.

    An outage passes; this does not by itself, and must not look like one.
    """

    def __init__(self, access: RedisAccess, *, is_quiet: bool = False) -> None:
        """`is_quiet`: nobody reads the log; whoever calls is told."""
        self._user = access.username or "default"
        self._is_quiet = is_quiet
        self._told = set[tuple[str, str]]()

    def note(self, server: str, reason: str) -> None:
        """Tell the log why a server does not serve us, or may not."""
        is_told = (server, reason) in self._told
        if self._is_quiet or is_told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add((server, reason))
        _log.error("redis.refused", server=server, user=self._user, reason=reason)

    def forget(self, server: str) -> None:
        """Take note that the server let us in; tell the log if it did not before."""
        mended = {it for it in self._told if it[0] == server}
        if mended:
            self._told -= mended
            _log.info("redis.accepted", server=server, user=self._user)


def lasting(error: BaseException | None) -> str | None:
    """Why a connection that failed by this will fail again; None for an outage."""
    match error:
        case AccessError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"the server's certificate: {error.verify_message}"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():  # it went away
            return None
        case ssl.SSLError():
            return f"no TLS with the server: {error.reason or type(error).__name__}"
        case RedisReplyError(code="ERR"):
            # Not its text: some servers quote what they were sent, the password too.
            if _TOO_MANY in str(error):
                return None
            return "Redis answered ERR to the user, the password or the database"
        case RedisReplyError():
            return refusal(error) if error.is_refusal else None
    return None


def refusal(error: RedisReplyError) -> str:
    """What a refusing server said: at most the command, never its arguments."""
    command = _COMMAND.search(str(error))
    return f"Redis answered {error.code}" + (f" to {command[1]}" if command else "")


@lru_cache(maxsize=8)
def _context(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None, _stamps: object
) -> ssl.SSLContext:
    """Read the files, if they changed: the system's authorities alone take 50 ms."""
    at = ca_file
    try:
        # Checks the chain and the host's name.
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if cert_file is not None:
            at = cert_file
            # A password, although there is none: OpenSSL asks the terminal else.
            context.load_cert_chain(cert_file, key_file, password="")
    except OSError as error:
        # Of OpenSSL's errors the reason says more than the text.
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise AccessError(f"certificate file {at}: {reason}") from error
    return context


def _read_password(path: Path) -> str:
    _refuse_open(path)
    try:
        password = path.read_bytes().strip()
    except OSError as error:
        raise AccessError(f"Redis password file {path}: {error.strerror}") from error
    if not password:
        raise AccessError(f"Redis password file {path}: it is empty")
    try:
        return password.decode()
    except UnicodeDecodeError:
        raise AccessError(f"Redis password file {path}: it is not UTF-8") from None


def _refuse_open(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise AccessError(f"{path}: {error.strerror}") from error
    if wrong := openness(path, mode):
        raise AccessError(f"{path}: {wrong}")
