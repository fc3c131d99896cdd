"""The PEM files of one end of a TLS connection, which may be replaced while we run."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from tollhouse.adapters.file_stamp import Stamp, stamp_of

_log = structlog.get_logger()


class TlsFilesError(Exception):
    """Files can't be used: one line per fault, each named by its setting."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file, and the setting or option that named it."""

    setting: str
    path: Path


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files hold, in PEM."""

    chain: bytes
    key: bytes
    authorities: bytes
    ends_at: datetime
    """From when on nobody accepts our certificate."""
    has_ended: bool

    def __repr__(self) -> str:
        """Without the key: this text gets into tracebacks."""
        return f"TlsMaterial(ends_at={self.ends_at.isoformat()})"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Our certificate and key, and the authorities we trust."""

    chain: NamedFile
    key: NamedFile
    authorities: NamedFile

    def read(self) -> TlsMaterial:
        """Read all three. Raises TlsFilesError with all that is wrong with them."""
        # Dear to import, and most processes have no TLS.
        from tollhouse.adapters.certificates import (  # noqa: PLC0415
            CertificateError,
            Chain,
            Key,
            read_authorities,
        )

        faults: list[str] = []
        chain = key = authorities = None
        try:
            chain = Chain.read(self.chain.path)
        except CertificateError as error:
            faults.append(f"{self.chain.setting}: {error}")
        try:
            key = Key.read(self.key.path)
            if chain is not None:
                chain.check(key)
        except CertificateError as error:
            faults.append(f"{self.key.setting}: {error}")
        try:
            authorities = read_authorities(self.authorities.path)
        except CertificateError as error:
            faults.append(f"{self.authorities.setting}: {error}")
        if faults or chain is None or key is None or authorities is None:
            raise TlsFilesError("\n".join(faults))
        return TlsMaterial(
            chain.pem, key.pem, authorities, chain.ends_at, chain.has_ended()
        )

    def stamp(self) -> tuple[Stamp, ...]:
        """Return what changes when a file is replaced or written to."""
        return tuple(
            stamp_of(it.path) for it in (self.chain, self.key, self.authorities)
        )


class FollowedFiles:
    """Files read once, and again when they have changed."""

    def __init__(self, files: TlsFiles) -> None:
        """Read them. Raises TlsFilesError."""
        self._files = files
        # Before the content: a change between the two is seen by the next look.
        self._stamp = files.stamp()
        self.material = files.read()
        """The last good content."""

    def have_changed(self) -> bool:
        """Look; True when there is new content, and it is good.

        Of broken files the log tells once, and the last good content stays.
        """
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            material = self._files.read()
        except TlsFilesError as error:
            _log.error("tls.refused", faults=str(error).splitlines(), kept="the last")
            return False
        self.material = material
        self.tell()
        return True

    def tell(self) -> None:
        """Log when our certificate ends; as an error, where it already has."""
        material = self.material
        say = _log.error if material.has_ended else _log.info
        say("tls.read", ends_at=material.ends_at.isoformat(), ended=material.has_ended)
