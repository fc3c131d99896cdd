"""Certificates and keys in PEM files: read, and told what is wrong with them.

Imported only where TLS is set up: the library behind it costs 19 MB and 0.1 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from tollhouse.adapters.secret_file import openness


class CertificateError(Exception):
    """A file can't be used; the text is one line with its path and the remedy."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A certificate, and the intermediate ones that lead to its authority."""

    path: Path
    pem: bytes
    certificate: x509.Certificate

    @classmethod
    def read(cls, path: Path) -> "Chain":
        """Read the file. Raises CertificateError."""
        pem = _read(path)
        return cls(path, pem, _certificates(path, pem)[0])

    @property
    def ends_at(self) -> datetime:
        """From when on nobody accepts it."""
        return self.certificate.not_valid_after_utc

    def has_ended(self, now: datetime | None = None) -> bool:
        """Tell whether it is too late for it."""
        return self.ends_at <= (now or datetime.now(UTC))

    @property
    def names(self) -> Sequence[str]:
        """The DNS names and addresses it is for."""
        try:
            extension = self.certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        except (x509.ExtensionNotFound, ValueError):
            return ()
        alternatives = extension.value
        return (
            *alternatives.get_values_for_type(x509.DNSName),
            *map(str, alternatives.get_values_for_type(x509.IPAddress)),
        )

    def check(self, key: "Key") -> None:
        """Raise CertificateError where the key is another certificate's."""
        if _encoded(self.certificate.public_key()) != _encoded(key.public):
            raise CertificateError(
                f"{key.path} is not the key of the first certificate in {self.path};"
                " the server's own certificate comes first, its authorities after it"
            )


@dataclass(frozen=True, slots=True)
class Key:
    """A private key."""

    path: Path
    pem: bytes
    public: PublicKeyTypes

    def __repr__(self) -> str:
        """Without the secret: this text gets into tracebacks."""
        return f"Key({str(self.path)!r})"

    @classmethod
    def read(cls, path: Path) -> "Key":
        """Read the file. Raises CertificateError, also where everybody may read it."""
        pem = _read(path)
        if wrong := openness(path, path.stat().st_mode):
            raise CertificateError(f"{path}: {wrong}")
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except TypeError as error:
            raise CertificateError(
                f"{path} is encrypted; decrypt it: `openssl pkey -in {path} -out …`"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CertificateError(
                f"{path} is no private key in PEM (-----BEGIN PRIVATE KEY-----)"
            ) from error
        return cls(path, pem, private.public_key())


def read_authorities(path: Path) -> bytes:
    """Return the PEM of the authorities in a file. Raises CertificateError."""
    pem = _read(path)
    if not any(map(_is_authority, _certificates(path, pem))):
        raise CertificateError(
            f"{path} holds no certificate of an authority (CA:TRUE); it takes the"
            " issuer's certificate, not one that was issued"
        )
    return pem


def ends(path: Path) -> Sequence[datetime]:
    """When each certificate of a file ends, in its order. Raises CertificateError."""
    return [it.not_valid_after_utc for it in _certificates(path, _read(path))]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"can't read {path}: {error.strerror}") from error


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(
            f"{path} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        extension = certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        )
    except (x509.ExtensionNotFound, ValueError):
        return False
    return extension.value.ca


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
